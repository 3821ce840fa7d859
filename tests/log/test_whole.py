"""Rows in order: what is checked of them, and how sequences that pieces cut become whole again."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from rocktok.errors import DataError
from rocktok.log import LogWriter, open_log
from rocktok.log.checks import OrderCheck, SequenceRuns, Where
from rocktok.log.selection import Selection, Span
from rocktok.log.shard import sequence_starts
from rocktok.log.whole import WholeSequences
from rocktok.runs import run_starts
from tests.logs import rows, shards, write_log

Row = tuple[int, int, int]
KEY = ("step", "sequence_id", "position")

#: Rows in any order: few values, so that neighbours are often of one sequence.
ANY = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=12)
ORDERED = st.sets(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40).map(sorted)


def columns(keys: list[Row], *, constant: bool = False) -> dict[str, np.ndarray]:
    """The rows as a reader has them; `constant`: of a step that they share one value."""
    step_N, id_N, position_N = np.array(keys, dtype=np.int64).reshape(-1, 3).T
    step_N = step_N.astype(np.int32)
    if constant and len(step_N) and (step_N == step_N[0]).all():
        step_N = np.broadcast_to(step_N[:1], len(step_N))
    return {
        "step": step_N, "sequence_id": id_N.copy(), "position": position_N.astype(np.int32)
    }  # fmt: skip


def keys_of(part: dict[str, np.ndarray]) -> list[Row]:
    return list(zip(*(part[name].tolist() for name in KEY), strict=True))


@given(ANY, st.booleans())
def test_rows_are_in_order_if_their_keys_ascend(keys: list[Row], constant: bool) -> None:
    wrong = next((i for i, (a, b) in enumerate(pairwise(keys), start=1) if a >= b), None)
    part = columns(keys, constant=constant)
    where = Where("a.parquet", 0)
    check = partial(
        OrderCheck().check,
        part["step"],
        part["sequence_id"],
        part["position"],
        where,
    )
    if wrong is None:
        check()
        return
    with pytest.raises(DataError, match=f"row {wrong}, column position: (out of order|duplicate)"):
        check()


@given(ANY, st.booleans())
def test_sequences_start_where_step_or_id_changes(keys: list[Row], constant: bool) -> None:
    part = columns(keys, constant=constant)
    starts = [i for i, key in enumerate(keys) if i == 0 or key[:2] != keys[i - 1][:2]]
    assert sequence_starts(part["step"], part["sequence_id"]).tolist() == starts


@given(ORDERED, st.lists(st.integers(0, 40)), st.booleans())
def test_pieces_become_whole_sequences(keys: list[Row], cuts: list[int], constant: bool) -> None:
    edges = sorted({0, len(keys), *(cut for cut in cuts if cut < len(keys))})
    whole = WholeSequences()
    parts: list[list[Row]] = []
    for start, stop in pairwise(edges):
        for part in whole.add(columns(keys[start:stop], constant=constant)):
            # What is remembered of the column, as of any other.
            starts = run_starts(part["sequence_id"]).tolist()
            assert starts == run_starts(part["sequence_id"].copy()).tolist()
            parts.append(keys_of(part))
    parts += map(keys_of, whole.rest())
    assert [key for part in parts for key in part] == keys
    assert all(before[-1][:2] != after[0][:2] for before, after in pairwise(parts))


def test_nothing_becomes_no_sequence() -> None:
    whole = WholeSequences()
    assert list(whole.add(columns([]))) == []
    assert list(whole.rest()) == []


@given(
    ORDERED,
    st.none() | st.sets(st.integers(0, 4)),
    st.none() | st.integers(0, 4),
    st.builds(Span, st.none() | st.integers(0, 3), st.none() | st.integers(0, 4)),
)
def test_rows_in_order_are_told_apart_as_any(
    keys: list[Row], steps: set[int] | None, limit: int | None, span: Span
) -> None:
    select = Selection(steps, limit, span)
    expected = [
        key
        for key in keys
        if (steps is None or key[0] in steps)
        and (limit is None or key[0] < limit)
        and span.covers(key[1], key[1])
    ]
    assert keys_of(select.keep_ordered(columns(keys))) == expected
    assert keys_of(select.keep(columns(keys), KEY)) == expected


def test_a_step_that_all_rows_share_is_one_value(tmp_path: Path) -> None:
    log = open_log(write_log(tmp_path, steps=(0, 10), sequences=4))
    parts = list(log.scan("fixed", ["loss"], [10]))
    assert parts and {part.columns["step"].strides for part in parts} == {(0,)}
    assert all((part.columns["step"] == 10).all() for part in parts)
    runs = SequenceRuns()
    runs.add("a", parts[0].columns["step"], parts[0].columns["sequence_id"])
    runs.add("b", parts[0].columns["step"].copy(), parts[0].columns["sequence_id"])
    with pytest.raises(DataError, match="a and b: both hold sequence 0 at step 10"):
        runs.check()


def test_steps_that_share_a_row_group_are_read(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run={"loss": {"exactness": "exact"}}) as writer:
        for step in (0, 10):
            writer.write(rows(step, range(3)), table="fixed")
            writer.finish_step(step, "fixed")
    (shard,) = shards(tmp_path)
    assert pq.ParquetFile(shard).metadata.num_row_groups == 1
    log = open_log(tmp_path)
    for steps, expected in ((None, {0, 10}), ([0], {0}), ([10], {10})):
        read = [part.columns["step"] for part in log.scan("fixed", ["loss"], steps)]
        assert set(np.concatenate(read).tolist()) == expected
