"""A killed process leaves no part of an output, and the next run puts things right."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from rocktok.cli.report import MARKER, OWN, SCHEMA
from rocktok.directories import check_directory, write_directory
from rocktok.errors import LogError
from rocktok.files import write_output
from rocktok.temporary import holding, temporary_directory
from tests.faults.kills import Trial, contents, kill_at, try_kills
from tests.logs import write_log

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

OLD = {"report.json": b'{"schema": "rocktok.report/1"}', "report.html": b"old",
       "figures/a.svg": b"old", "tables/old.csv": b"old"}  # fmt: skip
NEW = {"report.json": b'{"schema": "rocktok.report/2"}', "report.html": b"new",
       "figures/a.svg": b"new", "figures/b.svg": b"new"}  # fmt: skip


def killed(change: int, below: Path, function: object, *arguments: object) -> bool:
    """Whether a process that calls the function came to its n-th change, and was killed there."""

    def work() -> None:
        kill_at(change, below)
        function(*arguments)  # type: ignore[operator]
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def write(path: Path, files: dict[str, bytes]) -> None:
    target = check_directory(path, force=True, own=OWN, marker=MARKER, schema=SCHEMA)
    write_directory(target, files, marker=MARKER)


@pytest.mark.long
@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_directory_is_the_old_or_the_new_one_after_a_kill_at_every_change(
    tmp_path: Path,
) -> None:
    """And the run after it writes the new one, whatever the earlier one was about to do."""
    change, ends = 1, set()
    while True:
        folder = tmp_path / str(change)
        write(folder / "report", OLD)
        if not killed(change, folder, write, folder / "report", NEW):
            break
        # What any run does first; without --force it is refused, as a report is there.
        with pytest.raises(Exception, match="exists already; give --force"):
            check_directory(folder / "report", force=False, own=OWN, marker=MARKER, schema=SCHEMA)
        found = contents(folder / "report")
        ends.add("old" if found == OLD else "new" if found == NEW else f"neither at {change}")
        write(folder / "report", NEW)
        assert contents(folder / "report") == NEW
        assert [p.name for p in folder.iterdir()] == ["report"]
        change += 1
    assert ends == {"old", "new"}
    assert change > 15


@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("there", [False, True])
def test_a_new_directory_is_whole_or_not_there(tmp_path: Path, there: bool) -> None:
    change = 1
    while True:
        folder = tmp_path / str(change)
        (folder / "report" if there else folder).mkdir(parents=True)
        if not killed(change, folder, write, folder / "report", NEW):
            break
        write(folder / "report", NEW)
        assert contents(folder / "report") == NEW
        assert [p.name for p in folder.iterdir()] == ["report"]
        change += 1
    assert change > 8


@forks
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_whole_or_not_there(tmp_path: Path, force: bool) -> None:
    change = 1

    def replace(path: Path) -> None:
        write_output(path, b"new", force=force)

    while True:
        folder = tmp_path / str(change)
        folder.mkdir()
        target = folder / "rocks.json"
        if force:
            target.write_bytes(b"old")
        if not killed(change, folder, replace, target):
            break
        allowed = (b"old", b"new") if force else (None, b"new")
        assert (target.read_bytes() if target.exists() else None) in allowed
        write_output(target, b"new", force=True)
        assert target.read_bytes() == b"new"
        assert [p.name for p in folder.iterdir()] == ["rocks.json"]
        change += 1
    assert change >= 3


def test_what_a_living_process_holds_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    target = tmp_path / "compact"
    with temporary_directory(target) as made:
        (made / "shard").write_text("")
        with temporary_directory(target) as other:
            assert other != made
        assert (made / "shard").exists()
    write(tmp_path / "report", OLD)
    with holding(tmp_path / "report"), pytest.raises(LogError, match="another process is writing"):
        write(tmp_path / "report", NEW)
    assert contents(tmp_path / "report") == OLD


@pytest.mark.long
@pytest.mark.exhaustive
def test_commands_that_are_killed(tmp_path: Path) -> None:
    """A sample; `python -m tests.faults.kills` tries all commands, 30 times each."""
    log = str(write_log(tmp_path / "log"))
    assert try_kills(Trial(["compact", log], "compact"), 3) == []
    assert try_kills(Trial(["detect", log, "--no-replication"], "rocks.json"), 2) == []
