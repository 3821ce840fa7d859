"""The slim log: what is kept of a log is the same, and no more is kept than was said."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import pytest

import rocktok
from rocktok.log import LogWriter
from tests.logs import RUN, rows, sequence_rows
from tests.paths import ROOT
from tests.processes import run_command

sys.path.append(str(ROOT / "sample_data"))

import smol_slim

COLUMNS = ("log_ratio", "student_logprob", "teacher_logprob", "head_grad_norm", "overlap")
KEPT = range(100, 112)  # kept text; below are rollouts, 4 a step


def scored(step: int, sequences: range) -> dict[str, np.ndarray]:
    batch = rows(step, sequences)
    rng = np.random.default_rng([step, len(batch["loss"])])
    q = -rng.exponential(1, len(batch["loss"])).astype(np.float32)
    p = q - batch["loss"]
    return {
        **batch,
        "student_logprob": p,
        "teacher_logprob": q,
        "log_ratio": p - q,
        "head_grad_norm": batch["loss"] * 2,
        "overlap": np.full(len(q), 0.5, np.float32),
    }


def likeliest(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    size = len(batch["step"])
    ids = np.argsort(np.random.default_rng(size).random((size, 50)), axis=1)[:, :5]
    probabilities = np.tile(np.array([0.5, 0.2, 0.1, 0.05, 0.01], np.float16), (size, 1))
    keys = {name: batch[name] for name in ("step", "sequence_id", "position")}
    return {
        **keys,
        "student_ids": ids.astype(np.int32),
        "student_probs": probabilities,
        "teacher_ids": ids[:, ::-1].astype(np.int32),
        "teacher_probs": probabilities,
    }


def write_attempt(path: Path, steps: range, last: int, *, resume_step: int = 0) -> None:
    """An attempt: rollouts at each step, kept text every 20, contexts at step 0."""
    texts = [(i, f"t{i}", b"t%d" % i) for i in range(50)]
    with LogWriter(path, columns=COLUMNS, run=RUN, vocab=texts, resume_step=resume_step) as writer:
        if resume_step == 0:
            writer.write(sequence_rows(KEPT), table="sequences")
        for step in steps:
            here = range(4 * step // 5, 4 * step // 5 + 4)
            offset = 1000 * (resume_step > 0)
            here = range(here.start + offset, here.stop + offset)
            writer.write(sequence_rows(here, step), table="sequences")
            writer.write(scored(step, here))
            writer.finish_step(step)
        for step in range(resume_step, last + 1, 20):
            batch = scored(step, KEPT)
            writer.write(batch, table="fixed")
            writer.finish_step(step, "fixed")
            writer.write(likeliest(batch), table="alternatives")
            writer.finish_step(step, "alternatives")
            if step == 0:
                sketch = np.random.default_rng(0).integers(0, 256, (len(batch["step"]), 32))
                keys = {name: batch[name] for name in ("step", "sequence_id", "position")}
                writer.write({**keys, "context": sketch.astype(np.uint8)}, table="contexts")
                writer.finish_step(step, "contexts")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of steps 0 to 60 whose second attempt began again at 20."""
    path = tmp_path_factory.mktemp("smol") / "log"
    write_attempt(path, range(0, 35, 5), 20)
    write_attempt(path, range(20, 60, 5), 60, resume_step=20)
    return path


def everything(
    log: Path, table: str, steps: list[int], columns: list[str]
) -> dict[str, np.ndarray]:
    parts = [part.columns for part in rocktok.open(log).scan(table, columns, steps)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((found["position"], found["sequence_id"], found["step"]))
    return {name: values[order] for name, values in found.items()}


def test_an_extract_holds_the_steps_asked_for_with_the_same_values(log: Path, tmp_path: Path):
    extract = smol_slim.Extract(10, smol_slim.IMPLIED, 3)
    smol_slim.write_extract(rocktok.open(log), tmp_path / "slim", extract)
    slim = rocktok.open(tmp_path / "slim")
    assert slim.complete_steps("rollout") == [0, 10, 20, 30, 40, 50]
    assert slim.complete_steps("fixed") == [0, 20, 40, 60]
    assert slim.complete_steps("alternatives") == [0, 60]
    assert slim.complete_steps("contexts") == [0]
    columns = ["token_id", "loss", "student_logprob", "teacher_logprob", "overlap"]
    assert set(slim.columns("fixed")) == {"step", "sequence_id", "position", *columns}
    for table, steps in (("rollout", [0, 10, 20, 30, 40, 50]), ("fixed", [0, 20, 40, 60])):
        was, now = (everything(p, table, steps, columns) for p in (log, tmp_path / "slim"))
        for name in was:
            np.testing.assert_array_equal(was[name], now[name])
    names = ["student_ids", "student_probs", "teacher_ids", "teacher_probs"]
    was, now = (everything(p, "alternatives", [0, 60], names) for p in (log, tmp_path / "slim"))
    for name in names:
        np.testing.assert_array_equal(was[name][:, :3], now[name])
    was, now = (everything(p, "contexts", [0], ["context"]) for p in (log, tmp_path / "slim"))
    np.testing.assert_array_equal(was["context"], now["context"])
    assert slim.vocab.texts == rocktok.open(log).vocab.texts


def test_an_extract_lists_the_sequences_of_its_rows_and_verifies(log: Path, tmp_path: Path):
    smol_slim.write_extract(rocktok.open(log), tmp_path / "slim", smol_slim.EXTRACTS[0])
    slim = rocktok.open(tmp_path / "slim")
    rows_of = {
        int(i)
        for table in ("rollout", "fixed")
        for part in slim.scan(table, ["loss"])
        for i in part.columns["sequence_id"]
    }
    assert {
        i for rows in smol_slim.sequences(slim, rows_of) for i in rows["sequence_id"]
    } == rows_of
    # The rollouts of step 20 are the second attempt's.
    assert {1016, 1017, 1018, 1019} <= rows_of and not {16, 17, 18, 19} & rows_of
    code, _, error = run_command("info", tmp_path / "slim", "--verify")
    assert code == 0, error


def test_as_many_texts_are_kept_as_hold_the_positions(log: Path, tmp_path: Path):
    # 12 positions a text: 37 positions take four texts, 36 take three.
    for positions, texts in ((36, 3), (37, 4), (10_000, 12)):
        target = tmp_path / str(positions)
        smol_slim.write_extract(rocktok.open(log), target, smol_slim.Extract(10, (), 5, positions))
        slim = rocktok.open(target)
        for table in ("fixed", "alternatives", "contexts"):
            found = everything(target, table, slim.complete_steps(table), [])
            assert set(found["sequence_id"]) == set(KEPT[:texts]), table
        assert slim.run is not None and slim.run["fixed_sequences"] == texts
        assert run_command("info", target, "--verify")[0] == 0


def test_the_largest_extract_within_the_limit_is_taken(log: Path, tmp_path: Path):
    sizes = []
    for number, extract in enumerate(smol_slim.EXTRACTS):
        smol_slim.write_extract(rocktok.open(log), tmp_path / str(number), extract)
        sizes.append(smol_slim.size_of(tmp_path / str(number)))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes[:2])) == 2
    assert smol_slim.slim(log, tmp_path / "slim", sizes[0] + 100) == smol_slim.EXTRACTS[0]
    assert smol_slim.slim(log, tmp_path / "slim", sizes[1] + 100) == smol_slim.EXTRACTS[1]
    with pytest.raises(click.ClickException, match="keep fewer texts"):
        smol_slim.slim(log, tmp_path / "slim", sizes[-1] // 2)
