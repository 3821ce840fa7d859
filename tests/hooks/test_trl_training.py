"""The TRL hook and the training it watches: nothing changes, nothing breaks."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections import Counter
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rocktok.errors import RocktokWarning
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from rocktok.hooks.trl import capture as trl_capture
from rocktok.hooks.trl import fixed as trl_fixed
from tests.preloaded import run_preloaded
from tests.trl_models import make_model, make_trainer, manifest, read_table

#: Dropout draws random numbers in every training step; evaluation and checkpoints come between.
BUSY: dict[str, Any] = {
    "max_steps": 6,
    "gradient_accumulation_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 3,
}


def random_state() -> list[Any]:
    kind, keys, *rest = np.random.get_state()
    return [
        torch.get_rng_state().tolist(),
        kind,
        np.asarray(keys).tolist(),
        rest,
        random.getstate(),
    ]


def outcome(trainer: Any) -> dict[str, Any]:
    """All that training leaves: parameters, optimizer, random state, logged numbers, step count."""
    timing = ("runtime", "per_second", "step_time")
    logged = [
        {key: value for key, value in entry.items() if not key.endswith(timing)}
        for entry in trainer.state.log_history
    ]
    optimizer = trainer.optimizer.state_dict()["state"].values()
    return {
        "parameters": [p.detach().clone() for p in trainer.model.parameters()],
        "moments": [s[name].clone() for s in optimizer for name in ("exp_avg", "exp_avg_sq")],
        "random": random_state(),
        "logged": logged,
        "modes": [module.training for module in trainer.model.modules()],
        "mini_steps": trainer._step,
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("parameters", "moments"):
        assert all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True))
    for name in ("random", "logged", "modes", "mini_steps"):
        assert one[name] == other[name], name


def busy_trainer(folder: Path, **options: Any) -> Any:
    student = make_model(1, attention_dropout=0.1)
    return make_trainer(folder, student=student, **{**BUSY, **options})


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What training leaves without a recorder."""
    trainer = busy_trainer(tmp_path_factory.mktemp("untouched"))
    trainer.train()
    return outcome(trainer)


def test_training_is_bit_identical(tmp_path: Path, untouched: dict[str, Any]) -> None:
    trainer = busy_trainer(tmp_path)
    settings: dict[str, Any] = {"fixed_sequences": 6, "fixed_every": 2, "columns": "all"}
    with attach(trainer, Recorder(tmp_path / "log", every=1, **settings)):
        trainer.train()
    assert_same(outcome(trainer), untouched)
    steps = manifest(tmp_path / "log")["steps"]
    assert steps["fixed"] == steps["alternatives"] == [0, 2, 4, 6]
    assert steps["contexts"] == [0]


@pytest.mark.long
def test_training_is_bit_identical_where_texts_are_kept_as_it_comes_to_them(
    tmp_path: Path, untouched: dict[str, Any]
) -> None:
    trainer = busy_trainer(tmp_path)
    settings: dict[str, Any] = {"fixed_sequences": 6, "fixed_every": 2, "fixed_at_start": False}
    with attach(trainer, Recorder(tmp_path / "log", every=1, **settings)):
        trainer.train()
    assert_same(outcome(trainer), untouched)
    assert np.unique(read_table(tmp_path / "log", "fixed")["step"]).tolist() == [1, 2, 4, 6]


@pytest.mark.long
def test_training_is_bit_identical_on_several_threads(tmp_path: Path) -> None:
    """Statistics may spread over threads: the settings of the training thread must survive."""
    outcomes = []
    for recorded in (False, True):
        trainer = busy_trainer(tmp_path / str(recorded), max_steps=3)
        torch.set_num_threads(2)
        try:
            if recorded:
                recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=6, fixed_every=2)
                with attach(trainer, recorder):
                    trainer.train()
            else:
                trainer.train()
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(1)
        outcomes.append(outcome(trainer))
    assert_same(*outcomes)


