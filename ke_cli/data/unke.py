"""UnKEBench (Deng et al. 2024, arXiv 2405.15349): a question, and a whole paragraph as its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ke_cli.data.json_file import read_json
from ke_cli.data.notes import Tally
from ke_cli.data.official import Parts
from ke_cli.data.reading import File, read_dataset
from ke_cli.data.types import PLACE, Case, Dataset, Probe, Request
from ke_cli.data.validate import Node

WHOLE = (
    "records name no subject: the whole question stands for it, so editors that write at the last subject token write "
    "at the last token of the question, as UnKE does"
)


UNEVEN = "lose their sub-questions: they have another number of sub-answers"


@dataclass(frozen=True, kw_only=True)
class UnKE(Parts):
    """Loads records ``{id, question, para_question, answer, sub_question: [...], sub_answer: [...]}``.

    The answer, a paragraph, is the object that is written; nothing is said of one before. ``para_question`` is a
    paraphrase. What the paragraph says in its parts is asked by the sub-questions, probes ``portability/sub_question``.

    Args:
        part: The official file, where there is no ``path``.
    """

    part: Literal["v3"] = "v3"

    def load(self) -> Dataset:
        """Read, check and return the cases.

        Raises:
            UserError: If the file cannot be had or read, or for all problems of its records at once.
        """
        path, source = self.found()
        return read_dataset("unke", File(*read_json(path), path, source), self._cases, self, (WHOLE,))

    def _cases(self, node: Node, index: int, tally: Tally) -> list[Case]:
        request = Request(PLACE, node.subject("question"), node.target("answer").rstrip(" "), "")
        case = Case(
            case_id=node.identity("id") if "id" in node.fields else str(index),
            request=request,
            paraphrases=(Probe(node.prompt("para_question")),),
            instructions=self.made_instructions(request),
            probes=_parts(node, tally),
        )
        return [case]


def _parts(node: Node, tally: Tally) -> tuple[Probe, ...]:
    questions, answers = node.prompts("sub_question", required=False), node.prompts("sub_answer", required=False)
    if len(questions) != len(answers):
        tally.add(UNEVEN, node)
        return ()
    pairs = zip(questions, answers, strict=True)
    return tuple(Probe(question, answer.strip(" "), "portability/sub_question") for question, answer in pairs)
