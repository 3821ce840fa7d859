"""Kept texts under TRL: which are kept, when they are scored, and how a resumed run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import TrainerCallback

from rocktok.errors import RocktokWarning
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.trl_models import PROMPTS, make_model, make_trainer, manifest, read_sequences, read_table


def train(
    folder: Path, *, recorder: dict[str, Any], resume: str | None = None, **options: Any
) -> Any:
    """Train with texts that are kept during training, unless `recorder` says more."""
    trainer = make_trainer(folder, **options)
    with attach(trainer, Recorder(folder / "log", **{"fixed_at_start": False, **recorder})):
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def fixed_steps(folder: Path) -> list[int]:
    steps = np.unique(read_table(folder / "log", "fixed")["step"]).tolist()
    assert manifest(folder / "log")["steps"]["fixed"] == steps
    return steps


def kept(folder: Path, attempt: int = 0) -> list[dict[str, Any]]:
    table = pq.read_table(folder / f"log/kept/{attempt:02d}.parquet")
    return list(table.to_pylist())


def texts(folder: Path) -> dict[int, dict[int, list[int]]]:
    """Fixed text: step → sequence → token ids."""
    rows = read_table(folder / "log", "fixed")
    found: dict[int, dict[int, list[int]]] = {}
    for step, sequence, token in zip(
        rows["step"].tolist(), rows["sequence_id"].tolist(), rows["token_id"].tolist(), strict=True
    ):
        found.setdefault(step, {}).setdefault(sequence, []).append(token)
    return found


# --- which texts -------------------------------------------------------------------------------


def test_the_first_rollout_of_each_new_prompt_is_kept(tmp_path: Path) -> None:
    prompts = [PROMPTS[i] for i in (0, 1, 0, 2, 1, 3, 4, 0, 5, 6, 2, 7)]
    train(
        tmp_path,
        recorder={"every": 1, "fixed_sequences": 6, "fixed_every": 100},
        prompts=prompts,
        shuffle_dataset=False,
    )
    # Rows are shuffled after generation, so ids, not row order, tell which came first.
    first: dict[str, int] = {}
    for row in sorted(read_sequences(tmp_path / "log"), key=lambda r: r["sequence_id"]):
        first.setdefault(row["prompt_id"], row["sequence_id"])
    expected = list(first.values())[:6]
    assert [row["sequence_id"] for row in kept(tmp_path)] == expected
    assert sorted(texts(tmp_path)[3]) == expected
    rollouts = read_table(tmp_path / "log")
    for sequence, tokens in texts(tmp_path)[6].items():
        assert rollouts["token_id"][rollouts["sequence_id"] == sequence].tolist() == tokens


def test_every_step_has_the_same_texts_and_their_sequence_rows(tmp_path: Path) -> None:
    train(tmp_path, recorder={"every": 4, "fixed_sequences": 10, "fixed_every": 2}, max_steps=6)
    by_step = texts(tmp_path)
    assert list(by_step) == [3, 4, 6]
    assert by_step[3] == by_step[4] == by_step[6]
    ids = [row["sequence_id"] for row in read_sequences(tmp_path / "log")]
    assert len(ids) == len(set(ids))
    assert set(by_step[3]) <= set(ids)
    # Steps 0 and 4 are recorded, six of the kept texts come from the steps 1 and 2.
    assert len(ids) == 4 + 4 + 6


def test_no_fixed_set(tmp_path: Path) -> None:
    train(tmp_path, recorder={"every": 1, "fixed_sequences": 0}, max_steps=2)
    assert not (tmp_path / "log/fixed").exists()
    assert not (tmp_path / "log/kept").exists()


# --- when --------------------------------------------------------------------------------------


def test_scored_when_complete_then_regularly_and_at_the_last_step(tmp_path: Path) -> None:
    train(tmp_path, recorder={"every": 9, "fixed_sequences": 8, "fixed_every": 3}, max_steps=10)
    assert fixed_steps(tmp_path) == [2, 3, 6, 9, 10]


def test_never_twice_for_a_step(tmp_path: Path) -> None:
    # Complete at 2, which is a regular and the last step, too: a second scoring would be refused.
    train(tmp_path, recorder={"every": 9, "fixed_sequences": 8, "fixed_every": 2}, max_steps=2)
    assert fixed_steps(tmp_path) == [2]
    rows = read_table(tmp_path / "log", "fixed")
    keys = list(zip(rows["sequence_id"].tolist(), rows["position"].tolist(), strict=True))
    assert len(keys) == len(set(keys))
    assert manifest(tmp_path / "log")["dropped"] == []


def test_an_epoch_completes_the_set(tmp_path: Path) -> None:
    recorder = {"every": 9, "fixed_sequences": 256, "fixed_every": 4}
    train(tmp_path, recorder=recorder, prompts=PROMPTS[:12], max_steps=5)
    assert fixed_steps(tmp_path) == [3, 4, 5]
    assert len(kept(tmp_path)) == 12


def test_what_there_is_is_scored_at_the_last_step(tmp_path: Path) -> None:
    train(tmp_path, recorder={"every": 9, "fixed_sequences": 256}, max_steps=2)
    assert fixed_steps(tmp_path) == [2]
    assert len(kept(tmp_path)) == 8


class StopAt(TrainerCallback):  # type: ignore[misc]
    """Ends training at step 3, from one of the trainer's events."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self.stop)

    def stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            control.should_training_stop = True


