"""Processes killed (SIGKILL) where they touch an output: what is left, and what the next run does.

`python -m tests.faults.kills [KILLS]` kills each command that often, at places spread over all of
its changes to files, over a new output and over an older one, and prints what came of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

#: What Python reports before it changes a file, and with which arguments are paths.
_CHANGES = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}

#: Runs the command line; the `KILL_AT`-th change below `KILL_BELOW` is its last.
_CALL = """
import sys
from tests.faults.kills import heed_environment
heed_environment()
from rocktok.cli import run
run()
"""


def kill_at(change: int, below: Path, tell: Callable[[int], None] | None = None) -> None:
    """Let this process be killed before its n-th change (from 1; 0: never) to files in a folder.

    `tell` is given the number of each change.
    """
    folder, count = str(below), 0

    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _CHANGES:
            return
        # Names within a directory that is removed as a whole come with its descriptor.
        within = event in ("os.remove", "os.rmdir") and arguments[1] != -1
        path = arguments[0]
        if not within and (isinstance(path, int) or not os.fsdecode(path).startswith(folder)):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
            return
        count += 1
        if tell is not None:
            tell(count)
        if count == change:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heed)


def heed_environment() -> None:
    """`kill_at` as the environment says; the number of changes goes into the file `KILL_COUNT`."""
    counted = os.environ.get("KILL_COUNT")

    def tell(number: int) -> None:
        assert counted is not None
        Path(counted).write_text(str(number))

    kill_at(int(os.environ["KILL_AT"]), Path(os.environ["KILL_BELOW"]), tell if counted else None)


def contents(path: Path) -> dict[str, bytes] | None:
    """Relative path → bytes, hidden names too; None if there is nothing."""
    if not path.exists():
        return None
    if path.is_file():
        return {"": path.read_bytes()}
    files = (f for f in path.rglob("*") if f.is_file())
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in files}


@dataclass(frozen=True)
class Trial:
    """A command of the line, without its output, and what it may find there.

    Attributes:
        command: name and arguments.
        output: name of the output within a folder of its own.
        older: makes an older output at a path, which --force replaces; None: there is none.
        look: what a run makes of an output, to be the same after a kill and another run.
        goes_on: whether a run takes up what a killed one left.
    """

    command: Sequence[str]
    output: str
    older: Callable[[Path], None] | None = None
    look: Callable[[Path], object] = contents
    goes_on: bool = False

    def begin(self, folder: Path) -> Path:
        """The output in a new folder, with the older one where there is one."""
        folder.mkdir()
        if self.older is not None:
            self.older(folder / self.output)
        return folder / self.output

    def run(self, folder: Path, at: int = 0, count: Path | None = None) -> tuple[int, str]:
        """(exit code, stderr) of the command, killed at a change; in a process of its own."""
        environment = {**os.environ, "KILL_AT": str(at), "KILL_BELOW": str(folder)}
        if count is not None:
            environment["KILL_COUNT"] = str(count)
        force = ["--force"] if self.older else []
        words = [*self.command, "-o", str(folder / self.output), "-q", *force]
        done = subprocess.run(
            [sys.executable, "-c", _CALL, *words], capture_output=True, env=environment
        )
        return done.returncode, done.stderr.decode()


def try_kills(trial: Trial, kills: int) -> list[str]:
    """What went wrong in so many kills, spread over all changes to files; one line each."""
    with tempfile.TemporaryDirectory() as name:
        output, count = trial.begin(Path(name) / "whole"), Path(name) / "count"
        code, error = trial.run(output.parent, count=count)
        assert code == 0, error
        wanted, changes, wrong = trial.look(output), int(count.read_text()), []
        for number in range(kills):
            at = 1 + number * changes // kills
            output = trial.begin(Path(name) / "killed")
            found = _killed(trial, output, at, wanted)
            wrong += [f"change {at} of {changes}: {line}" for line in found]
            shutil.rmtree(output.parent)
    return wrong


def _killed(trial: Trial, output: Path, at: int, wanted: object) -> Iterator[str]:
    """What is wrong after a kill, and after the run that follows it."""
    code, _ = trial.run(output.parent, at)
    if code != -signal.SIGKILL:
        yield f"ended with {code}, and was not killed"
    is_there = output.exists()
    if is_there and not (trial.older or trial.goes_on) and trial.look(output) != wanted:
        yield "a part of the output is there"
    if trial.older or trial.goes_on or not is_there:
        code, error = trial.run(output.parent)
        if code != 0:
            yield f"the next run ends with {code}: {error.strip()}"
            return
        if left := [p.name for p in output.parent.iterdir() if p != output]:
            yield f"the next run leaves {', '.join(left)}"
    if trial.look(output) != wanted:
        yield "the next run has other bytes"


def rows_of(log: Path) -> object:
    """Rows of a log, which may lie in other shards after a kill, and its hidden files."""
    import pandas as pd

    import rocktok

    opened, rows = rocktok.open(log), {}
    for table in opened.tables():
        frame = pd.concat([pd.read_parquet(log / shard.path) for shard in opened.shards(table)])
        keys = [name for name in ("step", "sequence_id", "position") if name in frame]
        rows[table] = frame.sort_values(keys, ignore_index=True).astype(str).to_csv()
    return rows, sorted(str(path.relative_to(log)) for path in log.rglob(".*"))


def make_trials(folder: Path) -> dict[str, Trial]:
    """Of each command that writes an output; their inputs are made in the folder."""
    from tests.logs import write_log
    from tests.trl_models import make_model, make_tokenizer

    log = str(write_log(folder / "log", sequences=60))
    for name, seed in (("checkpoint-10", 1), ("checkpoint-20", 3), ("teacher", 2)):
        make_model(seed).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    text = [
        {"sequence_id": i, "prompt_token_ids": [2 + i % 7, 5], "token_ids": [9, 3 + i % 5, 4, 8]}
        for i in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(text), folder / "text.parquet")
    students = [w for step in (10, 20) for w in ("--student", str(folder / f"checkpoint-{step}"))]
    rescore = ["rescore", "--text", str(folder / "text.parquet"), *students, "--teacher",
               str(folder / "teacher"), "--device", "cpu", "--shard-rows", "40"]  # fmt: skip
    report = ["report", log, "--no-lifts", "--replicates", "100", "--jobs", "1"]
    detect = ["detect", log, "--no-replication", "--jobs", "1"]
    return {
        "detect -o": Trial(detect, "rocks.json"),
        "detect -o --force": Trial(detect, "rocks.json", lambda path: _write(path, b"older")),
        "compact": Trial(["compact", log], "compact"),
        "export": Trial(["export", log], "exported"),
        "export --force": Trial(["export", log, "--to", "csv"], "exported", _older_export),
        "report": Trial(report, "report"),
        "report --force": Trial(report, "report", _older_report),
        "rescore": Trial(rescore, "scored", look=rows_of, goes_on=True),
    }


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _older_export(path: Path) -> None:
    for name in ("README.md", "fixed/00000.parquet", "fixed/00001.parquet"):
        _write(path / name, b"older")
    _write(path / "export.json", b'{"schema": "rocktok.export/1"}')


def _older_report(path: Path) -> None:
    for name in ("report.html", "figures/ccr.svg", "tables/old.csv"):
        _write(path / name, b"older")
    _write(path / "report.json", b'{"schema": "rocktok.report/1"}')


def _main(kills: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for label, trial in make_trials(Path(name)).items():
            wrong = try_kills(trial, kills)
            print(f"{label}: {kills} kills, {len(wrong)} wrong", *wrong[:5], sep="\n  ", flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
