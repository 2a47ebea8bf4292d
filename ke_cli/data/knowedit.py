"""KnowEdit (arXiv 2401.01286): wiki_counterfact, wiki_recent, zsre and wikibio, and files that have their schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ke_cli.data.json_file import read_json
from ke_cli.data.notes import Tally
from ke_cli.data.official import LATER, Parts
from ke_cli.data.probes import categories
from ke_cli.data.reading import NO_SUBJECT, File, read_dataset
from ke_cli.data.subjects import placed_request
from ke_cli.data.types import Case, Dataset, Probe, Request
from ke_cli.data.validate import Node

RELATION_SPECIFICITY = "locality/relation_specificity"
"""The category that has a place of its own in a case."""

ERASED = "<|endoftext|>"
"""What stands for the true object in files that were taken out of results."""

NO_TRUTH = (
    "do not tell what was true before: success and magnitude of efficacy and paraphrase stay empty (accuracy does not "
    "need it)"
)
NO_ANSWER = "lose probes that have no answer"


@dataclass(frozen=True, kw_only=True)
class KnowEdit(Parts):
    """Loads records ``{prompt, subject, target_new, ground_truth, portability, locality}``.

    WikiBio's names ``text``, ``concept`` and ``labels`` are understood for the first three. ``portability`` and
    ``locality`` map categories to probes, either as ``{prompt: [...], ground_truth: [...]}`` (EasyEdit's results) or
    as ``[{prompt, ground_truth}, ...]`` (the files of the hub). A ``ground_truth`` may be a string, a list of
    spellings, or a list of such lists: the first spelling counts, as in the published programs, and the others are
    kept as aliases.
    The prompts of ``Relation_Specificity`` become relation-specific probes, all others `Case.probes`.

    Prompts are complete; the place of the subject is found in them. Records where it cannot be found are left out, and
    the notes of the data set count them. ``ground_truth`` of a record is its true object, where it is told and is not
    the new one. ``case_id`` (else the place in the file) names a case, and ``rephrase_prompt`` is a paraphrase.

    Args:
        part: Which of the official files is meant, where there is no ``path``.
    """

    part: Literal["wiki_counterfact", "wiki_recent", "zsre", "wikibio"] = field(
        default="wiki_counterfact", metadata=LATER
    )

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the file cannot be had or read, for all problems of its records at once, or if no record is
                left.
        """
        path, source = self.found()
        document, fingerprint = read_json(path)
        file = File(document, fingerprint, path, source)
        return read_dataset("knowedit", file, self._cases, self)

    def _cases(self, node: Node, index: int, tally: Tally) -> list[Case]:
        """Return one record as a case, or nothing where its subject is not found."""
        request, found = _request(node), [*categories(node, "portability"), *categories(node, "locality")]
        case_id = node.identity() if "case_id" in node.fields else str(index)
        if request is None:
            tally.add(NO_SUBJECT, node)
            return []
        if not request.target_true:
            tally.add(NO_TRUTH, node)
        if not all(probe.answer for probe in found):
            tally.add(NO_ANSWER, node)
        probes = [probe for probe in found if probe.answer]
        specific = (
            Probe(probe.prompt, probe.answer, aliases=probe.aliases)
            for probe in probes
            if probe.tag == RELATION_SPECIFICITY
        )
        case = Case(
            case_id=case_id,
            request=request,
            paraphrases=tuple(map(Probe, _rephrased(node))),
            relation_specific=tuple(specific),
            instructions=self.made_instructions(request),
            probes=tuple(probe for probe in probes if probe.tag != RELATION_SPECIFICITY),
        )
        return [case]


def _request(node: Node) -> Request | None:
    key = node.named("prompt", "text")
    prompt, subject = node.prompt(key), node.subject(node.named("subject", "concept"))
    new, true = node.target(node.named("target_new", "labels")), _truth(node)
    return placed_request(node, key, prompt, subject, new, true)


def _truth(node: Node) -> str:
    true = node.answer("ground_truth")
    return "" if true == ERASED else true


def _rephrased(node: Node) -> Iterator[str]:
    if isinstance(node.fields.get("rephrase_prompt"), list):
        yield from node.prompts("rephrase_prompt")
    elif text := node.optional("rephrase_prompt").rstrip(" "):
        yield text
