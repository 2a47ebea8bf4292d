"""CounterFact (Meng et al. 2022, arXiv 2202.05262) in its original schema."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ke_cli.data.download import fetch
from ke_cli.data.json_file import read_json
from ke_cli.data.recipes import Recipes
from ke_cli.data.types import Case, Dataset, Probe, Request
from ke_cli.data.validate import Node, Problems, check_request, check_unique, records


@dataclass(frozen=True, kw_only=True)
class CounterFact(Recipes):
    """Loads CounterFact records, from a file of the user or from the official one.

    A record may have the further key ``relation_specific_prompts`` (a list of complete prompts); for others
    such prompts are made, see `ke_cli.data.relation_prompts`.

    Args:
        path: A file of CounterFact records; null for the official one, downloaded once into the cache.
        url: Address of the official file.
        sha256: Of the official file, in hexadecimal digits.
        size_bytes: Of the official file.
    """

    path: str | None = None
    url: str = field(metadata={"camp": "operational"})  # the checksum says which file it is
    sha256: str
    size_bytes: int = field(metadata={"camp": "operational"})

    def __post_init__(self) -> None:
        """Refuse an address or a checksum that no file could have."""
        Recipes.__post_init__(self)
        if not re.fullmatch(r"https?://[^/\s]+/\S+", self.url):
            raise ValueError(f"url: expected the http address of a file, got {self.url!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: expected 64 hexadecimal digits in lower case, got {self.sha256!r}")
        if self.size_bytes < 1:
            raise ValueError(f"size_bytes: expected at least 1, got {self.size_bytes}")

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the file cannot be had or read, or for all problems of its records at once.
        """
        path = self.path if self.path is not None else str(fetch(self.url, self.sha256, self.size_bytes))
        document, fingerprint = read_json(path)
        cases = self._cases(document, path)
        prompts = tuple(case.request.text for case in cases)
        return Dataset("counterfact", tuple(self.window(cases)), fingerprint, self.path or self.url, prompts)

    def _cases(self, document: Any, source: str) -> list[Case]:
        problems = Problems(source)
        read = [(node, self._case(node)) for node in records(document, problems)]
        check_unique((node, case.case_id) for node, case in read if case)
        problems.check()
        return [case for _, case in read if case]

    def _case(self, node: Node) -> Case | None:
        """Return one record as a case, or None where its request is beyond reading."""
        case_id, request = node.identity(), _request(node)
        paraphrases, neighborhood = node.prompts("paraphrase_prompts"), node.prompts("neighborhood_prompts")
        given = node.prompts("relation_specific_prompts", required=False)
        generation = node.prompts("generation_prompts", required=False)
        if request is None:
            return None
        return Case(
            case_id=case_id,
            request=request,
            paraphrases=_probes(paraphrases),
            neighborhood=_probes(neighborhood),
            relation_specific=_probes(given) or self.made_relation_specific(request),
            instructions=self.made_instructions(request),
            generation=generation,
        )


def _request(node: Node) -> Request | None:
    rewrite = node.child("requested_rewrite")
    if rewrite is None:
        return None
    new, true = rewrite.child("target_new"), rewrite.child("target_true")
    request = Request(
        prompt=rewrite.prompt("prompt"),
        subject=rewrite.subject(),
        target_new=new.target("str") if new else "",
        target_true=true.target("str") if true else "",
        relation=rewrite.optional("relation_id"),
    )
    check_request(rewrite, "prompt", request)
    return request


def _probes(prompts: tuple[str, ...]) -> tuple[Probe, ...]:
    return tuple(Probe(prompt) for prompt in prompts)
