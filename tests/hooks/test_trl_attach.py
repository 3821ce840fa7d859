"""Attaching to a trainer: what is refused, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback
from trl.trainer import distillation_trainer
from trl.trainer.distillation_trainer import DistillationTrainer

from rocktok.errors import HookError
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.trl_models import make_trainer, manifest, read_table


def traces(trainer: Any) -> list[Any]:
    methods = ("_compute_loss", "_generate_and_score_completions", "_chunked_divergence_loss")
    return [
        distillation_trainer._chunked_divergence_loss,
        [vars(trainer).get(name) for name in methods],
        list(trainer.callback_handler.callbacks),
    ]


class Stop(TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_everything_is_restored(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    before = traces(trainer)
    with attach(trainer, Recorder(tmp_path / "log")) as recorder:
        assert traces(trainer) != before
        trainer.train()
    assert traces(trainer) == before
    assert not recorder.running
    assert manifest(tmp_path / "log")["final"]


def test_everything_is_restored_after_an_exception(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[Stop()])
    before = traces(trainer)
    with (
        pytest.raises(KeyboardInterrupt),
        attach(trainer, Recorder(tmp_path / "log", every=1)) as recorder,
    ):
        trainer.train()
    assert traces(trainer) == before
    assert not recorder.running
    assert not manifest(tmp_path / "log")["final"]
    assert np.unique(read_table(tmp_path / "log")["step"]).tolist() == [0]


def test_what_the_user_had_set_on_the_trainer_is_restored(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    calls = []

    def mine(*args: Any) -> Any:
        calls.append(args)
        return DistillationTrainer._compute_loss(trainer, *args)

    trainer._compute_loss = mine
    with attach(trainer, Recorder(tmp_path / "log")):
        trainer.train()
    assert trainer._compute_loss is mine
    assert calls


def test_training_again_is_another_attempt(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2)
    with attach(trainer, Recorder(tmp_path / "log", every=1, supersede=True)):
        trainer.train()
        trainer.train()
    assert sorted(p.name for p in (tmp_path / "log/attempts").iterdir()) == ["00.json", "01.json"]
    assert (read_table(tmp_path / "log")["sequence_id"] >> 53 == 1).all()


# --- refusals ----------------------------------------------------------------------------------


def refusal(trainer: Any, recorder: Recorder) -> str:
    with pytest.raises(HookError) as caught, attach(trainer, recorder):
        pytest.fail("attached")
    return str(caught.value)


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    return make_trainer(tmp_path, max_steps=1)


def test_another_class_is_refused(tmp_path: Path) -> None:
    assert refusal(object(), Recorder(tmp_path)) == (
        "attach: object is not trl.DistillationTrainer (nor a subclass)"
    )


def test_no_local_teacher_is_refused(tmp_path: Path, trainer: Any) -> None:
    trainer.teacher_model = None
    assert refusal(trainer, Recorder(tmp_path / "log")).startswith(
        "attach: DistillationTrainer has no local teacher"
    )


def test_attaching_twice_is_refused(tmp_path: Path, trainer: Any) -> None:
    before = traces(trainer)
    with attach(trainer, Recorder(tmp_path / "log")):
        inside = traces(trainer)
        assert refusal(trainer, Recorder(tmp_path / "other")) == (
            "attach: a recorder is attached to this trainer already; leave its block first"
        )
        assert traces(trainer) == inside
    assert traces(trainer) == before


def test_a_running_recorder_is_refused(tmp_path: Path, trainer: Any) -> None:
    recorder = Recorder(tmp_path / "log")
    recorder.start()
    assert "the recorder runs already" in refusal(trainer, recorder)
    recorder.close()


def test_vision_language_models_have_no_fixed_set(tmp_path: Path, trainer: Any) -> None:
    trainer._is_vlm = True
    assert "use Recorder(fixed_sequences=0)" in refusal(trainer, Recorder(tmp_path / "log"))
    with attach(trainer, Recorder(tmp_path / "log", fixed_sequences=0)):
        pass


def unknown_loss(student_hidden_states: Any, teacher_hidden_states: Any, top_k: int) -> None:
    raise AssertionError("never called")


def other_generate(self: Any, inputs: Any, teacher_prompts: Any) -> None:
    raise AssertionError("never called")


def test_an_unknown_loss_is_refused(
    tmp_path: Path, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation_trainer, "_chunked_divergence_loss", unknown_loss)
    assert refusal(trainer, Recorder(tmp_path / "log")) == (
        "attach: _chunked_divergence_loss of trl 1.16.0 lacks student_lm_head_weight, "
        "teacher_lm_head_weight, completion_mask, beta and has the unknown top_k; "
        "use trl 1.16 or a newer rocktok"
    )
    monkeypatch.delattr(distillation_trainer, "_chunked_divergence_loss")
    assert "has no trl.trainer.distillation_trainer._chunked_divergence_loss" in refusal(
        trainer, Recorder(tmp_path / "log")
    )


def test_unknown_methods_are_refused(
    tmp_path: Path, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "_generate_and_score_completions"
    monkeypatch.setattr(DistillationTrainer, name, other_generate)
    assert f"attach: {name} of trl 1.16.0 takes ('self', 'inputs', 'teacher_prompts')" in refusal(
        trainer, Recorder(tmp_path / "log")
    )
    monkeypatch.undo()
    monkeypatch.setattr(DistillationTrainer, "_compute_loss", lambda *args: None)
    assert "attach: _compute_loss of trl 1.16.0 takes" in refusal(
        trainer, Recorder(tmp_path / "log")
    )


def test_a_log_that_refuses_stops_before_training(tmp_path: Path, trainer: Any) -> None:
    with attach(trainer, Recorder(tmp_path / "log")):
        trainer.train()
    other = make_trainer(tmp_path, max_steps=1)
    before = [p.detach().clone() for p in other.model.parameters()]
    with (
        pytest.raises(HookError, match="this attempt wants"),
        attach(other, Recorder(tmp_path / "log", columns=[])),
    ):
        other.train()
    assert other.state.global_step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, other.model.parameters(), strict=True))
