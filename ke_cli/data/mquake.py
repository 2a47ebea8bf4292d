"""MQuAKE (Zhong et al. 2023, arXiv 2305.14795): edits of one to four facts, asked for what follows from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ke_cli.checks import check_at_least
from ke_cli.data.json_file import read_json
from ke_cli.data.notes import Tally
from ke_cli.data.official import Parts
from ke_cli.data.probes import answered
from ke_cli.data.reading import NO_CHANGE, File, read_dataset
from ke_cli.data.recipes import Recipes
from ke_cli.data.types import MULTI_HOP, Case, Dataset, Probe, Request
from ke_cli.data.validate import Node, check_request

OTHER_SIZE = "are left out: they are edits of another number of facts, or ask for another number of hops"


@dataclass(frozen=True, kw_only=True)
class MQuAKE(Parts, Recipes):
    """Loads records ``{case_id, requested_rewrite: [...], questions, new_answer, new_answer_alias, new_single_hops}``.

    Each fact of a record is a case, and those of one record are one edit: they share a `Case.group`, so that the
    protocol ``single`` writes them together. The first of them carries what is asked about the edit as a whole: the
    questions, as phrasings of one multi-hop question, and the hops that were not edited, as locality probes. The
    question of a fact is its instruction.

    Args:
        part: Which of the official files is meant, where there is no ``path``.
        edits: Only records with so many facts; null for all.
        hops: Only records whose question has so many hops; null for all.
    """

    part: Literal["cf_3k", "cf_3k_v2", "cf", "t"] = "cf_3k"
    edits: int | None = None
    hops: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing, and a part without a file."""
        super().__post_init__()
        check_at_least(self, 1, "edits", "hops")

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the file cannot be had or read, for all problems of its records at once, or if no record is
                left.
        """
        path, source = self.found()
        return read_dataset("mquake", File(*read_json(path), path, source), self._cases, self)

    def _cases(self, node: Node, index: int, tally: Tally) -> list[Case]:
        """Return the facts of one record as cases, or nothing where it has another size."""
        case_id, facts, hops = node.identity(), node.children("requested_rewrite"), node.children("new_single_hops")
        requests = [_request(fact) for fact in facts]
        questions = _questions(node, len(hops))
        unedited = _unedited(hops, requests)
        if not requests or self.edits not in (None, len(facts)) or self.hops not in (None, len(hops)):
            tally.add(OTHER_SIZE, node)
            return []
        if not all(request.target_true for request in requests):
            tally.add(NO_CHANGE, node)
        cases = [self._case(fact, request, case_id) for fact, request in zip(facts, requests, strict=True)]
        cases[0] = replace(cases[0], probes=(*questions, *unedited))
        return _numbered(cases, case_id)

    def _case(self, fact: Node, request: Request, case_id: str) -> Case:
        return Case(
            case_id=case_id,
            request=request,
            relation_specific=self.made_relation_specific(request),
            instructions=self.made_instructions(request, fact.optional("question").strip(" ")),
        )


def _numbered(cases: Sequence[Case], case_id: str) -> list[Case]:
    """Return the facts of one record with ids of their own, and as one group where there are several."""
    if len(cases) == 1:
        return list(cases)
    return [replace(case, case_id=f"{case_id}-{index}", group=case_id) for index, case in enumerate(cases)]


def _request(fact: Node) -> Request:
    new, true = fact.child("target_new"), fact.child("target_true")
    target, before = new.target("str") if new else "", true.target("str") if true else ""
    prompt, subject = fact.prompt("prompt"), fact.subject()
    request = Request(
        prompt, subject, target, "" if before == target else before, fact.optional("relation_id").strip(" ")
    )
    check_request(fact, "prompt", request)
    return request


def _questions(node: Node, hops: int) -> list[Probe]:
    """Return the phrasings of the question about all facts."""
    answers = (node.target("new_answer"), *node.answers("new_answer_alias"))
    right = tuple(dict.fromkeys(filter(None, answers)))
    return [answered(prompt, right, f"{MULTI_HOP}/{hops}_hops", MULTI_HOP) for prompt in node.prompts("questions")]


def _unedited(hops: Sequence[Node], requests: Sequence[Request]) -> list[Probe]:
    """Return the steps of the question that no edit is about."""
    edited = {request.text for request in requests}
    found = [(hop.prompt("cloze"), (hop.target("answer"), *hop.answers("answer_alias"))) for hop in hops]
    return [
        answered(prompt, tuple(dict.fromkeys(filter(None, answers))), "locality/single_hop")
        for prompt, answers in found
        if prompt not in edited
    ]
