"""SIGKILL: what was flushed is in the log, whole, and the next attempt goes on from there.

A few kills by default; `ROCKTOK_KILLS=200` for many.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rocktok
from rocktok.analyses.info.passes import info
from tests.paths import ROOT
from tests.processes import wait_until

KILLS = int(os.environ.get("ROCKTOK_KILLS", "4"))
ATTEMPTS = 6
ROWS = 400

#: Records step after step, and says after each flush up to which one all is published.
CHILD = """
import sys
import numpy as np
from rocktok.hooks import Recorder
from tests.hooks.test_recorder_beside import keep, score
from tests.hooks.test_recorder_kills import ROWS, losses

log, first, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
recorder = Recorder(log, every=1, columns=["student_logprob"], fixed_sequences=2, queue_steps=1000,
                    quiet=True)
recorder.start(resume_step=first, run={"vocab_size": 9})
keep(recorder, 2)
recorder.new_sequence_ids(2)
step = first
while True:
    (sequence,) = recorder.new_sequence_ids(1).tolist()
    recorder.record(step, {"sequence_id": np.full(ROWS, sequence), "position": np.arange(ROWS),
                           "token_id": np.arange(ROWS) % 9, "loss": losses(step),
                           "student_logprob": losses(step)})
    recorder.finish_step(step)
    score(recorder, step)
    if step % every == 0:
        recorder._background.settle(600)
        print(step, flush=True)
    step += 1
"""


def losses(step: int) -> np.ndarray:
    return np.random.default_rng(step).random(ROWS, dtype=np.float32)


def kill_one(log: Path, first: int, draw: random.Random) -> int:
    """Record from a step on, kill at a random moment; returns the last step known to be flushed."""
    command = [sys.executable, "-c", CHILD, str(log), str(first), str(draw.choice((1, 2, 5)))]
    flushes = draw.randint(1, 6)
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(flushes)]
        # The moment: while the next flushes are made, anywhere in them.
        for _ in range(draw.randint(0, 200_000)):
            pass
        child.send_signal(signal.SIGKILL)
        said += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
    wait_until(lambda: child.poll() is not None)
    assert child.returncode == -signal.SIGKILL
    return said[-1]


def check(log: Path, flushed: int) -> None:
    """Every step up to the last one flushed is there, and what is there is right."""
    opened = rocktok.open(log)
    found = {}
    for batch in opened.scan("rollout", ["token_id", "loss"]):
        for step in np.unique(batch.columns["step"]).tolist():
            mine = batch.columns["step"] == step
            found[step] = batch.columns["loss"][mine]
    assert set(range(flushed + 1)) <= set(found), "a flushed step is lost"
    for step, loss in found.items():
        assert np.array_equal(loss, losses(step)), f"step {step} is not what was recorded"
    for table in ("rollout", "fixed", "alternatives"):
        assert set(range(flushed + 1)) <= set(opened.complete_steps(table))
    batches = list(opened.scan("contexts", ["context"]))
    keys = [
        (sequence, position)
        for batch in batches
        for sequence, position in zip(
            batch.columns["sequence_id"].tolist(), batch.columns["position"].tolist(), strict=True
        )
    ]
    # Once, by whichever attempt came first.
    assert sorted(keys) == [(sequence, position) for sequence in (0, 1) for position in range(3)]
    assert info(opened, verify=True).damage == ()


@pytest.mark.long
@pytest.mark.exhaustive
def test_kills_lose_only_what_was_not_flushed(tmp_path: Path) -> None:
    draw, flushed = random.Random(0), -1
    for number in range(KILLS):
        log = tmp_path / str(number // ATTEMPTS)
        first = flushed + 1 if number % ATTEMPTS else 0
        flushed = kill_one(log, first, draw)
        check(log, flushed)
        # The next attempt repeats nothing that it should not, and hides nothing.
        assert len(list((log / "attempts").iterdir())) == number % ATTEMPTS + 1
