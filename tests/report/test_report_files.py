"""`report -o DIR`: what it may replace, where it can write, how it ends when it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from rocktok.cli.report import MARKER, OWN, SCHEMA
from rocktok.directories import check_directory, write_directory
from rocktok.errors import LogError, UsageError
from tests.logs import shards, write_log
from tests.paths import SAMPLE
from tests.processes import LIMIT, start, wait_until
from tests.processes import run_command as run

#: An older report, as small as one can be.
REPORT = {
    "report.json": b'{"schema": "rocktok.report/3"}',
    "report.html": b"old",
    "figures/funnel.svg": b"old",
    "tables/tokens.csv": b"old",
}


def listed(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def check(path: Path, *, force: bool = False, logs: tuple[str, ...] = ()) -> Path:
    return check_directory(path, force=force, own=OWN, marker=MARKER, schema=SCHEMA, inputs=logs)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    write_directory(tmp_path / "older", REPORT, marker=MARKER)
    return tmp_path / "older"


# -- what it may replace -------------------------------------------------------------------


@pytest.mark.parametrize("place", ["note.txt", "figures/note.txt", "figures/more/funnel.svg",
                                   "tables/more", ".hidden"])  # fmt: skip
def test_what_no_report_made_is_not_replaced(older: Path, place: str) -> None:
    (older / place).parent.mkdir(exist_ok=True)
    (older / place).write_text("mine")
    before = listed(older)
    with pytest.raises(
        UsageError, match=r"older: contains .*, which is not part of a report; move it away"
    ):
        check(older, force=True)
    assert listed(older) == before


def test_the_log_is_not_replaced(older: Path) -> None:
    shutil.copytree(SAMPLE, older / "opd")
    before = listed(older)
    code, out, error = run("report", older / "opd", "-o", older, "--force")
    assert (code, out) == (2, "")
    assert error == (
        f"rocktok: {older}: contains opd, which is not part of a report; move it away, or give "
        "a new directory\n"
    )
    assert listed(older) == before


@pytest.mark.parametrize("log", ["older/figures", "older", "."])
def test_log_and_report_do_not_lie_in_each_other(older: Path, log: str) -> None:
    with pytest.raises(UsageError, match="overlaps with the log"):
        check(older, force=True, logs=(str(older.parent / log),))


def test_a_report_is_replaced_with_force_alone(older: Path) -> None:
    with pytest.raises(UsageError, match="exists already; give --force to replace it"):
        check(older)
    same = older.stat().st_ino
    write_directory(check(older, force=True), {"report.json": b"{}", "a/b": b"c"}, marker=MARKER)
    assert listed(older) == ["a", "a/b", "report.json"]
    assert older.stat().st_ino == same
    assert names(older.parent) == ["older"]


def test_the_older_one_stays_if_the_disk_fails(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = Path.rename, []

    def fails_late(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_late)
    with pytest.raises(LogError, match=r"older: cannot be written \(No space left on device\)"):
        write_directory(older, dict(REPORT), marker=MARKER)
    assert {name: (older / name).read_bytes() for name in REPORT} == REPORT
    assert listed(older) == sorted([*REPORT, "figures", "tables"])


# -- where it can write --------------------------------------------------------------------


@pytest.mark.long
def test_the_directory_one_stands_in(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    same = here.stat().st_ino
    log = write_log(tmp_path / "log", sequences=60)
    options = ("--no-lifts", "--replicates", 100, "-q")
    code, out, error = run("report", log, "-o", ".", *options, cwd=here)
    assert (code, out.splitlines()[-1], error) == (0, "report.html", "")
    assert here.stat().st_ino == same
    assert {"report.html", "report.json", "figures", "tables"} == set(names(here))
    assert names(tmp_path) == ["here", "log"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_directory(check(tmp_path / "link"), REPORT, marker=MARKER)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "real"]
    assert (tmp_path / "real" / "report.html").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a directory that no one can write")
def test_an_unwritable_place_is_found_before_the_work() -> None:
    code, out, error = run("report", "nowhere", "-o", "/proc/report/new")
    assert (code, out) == (1, "")
    assert error.startswith("rocktok: /proc/report/new: cannot be written (")
    assert error.count("\n") == 1


def test_links_in_a_circle_and_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="a: cannot be written"):
        check(tmp_path / "a")
    with pytest.raises(LogError, match="cannot be written"):
        check(tmp_path / "file" / "new")
    with pytest.raises(UsageError, match="file: is a file; give a directory"):
        check(tmp_path / "file")


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    assert check(tmp_path / "x" / "y") == tmp_path / "x" / "y"
    assert names(tmp_path) == []


@pytest.mark.parametrize("command", ["report", "detect", "info"])
def test_addresses_are_no_outputs(tmp_path: Path, command: str) -> None:
    code, out, error = run(command, SAMPLE, "-o", "s3://bucket/x", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "s3://bucket/x: is an address; give a local path for the output" in error
    assert names(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("command", ["info", "detect", "report"])
def test_a_log_whose_path_is_not_utf8(tmp_path: Path, command: str) -> None:
    log = os.fsencode(tmp_path) + b"/bad\xff\xfename"
    shutil.copytree(os.fsencode(SAMPLE), log)
    more = ("-o", tmp_path / "out") if command == "report" else ()
    code, out, error = run(command, log, *more)
    assert (code, out) == (2, "")
    message = "is not UTF-8, as paths of logs must be; rename it\n"
    assert error == f"rocktok: {tmp_path}/bad\\xff\\xfename: {message}"
    assert not (tmp_path / "out").exists()


# -- how it ends when it is stopped --------------------------------------------------------


def members(group: int) -> list[int]:
    """Processes of a group that are alive, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def draws(process: int) -> bool:
    """Whether a process has loaded matplotlib."""
    try:
        return "matplotlib" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False


