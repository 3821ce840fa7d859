"""The batch scripts of docs/cluster on a real SLURM; `.ci/slurm-up` starts one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rocktok.log import LogWriter
from tests.logs import RUN, rows, sequence_rows, shards
from tests.paths import ROOT

pytest.importorskip("distributed")

pytestmark = pytest.mark.long

SCRIPTS = ROOT / "docs" / "cluster"
DETECT = ["--all", "--quantile-pre", "0.5", "--quantile-post", "0.5", "--gamma", "0.3"]

#: Seconds that a job may wait and run; alone on two cores it takes about ten.
PATIENCE = 180

OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


class Slurm:
    """Submits scripts that write their output to `folder`, and waits for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[str] = []

    def run(self, script: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """The final state of each task of the job."""
        job = self.ask(
            "sbatch", "--parsable", f"--chdir={self.folder}", f"--nodelist={_host()}",
            "--cpus-per-task=1", "--mem-per-cpu=500M", *options, str(SCRIPTS / script), *arguments,
        ).strip()  # fmt: skip
        self.jobs.append(job)
        deadline = time.monotonic() + PATIENCE
        # `sbatch --wait` would look every half minute.
        query = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T")
        while not set(states := self.ask(*query).split()) <= OVER:
            if time.monotonic() > deadline:
                pytest.fail(f"{script} is {states} after {PATIENCE} s:\n{self.output()}")
            time.sleep(0.2)
        return states

    def ask(self, *command: str) -> str:
        environment = {**os.environ, "ROCKTOK_PYTHON": sys.executable}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def output(self) -> str:
        """What the jobs have printed, warnings and errors included."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.out")))

    def stop(self) -> None:
        if self.jobs:
            self.ask("scancel", "--quiet", *self.jobs)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


@cache
def _why_not() -> str | None:
    """Why there is no SLURM for these tests."""
    for command in ("sbatch", "sinfo"):
        if shutil.which(command) is None:
            return f"{command} is not installed; .ci/slurm-up installs and starts SLURM"
    query = ["sinfo", "--noheader", "--Node", "--format=%N"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "sinfo does not answer within 20 s"
    if done.returncode != 0:
        return f"sinfo does not answer: {done.stderr.strip().splitlines()[-1]}"
    if _host() not in done.stdout.split():
        return f"{_host()} is not a node of the SLURM that answers"
    return None


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    why_not = _why_not()
    if why_not is not None:
        pytest.skip(f"no SLURM: {why_not}")
    folder = tmp_path / "jobs"
    folder.mkdir()
    running = Slurm(folder)
    yield running
    running.stop()


def write_shards(path: Path, seed: int) -> Path:
    """Two steps of eight shards, one of each rank."""
    run_id, attempt = None, 0
    for rank in range(8):
        with LogWriter(
            path, run=RUN, rank=rank, world_size=8, run_id=run_id, attempt=attempt
        ) as writer:
            ids = range(20 * rank, 20 * (rank + 1))
            writer.write(sequence_rows(ids), table="sequences")
            for step in (0, 10):
                writer.write(rows(step, ids, tokens=40, seed=seed), table="fixed")
                writer.finish_step(step, "fixed")
                writer.flush()
            run_id, attempt = writer.run_id, writer.attempt
    assert len(shards(path)) == 16
    return path


def here(log: Path) -> bytes:
    """What the same command gives without a cluster."""
    command = [sys.executable, "-m", "rocktok", "detect", str(log), "--format", "json", *DETECT]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dask_cluster_in_a_job_gives_the_same_bytes(slurm: Slurm, tmp_path: Path) -> None:
    log = write_shards(tmp_path / "log", seed=0)
    states = slurm.run("detect.sbatch", str(log), "rocks.json", *DETECT, options=("--ntasks=2",))
    assert states == ["COMPLETED"], slurm.output()
    assert "2 of 2 workers, 2 threads\n" in slurm.output()
    assert (slurm.folder / "rocks.json").read_bytes() == here(log)
    assert {path.suffix for path in slurm.folder.iterdir()} == {".json", ".out"}


def test_a_job_that_fails_says_why_and_leaves_nothing(slurm: Slurm, tmp_path: Path) -> None:
    states = slurm.run("detect.sbatch", str(tmp_path / "none"), "r.json", options=("--ntasks=1",))
    assert states == ["FAILED"]
    assert f"rocktok: {tmp_path / 'none'}: no such directory" in slurm.output()
    assert {path.suffix for path in slurm.folder.iterdir()} == {".out"}


def test_an_array_job_answers_a_log_in_each_task(slurm: Slurm, tmp_path: Path) -> None:
    logs = [write_shards(tmp_path / name, seed) for seed, name in enumerate(("one", "two words"))]
    listed = tmp_path / "logs.txt"
    listed.write_text("\n".join(map(str, logs)))
    states = slurm.run("array.sbatch", str(listed), "rocks", *DETECT, options=("--array=1-3",))
    # No log on the third line; the others do not mind.
    assert sorted(states) == ["COMPLETED", "COMPLETED", "FAILED"], slurm.output()
    assert f"array.sbatch: {listed}: no log on line 3" in slurm.output()
    for number, log in enumerate(logs, 1):
        answer = slurm.folder / "rocks" / f"{number}-{log.name}.json"
        assert answer.read_bytes() == here(log)
