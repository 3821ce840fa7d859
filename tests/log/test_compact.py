"""`compact`: the same rows in fewer shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rocktok
from rocktok.errors import UsageError
from rocktok.log import LogWriter, compact, tasks
from tests.logs import RUN, rows, sequence_rows, shards, write_by_hand, write_log
from tests.processes import run_command


def table_of(path: Path, table: str) -> pd.DataFrame:
    log = rocktok.open(path)
    parts = [pd.DataFrame(b.columns) for b in log.scan(table, log.columns(table))]
    frame = pd.concat(parts).sort_values(["step", "sequence_id", "position"])
    return frame.reset_index(drop=True)


def many_shards(path: Path) -> Path:
    """Two ranks with interleaved ids, two attempts, a dropped step, several steps."""
    for attempt, resume in ((0, 0), (1, 20)):
        zero = LogWriter(path, run=RUN, world_size=2, resume_step=resume, columns=["grad_norm"])
        one = LogWriter(
            path, rank=1, world_size=2, attempt=zero.attempt, run_id=zero.run_id,
            columns=["grad_norm"],
        )  # fmt: skip
        for step in (0, 10, 20, 30) if attempt == 0 else (20, 30, 40):
            for rank, writer in enumerate((zero, one)):
                batch = rows(step, list(range(rank, 30, 2)))
                batch["loss"] += attempt
                batch["grad_norm"] = batch["loss"] * 2
                writer.write(batch, table="fixed")
                writer.finish_step(step, "fixed")
                writer.flush()
        if attempt == 0:
            zero.write(sequence_rows(range(30)), table="sequences")
        zero.drop_step(50, 7, "queue full", table="fixed")
        zero.close()
        one.close()
    return path


def test_row_for_row_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    monkeypatch.setattr(compact, "SHARD_ROWS", 500)
    source = many_shards(tmp_path / "log")
    before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    compact.compact(rocktok.open(source), tmp_path / "out")
    pd.testing.assert_frame_equal(table_of(tmp_path / "out", "fixed"), table_of(source, "fixed"))
    old, new = rocktok.open(source), rocktok.open(tmp_path / "out")
    assert len(new.shards("fixed")) < len(old.shards("fixed"))
    assert new.steps("fixed") == old.steps("fixed")
    assert new.run_id == old.run_id
    assert new.incomplete_steps("fixed") == old.incomplete_steps("fixed") == [50]
    a, b = (rocktok.detect(log, all_types=True, quantile_pre=0.5) for log in (old, new))
    assert a.tokens == b.tokens
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "out"]


def test_shards_are_ordered(tmp_path: Path) -> None:
    source = many_shards(tmp_path / "log")
    compact.compact(rocktok.open(source), tmp_path / "out")
    (shard,) = shards(tmp_path / "out")
    frame = pd.read_parquet(shard)
    order = np.lexsort((frame["position"], frame["sequence_id"], frame["step"]))
    assert (order == np.arange(len(frame))).all()


def test_a_hand_written_log_is_compacted_too(tmp_path: Path) -> None:
    write_by_hand(tmp_path / "log", rows(0, [3, 4]), "b")
    write_by_hand(tmp_path / "log", rows(0, [1, 9]), "a")
    compact.compact(tmp_path / "log", tmp_path / "out")
    pd.testing.assert_frame_equal(
        table_of(tmp_path / "out", "fixed"), table_of(tmp_path / "log", "fixed")
    )


@pytest.mark.parametrize("inside", ["log", "log/new"])
def test_it_does_not_write_into_its_input(inside: str, tmp_path: Path) -> None:
    log = rocktok.open(write_log(tmp_path / "log"))
    with pytest.raises(UsageError, match="lies inside the log that is read; write elsewhere"):
        compact.compact(log, tmp_path / inside)


def test_a_compact_log_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shards end depends on the rows alone: 8 shards became 9."""
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    monkeypatch.setattr(compact, "SHARD_ROWS", 190)
    source = many_shards(tmp_path / "log")
    compact.compact(source, tmp_path / "once")
    code, said, _ = run_command("compact", tmp_path / "once", "-o", tmp_path / "twice")
    already = f"{tmp_path}/once was already compact: its 11 shards became 11, with the same "
    assert (code, said.startswith(already)) == (0, True)
    for path in (tmp_path / "once").rglob("*"):
        if path.is_file():
            again = tmp_path / "twice" / path.relative_to(tmp_path / "once")
            assert again.read_bytes() == path.read_bytes(), path
    sizes = [shard.entry.rows for shard in rocktok.open(tmp_path / "once").shards("fixed")]
    assert sizes[:-1] == [180] * (len(sizes) - 1)


@pytest.mark.parametrize("target", [1, 12, 13, 100])
def test_no_sequence_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: int) -> None:
    monkeypatch.setattr(compact, "SHARD_ROWS", target)
    source = write_log(tmp_path / "log", sequences=9)
    compact.compact(source, tmp_path / "out")
    pd.testing.assert_frame_equal(table_of(tmp_path / "out", "fixed"), table_of(source, "fixed"))
    sizes = [shard.entry.rows for shard in rocktok.open(tmp_path / "out").shards("fixed")]
    full = max(12, target // 12 * 12)
    assert sizes == [*[full] * (216 // full), *([216 % full] if 216 % full else [])]


def test_the_command(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    call = ("compact", tmp_path / "log", "-o", tmp_path / "out")
    code, printed, said = run_command(*call)
    assert (code, said) == (0, "")
    assert printed.splitlines() == [
        "3 shards became 2, with the same 960 positions.",
        "Every current row was read, checked and written; rows superseded by a later attempt "
        "were left out.",
        f"{tmp_path}/out",
    ]
    refusal = f"rocktok: {tmp_path}/out: exists already; give a new directory\n"
    assert run_command(*call)[::2] == (2, refusal)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["vocab_size"] == 50


def test_nothing_is_left_when_the_log_is_damaged(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    target = shards(tmp_path / "log")[1]
    data = bytearray(target.read_bytes())
    data[100] ^= 1
    target.write_bytes(bytes(data))
    with pytest.raises(rocktok.errors.DamagedError):
        compact.compact(rocktok.open(tmp_path / "log"), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["log"]
