"""The sub-benchmark ``generate``: greedy answers of many edited models at once, and of one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmark.agreement import TOLERANCES, compare_texts
from benchmark.comparing import ENGINE, RATIO, TEXTBOOK, about, passes
from benchmark.lab import Lab, open_lab
from benchmark.measure import Ratio, Work, measure
from benchmark.report import Report
from benchmark.sides import EngineSide
from benchmark.textbook import generate
from ke_cli.data.types import EditUnit
from ke_cli.engine.edits import Edit
from ke_cli.engine.queries import Generation, InstructionQuery
from ke_cli.engine.scoring import answer
from ke_cli.errors import UserError


class Asker:
    """Asks edited models the instructions of their cases.

    Args:
        lab: The model.
        new_tokens: Of each answer.
    """

    def __init__(self, lab: Lab, new_tokens: int) -> None:
        self.bench, self.new_tokens = lab.bench, new_tokens

    def one_by_one(self, asked: Sequence[Sequence[str]], edits: Sequence[Edit]) -> list[str]:
        """Answers of one model and to one question after the other."""
        model = self.bench.model
        pairs = zip(asked, edits, strict=True)
        return [text for questions, edit in pairs for text in generate(model, questions, edit, self.new_tokens)]

    def together(self, asked: Sequence[Sequence[str]], edits: Sequence[Edit]) -> list[str]:
        """Answers of all models at once."""
        queries = [[InstructionQuery(question, self.new_tokens) for question in questions] for questions in asked]
        answers = answer(self.bench.model, queries, edits, budget=self.bench.budget)
        found = [known[query] for some, known in zip(queries, answers, strict=True) for query in some]
        return [one.text for one in found if isinstance(one, Generation)]


def compare_texts_of_sides(options: argparse.Namespace) -> Report:
    """Times both ways and compares the texts.

    Raises:
        UserError: If the data set has no instructions.
    """
    with open_lab(options) as lab:
        few, edits = lab.first(options.textbook_cases), EngineSide(lab).edit(lab.units)
        asked = [_questions(unit) for unit in lab.units]
        if not any(asked[: len(few)]):
            raise UserError("the data set has no instructions to answer", where="--dataset")
        asker, slow = Asker(lab, options.new_tokens), (asked[: len(few)], edits[: len(few)])
        works = {
            TEXTBOOK: Work(lambda: asker.one_by_one(*slow), sum(map(len, slow[0]))),
            ENGINE: Work(lambda: asker.together(asked, edits), sum(map(len, asked))),
        }
        often = passes(options, lab)
        numbers = measure(works, often, lab.device)
        texts = numbers[TEXTBOOK].result
        findings = [compare_texts(texts, numbers[ENGINE].result[: len(texts)], TOLERANCES[lab.dtype])]
        ratios = {RATIO: Ratio.of(numbers[TEXTBOOK], numbers[ENGINE])}
        more = {"new_tokens": options.new_tokens, "questions": sum(map(len, asked))}
        return Report("generate", about(options, lab), numbers, ratios, findings, often.rate, per="answer", more=more)


def _questions(unit: EditUnit) -> list[str]:
    return list(dict.fromkeys(probe.prompt for case in unit.cases for probe in case.instructions))
