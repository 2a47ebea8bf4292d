"""RippleEdits (Cohen et al. 2023, arXiv 2307.12976): what else must change with a fact, and what must not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ke_cli.data.json_file import read_json
from ke_cli.data.notes import Tally
from ke_cli.data.official import Parts
from ke_cli.data.probes import answered, category_name
from ke_cli.data.reading import File, read_dataset
from ke_cli.data.recipes import Recipes
from ke_cli.data.relations import relation_id
from ke_cli.data.ripple_wordings import Wordings
from ke_cli.data.subjects import placed_request
from ke_cli.data.types import Case, Dataset, Probe, Request
from ke_cli.data.validate import Node, nodes

CRITERIA = ("Logical_Generalization", "Compositionality_I", "Compositionality_II", "Subject_Aliasing", "Forgetfulness")
"""What is tested besides the subject's other relations."""

SPECIFICITY = ("Relation_Specificity", "Relation_Specifity")
"""The tests of the subject's other relations, as the files spell it and as the authors' page does."""

UNKNOWN = "are left out: their prompts do not tell what their subject is called, or where their object begins"
NO_TRUTH = (
    "add a fact instead of changing one: success and magnitude of efficacy and paraphrase stay empty (accuracy does "
    "not need an old object)"
)
EVERY_TEST = (
    "every test is asked: the published figures count only tests whose condition queries the unedited model answers, "
    "and a test of several queries as one"
)


@dataclass(frozen=True, kw_only=True)
class RippleEdits(Parts, Recipes):
    """Loads records ``{edit: {prompt, subject_id, relation, target_id, original_fact}, <criterion>: [tests], ...}``.

    An edit is a whole statement, and its subject is named by an id only: both prompt and subject are found by comparing
    the prompts of the file (`ke_cli.data.ripple_wordings`), so a file of few records may not tell enough. The tests of
    ``Relation_Specificity`` become relation-specific probes; ``Forgetfulness`` is ``locality/forgetfulness``; the other
    criteria are ``portability/<criterion>``. A case is named by its place in the file.

    Args:
        part: Which of the official files is meant, where there is no ``path``.
    """

    part: Literal["popular", "random", "recent"] = "popular"

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the file cannot be had or read, for all problems of its records at once, or if no record is
                left.
        """
        path, source = self.found()
        document, fingerprint = read_json(path)
        wordings = Wordings.learn(document)

        def build(node: Node, index: int, tally: Tally) -> list[Case]:
            return self._cases(node, index, tally, wordings)

        return read_dataset("ripple_edits", File(document, fingerprint, path, source), build, self, (EVERY_TEST,))

    def _cases(self, node: Node, index: int, tally: Tally, wordings: Wordings) -> list[Case]:
        """Return one record as a case, or nothing where its subject or its object cannot be told."""
        request, probes = _request(node, wordings), [probe for name in CRITERIA for probe in _tests(node, name)]
        specific = tuple(probe for name in SPECIFICITY for probe in _tests(node, name))
        if request is None:
            tally.add(UNKNOWN, node)
            return []
        if not request.target_true:
            tally.add(NO_TRUTH, node)
        case = Case(
            case_id=str(index),
            request=request,
            relation_specific=tuple(replace(probe, tag="") for probe in specific if probe.answer)
            or self.made_relation_specific(request),
            instructions=self.made_instructions(request),
            probes=tuple(probe for probe in probes if probe.answer),
        )
        return [case]


def _request(node: Node, wordings: Wordings) -> Request | None:
    """Return the edit as a request, or None where it cannot be told."""
    edit = node.child("edit")
    if edit is None:
        return None
    found, subject = _split(edit, wordings), wordings.subjects.get(edit.optional("subject_id"), "")
    before = edit.named("original_fact", "previous_fact")
    old = edit.child(before) if edit.fields.get(before) is not None else None
    true = _split(old, wordings) if old else None
    if found is None or not subject:
        return None
    relation = relation_id(edit.optional("relation"))
    return placed_request(edit, "prompt", found[0], subject, found[1], true[1] if true else "", relation)


def _split(fact: Node, wordings: Wordings) -> tuple[str, str] | None:
    statement, relation = fact.prompt("prompt"), fact.optional("relation")
    return wordings.stem(statement, fact.optional("subject_id"), relation, fact.optional("target_id"))


def _tests(node: Node, criterion: str) -> Iterator[Probe]:
    """Yield the queries of a criterion; without an answer where they have none."""
    group = "locality" if criterion == "Forgetfulness" else "portability"
    tests = node.fields.get(criterion)
    for test in node.children(criterion) if tests not in (None, []) else ():
        for query in test.children("test_queries") if test.fields.get("test_queries") != [] else ():
            yield answered(query.prompt("prompt"), _answers(query), f"{group}/{category_name(criterion)}")


def _answers(query: Node) -> tuple[str, ...]:
    """Return all spellings of all answers of a query."""
    value = query.fields.get("answers")
    if not isinstance(value, list):
        query.wrong("answers", "must be a list of objects with a value")
        return ()
    entries = nodes(value, query.problems, f"{query.record}, answers")
    found = [text for entry in entries for text in (entry.answer("value"), *entry.answers("aliases"))]
    return tuple(dict.fromkeys(filter(None, found)))
