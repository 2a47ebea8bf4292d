"""CounterFact (Meng et al. 2022, arXiv 2202.05262) in its original schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ke_cli.data.download import fetch
from ke_cli.data.json_file import read_json
from ke_cli.data.official import LATER, OPERATIONAL, check_official
from ke_cli.data.probes import texts
from ke_cli.data.recipes import Recipes
from ke_cli.data.reference_texts import ReferenceTexts
from ke_cli.data.types import Case, Dataset, Request
from ke_cli.data.validate import Node, Problems, check_request, check_unique, records


@dataclass(frozen=True, kw_only=True)
class CounterFact(Recipes):
    """Loads CounterFact records, from a file of the user or from the official one.

    A record may have the further key ``relation_specific_prompts`` (a list of complete prompts); for others
    such prompts are made, see `ke_cli.data.relation_prompts`.

    Args:
        path: A file of CounterFact records; null for the official one, downloaded once into the cache.
        url: Address of the official file.
        sha256: Of the official file, in hexadecimal digits; null where it is not known, see
            `ke_cli.data.official.Official`.
        size_bytes: Of the official file; null where it is not known.
        reference_texts: A file of texts about things of which an object is true, for consistency; null for none. See
            `ke_cli.data.reference_texts`.
    """

    path: str | None = None
    url: str = field(metadata=OPERATIONAL)  # the checksum says which file it is
    sha256: str | None
    size_bytes: int | None = field(metadata=OPERATIONAL)
    reference_texts: str | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse an address or a checksum that no file could have."""
        super().__post_init__()
        check_official(self.url, self.sha256, self.size_bytes)

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the file cannot be had or read, or for all problems of its records at once.
        """
        path = self.path if self.path is not None else str(fetch(self.url, self.sha256, self.size_bytes))
        document, fingerprint = read_json(path)
        texts_about = ReferenceTexts.read(self.reference_texts)
        cases = self._cases(document, path, texts_about)
        prompts = tuple(case.request.text for case in cases)
        return Dataset(
            "counterfact",
            tuple(self.window(cases)),
            texts_about.fingerprint_with(fingerprint),
            self.path or self.url,
            prompts,
            texts_about.notes(cases),
        )

    def _cases(self, document: Any, source: str, texts_about: ReferenceTexts) -> list[Case]:
        problems = Problems(source)
        read = [(node, self.case(node, texts_about)) for node in records(document, problems)]
        check_unique((node, case.case_id) for node, case in read if case)
        problems.check()
        return [case for _, case in read if case]

    def case(self, node: Node, texts_about: ReferenceTexts) -> Case | None:
        """Return one record as a case, or None where its request is beyond reading."""
        case_id, request, about = node.identity(), _request(node), _relation_and_object(node)
        paraphrases, neighborhood = node.prompts("paraphrase_prompts"), node.prompts("neighborhood_prompts")
        given = node.prompts("relation_specific_prompts", required=False)
        generation = node.prompts("generation_prompts", required=False)
        if request is None:
            return None
        return Case(
            case_id=case_id,
            request=request,
            paraphrases=texts(paraphrases),
            neighborhood=texts(neighborhood),
            relation_specific=texts(given) or self.made_relation_specific(request),
            instructions=self.made_instructions(request),
            generation=generation,
            consistency_texts=texts_about.of(*about),
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


def _relation_and_object(node: Node) -> tuple[str, str]:
    """Return the ids of a record's relation and of its new object; empty where it does not tell them."""
    match node.fields.get("requested_rewrite"):
        case {"relation_id": relation, "target_new": {"id": target}}:
            return str(relation or ""), str(target or "")
    return "", ""