@pytest.mark.long
@pytest.mark.parametrize("event", ["on_step_end", "on_evaluate", "on_save", "on_log"])
def test_the_last_step_is_scored_when_training_stops_early(tmp_path: Path, event: str) -> None:
    train(
        tmp_path,
        recorder={"every": 9, "fixed_sequences": 4, "fixed_every": 100},
        callbacks=[StopAt(event)],
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        logging_steps=3,
        load_best_model_at_end=True,
        max_steps=9,
    )
    assert fixed_steps(tmp_path) == [1, 3]


def test_losses_are_those_of_the_student_at_that_step(tmp_path: Path) -> None:
    train(
        tmp_path,
        recorder={"every": 1, "fixed_sequences": 6, "fixed_every": 2},
        learning_rate=0.0,
        max_steps=4,
    )
    fixed, rollouts = read_table(tmp_path / "log", "fixed"), read_table(tmp_path / "log")
    assert np.unique(fixed["step"]).tolist() == [2, 4]
    for step in (2, 4):
        here = fixed["step"] == step
        chosen = np.isin(rollouts["sequence_id"], fixed["sequence_id"][here])
        # The same student, the same text, other padding.
        np.testing.assert_allclose(
            fixed["loss"][here], rollouts["loss"][chosen], rtol=1e-4, atol=1e-6
        )


def test_dropout_is_off_while_kept_texts_are_scored(tmp_path: Path) -> None:
    train(
        tmp_path,
        recorder={"every": 9, "fixed_sequences": 6, "fixed_every": 2},
        student=make_model(1, attention_dropout=0.5),
        learning_rate=0.0,
        max_steps=4,
    )
    rows = read_table(tmp_path / "log", "fixed")
    assert np.array_equal(rows["loss"][rows["step"] == 2], rows["loss"][rows["step"] == 4])


def test_losses_move_with_the_student(tmp_path: Path) -> None:
    train(tmp_path, recorder={"every": 9, "fixed_sequences": 6, "fixed_every": 2}, max_steps=8)
    rows = read_table(tmp_path / "log", "fixed")
    means = [rows["loss"][rows["step"] == step].mean() for step in (2, 4, 6, 8)]
    assert means == sorted(means, reverse=True)


# --- resuming ----------------------------------------------------------------------------------


