"""Bits that flip in the case log: a line is what was written, or it does not count."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from ke_cli.results.journal import decode, encode
from ke_cli.results.reader import read_run
from ke_cli.results.store import RunStore
from results.runs import case, log_of, record, stored, unit, unsealed


def text_of(**changes: object) -> bytes:
    return encode(case("1", metrics={"efficacy": 0.125, "drift": 0.25}, **changes))


@pytest.mark.parametrize("whole", [True, False])
def test_every_single_flipped_bit_is_noticed(whole: bool) -> None:
    """In numbers, names, texts, raw answers and the checksum itself."""
    text = text_of()
    original, taken = decode(text, whole=whole), []
    for place in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[place] ^= 1 << bit
            try:
                found = decode(bytes(changed), whole=whole)
            except ValueError:
                continue
            taken.append((place, bytes(changed)))
            assert found == original, "what is read all the same is what was written"
    checks = range(len(text) - 21, len(text))
    assert all(place in checks for place, _ in taken), "only the name of the checksum may be damaged, and nothing else"
    assert len(taken) < 100


def test_a_flipped_digit_leaves_json_and_is_noticed_all_the_same() -> None:
    text = text_of()
    changed = text.replace(b"0.125", b"0.925")
    assert json.loads(changed)["metrics"]["efficacy"] == 0.925
    for whole in (True, False):
        with pytest.raises(ValueError, match="garbled: its checksum is wrong"):
            decode(changed, whole=whole)


def test_lines_from_before_there_were_checksums_count() -> None:
    line = case("1")
    old = unsealed(encode(line))
    assert "check" not in json.loads(old)
    for whole in (True, False):
        assert decode(old, whole=whole) == decode(encode(line), whole=whole)


def test_a_line_that_is_stored_again_gets_a_checksum_of_its_own() -> None:
    line = json.loads(text_of())
    again = json.loads(encode(line | {"subject": "Bern"}))
    assert again["check"] != line["check"]
    assert json.loads(encode({key: value for key, value in again.items() if key != "check"})) == again


@pytest.fixture
def log(tmp_path: Path) -> bytes:
    """The log of a complete run of twelve cases."""
    with RunStore.open(tmp_path, resume=True) as store:
        store.write_record(record(total=12))
        for number in range(6):
            store.append(unit(f"u{number}", 1 + number % 3, metrics={"efficacy": 0.5, "drift": number / 7}))
    return log_of(tmp_path).read_bytes()


def damaged(text: bytes, dice: random.Random) -> bytes:
    """Some bits flipped, a stretch overwritten, left out or doubled, as failing disks and editors do."""
    place, length = dice.randrange(len(text)), dice.randrange(1, 400)
    match dice.randrange(5):
        case 0:
            return text[:place] + bytes([text[place] ^ (1 << dice.randrange(8))]) + text[place + 1 :]
        case 1:
            return text[:place] + bytes(length) + text[place + length :]
        case 2:
            return text[:place] + text[place + length :]
        case 3:
            return text[:place] + text[place : place + length] * 2 + text[place + length :]
    return text[:place] + dice.randbytes(length) + text[place + length :]


def test_a_garbled_log_never_yields_another_number(tmp_path: Path, log: bytes) -> None:
    """300 random damages: a reader leaves out and says so; a writer keeps what is whole, to the byte."""
    dice, noticed = random.Random(0), 0
    originals = {line.case_id: line for line in read_run(tmp_path).done}
    lines = {line["case_id"]: line for line in stored(tmp_path)}
    assert len(originals) == 12
    for _ in range(300):
        log_of(tmp_path).write_bytes(damaged(log, dice))
        run = read_run(tmp_path)
        assert all(originals[line.case_id] == line for line in run.done)
        assert len({line.case_id for line in run.done}) == len(run.done)
        assert len(run.done) == 12 or run.problems, "what is missing is told of"
        with RunStore.open(tmp_path, resume=True) as store:
            assert store.done_units >= {line.unit for line in run.done}
            noticed += len(store.done_units) < 6
        for line in stored(tmp_path):
            whole = lines[line["case_id"]]
            assert all(line[key] == whole[key] for key in whole if key != "check")
    assert noticed > 200