def test_scoring_puts_random_state_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a model draws random numbers in eval mode."""
    trainer = make_trainer(tmp_path, max_steps=2)
    score, before_and_after = trl_fixed.score_fixed, []

    def checked(*args: Any) -> None:
        before = random_state()
        score(*args)
        before_and_after.append((before, random_state()))

    def noisy(*args: Any) -> None:
        torch.rand(3), np.random.rand(3), random.random()

    monkeypatch.setattr("rocktok.hooks.trl.callback.score_fixed", checked)
    trainer.teacher_model.register_forward_hook(noisy)
    trainer.teacher_model.base_model.register_forward_hook(noisy)
    with attach(trainer, Recorder(tmp_path / "log", every=9, fixed_sequences=4)):
        trainer.train()
    assert len(before_and_after) == 2
    assert all(before == after for before, after in before_and_after)


# --- what goes wrong ---------------------------------------------------------------------------


def train_with_trouble(
    folder: Path, untouched: dict[str, Any], warning: str, **options: Any
) -> Any:
    """Train with a recorder that cannot record all; training must not notice."""
    trainer = busy_trainer(folder)
    settings = {
        "every": 1, "fixed_sequences": 6, "fixed_every": 2, "fixed_at_start": False, **options
    }  # fmt: skip
    with (
        pytest.warns(RocktokWarning, match=warning),
        attach(trainer, Recorder(folder / "log", **settings)),
    ):
        trainer.train()
    assert_same(outcome(trainer), untouched)
    return manifest(folder / "log")


def failing(original: Any, when: Any) -> Any:
    calls = []

    @wraps(original)
    def maybe(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if when(len(calls)):
            raise RuntimeError("CUDA out of memory")
        return original(*args, **kwargs)

    return maybe


def test_failing_statistics_drop_their_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untouched: dict[str, Any]
) -> None:
    original = trl_capture.token_statistics
    monkeypatch.setattr(trl_capture, "token_statistics", failing(original, lambda n: n == 2))
    found = train_with_trouble(
        tmp_path, untouched, "step 0 of rollout was not recorded: RuntimeError: CUDA out of memory"
    )
    assert [(d["table"], d["step"]) for d in found["dropped"]] == [("rollout", 0)]
    # Both calls of the step are counted, the one that failed too.
    rows = read_table(tmp_path / "log")
    assert found["dropped"][0]["rows"] > 0
    assert np.unique(rows["step"]).tolist() == [1, 2, 3, 4, 5]


def test_statistics_that_always_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untouched: dict[str, Any]
) -> None:
    original = trl_capture.token_statistics
    monkeypatch.setattr(trl_capture, "token_statistics", failing(original, lambda n: True))
    found = train_with_trouble(tmp_path, untouched, "CUDA out of memory")
    counts = Counter(item["table"] for item in found["dropped"])
    assert counts == {"rollout": 6, "fixed": 4, "alternatives": 4}


def test_failing_generation_notes_drop_their_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untouched: dict[str, Any]
) -> None:
    original = Recorder.new_sequence_ids
    monkeypatch.setattr(Recorder, "new_sequence_ids", failing(original, lambda n: n == 3))
    found = train_with_trouble(tmp_path, untouched, "generation|carries no sequence ids")
    assert [(d["table"], d["step"]) for d in found["dropped"]] == [("rollout", 2)]
    assert "no sequence ids" in found["dropped"][0]["reason"]


def test_failing_forward_passes_of_the_fixed_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untouched: dict[str, Any]
) -> None:
    monkeypatch.setattr(trl_fixed, "_inputs", failing(trl_fixed._inputs, lambda n: n == 3))
    found = train_with_trouble(tmp_path, untouched, "step 2 of fixed was not recorded")
    assert [(d["table"], d["step"]) for d in found["dropped"]] == [
        ("fixed", 2),
        ("alternatives", 2),
    ]
    assert np.unique(read_table(tmp_path / "log", "fixed")["step"]).tolist() == [1, 4, 6]


def test_a_forward_redirection_that_fails_early_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untouched: dict[str, Any]
) -> None:
    """A wrapper's own forward (DDP, FSDP) may fail before TRL's patched one is reached."""
    from trl.models.utils import _ForwardRedirection

    scored, redirect = trl_fixed._forward, _ForwardRedirection.__call__
    inside, failures = [], []

    def call(self: Any, wrapper: Any, module: Any, method: Any, *args: Any) -> Any:
        if inside:
            module.forward = lambda *a, **k: None
            failures.append(method)
            raise RuntimeError("no memory left")
        return redirect(self, wrapper, module, method, *args)

    def forward(*args: Any) -> None:
        inside.append(1)
        try:
            scored(*args)
        finally:
            inside.clear()

    monkeypatch.setattr(_ForwardRedirection, "__call__", call)
    monkeypatch.setattr(trl_fixed, "_forward", forward)
    found = train_with_trouble(tmp_path, untouched, "fixed was not recorded: RuntimeError: no mem")
    assert {d["table"] for d in found["dropped"]} == {"fixed", "alternatives"}
    assert len(failures) == 2 * 4


def test_a_failing_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untouched: dict[str, Any]
) -> None:
    from rocktok import publishing

    original = publishing._write_temporary

    def write(path: Path, data: bytes) -> Path:
        if path.suffix == ".parquet" and "rollout" in str(path):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return original(path, data)

    monkeypatch.setattr(publishing, "_write_temporary", write)
    found = train_with_trouble(tmp_path, untouched, "Disk quota exceeded")
    assert {d["step"] for d in found["dropped"] if d["table"] == "rollout"} == set(range(6))


TERMINATED = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.trl_models import make_trainer

class Terminate(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

folder = Path(sys.argv[1])
trainer = make_trainer(folder, callbacks=[Terminate()])
with attach(trainer, Recorder(folder / "log", every=1, fixed_sequences=4)):
    trainer.train()
"""


@pytest.mark.long
def test_sigterm_publishes_what_is_finished(tmp_path: Path) -> None:
    done = run_preloaded("-c", TERMINATED, tmp_path)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert np.unique(read_table(tmp_path / "log")["step"]).tolist() == [0, 1, 2]
    assert np.unique(read_table(tmp_path / "log", "fixed")["step"]).tolist() == [0]
    assert (tmp_path / "log/kept/00.parquet").exists()
    assert not manifest(tmp_path / "log")["final"]
