"""What several analyses of one log ask for is made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import rocktok
from rocktok.engine.passes import Engine
from tests.paths import SAMPLE


def test_the_same_question_is_answered_once() -> None:
    engine, asked = Engine(jobs=1), []

    def answer(log: object, key: object) -> int:
        return engine.once(log, key, lambda: asked.append((log, key)) or len(asked))

    one, other = [1], [1]  # equal, and not the same
    assert [answer(one, "a"), answer(one, "a"), answer(other, "a")] == [1, 1, 2]
    assert [answer(other, "b"), answer(one, "a"), answer(other, "a")] == [3, 1, 2]
    assert answer(other, "c") == 4
    assert answer(one, "a") == 5  # the oldest has made room for another
    assert [answer(other, "b"), answer(other, "c")] == [3, 4]


def test_what_fails_is_asked_again() -> None:
    engine = Engine(jobs=1)
    with pytest.raises(ZeroDivisionError):
        engine.once("log", "key", lambda: 1 // 0)
    assert engine.once("log", "key", lambda: 7) == 7


def test_stagnation_after_attribute_searches_no_rocks_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    shutil.copytree(SAMPLE, path)
    log = rocktok.open(path)
    found = rocktok.detect(log, engine=Engine(jobs=1))
    with Engine(jobs=1) as engine:
        alone = rocktok.stagnation(log, detected=found, engine=engine)
    with Engine(jobs=1) as engine:
        rocktok.attribute(log, detected=found, replicates=100, engine=engine)
        after = rocktok.stagnation(log, detected=found, engine=engine)
    assert after.log["passes"] == alone.log["passes"] - 3
    assert {**after.to_dict(), "log": None} == {**alone.to_dict(), "log": None}
