"""Answers of the unedited model on disk: read back to the bit, and never believed when anything is wrong."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ke_cli.engine.queries import (
    Answer,
    ContinuationQuery,
    Generation,
    Geometry,
    GeometryQuery,
    InstructionQuery,
    PredictionQuery,
    Predictions,
    Query,
    SampleQuery,
    Score,
    TargetQuery,
    TokenQuery,
    TopTokens,
    TopTokensQuery,
)
from ke_cli.running.unedited import AnswerCache
from run.children import PRELOADED

MODEL: Mapping[str, Any] = {"format": 1, "model": "ab" * 32, "dtype": "torch.float32", "versions": {"torch": "2"}}
ODD = (1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 0.1 + 0.2, 2**-149, 3.4028234663852886e38)
"""Numbers that only their shortest exact text brings back."""

GEOMETRY = GeometryQuery(
    "{} lives in", "Ann", "Oslo", ("Where?",), (("{} is in", "Bob", "Rome"),), "subject_last", 0.1, (0.5, 1.0), 4, 0
)
ANSWERS: Mapping[Query, Answer] = {
    TargetQuery("Zürich lies in", "Peru"): Score(ODD, tuple(number > 1 for number in ODD)),
    TargetQuery('a "quoted"\nline \ud800', "\N{SNOWMAN}"): Score((2.5,), (True,)),
    TokenQuery("Zürich lies in", 17): Score((0.25,), (False,)),
    TopTokensQuery("Zürich lies in", 3): TopTokens((4, 0, 9), (" a", "\ufffd", ""), (0.1, 0.7, 1e-7)),
    InstructionQuery("Where is Zürich?", 4): Generation("in\nPeru "),
    ContinuationQuery("Zürich lies in", 4): Generation(" Peru"),
    SampleQuery("Zürich", 9, 5, 0, 1): Generation("Zürich lies"),
    PredictionQuery("Zürich lies in", "Peru"): Predictions((4, 0), " a\ufffd"),
    GEOMETRY: Geometry((1, 2), (0.5, None), ((0.1, None), (0.2, 0.3)), (), None, (0.5,), 1e-9, None, -0.25),
}


def queries() -> list[Query]:
    return list(ANSWERS)


def exact(answers: Mapping[Query, Answer] | None) -> dict[Query, str]:
    """Answers with every bit of every number, and the type of every value, in view."""
    assert answers is not None
    return {query: repr(found) for query, found in answers.items()}


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    return AnswerCache(tmp_path / "unedited", MODEL)


@pytest.fixture
def file(cache: AnswerCache) -> Path:
    """The one file of a cache that knows the answers."""
    cache.write(queries(), ANSWERS)
    return only_file(cache)


def only_file(cache: AnswerCache) -> Path:
    (path,) = (path for path in cache.folder.rglob("*") if path.is_file())
    return path


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_kind_of_answer_comes_back_to_the_bit_whatever_the_order(cache: AnswerCache) -> None:
    assert cache.read(queries()) is None
    cache.write(queries(), ANSWERS)
    for order in (queries(), queries()[::-1]):
        assert exact(AnswerCache(cache.folder, MODEL).read(order)) == exact(ANSWERS)


def test_random_numbers_come_back_to_the_bit(cache: AnswerCache) -> None:
    numbers = random.Random(0)
    nlls = tuple(numbers.uniform(0, 1) * 10.0 ** numbers.randint(-300, 300) for _ in range(2000))
    asked = TargetQuery("p", "t")
    cache.write([asked], {asked: Score(nlls, (True,) * len(nlls))})
    found = (cache.read([asked]) or {})[asked]
    assert isinstance(found, Score)
    assert found.nlls == nlls


def test_a_file_is_json_and_repeats_what_its_answers_depend_on(cache: AnswerCache, file: Path) -> None:
    content = json.loads(file.read_bytes())
    assert content["identity"]["model"] == MODEL
    assert sorted(asked["ask"] for asked in content["identity"]["queries"]) == sorted(
        type(query).__name__ for query in ANSWERS
    )
    assert {"ask": "TokenQuery", "prompt": "Zürich lies in", "token": 17} in content["identity"]["queries"]
    assert len(content["answers"]) == len(ANSWERS)
    assert (file.parent.name, len(file.stem)) == (file.stem[:2], 64)


@pytest.mark.parametrize("change", [{"model": "cd" * 32}, {"dtype": "torch.bfloat16"}, {"format": 2}])
def test_what_another_model_answered_is_not_read(cache: AnswerCache, file: Path, change: dict[str, Any]) -> None:
    assert AnswerCache(cache.folder, {**MODEL, **change}).read(queries()) is None


def test_other_questions_have_other_answers(cache: AnswerCache, file: Path) -> None:
    assert cache.read(queries()[1:]) is None
    assert cache.read([*queries(), TargetQuery("more", "yes")]) is None
    assert cache.read([InstructionQuery("Where is Zürich?", 5), *(q for q in queries() if q != queries()[4])]) is None


def changed_number(text: bytes) -> bytes:
    assert text.count(b"0.25") >= 1
    return text.replace(b"0.25", b"0.26", 1)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "torn": lambda text: text[: len(text) // 2],
    "without its end": lambda text: text[:-1],
    "with more behind": lambda text: text + text,
    "one number": changed_number,
    "no text": lambda text: bytes(range(256)),
    "other JSON": lambda text: b'{"answers": []}\n',
    "nested": lambda text: b"[" * 100_000,
    "another model": lambda text: text.replace(b"ab" * 32, b"cd" * 32),
    "checksum": lambda text: text[:-10] + b"0000000" + text[-3:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_told_of_computed_again_and_replaced(
    cache: AnswerCache, file: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    assert cache.read(queries()) is None
    (warning,) = warnings_of(caplog)
    assert str(file) in warning and "computed again" in warning
    cache.write(queries(), ANSWERS)
    assert file.read_bytes() == whole
    assert exact(cache.read(queries())) == exact(ANSWERS)


def test_a_moved_file_is_not_taken_for_another(cache: AnswerCache, file: Path, caplog: Any) -> None:
    other = [TargetQuery("Zürich lies in", "Chile")]
    cache.write(other, {other[0]: Score((1.0,), (True,))})
    (place,) = (path for path in cache.folder.rglob("*.json") if path != file)
    file.replace(place)
    assert cache.read(other) is None
    assert "other answers than its name says" in warnings_of(caplog)[0]


def test_answers_of_the_wrong_form_are_not_taken(cache: AnswerCache, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Query] = [TokenQuery("p", 1)]
    cache.write(asked, {asked[0]: Generation("this is no score")})
    assert cache.read(asked) is None
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_not_kept(cache: AnswerCache, number: float) -> None:
    asked = TargetQuery("p", "t")
    cache.write([asked], {asked: Score((number,), (False,))})
    assert cache.read([asked]) is None
    assert not cache.folder.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_folder_is_told_of_once_and_still_read(
    cache: AnswerCache, file: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    for number in range(5):
        asked = TokenQuery("p", number)
        cache.write([asked], {asked: Score((1.0,), (True,))})
    assert [os.strerror(code) in warning for warning in warnings_of(caplog)] == [True]
    assert only_file(cache) == file, "nothing half-written is left"
    assert exact(cache.read(queries())) == exact(ANSWERS)


def test_a_folder_that_is_none_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "unedited").write_text("a file")
    cache = AnswerCache(tmp_path / "unedited", MODEL)
    for _ in range(3):
        assert cache.read(queries()) is None
        cache.write(queries(), ANSWERS)
    assert len(warnings_of(caplog)) == 1
    assert (tmp_path / "unedited").read_text() == "a file"


def question(number: int) -> TargetQuery:
    return TargetQuery(f"prompt {number}", "x" * 2000)


def use(folder: str, writer: int) -> None:
    """Write and read the same files as other processes; exit code 0 if every answer read is a whole one."""
    logging.disable()
    cache = AnswerCache(Path(folder), MODEL)
    for turn in range(10):
        for number in range(20):
            asked = question(number)
            found = cache.read([asked])
            assert found is None or found[asked] in [Score((float(n),) * 50, (True,) * 50) for n in range(4)]
            assert found is not None or turn == 0, "a whole file has become unreadable"
            cache.write([asked], {asked: Score((float(writer),) * 50, (True,) * 50)})


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    context = get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    processes = [context.Process(target=use, args=(str(tmp_path / "unedited"), n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    names = [path.name for path in (tmp_path / "unedited").rglob("*") if path.is_file()]
    assert len(names) == 20 and all(name.endswith(".json") and not name.startswith(".") for name in names)


def test_nothing_is_held_in_memory(cache: AnswerCache) -> None:
    before = dict(vars(cache))
    for number in range(50):
        cache.write([question(number)], {question(number): Score((1.0,), (True,))})
        assert cache.read([question(number)]) is not None
    assert vars(cache) == before
