"""Checkpoints: the rows before one are on disk before it is."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import rocktok
from rocktok.errors import RocktokWarning
from rocktok.hooks import Recorder
from rocktok.hooks import recorder as recorders
from rocktok.hooks.background import Background
from rocktok.hooks.trl import attach
from rocktok.log import LogWriter
from tests.preloaded import run_preloaded
from tests.trl_models import make_trainer, manifest

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


class AtSave(TrainerCallback):  # type: ignore[misc]
    """Between a checkpoint and what the recorder does after it: trainers' callbacks come first."""

    def __init__(self, log: Path) -> None:
        self.log, self.seen = log, dict[int, Any]()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}/trainer_state.json"
        assert checkpoint.exists()
        steps = manifest(self.log)["steps"]
        self.seen[state.global_step] = (steps["rollout"], steps["fixed"])


def seen_at_saves(folder: Path, trainer: dict[str, Any], recorder: dict[str, Any]) -> Any:
    callback = AtSave(folder / "log")
    made = make_trainer(folder, callbacks=[callback], **{**SAVING, **trainer})
    settings = {"every": 1, "fixed_sequences": 4, "fixed_every": 2, **recorder}
    with attach(made, Recorder(folder / "log", **settings)):
        made.train()
    return callback.seen


def test_rows_are_on_disk_before_the_checkpoint_is(tmp_path: Path) -> None:
    seen = seen_at_saves(tmp_path, {}, {})
    assert seen == {2: ([0, 1], [0, 2]), 4: ([0, 1, 2, 3], [0, 2, 4])}


def test_the_best_checkpoint_is_waited_for_too(tmp_path: Path) -> None:
    """Whether a model is the best is known only after the last event before it is saved."""
    best = {
        "save_strategy": "best",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "loss",
        "max_steps": 2,
    }
    assert seen_at_saves(tmp_path, best, {}) == {2: ([0, 1], [0, 2])}


@pytest.mark.long
def test_checkpoints_at_the_end_of_an_epoch_are_waited_for_too(tmp_path: Path) -> None:
    epochs = {"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 1}
    assert seen_at_saves(tmp_path, epochs, {}) == {6: (list(range(6)), [0, 2, 4, 6])}


def test_without_waiting_training_goes_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Background, "settle", lambda self, timeout: pytest.fail("it waits"))
    seen_at_saves(tmp_path, {"max_steps": 2}, {"sync_on_save": False})
    assert manifest(tmp_path / "log")["final"]


def test_a_disk_that_hangs_delays_a_checkpoint_but_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, flush = threading.Event(), LogWriter.flush
    monkeypatch.setattr(recorders, "SAVE_WAIT", 0.1)

    def hang(self: LogWriter, **options: Any) -> None:
        stuck.wait(60)
        flush(self, **options)

    class Free(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            stuck.set()

    monkeypatch.setattr(LogWriter, "flush", hang)
    trainer = make_trainer(tmp_path, callbacks=[Free()], **{**SAVING, "max_steps": 2})
    with (
        pytest.warns(RocktokWarning, match=r"before a checkpoint were not on disk within 0 s"),
        attach(trainer, Recorder(tmp_path / "log", every=1, fixed_sequences=0)),
    ):
        trainer.train()
    assert (tmp_path / "trainer/checkpoint-2").is_dir()
    assert manifest(tmp_path / "log")["steps"]["rollout"] == [0, 1]


#: Is killed right after its first checkpoint, unless it resumes from that.
CHILD = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.hooks.test_trl_saves import SAVING
from tests.trl_models import make_trainer

folder, resume = Path(sys.argv[1]), sys.argv[2] or None

class Kill(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        if resume is None:
            os.kill(os.getpid(), signal.SIGKILL)

trainer = make_trainer(folder, callbacks=[Kill()], **SAVING)
with attach(trainer, Recorder(folder / "log", every=1, fixed_sequences=4, fixed_every=2)):
    trainer.train(resume_from_checkpoint=resume)
"""


@pytest.mark.long
def test_a_kill_after_a_checkpoint_leaves_no_gap(tmp_path: Path) -> None:
    def run(resume: str) -> int:
        return run_preloaded("-c", CHILD, tmp_path, resume).returncode

    assert run("") == -signal.SIGKILL
    assert run(str(tmp_path / "trainer/checkpoint-2")) == 0
    log = rocktok.open(tmp_path / "log")
    assert list(log.complete_steps("rollout")) == [0, 1, 2, 3]
    assert list(log.complete_steps("fixed")) == [0, 2, 4]
