"""Two ranks (gloo, CPU): one log, one fixed set, and training that notices nothing.

One launch runs all scenes, for starting processes is what takes the time; each rank leaves its
findings in a JSON file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import rocktok
from rocktok.errors import HookError
from rocktok.files import place
from rocktok.hooks import Recorder
from rocktok.hooks.contexts import projection
from rocktok.hooks.fixed_set import inherit
from rocktok.hooks.trl import attach
from rocktok.hooks.trl import capture as trl_capture
from rocktok.log import load_gradients
from tests.preloaded import run_ranks
from tests.trl_models import (
    PROMPTS,
    VOCAB_SIZE,
    make_model,
    make_trainer,
    manifest,
    read_sequences,
    read_table,
)

pytestmark = pytest.mark.long

KEYS = ("step", "sequence_id")
RECORDER: dict[str, Any] = {"every": 1, "fixed_sequences": 9, "fixed_every": 3}
OPTIONS: dict[str, Any] = {
    "max_steps": 5,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 2,
    "save_strategy": "steps",
    "save_steps": 3,
}


def trainer_of(folder: Path) -> Any:
    prompts = [PROMPTS[i % 7 if i % 3 == 0 else i] for i in range(24)]
    student = make_model(1, attention_dropout=0.1)
    return make_trainer(folder, student=student, prompts=prompts, **OPTIONS)


def train(folder: Path, log: Path, resume: str | None = None, **recorder: Any) -> Any:
    trainer = trainer_of(folder)
    with attach(trainer, Recorder(log, **{**RECORDER, **recorder})):
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def scenes(folder: Path) -> None:
    """What each rank runs."""
    from tests.hooks.test_trl_training import assert_same, outcome

    plain = trainer_of(folder / "plain")
    plain.train()
    rank = plain.accelerator.process_index
    assert plain.accelerator.num_processes == 2
    recorded = train(folder / "recorded", folder / "log")
    assert_same(outcome(recorded), outcome(plain))

    checkpoint = str(folder / "recorded/trainer/checkpoint-3")
    train(folder / "recorded", folder / "log", resume=checkpoint)

    summed = train(folder / "summed", folder / "sums", gradient_types=range(VOCAB_SIZE))
    assert_same(outcome(summed), outcome(plain))

    with pytest.raises(HookError) as refused:
        train(folder / "refused", folder / "log", columns=["grad_norm"])

    calls, original = [], trl_capture.token_statistics

    def second_fails(**kwargs: Any) -> Any:
        calls.append(1)
        if rank == 1 and len(calls) in (3, 9):  # step 1 of the rollouts; a batch of the fixed set
            raise RuntimeError("no memory left")
        return original(**kwargs)

    trl_capture.token_statistics = second_fails
    failed = train(folder / "failed", folder / "failing")
    assert_same(outcome(failed), outcome(plain))
    found = {"refused": str(refused.value), "calls": len(calls)}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(2, "-m", "tests.hooks.test_trl_ranks", folder)
    return folder


def test_both_ranks_record_every_step(folder: Path) -> None:
    log = rocktok.open(folder / "log")
    assert log.complete_steps("rollout") == [0, 1, 2, 3, 4]
    rows = read_table(folder / "log")
    for step in range(5):
        ids = np.unique(rows["sequence_id"][rows["step"] == step])
        assert ((ids >> 32) & 1).tolist() == [0] * 4 + [1] * 4
    for attempt in range(2):
        for rank in range(2):
            found = manifest(folder / "log", attempt, rank)
            assert found["final"]
            assert found["mismatches"] == {}
            assert found["dropped"] == []


def test_the_fixed_set_is_counted_over_all_ranks(folder: Path) -> None:
    """Rank order, then the order of generation; the same set at every step."""
    first: dict[str, int] = {}
    rows = [r for r in read_sequences(folder / "log") if r["sequence_id"] >> 53 == 0]
    for row in sorted(rows, key=lambda r: (r["step"], r["sequence_id"])):
        first.setdefault(row["prompt_id"], row["sequence_id"])
    expected = sorted(list(first.values())[:9])
    fixed = read_table(folder / "log", "fixed")
    steps = np.unique(fixed["step"]).tolist()
    assert steps[1:] == [3, 5]
    for step in steps:
        assert np.unique(fixed["sequence_id"][fixed["step"] == step]).tolist() == expected
    ids = [row["sequence_id"] for row in rows]
    assert len(ids) == len(set(ids))


def test_what_stands_beside_the_fixed_set_is_whole_and_made_once(folder: Path) -> None:
    log, fixed = rocktok.open(folder / "log"), read_table(folder / "log", "fixed")
    steps = log.complete_steps("fixed")
    assert log.complete_steps("alternatives") == steps
    assert log.complete_steps("contexts") == steps[:1]
    assert manifest(folder / "log", attempt=1)["steps"]["alternatives"] == [3, 5]
    assert "contexts" not in manifest(folder / "log", attempt=1)["steps"]
    for table, at in (("alternatives", steps), ("contexts", steps[:1])):
        batches = list(log.scan(table, ["context"] if table == "contexts" else ["teacher_ids"]))
        keys = ("step", "sequence_id", "position")
        found = {name: np.concatenate([b.columns[name] for b in batches]) for name in keys}
        order = np.lexsort((found["position"], found["sequence_id"], found["step"]))
        here = np.isin(fixed["step"], at)
        for name in keys:
            np.testing.assert_array_equal(found[name][order], fixed[name][here])


def test_sketches_of_two_ranks_are_those_of_one_mean(folder: Path) -> None:
    """Bits of the teacher's float64 states, less their mean over the texts of both ranks."""
    teacher = make_model(2, hidden=48).double().eval()
    texts = sorted(inherit(place(folder / "log"), 10_000).kept, key=lambda text: text.sequence_id)
    hidden = []
    for text in texts:
        prompt = text.prompt_token_ids.tolist()
        ids = torch.tensor([[*prompt, *text.completion_token_ids.tolist()]])
        with torch.no_grad():
            states = teacher.model(input_ids=ids).last_hidden_state[0, len(prompt) - 1 : -1]
        hidden.append(states.numpy())
    hidden_NH = np.concatenate(hidden)
    value_NK = (hidden_NH - hidden_NH.mean(axis=0)) @ projection(48)
    batches = list(rocktok.open(folder / "log").scan("contexts", ["context"]))
    rows = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    order = np.lexsort((rows["position"], rows["sequence_id"]))
    bits_NK = np.unpackbits(rows["context"][order], axis=1, bitorder="little")
    clear_NK = np.abs(value_NK) > 1e-4 * np.abs(value_NK).mean()
    np.testing.assert_array_equal(bits_NK[clear_NK], (value_NK > 0)[clear_NK])


