"""The recorder by itself: what it writes, and how an attempt starts."""

from __future__ import annotations

import copy
import errno
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok import schema
from rocktok.errors import HookError
from rocktok.hooks import Recorder, background
from rocktok.hooks.vocabulary import vocabulary
from rocktok.log import LogWriter
from tests.recording import (
    make_recorder,
    make_rollout,
    manifest,
    read,
    record_step,
    rows_of,
    sequence_ids,
)

# --- what is written ---------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path, student="S", extra={"note": 1})
    rec.start(run={"student": "s", "teacher": "t", "vocab_size": 9, "extra": {"trl": "x"}})
    for step in range(3):
        record_step(rec, step)
    rec.close()
    rows = read(tmp_path)
    assert rows["step"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rows["sequence_id"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sequence_ids(tmp_path) == [0, 1, 2]
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["student"], run["teacher"], run["every"]) == ("S", "t", 1)
    assert run["extra"] == {"trl": "x", "note": 1}
    assert manifest(tmp_path)["final"]
    assert manifest(tmp_path)["steps"]["rollout"] == [0, 1, 2]


def test_a_step_without_rows_is_finished_all_the_same(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    record_step(rec, 0)
    rec.finish_step(1)
    rec.close()
    assert manifest(tmp_path)["steps"]["rollout"] == [0, 1]


def test_an_unfinished_step_is_left_out(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    record_step(rec, 0)
    rec.record(1, rows_of(7))
    rec.close(final=False)
    assert set(read(tmp_path)["step"]) == {0}
    assert not manifest(tmp_path)["final"]


def test_sequence_ids_are_made_of_attempt_rank_and_counter(tmp_path: Path) -> None:
    for attempt in range(2):
        rec = make_recorder(tmp_path)
        rec.start(resume_step=attempt)
        assert rec.new_sequence_ids(2).tolist() == [attempt << 53, (attempt << 53) + 1]
        rec.rank = 3
        assert rec.new_sequence_ids(1).tolist() == [(attempt << 53) | (3 << 32) | 2]
        rec.close()


def test_arrays_may_be_used_again_by_the_caller(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    rows = rows_of(0)
    rec.record(0, rows, rollouts=[make_rollout(0)])
    rows["loss"][:] = 9.0
    rec.finish_step(0)
    rec.close()
    assert set(read(tmp_path)["loss"].tolist()) == {0.5}


def test_needs_no_torch() -> None:
    code = (
        "import sys; from rocktok.hooks import Recorder; Recorder('x').close();"
        "import rocktok.hooks.recorder, rocktok.log; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "Recorder: every must be an integer of at least 1, not 0"),
        ({"fixed_every": 0}, "Recorder: fixed_every must be an integer of at least 1, not 0"),
        (
            {"fixed_sequences": -1},
            "Recorder: fixed_sequences must be an integer of at least 0, not -1",
        ),
        ({"queue_steps": 1.5}, "Recorder: queue_steps must be an integer of at least 1, not 1.5"),
        (
            {"columns": ["loss", "grad_norm"]},
            f"Recorder: no column 'loss'; choose from {', '.join(schema.OPTIONAL_STATISTICS)}",
        ),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HookError) as caught:
        Recorder("x", **options)
    assert str(caught.value) == message


def test_cannot_be_copied() -> None:
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="each process makes its own"):
            action(Recorder("x"))


# --- starts ------------------------------------------------------------------------------------


def test_a_log_of_other_columns_is_refused(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    rec.close()
    other = Recorder(tmp_path, columns=["grad_norm"])
    with pytest.raises(HookError, match="records the columns student_logprob, this attempt wants"):
        other.start()
    assert not other.running
    assert not (tmp_path / "attempts/01.json").exists()


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(HookError, match="log"):
        make_recorder(tmp_path / "log").start()


def test_starting_twice_is_refused(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    with pytest.raises(HookError, match="is already running"):
        rec.start()
    rec.close()


def start_ranks(recorders: list[Recorder], **options: Any) -> list[Any]:
    """Start one recorder for each rank, in threads that exchange objects as ranks do."""
    world = len(recorders)
    barrier, slots, outcomes = threading.Barrier(world), [None] * world, [None] * world

    def run(rank: int) -> None:
        def all_gather(value: Any) -> list[Any]:
            slots[rank] = value
            barrier.wait()
            gathered = list(slots)
            barrier.wait()
            return gathered

        try:
            recorders[rank].start(rank=rank, world_size=world, all_gather=all_gather, **options)
        except HookError as error:
            outcomes[rank] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_ranks_share_run_and_attempt(tmp_path: Path) -> None:
    ranks = [make_recorder(tmp_path) for _ in range(3)]
    assert start_ranks(ranks) == [None] * 3
    for rec in ranks:
        record_step(rec, 0)
        rec.close()
    assert len({manifest(tmp_path, rank=r)["run_id"] for r in range(3)}) == 1
    assert sequence_ids(tmp_path) == [0, 1 << 32, 2 << 32]
    assert rocktok.open(tmp_path).complete_steps("rollout") == [0]


def test_a_refusal_reaches_every_rank(tmp_path: Path) -> None:
    outcomes = start_ranks([make_recorder(tmp_path), Recorder(tmp_path, columns=["grad_norm"] * 1)])
    assert outcomes == [None, None]
    first = tmp_path / "again"
    rec = make_recorder(first)
    rec.start()
    rec.close()
    outcomes = start_ranks([Recorder(first, columns=[]) for _ in range(2)])
    assert [str(o) for o in outcomes] == [str(outcomes[0])] * 2
    assert "this attempt wants" in str(outcomes[0])


def test_a_refusal_on_another_rank_reaches_rank_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LogWriter.__init__

    def refuse(self: LogWriter, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("rank"):
            raise OSError(errno.EACCES, "Permission denied")
        original(self, *args, **kwargs)

    monkeypatch.setattr(LogWriter, "__init__", refuse)
    outcomes = start_ranks([make_recorder(tmp_path) for _ in range(2)])
    assert all("rank 1: " in str(o) and "Permission denied" in str(o) for o in outcomes)


# --- vocabulary --------------------------------------------------------------------------------


class PiecesTokenizer:
    """The surface of a SentencePiece tokenizer that the vocabulary is read from."""

    def __init__(self) -> None:
        self.added_tokens_decoder = {0: "<s>"}

    def get_vocab(self) -> dict[str, int]:
        return {"<0xE2>": 2, "<s>": 0, "▁the": 1, "é": 3}


def test_vocabulary_of_sentencepiece() -> None:
    assert list(vocabulary(PiecesTokenizer())) == [
        (0, "<s>", b"<s>"),
        (1, " the", b" the"),
        (2, "\ufffd", b"\xe2"),
        (3, "é", "é".encode()),
    ]


def test_errors_are_named_in_one_line() -> None:
    assert background.describe(OSError(errno.ENOSPC, "No space left on device")) == (
        "No space left on device"
    )
    assert background.describe(ValueError("first\nsecond")) == "ValueError: first"
    assert background.describe(MemoryError()) == "MemoryError"
