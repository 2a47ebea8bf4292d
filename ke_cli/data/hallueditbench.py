"""HalluEditBench (Huang et al. 2024, arXiv 2410.16251): facts that a model got wrong, corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from ke_cli.data.download import fetch
from ke_cli.data.notes import Tally
from ke_cli.data.official import OPERATIONAL, check_official
from ke_cli.data.reading import NO_SUBJECT, File, read_dataset
from ke_cli.data.recipes import Recipes
from ke_cli.data.record_files import read_records
from ke_cli.data.relations import relation_id
from ke_cli.data.subjects import placed_request
from ke_cli.data.types import Case, Dataset, Probe, Request
from ke_cli.data.validate import Node

HOPS: Final = (2, 3, 4, 5, 6)
"""Steps of the questions about what follows from a fact."""

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "human_athlete": "athlete",
        "human_entrepreneur": "person",
        "human_scientist": "person",
        "human_writer": "person",
        "places_city": "place",
        "places_country": "place",
        "places_landmark": "site",
        "geography_forest": "site",
        "geography_glacier": "site",
        "geography_volcano": "site",
        "art_sculpture": "site",
        "business_brand": "organisation",
        "business_corporation": "organisation",
        "entertainment_anime": "work",
        "entertainment_song": "work",
        "event_film": "work",
        "technology_database": "product",
        "technology_software": "product",
        "technology_programming_language": "product",
    }
)
"""Topic to what its subjects are, in the words of `ke_cli.data.relation_prompts`."""

NO_OLD_ANSWER = (
    "do not tell what the model said before: success and magnitude of efficacy and paraphrase stay empty (accuracy "
    "does not need it)"
)


@dataclass(frozen=True, kw_only=True)
class HalluEditBench(Recipes):
    """Loads tables with the columns ``subject, relation, object, question, paraphrased_question, ...``, one row a fact.

    The question is the edit prompt, the object is written, and the wrong answer of the model that the table is about,
    in the column ``output_<answered_by>``, is the object before. Further columns become probes: ``yes_question``,
    ``no_question`` and ``multiple_choice_with_letters`` are ``generalization/...``; ``reversed_relation_question`` is
    ``reverse``; ``question_2hop`` to ``question_6hop`` are ``portability/2_hops`` and so on; ``locality_question`` is
    ``locality/question``, without a gold answer.

    Args:
        path: A table of one's own; null for that of the authors, downloaded once into the cache.
        answered_by: The model that got the facts wrong, as in the names of the authors' folders.
        topic: As in the names of the authors' files.
        url: Address of the authors' table.
        sha256: Of that table; null where it is not known, see `ke_cli.data.official.Official`.
    """

    path: str | None = None
    answered_by: Literal["llama_2_7b_chat_hf", "meta_llama_3_8b_instruct", "mistral_7b_instruct_v0.3"]
    topic: str
    url: str = field(metadata=OPERATIONAL)
    sha256: str | None = field(default=None, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        """Refuse an address or a checksum that no file could have."""
        super().__post_init__()
        check_official(self.url, self.sha256, None)

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the table cannot be had or read, for all problems of its rows at once, or if no row is left.
        """
        path = self.path if self.path is not None else str(fetch(self.url, self.sha256, None))
        file = File(*read_records(path), path, self.path or self.url)
        return read_dataset("hallueditbench", file, self._cases, self)

    def _cases(self, node: Node, index: int, tally: Tally) -> list[Case]:
        """Return one row as a case, or nothing where its subject is not found."""
        request, rephrased = self._request(node), node.optional("paraphrased_question").strip(" ")
        probes = tuple(probe for probe in _probes(node) if probe.prompt)
        if request is None:
            tally.add(NO_SUBJECT, node)
            return []
        if not request.target_true:
            tally.add(NO_OLD_ANSWER, node)
        case = Case(
            case_id=str(index),
            request=request,
            paraphrases=(Probe(rephrased),) if rephrased else (),
            relation_specific=self.made_relation_specific(request, KINDS.get(node.optional("topic") or self.topic)),
            instructions=self.made_instructions(request),
            probes=probes,
        )
        return [case]

    def _request(self, node: Node) -> Request | None:
        prompt, subject, new = node.prompt("question"), node.subject(), node.target("object")
        old = node.optional(f"output_{self.answered_by}")
        relation = relation_id(node.optional("relation"))
        return placed_request(node, "question", prompt, subject, new, old.strip(" "), relation)


def _probes(node: Node) -> Iterator[Probe]:
    """Yield what else is asked about a row; a cell that is empty gives a probe without a prompt."""

    def cell(key: str) -> str:
        return node.optional(key).strip(" ")

    yield Probe(cell("yes_question"), "Yes", "generalization/yes")
    yield Probe(cell("no_question"), "No", "generalization/no")
    if cell("multiple_choice_with_letters"):
        choices = f"{cell('question')} {cell('multiple_choice_with_letters')}"
        yield Probe(choices, cell("multiple_choice_labels") or None, "generalization/multiple_choice")
    yield Probe(cell("reversed_relation_question"), cell("subject") or None, "reverse")
    for hops in HOPS:
        yield Probe(cell(f"question_{hops}hop"), cell(f"answer_{hops}hop") or None, f"portability/{hops}_hops")
    yield Probe(cell("locality_question"), None, "locality/question")