def test_shares_of_the_fixed_set_do_not_interleave(folder: Path) -> None:
    found: dict[tuple[int, int], set[int]] = {}
    for path in (folder / "log/fixed").rglob("*.parquet"):
        rank = int(path.name.split("-")[1])
        table = pq.read_table(path)
        for step, sequence in zip(*(table[n].to_pylist() for n in KEYS), strict=True):
            found.setdefault((step, rank), set()).add(sequence)
    for step in {step for step, _ in found}:
        assert max(found[step, 0]) < min(found[step, 1])
        assert (len(found[step, 0]), len(found[step, 1])) == (4, 5)


def test_resuming_voids_and_replaces(folder: Path) -> None:
    rows = read_table(folder / "log")
    assert ((rows["sequence_id"] >> 53) == (rows["step"] >= 3)).all()
    assert manifest(folder / "log", attempt=1)["steps"]["fixed"] == [3, 5]


def test_gradient_sums_of_both_ranks_are_those_of_all_rows(folder: Path) -> None:
    log = rocktok.open(folder / "sums")
    assert log.complete_steps("gradients") == log.complete_steps("fixed")
    rows = read_table(folder / "sums", "fixed", ["grad_norm"])
    for step in log.complete_steps("gradients"):
        assert len(log.holders("gradients", step)) == 2
        sums = load_gradients(log, step)
        here = rows["step"] == step
        n_T = np.bincount(rows["token_id"][here], minlength=VOCAB_SIZE)[sums.token_T]
        assert n_T.sum() == here.sum()
        assert np.array_equal(sums.count_HT.sum(axis=0), n_T)
        norms = rows["grad_norm"][here].sum(dtype=np.float64)
        assert sums.norm_HT.sum() == pytest.approx(norms, rel=1e-12)
        # Every type was asked for, and n counts the texts of both ranks.
        np.testing.assert_allclose(sums.vector_HTW.sum(axis=1), sums.global_HW, atol=1e-5)
        mean_HTV = sums.vector_HTW / n_T[:, None]
        np.testing.assert_allclose(mean_HTV.sum(axis=1), sums.balanced_HW, atol=1e-5)


def test_a_refusal_reaches_both_ranks(folder: Path) -> None:
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert found[0]["refused"] == found[1]["refused"]
    assert "this attempt wants grad_norm" in found[0]["refused"]
    assert not (folder / "log/attempts/02.json").exists()


def test_a_failure_on_one_rank_makes_the_step_incomplete(folder: Path) -> None:
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    log = rocktok.open(folder / "failing")
    assert manifest(folder / "failing", rank=0)["dropped"] == []
    dropped = manifest(folder / "failing", rank=1)["dropped"]
    assert {d["reason"] for d in dropped} == {"RuntimeError: no memory left"}
    assert sorted(item["table"] for item in dropped) == ["alternatives", "fixed", "rollout"]
    for table in ("rollout", "fixed"):
        mine = [d["step"] for d in dropped if d["table"] == table]
        assert log.incomplete_steps(table) == mine
    assert found[0]["calls"] > 0
    # Both ranks leave the sketches to the first scoring that neither failed at.
    assert log.complete_steps("contexts") == log.complete_steps("fixed")[:1]
    assert log.incomplete_steps("contexts") == []


if __name__ == "__main__":
    scenes(Path(sys.argv[1]))
