"""What run.json says of terminal tokens, limits and tokenizers, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.errors import HookError, LogError
from rocktok.log import LogWriter
from rocktok.log.run import RunFacts, run_facts
from tests.logs import RUN, rows, write_by_hand, write_log


def test_every_key_is_read() -> None:
    run = {
        "terminal_ids": {"student": [7, 3], "teacher": [3, 9]},
        "special_ids": [9, 3, 0],
        "max_completion_length": 512,
        "tokenizers": {"teacher_tokenizer": "found", "tokens_differ": 0},
        "contexts": {"bits": 256, "seed": 0, "hidden_size": 64},
        "tokens": 40,
    }
    facts = run_facts(run, "run.json")
    assert facts == RunFacts(
        (3, 7),
        (3, 9),
        (0, 3, 9),
        512,
        {"teacher_tokenizer": "found", "tokens_differ": 0},
        0,
        64,
        40,
    )
    assert facts.terminal == (3, 7, 9)


@pytest.mark.parametrize(
    "run", [None, {}, {"terminal_ids": None}, {"terminal_ids": {}, "contexts": {}}]
)
def test_what_is_not_there_is_not_known(run: dict[str, Any] | None) -> None:
    assert run_facts(run, "run.json") == RunFacts()
    assert RunFacts().terminal is None


def test_one_model_without_terminal_ids_leaves_those_of_the_other() -> None:
    facts = run_facts({"terminal_ids": {"student": [], "teacher": [2]}}, "run.json")
    assert (facts.terminal_student, facts.terminal) == ((), (2,))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"terminal_ids": [1]}, r"terminal_ids is \[1\]; it must be an object"),
        ({"terminal_ids": {"student": 1}}, "terminal_ids.student is 1; it must be a list of"),
        ({"terminal_ids": {"teacher": [True]}}, r"terminal_ids.teacher is \[True\]"),
        ({"special_ids": [0, -1]}, r"special_ids is \[0, -1\]; it must be a list of token ids"),
        ({"special_ids": [1 << 22]}, r"special_ids is \[4194304\]"),
        ({"special_ids": "012"}, "special_ids is '012'; it must be a list of token ids"),
        ({"max_completion_length": 0}, "max_completion_length is 0; it must be an integer, 1 or"),
        ({"max_completion_length": 2.0}, "max_completion_length is 2.0"),
        ({"tokenizers": "same"}, "tokenizers is 'same'; it must be an object"),
        ({"contexts": {"bits": 128}}, "contexts.bits is 128; this rocktok reads 256"),
        ({"contexts": {"seed": -1}}, "contexts.seed is -1; it must be an integer, 0 or more"),
    ],
)
def test_another_type_is_one_line(run: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=f"^run.json: {message}"):
        run_facts(run, "run.json")
    with pytest.raises(LogError, match=message):
        LogWriter(tmp_path / "log", run=run)
    assert not (tmp_path / "log").exists()


def test_a_log_has_them(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", run={**RUN, "special_ids": [4]}) as writer:
        writer.write(rows(0, [0]), table="fixed")
    assert rocktok.open(tmp_path / "log").facts.special == (4,)
    by_hand = write_by_hand(tmp_path / "by-hand", rows(0, [0]))
    assert rocktok.open(by_hand).facts == RunFacts()


def test_a_log_is_read_where_they_are_not_asked_for(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log")
    content = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**content, "special_ids": 7, "crc32": None}))
    log = rocktok.open(path)
    assert len(log.steps("fixed")) == 2
    with pytest.raises(LogError, match=f"^{path / 'run.json'}: special_ids is 7"):
        assert log.facts


def test_an_attempt_with_other_columns_is_told_which(tmp_path: Path) -> None:
    LogWriter(tmp_path, run=RUN, columns=["grad_norm", "overlap"]).close()
    with pytest.raises(
        HookError,
        match=r"00\.json: this log records the columns grad_norm, overlap, this attempt wants "
        r"grad_norm, jsd \(it lacks overlap and has jsd beside them\); record the same columns",
    ):
        LogWriter(tmp_path, run=RUN, columns=["jsd", "grad_norm"], resume_step=3)
