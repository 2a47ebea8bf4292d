"""What the unedited model is asked, and what is remembered of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ke_cli.engine.batching import Budget
from ke_cli.engine.queries import (
    Answer,
    Query,
    Score,
    TokenQuery,
)
from ke_cli.engine.workbench import Workbench
from ke_cli.running import unedited
from ke_cli.running.unedited import AnswerCache, unedited_answers
from run.test_unedited import MODEL


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    return AnswerCache(tmp_path / "unedited", MODEL)


class TestAsking:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[list[Query]]:
        """What the model is asked, call by call; it answers the length of the prompt."""
        calls: list[list[Query]] = []

        def answer(model: Any, questions: Any, edits: Any, *, budget: Any) -> list[dict[Query, Answer]]:
            assert len(questions) == len(edits) == 1 and not edits[0].updates
            calls.append(list(questions[0]))
            return [{query: Score((float(len(query.prompt)),), (True,)) for query in questions[0]}]

        monkeypatch.setattr(unedited, "answer", answer)
        return calls

    @pytest.fixture
    def bench(self) -> Workbench:
        return cast(Workbench, SimpleNamespace(model=None, budget=64))

    def test_what_cases_have_in_common_is_asked_once(self, asked: list[list[Query]], bench: Workbench) -> None:
        a, b, c = (TokenQuery("x" * n, n) for n in (1, 2, 3))
        found = unedited_answers(bench, [[a, b], [], [b, c], [a, b]])
        assert asked == [[a, b, c]]
        assert [list(answers) for answers in found] == [[a, b], [], [b, c], [a, b]]
        assert found[2][c] == Score((3.0,), (True,))

    def test_nothing_is_asked_without_questions(self, asked: list[list[Query]], bench: Workbench) -> None:
        assert unedited_answers(bench, []) == []
        assert unedited_answers(bench, [[], []]) == [{}, {}]
        assert asked == []

    def test_the_order_of_cases_and_questions_is_no_matter(self, asked: list[list[Query]], bench: Workbench) -> None:
        a, b, c = (TokenQuery("x" * n, n) for n in (1, 2, 3))
        unedited_answers(bench, [[a, b], [c]])
        unedited_answers(bench, [[c, b], [b, a]])
        assert asked[0] == asked[1]

    def test_what_was_asked_together_is_known_together(
        self, asked: list[list[Query]], bench: Workbench, cache: AnswerCache
    ) -> None:
        a, b, c = (TokenQuery("x" * n, n) for n in (1, 2, 3))
        first = unedited_answers(bench, [[b, a], [], [c]], cache)
        second = unedited_answers(bench, [[c, b], [], [a]], AnswerCache(cache.folder, MODEL))
        assert asked == [[a, b, c]]
        assert [list(answers) for answers in second] == [[c, b], [], [a]]
        assert {**first[0], **first[2]} == {**second[0], **second[2]}
        assert len(list(cache.folder.rglob("*.json"))) == 1

    def test_what_was_asked_with_other_neighbours_is_not_known(
        self, asked: list[list[Query]], bench: Workbench, cache: AnswerCache
    ) -> None:
        a, b, c = (TokenQuery("x" * n, n) for n in (1, 2, 3))
        for questions in ([[a, b]], [[a], [b, c]], [[a]]):
            unedited_answers(bench, questions, cache)
        assert asked == [[a, b], [a, b, c], [a]]

    def test_nor_in_batches_of_another_size(
        self, asked: list[list[Query]], bench: Workbench, cache: AnswerCache
    ) -> None:
        a = TokenQuery("x", 1)
        larger = cast(Workbench, SimpleNamespace(model=None, budget=Budget(128)))
        for where in (bench, larger, bench, larger):
            unedited_answers(where, [[a]], cache)
        assert asked == [[a], [a]]

    def test_what_memory_ran_out_for_is_not_kept(
        self, bench: Workbench, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def answer(model: Any, questions: Any, edits: Any, *, budget: Budget) -> list[dict[Query, Answer]]:
            budget.shrink(64)
            return [{query: Score((1.0,), (True,)) for query in questions[0]}]

        monkeypatch.setattr(unedited, "answer", answer)
        short = cast(Workbench, SimpleNamespace(model=None, budget=Budget(64)))
        unedited_answers(short, [[TokenQuery("x", 1)]], cache)
        assert not cache.folder.exists()