FURTHER = [pytest.mark.long, pytest.mark.exhaustive]

#: Signal, whether the whole group gets it, whether the workers draw already → exit code. Each way
#: to stop it once, and at both stages those that differ in what is left to others: its own handler,
#: and none.
STOPS = [
    (signal.SIGINT, False, False, 130),
    pytest.param(signal.SIGINT, True, True, 130, marks=pytest.mark.long),
    pytest.param(signal.SIGTERM, False, True, 143, marks=pytest.mark.long),
    pytest.param(signal.SIGTERM, True, False, 143, marks=FURTHER),
    pytest.param(signal.SIGKILL, False, False, -9, marks=FURTHER),
    pytest.param(signal.SIGKILL, False, True, -9, marks=pytest.mark.long),
]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(("signal_", "whole_group", "drawing", "code"), STOPS)
def test_no_process_and_no_file_is_left(
    tmp_path: Path, signal_: int, whole_group: bool, drawing: bool, code: int
) -> None:
    """Stopped when the process whose forks draw has just begun, or when both of its forks draw.

    Beside them there is Python's tracker of resources.
    The pipes would stay open if one of them went on.
    """
    command = [sys.executable, "-m", "rocktok", "report", str(SAMPLE), "-o", "out", "--jobs", "2"]
    work = start(command, cwd=tmp_path, start_new_session=True)
    try:
        wait_until(lambda: len(members(work.pid)) == 3, work)
        if drawing:
            wait_until(lambda: sum(map(draws, members(work.pid))) == 3, work)
        (os.killpg if whole_group else os.kill)(work.pid, signal_)
        out, error = work.communicate(timeout=LIMIT)
    finally:
        work.kill()
    assert work.returncode == code
    assert out == b""
    if signal_ != signal.SIGKILL:
        assert error == b"rocktok: stopped\n"
    wait_until(lambda: not members(work.pid))
    assert names(tmp_path) == []


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_stops_it_unless_the_parent_ignores_it(tmp_path: Path, ignored: bool) -> None:
    """As nohup and `&` do. The command waits for an absent file meanwhile."""
    log = write_log(tmp_path / "log")
    shard, aside = shards(log)[0], tmp_path / "aside"
    shard.rename(aside)
    command = [sys.executable, "-m", "rocktok", "info", str(log)]
    work = start(command, sigint=signal.SIG_IGN if ignored else signal.default_int_handler)
    assert work.stderr is not None
    assert b"listed but absent; waiting" in work.stderr.readline()
    work.send_signal(signal.SIGINT)
    if ignored:
        aside.rename(shard)
    out, error = work.communicate(timeout=LIMIT)
    assert (work.returncode, error) == ((0, b"") if ignored else (130, b"rocktok: stopped\n"))
    assert bool(out) == ignored