class Crash(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("node failure")


def crash_and_resume(folder: Path, recorder: dict[str, Any], crash: int, resume: int) -> Any:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    with pytest.raises(RuntimeError, match="node failure"):
        train(folder, recorder=recorder, callbacks=[Crash(crash)], **options)
    assert not manifest(folder / "log")["final"]
    checkpoint = str(folder / f"trainer/checkpoint-{resume}")
    alone = make_trainer(folder, **options)
    alone.train(resume_from_checkpoint=checkpoint)
    trainer = train(folder, recorder=recorder, resume=checkpoint, **options)
    for one, other in zip(alone.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, other)
    attempt = json.loads((folder / "log/attempts/01.json").read_text())
    assert attempt["resume_step"] == resume
    return trainer


@pytest.mark.long
def test_resuming_goes_on_with_the_same_texts(tmp_path: Path) -> None:
    recorder = {"every": 1, "fixed_sequences": 6, "fixed_every": 4}
    crash_and_resume(tmp_path, recorder, crash=6, resume=4)
    rollouts = read_table(tmp_path / "log")
    assert np.unique(rollouts["step"]).tolist() == list(range(8))
    assert ((rollouts["sequence_id"] >> 53) == (rollouts["step"] >= 4)).all()
    by_step = texts(tmp_path)
    assert list(by_step) == [2, 4, 8]
    assert by_step[2] == by_step[4] == by_step[8]
    assert kept(tmp_path, 0) == kept(tmp_path, 1)
    # Step 4 was scored by both attempts, with the same weights.
    shards = sorted((tmp_path / "log/fixed").rglob("*.parquet"))
    losses = [
        table.filter(np.asarray(table["step"]) == 4)["loss"].to_pylist()
        for table in map(pq.read_table, shards)
    ]
    one, other = [values for values in losses if values]
    assert one == other


@pytest.mark.long
def test_resuming_before_the_set_was_complete(tmp_path: Path) -> None:
    recorder = {"every": 9, "fixed_sequences": 16, "fixed_every": 3}
    crash_and_resume(tmp_path, recorder, crash=3, resume=2)
    before, after = kept(tmp_path, 0), kept(tmp_path, 1)
    assert [len(before), len(after)] == [12, 16]
    assert after[:8] == before[:8]
    assert [row["sequence_id"] >> 53 for row in after] == [0] * 8 + [1] * 8
    assert len({row["prompt_id"] for row in after}) == 16
    assert list(texts(tmp_path)) == [4, 6, 8]
    ids = {row["sequence_id"] for row in read_sequences(tmp_path / "log")}
    assert {row["sequence_id"] for row in after} <= ids


@pytest.mark.long
def test_rows_that_resuming_voids_are_made_again(tmp_path: Path) -> None:
    """Step 4 was the last of a run that goes on later: its rows are void then."""
    recorder = {"every": 9, "fixed_sequences": 6, "fixed_every": 100}
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
    train(tmp_path, recorder=recorder, max_steps=4, **options)
    checkpoint = str(tmp_path / "trainer/checkpoint-4")
    train(tmp_path, recorder=recorder, resume=checkpoint, max_steps=6, **options)
    assert list(texts(tmp_path)) == [2, 4, 6]
    assert manifest(tmp_path / "log", attempt=1)["steps"]["fixed"] == [4, 6]


def test_a_damaged_set_is_refused(tmp_path: Path) -> None:
    from rocktok.errors import HookError

    recorder = {"every": 9, "fixed_sequences": 6, "fixed_every": 100}
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    train(tmp_path, recorder=recorder, **options)
    path = tmp_path / "log/kept/00.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(HookError, match=r"kept/00\.parquet: damaged"):
        train(
            tmp_path,
            recorder=recorder,
            resume=str(tmp_path / "trainer/checkpoint-4"),
            **options,
        )
    # Another attempt would have voided rows.
    assert not (tmp_path / "log/attempts/01.json").exists()


def test_rejected_texts_do_not_stop_the_others(tmp_path: Path) -> None:
    """A set that cannot be scored at one step is scored at the next."""
    from rocktok.hooks.trl import fixed as trl_fixed

    original, calls = trl_fixed._inputs, []

    def first_fails(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise MemoryError
        return original(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.warns(RocktokWarning, match="MemoryError"):
        patch.setattr(trl_fixed, "_inputs", first_fails)
        train(tmp_path, recorder={"every": 9, "fixed_sequences": 8, "fixed_every": 2}, max_steps=4)
    assert fixed_steps(tmp_path) == [4]
