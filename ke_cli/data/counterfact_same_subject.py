"""CounterFact records grouped by subject, in the flat form ``[{subject, records: [...]}]``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from ke_cli.data.json_file import read_json
from ke_cli.data.recipes import Recipes
from ke_cli.data.types import PLACE, Case, Dataset, Probe, Request
from ke_cli.data.validate import Node, Problems, check_request, check_unique, records


@dataclass(frozen=True, kw_only=True)
class CounterFactSameSubject(Recipes):
    """Loads facts that come in groups with one subject each; ``limit`` and ``offset`` count subjects.

    Each fact is ``{case_id, prompt, prompt_template, subject, target_new, ground_truth, relation_id,
    locality_prompt, locality_ground_truth}``. Its ``rephrase_prompt`` is often a prompt for free text rather
    than the fact in other words, so cases have no paraphrases.

    Args:
        path: The file.
    """

    path: str

    def load(self) -> Dataset:
        """Read, check and return the cases, the facts of a subject next to each other.

        Raises:
            UserError: If the file cannot be read, or for all problems of its records at once.
        """
        document, fingerprint = read_json(self.path)
        subjects = self._subjects(document)
        prompts = tuple(case.request.text for case in chain.from_iterable(subjects))
        cases = tuple(chain.from_iterable(self.window(subjects)))
        return Dataset("counterfact_same_subject", cases, fingerprint, self.path, prompts)

    def _subjects(self, document: Any) -> list[list[Case]]:
        problems = Problems(self.path)
        groups = [(group.subject(), group.children("records")) for group in records(document, problems)]
        read = [[(fact, self._case(fact, subject)) for fact in facts] for subject, facts in groups]
        check_unique((fact, case.case_id) for group in read for fact, case in group)
        problems.check()
        return [[case for _, case in group] for group in read]

    def _case(self, node: Node, subject: str) -> Case:
        request = Request(
            prompt=node.prompt("prompt_template"),
            subject=node.subject(),
            target_new=node.target("target_new"),
            target_true=node.target("ground_truth"),
            relation=node.optional("relation_id"),
        )
        _check(node, request, subject)
        answer = node.target("locality_ground_truth")
        return Case(
            case_id=node.identity(),
            request=request,
            neighborhood=(Probe(node.prompt("locality_prompt"), answer if answer != request.target_true else None),),
            relation_specific=self.made_relation_specific(request),
            instructions=self.made_instructions(request),
        )


def _check(node: Node, request: Request, subject: str) -> None:
    """Note a request that is wrong by itself, or that disagrees with its group or its rendered prompt."""
    check_request(node, "prompt_template", request)
    prompt = node.prompt("prompt")
    if subject and request.subject and request.subject != subject:
        node.wrong("subject", f"is not that of its group: {request.subject!r} instead of {subject!r}")
    if prompt and request.subject and request.prompt.count(PLACE) == 1 and prompt != request.text:
        node.wrong("prompt", f"is not prompt_template with the subject filled in: {prompt!r}")
