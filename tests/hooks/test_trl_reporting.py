"""Numbers of recorded steps among the trainer's own metrics, and in what it reports to."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.hooks import Recorder
from rocktok.hooks.background import StepRows
from rocktok.hooks.trl import attach, reporting
from rocktok.hooks.trl.reporting import Reporting, fixed_numbers, rollout_numbers
from tests.hooks.test_trl_training import assert_same, busy_trainer, outcome
from tests.paths import ROOT
from tests.processes import LIMIT
from tests.trl_models import VOCAB_SIZE, make_model, make_trainer, manifest, read_table


def test_numbers_by_hand() -> None:
    rows = {
        "token_id": np.array([3, 5, 3, 9, 5, 2], np.int32),
        "loss": np.array([1, 2, 3, 0, 2, 0], np.float32),
        "student_end": np.array([0, 0, 0, 0.25, 0, 0.75], np.float32),
    }
    numbers = rollout_numbers(rows, (2, 9))
    assert numbers == {"loss": 8 / 6, "top10_loss_share": 1.0, "student_end": 0.5}
    # No text ends: there is no end to say anything of.
    assert set(rollout_numbers(rows, (7,))) == {"loss", "top10_loss_share"}
    assert rollout_numbers({**rows, "loss": np.zeros(6, np.float32)}) == {"loss": 0.0}
    # 12 types, of losses 1 … 12: the ten largest are 3 … 12.
    many = {"token_id": np.arange(12), "loss": np.arange(1, 13, dtype=np.float32)}
    assert rollout_numbers(many)["top10_loss_share"] == pytest.approx(75 / 78)


def test_the_slope_by_hand() -> None:
    assert fixed_numbers({0: 4.0}) == {"fixed_loss": 4.0}
    assert fixed_numbers({0: 4.0, 10: 2.0}) == {"fixed_loss": 2.0}
    # Of three scorings the last two: 2 → 1, of the mean 1.5.
    assert fixed_numbers({0: 4.0, 10: 2.0, 20: 1.0})["loss_slope"] == pytest.approx(-1 / 1.5)
    # Of seven the last three, at uneven steps, on a line: 10 → 7 over a mean of 26/3.
    seven = {0: 9.0, 1: 9.0, 2: 9.0, 3: 9.0, 10: 10.0, 20: 9.0, 40: 7.0}
    assert fixed_numbers(seven)["loss_slope"] == pytest.approx(-3 / (26 / 3))


class _Trainer:
    def __init__(self) -> None:
        self._metrics: dict[str, dict[str, list[float]]] = {"train": {}, "eval": {}}


def _step(table: str, step: int, losses: list[float]) -> StepRows:
    batch = {"token_id": np.arange(len(losses)), "loss": np.array(losses, np.float32)}
    return StepRows(table, step, len(losses), [batch] if losses else [])


def test_rollouts_are_averaged_and_kept_text_is_as_last_scored(tmp_path: Path) -> None:
    trainer, recorder = _Trainer(), Recorder(tmp_path / "log")
    observe = Reporting(trainer, recorder)
    for step, loss in ((0, 1.0), (1, 3.0)):
        observe(_step("rollout", step, [loss, loss]))
        observe(_step("fixed", step, [loss, loss]))
    observe(_step("rollout", 2, []))
    found = trainer._metrics["train"]
    assert found["rocktok/loss"] == [1.0, 3.0]
    assert found["rocktok/fixed_loss"] == [3.0]
    observe(_step("fixed", 2, [2.0]))
    assert found["rocktok/loss_slope"] == [pytest.approx(-1 / 2.5)]
    # Training starts over: what came later is not of it.
    observe(_step("fixed", 1, [7.0]))
    assert found["rocktok/fixed_loss"] == [7.0]
    assert observe._fixed == {0: 1.0, 1: 7.0}
    assert trainer._metrics["eval"] == {}
    recorder.rank = 1
    other = _Trainer()
    Reporting(other, recorder)(_step("rollout", 0, [1.0]))
    assert other._metrics["train"] == {}


def test_a_trainer_without_such_metrics_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    del trainer._metrics
    with pytest.raises(HookError, match="report=True needs the metrics"):
        attach(trainer, Recorder(tmp_path / "log"), report=True)
    assert not (tmp_path / "log").exists()


def _expected(log: Path) -> dict[int, dict[str, float]]:
    """Step → numbers of its rollouts, from the log, type by type."""
    columns = ["student_end", "teacher_end"]
    rows = read_table(log, columns=columns)
    ends = {i for ids in (rocktok.open(log).run or {})["terminal_ids"].values() for i in ids}
    found: dict[int, dict[str, float]] = {}
    for step in np.unique(rows["step"]).tolist():
        here = {name: values[rows["step"] == step] for name, values in rows.items()}
        loss = here["loss"].astype(np.float64)
        by_type = sorted(loss[here["token_id"] == v].sum() for v in set(here["token_id"]))
        found[step] = {"loss": loss.mean(), "top10_loss_share": sum(by_type[-10:]) / loss.sum()}
        at = [i for i, v in enumerate(here["token_id"].tolist()) if v in ends]
        if at:
            found[step] |= {name: float(np.mean(here[name][at])) for name in columns}
    return found


def test_tensorboard_gets_them(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    student = make_model(1)
    # One token in eight: some texts end.
    student.generation_config.eos_token_id = list(range(0, VOCAB_SIZE, 8))
    trainer = make_trainer(
        tmp_path, student=student, report_to=["tensorboard"], logging_steps=2, max_steps=4
    )
    settings: dict[str, Any] = {"fixed_sequences": 4, "fixed_every": 1, "columns": "lenses"}
    with attach(trainer, Recorder(tmp_path / "log", every=1, **settings), report=True) as recorder:
        trainer.train()
    assert recorder.observer is None
    (events,) = (tmp_path / "trainer").rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events.parent))
    board.Reload()
    tags = [tag for tag in board.Tags()["scalars"] if "rocktok/" in tag]
    seen = {tag.removeprefix("train/rocktok/"): board.Scalars(tag) for tag in tags}
    expected = _expected(tmp_path / "log")
    assert any("teacher_end" in numbers for numbers in expected.values())
    for name in ("loss", "top10_loss_share", "student_end", "teacher_end"):
        means = {}
        for logged in (2, 4):
            # Step s of a log is of the student that had taken s; the trainer counts from one.
            values = [expected[s][name] for s in (logged - 2, logged - 1) if name in expected[s]]
            if values:
                means[logged] = np.mean(values)
        assert {e.step: e.value for e in seen[name]} == pytest.approx(means, rel=1e-5)
    fixed = read_table(tmp_path / "log", "fixed")
    means = {s: fixed["loss"][fixed["step"] == s].mean(dtype=np.float64) for s in range(5)}
    kept = {e.step: e.value for e in seen["fixed_loss"]}
    assert kept == pytest.approx({step: means[step] for step in (2, 4)}, rel=1e-5)
    # The last number is what `rocktok check` finds in the log.
    check = rocktok.check(tmp_path / "log", replicates=100)
    (saturation,) = (one for one in check.findings if one["name"] == "saturation")
    assert seen["loss_slope"][-1].value == pytest.approx(saturation["value"], rel=1e-4)


def _own_alone(found: dict[str, Any]) -> dict[str, Any]:
    logged = [
        {key: value for key, value in entry.items() if not key.startswith("rocktok/")}
        for entry in found["logged"]
    ]
    return {**found, "logged": logged}


def test_training_and_its_own_metrics_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the numbers fail."""
    settings: dict[str, Any] = {"every": 1, "fixed_sequences": 6, "fixed_every": 2}
    options: dict[str, Any] = {"max_steps": 2, "logging_steps": 1}
    plain = busy_trainer(tmp_path / "plain", **options)
    plain.train()
    untouched = outcome(plain)
    trainer = busy_trainer(tmp_path / "reported", **options)
    with attach(trainer, Recorder(tmp_path / "log", **settings), report=True):
        trainer.train()
    found = outcome(trainer)
    assert sum("rocktok/loss" in entry for entry in found["logged"]) == 2
    assert_same(_own_alone(found), untouched)

    def broken(*args: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(reporting, "rollout_numbers", broken)
    trainer = busy_trainer(tmp_path / "broken", **options)
    with (
        pytest.warns(RocktokWarning, match="numbers of a step are not reported: MemoryError"),
        attach(trainer, Recorder(tmp_path / "other", **settings), report=True),
    ):
        trainer.train()
    assert_same(_own_alone(outcome(trainer)), untouched)
    assert manifest(tmp_path / "other")["steps"] == manifest(tmp_path / "log")["steps"]


TRACKED = """
import sys
from pathlib import Path
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.trl_models import make_trainer

folder = Path(sys.argv[1])
trainer = make_trainer(folder, report_to=["trackio"], logging_steps=1, max_steps=2, project="mine")
with attach(trainer, Recorder(folder / "log", every=1, fixed_sequences=0), report=True):
    trainer.train()
"""


@pytest.mark.long
@pytest.mark.exhaustive
def test_trackio_gets_them(tmp_path: Path) -> None:
    home = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    # trackio, which TRL imports, reads at its import where it stores.
    done = subprocess.run(
        [sys.executable, "-c", TRACKED, str(tmp_path)],
        capture_output=True, text=True, timeout=LIMIT, cwd=ROOT, env={**os.environ, **home},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "trackio/mine.db") as base:
        stored = [json.loads(row) for (row,) in base.execute("select metrics from metrics")]
    shares = [row["train/rocktok/top10_loss_share"] for row in stored if "train/loss" in row]
    rows = read_table(tmp_path / "log")
    assert len(shares) == len(set(rows["step"])) == 2
    assert all(0 < share <= 1 for share in shares)
