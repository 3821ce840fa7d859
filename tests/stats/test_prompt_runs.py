"""Prompts by type, counted as runs of neighbours."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok._types import Array
from rocktok.log import LogWriter
from rocktok.stats import kernels
from rocktok.stats.prompt_runs import PromptOf, PromptRuns
from rocktok.stats.prompts import PromptCounts
from tests.logs import RUN


def rows(*prompts: tuple[int, list[int]]) -> dict[str, Array]:
    """A batch of (prompt, its tokens)."""
    token_N = np.array([v for _, tokens in prompts for v in tokens], dtype=np.int32)
    prompt_N = np.repeat([p for p, _ in prompts], [len(tokens) for _, tokens in prompts])
    # Two sequences of each prompt, where it has as many rows.
    sequence_N = 2 * np.repeat(np.arange(len(prompts)), [len(tokens) for _, tokens in prompts])
    sequence_N[1:] += sequence_N[1:] == sequence_N[:-1]
    return {
        "token_id": token_N,
        "prompt": prompt_N.astype(np.uint64),
        "sequence_id": np.maximum.accumulate(sequence_N) if len(sequence_N) else sequence_N,
    }


def counted(tasks: list[list[dict[str, Array]]], *, compiled: bool = False) -> PromptRuns:
    """As the engine does: a part for each task, merged in their order."""
    whole = PromptRuns(compiled=compiled)
    for batches in tasks:
        part = copy.deepcopy(PromptRuns(compiled=compiled))
        for batch in batches:
            part.update(batch)
        part.close()
        whole.merge(part)
    return whole


def test_a_prompt_counts_once_for_a_type_over_batches_and_tasks() -> None:
    one, two = rows((7, [1, 1, 2]), (8, [1, 3])), rows((8, [1, 3, 3]))
    rest = rows((8, [3, 4]), (9, [1, 4]))
    for tasks in ([[one, two, rest]], [[one], [two], [rest]], [[one, two], [rest]], [[], [one]]):
        runs = counted(tasks)
        assert runs.is_exact
        expected = [0, 2, 1, 1, 0] if len(tasks[-1]) == 1 and tasks[0] == [] else [0, 3, 1, 1, 2]
        assert runs.result(np.arange(5)).tolist() == expected


def test_prompts_are_asked_for_by_sequence() -> None:
    batch = rows((7, [1, 1, 2]), (8, [1, 3]))
    by_id = dict(zip(batch["sequence_id"].tolist(), batch.pop("prompt").tolist(), strict=True))
    runs = PromptRuns(PromptOf(lambda id_S: np.array([by_id[i] for i in id_S.tolist()])))
    part = copy.deepcopy(runs)
    assert part.prompt_of is runs.prompt_of
    part.update(batch)
    part.close()
    assert part.prompt_of is None
    assert part.result(np.arange(4)).tolist() == [0, 2, 1, 1]


def test_a_prompt_in_two_places_is_told() -> None:
    assert not counted([[rows((7, [1]), (8, [1]), (7, [1]))]]).is_exact
    assert not counted([[rows((7, [1]))], [rows((8, [1]))], [rows((7, [1]))]]).is_exact
    assert counted([[rows((7, [1]))], [rows((7, [1]))]]).is_exact


def test_types_that_were_not_seen_and_no_rows() -> None:
    assert counted([[rows((7, [1]))]]).result(np.array([1, 5, 1 << 20])).tolist() == [1, 0, 0]
    assert counted([]).result(np.array([0, 3])).tolist() == [0, 0]
    assert counted([[rows()]]).is_exact


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(0, 5), max_size=5)), max_size=12),
    st.lists(st.integers(0, 3), max_size=40),
)
def test_as_many_as_distinct_prompts_however_rows_are_cut(
    prompts: list[tuple[int, list[int]]], cuts: list[int]
) -> None:
    # A cut after some rows: 1 ends a batch, 2 a task.
    whole = rows(*((number, tokens) for number, (_, tokens) in enumerate(prompts)))
    tasks: list[list[dict[str, Array]]] = [[]]
    start = 0
    for at, cut in enumerate([*cuts[: len(whole["token_id"])], 3]):
        stop = len(whole["token_id"]) if cut == 3 else at
        if cut:
            tasks[-1].append({name: values[start:stop] for name, values in whole.items()})
            start = stop
        if cut == 2:
            tasks.append([])
        if cut == 3:
            break
    types = np.arange(6)
    reference = PromptCounts(types)
    reference.update(whole)
    expected = list(reference.result().values())
    for compiled in (False, True):
        runs = counted(tasks, compiled=compiled)
        assert runs.is_exact
        assert runs.result(types).tolist() == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=30))
def test_the_loop_and_its_twin_mark_alike(pairs: list[tuple[int, int]]) -> None:
    token_N = np.array([v for v, _ in pairs], dtype=np.int32)
    start_R = np.unique([0, *(at for at, (_, k) in enumerate(pairs) if k == 0), len(pairs)])
    marks = [np.array([[2, 4], [1, 3], [0, -1], [5, 4], [0, -1]], dtype=np.int32) for _ in "ab"]
    kernels.mark_runs(token_N, start_R, 4, marks[0])
    kernels.mark_runs_numpy(token_N, start_R, 4, marks[1])
    assert marks[0].tolist() == marks[1].tolist()


@pytest.mark.long
def test_neighbours_are_counted_one_by_one_however_many_they_are(tmp_path: Path) -> None:
    """Above 65,536 prompts of a type other orders of the rows are estimated from hashes."""
    size = 70_000

    def log(name: str, order_S: Array) -> Path:
        with LogWriter(tmp_path / name, run=RUN) as writer:
            # Two sequences of each prompt, of two tokens.
            prompts = [f"p{s // 2}" for s in range(2 * size)]
            sequences = {"sequence_id": np.arange(2 * size), "step": 0, "num_tokens": 2}
            writer.write({**sequences, "prompt_id": [prompts[s] for s in order_S]}, "sequences")
            token_N = np.tile(np.array([1, 2], np.int32), 2 * size)
            token_N[:200:2] = 3
            writer.write(
                {
                    "step": 0,
                    "sequence_id": np.repeat(np.arange(2 * size), 2),
                    "position": np.tile(np.arange(2, dtype=np.int32), 2 * size),
                    "token_id": token_N,
                    "loss": np.full(4 * size, 0.5, np.float32),
                },
                table="rollout",
            )
            writer.finish_step(0, "rollout")
        return tmp_path / name

    in_order = np.arange(2 * size)
    found = rocktok.detect(log("neighbours", in_order), context="off", all_types=True)
    assert found.log["passes"] == 1
    counts = {row["token_id"]: row["prompts"] for row in found.tokens}
    assert counts == {1: size - 50, 2: size, 3: 50}
    # The same prompts, of which the two sequences stand far apart.
    apart = np.concatenate((in_order[::2], in_order[1::2]))
    found = rocktok.detect(log("apart", apart), context="off", all_types=True)
    assert found.log["passes"] == 2
    counts = {row["token_id"]: row["prompts"] for row in found.tokens}
    assert counts[2] != size
    assert counts[2] == pytest.approx(size, rel=0.02)
    assert counts[3] == 100
