"""Kept texts: which are taken, when they are due, what a later attempt inherits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rocktok.errors import DamagedError
from rocktok.files import place
from rocktok.hooks.fixed_set import FixedSet, encode_kept, inherit, kept_path
from tests.recording import (
    make_recorder,
    make_rollout,
    record_step,
)


def test_the_fixed_set_takes_one_rollout_of_each_new_prompt() -> None:
    fixed = FixedSet(3, every=10)
    taken = fixed.accept([make_rollout(0, prompt=0), make_rollout(1, prompt=0)])
    assert [r.sequence_id for r in taken] == [0]
    offered = [make_rollout(i, prompt=p) for i, p in ((2, 0), (3, 1), (4, 2), (5, 3))]
    assert [r.sequence_id for r in fixed.candidates(offered)] == [3, 4]
    assert [r.sequence_id for r in fixed.accept(offered)] == [3, 4]
    assert fixed.is_full
    assert fixed.accept([make_rollout(6, prompt=7)]) == []


def test_the_fixed_set_is_scored_on_schedule_and_never_twice() -> None:
    fixed = FixedSet(1, every=10)
    fixed.accept([make_rollout(0)])
    assert not fixed.is_due(10)
    fixed.complete(13)
    assert not fixed.collecting
    due = [step for step in range(13, 45) if fixed.is_due(step, last=step == 44)]
    assert due == [13, 20, 30, 40, 44]
    fixed.scored(44)
    assert not fixed.is_due(44, last=True)


def test_shares_are_contiguous_and_even() -> None:
    fixed = FixedSet(10, every=1)
    fixed.accept([make_rollout(i, prompt=i) for i in (7, 3, 9, 1, 0, 5, 4)])
    shares = [[r.sequence_id for r in fixed.share(rank, 3)] for rank in range(3)]
    assert shares == [[0, 1], [3, 4], [5, 7, 9]]
    assert fixed.largest_share(3) == 3


def test_kept_texts_are_inherited_as_far_as_they_are_valid(tmp_path: Path) -> None:
    where = place(tmp_path)
    kept = [make_rollout(i, step=i, prompt=i) for i in range(4)]
    where.replace(kept_path(0), encode_kept(kept, complete_step=4))

    def ids(*resume: int) -> tuple[list[int], int | None]:
        *earlier, resume_step = resume
        for number, step in enumerate(earlier):
            content = {"attempt": number, "resume_step": step, "world_size": 1}
            where.replace(f"attempts/{number:02d}.json", json.dumps(content).encode())
        inherited = inherit(where, resume_step)
        return [r.sequence_id for r in inherited.kept], inherited.complete_step

    assert ids(0) == ([], None)
    assert ids(0, 4) == ([0, 1, 2, 3], 4)
    assert ids(0, 3) == ([0, 1, 2], None)
    assert ids(0, 0) == ([], None)
    found = inherit(where, 4).kept[2]
    assert found.completion_token_ids.tolist() == [0, 1, 2]
    assert found.loss_mask.tolist() == [1, 1, 1]
    assert (found.prompt_id, found.domain) == (kept[2].prompt_id, None)
    # An attempt between that kept nothing has voided the later steps, too.
    assert ids(0, 2, 9) == ([0, 1], None)
    (tmp_path / kept_path(0)).write_bytes(b"PAR1")
    with pytest.raises(DamagedError, match=r"kept/00\.parquet: damaged"):
        inherit(where, 4)


def test_an_attempt_goes_on_with_the_kept_texts(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path, fixed_sequences=2)
    rec.start()
    rec.fixed.accept([make_rollout(i, prompt=i) for i in range(2)])
    rec.fixed.complete(1)
    record_step(rec, 0)
    rec.close()
    for attempt in (1, 2):
        rec = make_recorder(tmp_path, fixed_sequences=2)
        rec.start(resume_step=1)
        assert [r.sequence_id for r in rec.fixed.kept] == [0, 1]
        assert not rec.fixed.collecting
        assert rec.fixed.is_due(1)
        rec.close()
        assert (tmp_path / kept_path(attempt)).exists()
