"""Recording needs NumPy and pyarrow, and nothing else: a training image is not ours to fill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import rocktok
from tests.paths import ROOT

_RECORD = """
import sys
import tomllib
from pathlib import Path

root, log = sys.argv[1:]
needs = tomllib.loads((Path(root) / "pyproject.toml").read_text())["project"]["dependencies"]
absent = {need.partition(">=")[0] for need in needs} - {"numpy", "pyarrow"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent | {"torch", "transformers", "trl"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())

import numpy as np
from rocktok.hooks import Recorder
from rocktok.hooks.rollouts import Rollout

recorder = Recorder(log, every=1, fixed_sequences=0, columns=(), quiet=True)
recorder.start(run={"vocab_size": 8})
for step in range(3):
    ids = np.arange(4, dtype=np.int32)
    text = Rollout(sequence_id=step, step=step, prompt_id="p", prompt_token_ids=ids,
                   completion_token_ids=ids, loss_mask=np.ones(4, np.int8),
                   finish_reason="stop", domain=None)
    recorder.record(step, {"sequence_id": np.full(4, step), "position": ids, "token_id": ids,
                           "loss": np.ones(4)}, rollouts=[text])
    recorder.finish_step(step)
recorder.close()
"""


def test_a_run_is_recorded_with_numpy_and_pyarrow_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RECORD, str(ROOT), str(tmp_path / "log")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    log = rocktok.open(tmp_path / "log")
    assert [(step.step, step.rows) for step in log.steps("rollout")] == [(0, 4), (1, 4), (2, 4)]
    assert log.warnings() == []
