"""Attempts: what a start may not bury, what it must agree with, and how an earlier one is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses.info.passes import info
from rocktok.errors import HookError, LogError
from rocktok.log import LogWriter
from rocktok.log.compact import compact
from rocktok.log.manifest import dump_json
from tests.logs import RUN, rows, sequence_rows, write_by_hand, write_log
from tests.processes import run_command

VOCAB = [(i, f"t{i}", b"t%d" % i) for i in range(50)]


def record(path: Path, steps: tuple[int, ...], *, final: bool = True, **options: Any) -> LogWriter:
    """An attempt with `fixed` at some steps."""
    writer = LogWriter(path, run=RUN, **options)
    first = writer.attempt * 100
    writer.write(
        sequence_rows(range(first, first + 4), step=options.get("resume_step", 0)),
        table="sequences",
    )
    for step in steps:
        writer.write(rows(step, range(first, first + 4)), table="fixed")
    for step in steps[-1:]:
        writer.finish_step(step, "fixed")
    writer.close(final=final)
    return writer


def refusal(path: Path, **options: Any) -> str:
    before = sorted(p for p in path.rglob("*") if p.is_file())
    with pytest.raises(HookError) as caught:
        LogWriter(path, **{"run": RUN, **options})
    assert sorted(p for p in path.rglob("*") if p.is_file()) == before
    return str(caught.value)


# --- finished runs -----------------------------------------------------------------------------


def test_a_finished_run_is_not_buried(tmp_path: Path) -> None:
    record(tmp_path, (0, 100, 500))
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds a finished run of 500 steps; give another directory, or Recorder(…, "
        "supersede=True), after which its rows are read only with --attempt 0"
    )


def test_rollouts_alone_tell_the_least_number_of_steps(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        for step in (0, 10):
            writer.write(rows(step, [step]))
    assert "holds a finished run of at least 11 steps;" in refusal(tmp_path)


def test_a_start_over_what_was_killed_or_empty_goes_on(tmp_path: Path) -> None:
    record(tmp_path, (0, 100), final=False)
    assert record(tmp_path, (0,), final=False).attempt == 1
    LogWriter(tmp_path / "empty", run=RUN).close()
    assert LogWriter(tmp_path / "empty", run=RUN).attempt == 1


def test_one_rank_that_is_not_final_leaves_a_run_unfinished(tmp_path: Path) -> None:
    zero = LogWriter(tmp_path, run=RUN, world_size=2)
    identity = {"attempt": zero.attempt, "run_id": zero.run_id}
    one = LogWriter(tmp_path, rank=1, world_size=2, **identity)
    for writer in (zero, one):
        writer.write(rows(0, [writer.rank]))
    zero.close()
    one.close(final=False)
    assert LogWriter(tmp_path, run=RUN).attempt == 1


def test_resuming_a_finished_run_goes_on(tmp_path: Path) -> None:
    record(tmp_path, (0, 100))
    assert record(tmp_path, (100, 200), resume_step=100, final=False).attempt == 1
    # The rows of attempt 0 below step 100 still count, and it had ended as it should.
    assert "holds a finished run of 100 steps" in refusal(tmp_path)


def test_what_was_superseded_on_purpose_protects_nothing(tmp_path: Path) -> None:
    record(tmp_path, (0, 500))
    assert record(tmp_path, (0,), supersede=True, final=False).attempt == 1
    assert LogWriter(tmp_path, run=RUN).attempt == 2


# --- what attempts must agree in ---------------------------------------------------------------


def test_other_models_are_refused_in_any_attempt(tmp_path: Path) -> None:
    mine = {"student.hidden_size": 32, "student.model_type": "qwen3"}
    record(tmp_path, (0,), final=False, fingerprint=mine)
    other = {**mine, "student.hidden_size": 48}
    expected = (
        f"{tmp_path}/attempts/00.json: holds a run with student.hidden_size 32, this one has 48; "
        "record into another directory"
    )
    assert refusal(tmp_path, fingerprint=other) == expected
    assert refusal(tmp_path, fingerprint=other, resume_step=5, supersede=True) == expected
    assert LogWriter(tmp_path, run=RUN, fingerprint=mine).attempt == 1
    stored = json.loads((tmp_path / "attempts/00.json").read_text())["fingerprint"]
    assert stored["loss.exactness"] == "exact"
    assert stored["vocab_size"] == 50


def test_settings_that_one_version_does_not_know_are_no_difference(tmp_path: Path) -> None:
    record(tmp_path, (0,), final=False, fingerprint={"student.hidden_size": 32})
    path = tmp_path / "attempts/00.json"
    content = json.loads(path.read_text())
    assert LogWriter(tmp_path, run=RUN, fingerprint={"student.head_dim": 8}).attempt == 1
    path.write_bytes(dump_json({k: content[k] for k in content.keys() - {"fingerprint", "crc32"}}))
    assert LogWriter(tmp_path, run=RUN, fingerprint={"student.head_dim": 8}).attempt == 2


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    record(tmp_path, (0,), final=False, vocab=VOCAB)
    other = [*VOCAB[:7], (7, "seven", b"seven"), *VOCAB[8:]]
    assert refusal(tmp_path, vocab=other) == (
        f"{tmp_path}/vocab.parquet: holds the vocabulary of another tokenizer (token 7 is 't7' "
        "there, 'seven' in this run); record into another directory"
    )
    longer = [*VOCAB, (50, "new", b"new")]
    assert LogWriter(tmp_path, run=RUN, vocab=longer).attempt == 1


# --- reading an earlier attempt ----------------------------------------------------------------


def test_an_earlier_attempt_is_read_as_it_was(tmp_path: Path) -> None:
    record(tmp_path, (0, 10, 20))
    before = rocktok.detect(rocktok.open(tmp_path), min_frequency=1).to_dict()
    record(tmp_path, (10, 30), resume_step=10)
    latest = rocktok.open(tmp_path)
    assert latest.complete_steps("fixed") == [0, 10, 30]
    first = rocktok.open(tmp_path, attempt=0)
    assert first.complete_steps("fixed") == [0, 10, 20]
    assert first.warnings() == ["read as attempt 0 left it, without 1 later attempt"]
    after = rocktok.detect(first, min_frequency=1).to_dict()
    for result in (before, after):
        result.pop("log")
        result.pop("notes")
    assert after == before
    assert rocktok.open(tmp_path, attempt=1).complete_steps("fixed") == [0, 10, 30]


def test_shards_that_no_manifest_lists_go_by_their_own_attempt(tmp_path: Path) -> None:
    record(tmp_path, (0, 10))
    record(tmp_path, (10, 30), resume_step=10)
    path = tmp_path / "manifest/rank-00000-01.json"
    content = json.loads(path.read_text())
    del content["crc32"]
    path.write_bytes(dump_json({**content, "shards": []}))
    assert [s.step for s in rocktok.open(tmp_path, attempt=0).steps("fixed")] == [0, 10]


def test_superseded_rows_are_said(tmp_path: Path) -> None:
    record(tmp_path, (0, 10, 20))
    record(tmp_path, (10,), resume_step=10)
    expected = (
        "96 rows of attempt 0, of 2 steps from 10 on, not read: superseded by a later "
        "attempt (--attempt 0 reads them)"
    )
    assert expected in info(rocktok.open(tmp_path)).notes
    code, _, error = run_command("info", tmp_path)
    assert (code, error) == (0, f"rocktok: note: {expected}\n")


def test_an_attempt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path)
    with pytest.raises(LogError, match=r"no attempt 3; there are 0$"):
        rocktok.open(tmp_path, attempt=3)
    with pytest.raises(LogError, match=r"no attempt 0; there are none$"):
        rocktok.open(write_by_hand(tmp_path / "by_hand", rows(0, range(4))), attempt=0)


@pytest.mark.parametrize(
    "command",
    ["info", "detect", "compare", "compact", pytest.param("report", marks=pytest.mark.long)],
)
def test_commands_read_the_attempt_that_was_asked_for(tmp_path: Path, command: str) -> None:
    log = tmp_path / "log"
    record(log, (0, 10))
    record(log, (10,), resume_step=10)
    more = {"compare": [log], "compact": ["-o", tmp_path / "o"], "report": ["-o", tmp_path / "o"]}
    code, _, error = run_command(command, "--attempt", 7, log, *more.get(command, []))
    assert (code, error) == (1, f"rocktok: {log}: no attempt 7; there are 0, 1\n")
    if command in ("info", "compact"):
        code, _, error = run_command(command, "--attempt", 0, log, *more.get(command, []))
        assert code == 0
        assert "superseded" not in error


def test_a_compacted_log_is_of_the_same_models(tmp_path: Path) -> None:
    record(tmp_path / "log", (0,), fingerprint={"student.hidden_size": 32})
    compact(rocktok.open(tmp_path / "log"), tmp_path / "out")
    (attempt,) = rocktok.open(tmp_path / "out").attempts
    assert attempt.fingerprint is not None
    assert attempt.fingerprint["student.hidden_size"] == 32
