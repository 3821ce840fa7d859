"""Attaching to a trainer: what is refused, and that nothing is left behind."""

from __future__ import annotations

import atexit
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback
from trl.trainer import distillation_trainer
from trl.trainer.distillation_trainer import DistillationTrainer

from rocktok.errors import HookError, RocktokWarning
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.trl_models import make_model, make_trainer, manifest, read_table


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


@pytest.mark.long
def test_training_again_over_a_finished_attempt_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2)
    with attach(trainer, Recorder(tmp_path / "log", every=1)):
        trainer.train()
        with pytest.raises(HookError, match="holds a finished run of 2 steps; give another dir"):
            trainer.train()
    assert np.unique(read_table(tmp_path / "log")["step"]).tolist() == [0, 1]


@pytest.mark.long
def test_another_architecture_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        recorded(make_trainer(tmp_path, callbacks=[Stop()]), tmp_path / "log")
    other = make_trainer(tmp_path, student=make_model(1, hidden=64))
    with pytest.raises(HookError, match=r"a run with student\.hidden_size 32, this one has 64; re"):
        recorded(other, tmp_path / "log")
    same = make_trainer(tmp_path, max_steps=1, learning_rate=1e-4)
    recorded(same, tmp_path / "log")
    assert manifest(tmp_path / "log", attempt=1)["final"]


def recorded(trainer: Any, log: Path) -> None:
    with attach(trainer, Recorder(log, every=1, fixed_sequences=0)):
        trainer.train()


# --- without a block ---------------------------------------------------------------------------


def test_attaching_takes_effect_at_once(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2)
    before = traces(trainer)
    attachment = attach(trainer, Recorder(tmp_path / "log", every=1, fixed_sequences=0))
    trainer.train()
    assert np.unique(read_table(tmp_path / "log")["step"]).tolist() == [0, 1]
    assert manifest(tmp_path / "log")["final"]
    # Nothing but the callback is left after training, and that goes too.
    assert traces(trainer)[:2] == before[:2]
    attachment.detach()
    attachment.detach()
    assert traces(trainer) == before


@pytest.mark.long
def test_an_attachment_that_nobody_misses_is_replaced(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    before = traces(trainer)
    attach(trainer, Recorder(tmp_path / "one", every=1, fixed_sequences=0))
    trainer.train()
    with attach(trainer, Recorder(tmp_path / "two", every=1, fixed_sequences=0)):
        trainer.train()
    assert traces(trainer) == before
    for name in ("one", "two"):
        assert np.unique(read_table(tmp_path / name)["step"]).tolist() == [0]
    assert not (tmp_path / "one/attempts/01.json").exists()


@pytest.mark.long
def test_a_training_that_broke_off_does_not_stop_another(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[Stop()])
    attach(trainer, Recorder(tmp_path / "one", every=1, fixed_sequences=0))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    other = make_trainer(tmp_path, max_steps=1)
    with attach(other, Recorder(tmp_path / "two", every=1, fixed_sequences=0)):
        other.train()
    assert np.unique(read_table(tmp_path / "two")["step"]).tolist() == [0]
    assert not hasattr(distillation_trainer._chunked_divergence_loss, "__wrapped__")


@pytest.mark.long
def test_a_trainer_that_is_used_no_more_can_go(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    attach(trainer, Recorder(tmp_path / "log", every=1, fixed_sequences=0))
    trainer.train()
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None


def test_a_block_without_training_warns(tmp_path: Path, trainer: Any) -> None:
    with (
        pytest.warns(RocktokWarning, match="log: the recorder's `with` block ended, and no step w"),
        attach(trainer, Recorder(tmp_path / "log")),
    ):
        pass
    with pytest.raises(KeyError), attach(trainer, Recorder(tmp_path / "log")):
        raise KeyError


def test_a_process_that_attached_too_late_warns(
    tmp_path: Path, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *call: at_exit.append(call))
    attachment = attach(trainer, Recorder(tmp_path / "log"))
    (function, *arguments), *_ = at_exit
    with pytest.warns(RocktokWarning, match="log: the process ends, and no step was recorded"):
        function(*arguments)
    attachment.detach()


# --- refusals ----------------------------------------------------------------------------------


def refusal(trainer: Any, recorder: Recorder) -> str:
    with pytest.raises(HookError) as caught, attach(trainer, recorder):
        pytest.fail("attached")
    return str(caught.value)


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    return make_trainer(tmp_path, max_steps=1)


def test_another_class_is_refused(tmp_path: Path) -> None:
    assert refusal(object(), Recorder(tmp_path)).startswith(
        "attach: object is none of the trainers of trl 1.16.0 that are known (Server"
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
            "attach: this trainer already has a recorder; leave its block first"
        )
        assert traces(trainer) == inside
    assert traces(trainer) == before


def test_a_running_recorder_is_refused(tmp_path: Path, trainer: Any) -> None:
    recorder = Recorder(tmp_path / "log")
    recorder.start()
    assert "the recorder is already running" in refusal(trainer, recorder)
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


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_heads_that_zero_3_has_sharded_are_refused(
    tmp_path: Path, trainer: Any, whose: str
) -> None:
    """A stand-in: what DeepSpeed leaves of a parameter has nothing in it, and a `ds_id`."""
    model = {"student": trainer.model, "teacher": trainer.teacher_model}[whose]
    said = f"attach: the {whose}'s output head is sharded by DeepSpeed ZeRO-3, so that a process"
    with attach(trainer, Recorder(tmp_path / "log", quiet=True)):
        # The student's is sharded only when training begins.
        model.lm_head.weight.ds_id = 7
        with pytest.raises(HookError, match=said):
            trainer.train()
    assert trainer.state.global_step == 0
    assert refusal(trainer, Recorder(tmp_path / "log")).startswith(said)
    assert not (tmp_path / "log").exists()


def test_an_unknown_loss_is_refused(
    tmp_path: Path, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation_trainer, "_chunked_divergence_loss", unknown_loss)
    assert refusal(trainer, Recorder(tmp_path / "log")) == (
        "attach: trl.trainer.distillation_trainer._chunked_divergence_loss of trl 1.16.0 lacks "
        "student_lm_head_weight, teacher_lm_head_weight, completion_mask, beta and has the unknown "
        "top_k; use trl 1.16 or a newer rocktok"
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
    assert f".{name} of trl 1.16.0 has the unknown teacher_prompts; use trl 1.16" in refusal(
        trainer, Recorder(tmp_path / "log")
    )
    monkeypatch.undo()
    monkeypatch.setattr(DistillationTrainer, "_compute_loss", lambda *args: None)
    assert "attach: DistillationTrainer._compute_loss of trl 1.16.0 lacks self, " in refusal(
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
