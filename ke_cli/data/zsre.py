"""zsRE (Levy et al. 2017), the questions of MEND's evaluation, with or without portability."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ke_cli.data.json_file import read_json
from ke_cli.data.notes import Tally
from ke_cli.data.official import LATER, Parts
from ke_cli.data.reading import File, read_dataset
from ke_cli.data.subjects import placed_request
from ke_cli.data.types import Case, Dataset, Probe, Request
from ke_cli.data.validate import Node

TOWARD = MappingProxyType(
    {
        "alt": "edited toward alt (dataset.edit_target), away from answers[0]",
        "answers": "edited toward answers[0] (dataset.edit_target): there is no other true object, so success and "
        "magnitude of efficacy and paraphrase stay empty, and no portability, which asks for what follows from alt",
    }
)
"""What is said of a run for each value of the setting."""

NO_SUBJECT = "are left out: their question does not hold their subject in one certain place"
NO_ALT = "are left out: their alt is empty"
NO_CHANGE = (
    "have the true answer for alt: success and magnitude of efficacy and paraphrase stay empty (accuracy does not "
    "need another)"
)


@dataclass(frozen=True, kw_only=True)
class ZsRE(Parts):
    """Loads records ``{subject, src, rephrase, alt, answers, loc, loc_ans, portability}``; other keys do not matter.

    The question ``src`` is the edit prompt, ``rephrase`` a paraphrase, and ``loc``, to which a question mark is put as
    in the reference runs, a neighborhood prompt with the answer ``loc_ans``. ``portability`` (optional) has a question
    about what follows from ``alt`` and its answer. A case is named by its place in the file.

    Args:
        part: The official file, where there is no ``path``.
        edit_target: What the questions are edited toward: the counterfactual ``alt``, with ``answers[0]`` as the true
            object; or ``answers[0]`` itself, with no other true object and no portability.
    """

    part: Literal["mend_eval"] = field(default="mend_eval", metadata=LATER)
    edit_target: Literal["alt", "answers"] = "alt"

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the file cannot be had or read, for all problems of its records at once, or if no record is
                left.
        """
        path, source = self.found()
        document, fingerprint = read_json(path)
        file = File(document, fingerprint, path, source)
        return read_dataset("zsre", file, self._cases, self, (TOWARD[self.edit_target],))

    def _cases(self, node: Node, index: int, tally: Tally) -> list[Case]:
        """Return one record as a case, or nothing where its subject is not found."""
        request, rephrased, elsewhere = self._request(node), node.prompt("rephrase"), _elsewhere(node)
        follows = tuple(_follows(node))
        if self.edit_target == "alt" and _has_no_alt(node):
            tally.add(NO_ALT, node)
            return []
        if request is None:
            tally.add(NO_SUBJECT, node)
            return []
        if self.edit_target == "alt" and not request.target_true:
            tally.add(NO_CHANGE, node)
        case = Case(
            case_id=str(index),
            request=request,
            paraphrases=(Probe(rephrased),),
            neighborhood=(elsewhere,),
            instructions=self.made_instructions(request),
            probes=follows if self.edit_target == "alt" else (),
        )
        return [case]

    def _request(self, node: Node) -> Request | None:
        prompt, subject, true = node.prompt("src"), node.subject(), _answer(node)
        alt = "" if _has_no_alt(node) else node.target("alt")
        new, old = (alt, true) if self.edit_target == "alt" else (true, "")
        return placed_request(node, "src", prompt, subject, new, old)


def _has_no_alt(node: Node) -> bool:
    """Return whether a record has an empty counterfactual, as some of the official file have."""
    alt = node.fields.get("alt")
    return isinstance(alt, str) and not alt.strip()


def _answer(node: Node) -> str:
    """Return the first of the answers, which must be there."""
    return next((text.lstrip(" ") for text in node.prompts("answers")), "") or _none(node, "answers")


def _elsewhere(node: Node) -> Probe:
    prompt = node.prompt("loc")
    answer = node.answer("loc_ans") or _none(node, "loc_ans")
    return Probe(prompt if prompt.endswith("?") else f"{prompt}?", answer)


def _follows(node: Node) -> Iterator[Probe]:
    portability = node.child("portability") if node.fields.get("portability") is not None else None
    if portability:
        yield Probe(portability.prompt("New Question"), portability.target("New Answer"), "portability/reasoning")


def _none(node: Node, key: str) -> str:
    """Note that a field holds nothing where something must be."""
    node.wrong(key, "holds no answer")
    return ""
