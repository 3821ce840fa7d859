"""What the writer takes, and what it refuses before it can spoil a log."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.errors import DataError
from rocktok.hooks import token_statistics
from rocktok.log import LogWriter
from rocktok.log.buffers import Buffer, IdRuns
from tests.logs import RUN, rows, sequence_rows


def read(path: Path, *columns: str) -> dict[str, Any]:
    batches = list(rocktok.open(path).scan("rollout", ["token_id", "loss", *columns]))
    return {name: np.concatenate([b.columns[name] for b in batches]) for name in batches[0].columns}


# --- tensors -----------------------------------------------------------------------------------


def test_statistics_go_in_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    logits = torch.randn(2, 2, 5, 50)
    columns = ["student_logprob", "grad_norm"]
    found = token_statistics(
        token_ids=ids,
        student_logits=logits[0],
        teacher_logits=logits[1],
        mask=mask,
        columns=columns,
    )
    sequence, position = mask.nonzero(as_tuple=True)
    with LogWriter(tmp_path, run=RUN, columns=columns) as writer:
        writer.write(
            {
                "sequence_id": torch.arange(2),
                "step": torch.tensor(3),
                "num_tokens": mask.sum(dim=1),
                "prompt_id": ["p", "q"],
                "prompt_token_ids": [torch.tensor([4, 5]), torch.tensor([6])],
            },
            table="sequences",
        )
        writer.write(
            {
                "step": torch.tensor(3),
                "sequence_id": sequence,
                "position": position,
                "token_id": ids[mask.bool()],
                **found,
            }
        )
    got = read(tmp_path, *columns)
    assert got["step"].tolist() == [3] * 8
    assert got["token_id"].tolist() == ids[mask.bool()].tolist()
    for name in ("loss", *columns):
        assert np.array_equal(got[name], found[name].numpy()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_precision_that_require_gradients(tmp_path: Path, dtype: Any) -> None:
    loss = torch.tensor([0.5, 1.25], dtype=dtype, requires_grad=True)
    with LogWriter(tmp_path, run=RUN) as writer:
        ids = [torch.tensor(3), torch.tensor(4)]
        writer.write({"step": 0, "sequence_id": 1, "position": torch.arange(2),
                      "token_id": ids, "loss": loss * 1})  # fmt: skip
    assert read(tmp_path)["loss"].tolist() == [0.5, 1.25]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_device(tmp_path: Path) -> None:
    loss = torch.tensor([0.5, 1.25], device="cuda")
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write({"step": 0, "sequence_id": 1, "position": torch.arange(2, device="cuda"),
                      "token_id": torch.tensor([3, 4], device="cuda"), "loss": loss})  # fmt: skip
    assert read(tmp_path)["loss"].tolist() == [0.5, 1.25]


# --- what is refused ---------------------------------------------------------------------------

ROW = {"step": [3], "sequence_id": [1], "position": [0], "token_id": [7], "loss": [0.5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"token_id": [50]},
            "rollout: row 0, column token_id: 50 is outside the vocabulary of 50 (run.json)",
        ),
        (
            {"token_id": [-100]},
            "rollout: row 0, column token_id: -100 is negative; padding is never recorded",
        ),
        ({"position": [-1]}, "rollout: row 0, column position: -1 is negative"),
        ({"step": [-3]}, "rollout: row 0, column step: -3 is negative"),
        (
            {"loss": [-0.5]},
            "rollout: row 0, column loss: -0.5 is below −0.0001: an exact reverse KL is never "
            "negative; if the losses are not exact, say in run.json how they were had: "
            '{"loss": {"exactness": "sampled"}}, topk or truncated',
        ),
    ],
)
def test_values_that_readers_would_refuse(tmp_path: Path, change: Any, message: str) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        with pytest.raises(DataError) as caught:
            writer.write({**ROW, **change})
        assert str(caught.value) == message
        writer.write(ROW)
    assert read(tmp_path)["token_id"].tolist() == [7]


def test_sampled_losses_may_be_negative(tmp_path: Path) -> None:
    run = {**RUN, "loss": {"exactness": "sampled"}}
    with LogWriter(tmp_path, run=run) as writer:
        writer.write({**ROW, "loss": [-0.5]})
    assert read(tmp_path)["loss"].tolist() == [-0.5]


def test_every_rank_knows_the_vocabulary(tmp_path: Path) -> None:
    zero = LogWriter(tmp_path, run=RUN, world_size=2)
    identity = {"attempt": zero.attempt, "run_id": zero.run_id}
    one = LogWriter(tmp_path, rank=1, world_size=2, **identity)
    with pytest.raises(DataError, match="outside the vocabulary of 50"):
        one.write({**ROW, "token_id": [60]})


def test_steps_ascend(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, run=RUN, resume_step=2)
    with pytest.raises(DataError, match="step 1 comes before step 2, from which this attempt st"):
        writer.write({**ROW, "step": [1]})
    writer.write({**ROW, "step": [5]})
    with pytest.raises(DataError, match="step 4 comes after step 5; write steps in ascending"):
        writer.write({**ROW, "step": [4]})
    writer.write({**ROW, "step": [4]}, table="fixed")  # each table by itself
    writer.finish_step(5)
    with pytest.raises(DataError, match="step 5 was finished"):
        writer.write({**ROW, "step": [5]})
    writer.drop_step(6, 3, "no memory")
    with pytest.raises(DataError, match="step 6 was given up"):
        writer.write({**ROW, "step": [6]})


def test_a_position_comes_once(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, run=RUN)
    batch = {"step": 3, "sequence_id": [1, 2, 1], "position": [4, 4, 4], "token_id": 7, "loss": 1.0}
    expected = "rollout: sequence 1 has position 4 twice at step 3; write each position once"
    with pytest.raises(DataError) as caught:
        writer.write(batch)
    assert str(caught.value) == expected
    writer.write({**batch, "position": [4, 4, 5]})
    with pytest.raises(DataError) as caught:
        writer.write({**batch, "position": [6, 6, 4]})
    assert str(caught.value) == expected
    writer.write({**batch, "position": [6, 6, 7]})
    writer.write({**batch, "step": 4, "position": [4, 4, 5]})
    writer.close()
    assert len(read(tmp_path)["loss"]) == 9


def test_a_sequence_of_a_published_part_of_a_step_may_not_come_again(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, run=RUN)
    writer.write(rows(0, [1, 2]))
    writer.flush(whole=True)
    with pytest.raises(DataError, match="sequence 2 at step 0 is in a published shard already"):
        writer.write({**rows(0, [2, 3]), "position": np.arange(24) + 100})
    writer.write(rows(0, [3]))
    writer.close()
    assert len(read(tmp_path)["loss"]) == 36


def test_the_row_of_a_sequence_comes_once(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, run=RUN)
    writer.write(sequence_rows([1, 2, 5]), table="sequences")
    writer.flush()
    for again in ([5], [6, 6]):
        with pytest.raises(DataError, match=f"sequences: sequence {again[0]} comes twice; write"):
            writer.write(sequence_rows(again), table="sequences")
    writer.write(sequence_rows([6, 3]), table="sequences")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_duplicates_are_those_of_a_set(tmp_path_factory: Any, batches: Any) -> None:
    writer = LogWriter(tmp_path_factory.mktemp("log"), run=RUN)
    there: set[tuple[int, int]] = set()
    for batch in batches:
        sequence, position = (list(values) for values in zip(*batch, strict=True))
        rows = {
            "step": 0,
            "sequence_id": sequence,
            "position": position,
            "token_id": 1,
            "loss": 0.0,
        }
        if len(set(batch)) < len(batch) or there & set(batch):
            with pytest.raises(DataError, match="twice at step 0"):
                writer.write(rows)
        else:
            writer.write(rows)
            there |= set(batch)
    assert writer._buffers["rollout"].bytes == sum(
        part.nbytes for part in writer._buffers["rollout"].parts()
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 60), min_size=1, max_size=12), max_size=20))
def test_runs_of_ids_are_a_set(batches: list[set[int]]) -> None:
    runs, there = IdRuns(), set[int]()
    every = np.arange(-2, 64)
    for batch in batches:
        runs.add(np.array(sorted(batch)))
        there |= batch
        assert runs.holds(every).tolist() == [i in there for i in every.tolist()]
    runs = [len(first) for first, _ in runs._levels]
    assert all(longer > 2 * shorter for longer, shorter in pairwise(runs))


def test_consecutive_ids_are_one_run() -> None:
    runs = IdRuns()
    for start in range(0, 100_000, 1000):
        runs.add(np.arange(start, start + 1000))
    assert sum(len(first) for first, _ in runs._levels) == 1


# --- what steps cost ---------------------------------------------------------------------------


class Part:
    """Stands for rows in a buffer, and counts how often it is asked for its size."""

    asked = 0
    num_rows = 3

    @property
    def nbytes(self) -> int:
        Part.asked += 1
        return 8


def test_the_size_of_a_buffer_costs_the_same_however_many_steps_it_holds() -> None:
    buffer = Buffer()
    for step in range(1000):
        buffer.add(step, Part())
        assert buffer.bytes == 8 * (step + 1)
    assert Part.asked == 1000
    assert buffer.drop(7) == 3
    assert buffer.bytes == 8 * 999
    assert buffer.clear(but=[5]) == {step: 3 for step in range(1000) if step not in (5, 7)}
    assert buffer.bytes == 8
