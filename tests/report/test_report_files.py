"""`report -o DIR`: what it may replace, where it can write, how it ends when it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rocktok.cli.report import MARKER, OWN, SCHEMA
from rocktok.directories import check_directory, write_directory
from rocktok.errors import LogError, UsageError
from tests.paths import SAMPLE
from tests.processes import run_command as run

#: An older report, as small as one can be.
REPORT = {
    "report.json": b'{"schema": "rocktok.report/1"}',
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
    with pytest.raises(UsageError, match=r"older: holds .*, which no report made; move it away"):
        check(older, force=True)
    assert listed(older) == before


def test_the_log_is_not_replaced(older: Path) -> None:
    shutil.copytree(SAMPLE, older / "opd")
    before = listed(older)
    code, out, error = run("report", older / "opd", "-o", older, "--force")
    assert (code, out) == (2, "")
    assert error == (
        f"rocktok: {older}: holds opd, which no report made; move it away, or give a new "
        "directory\n"
    )
    assert listed(older) == before


@pytest.mark.parametrize("log", ["older/figures", "older", "."])
def test_log_and_report_do_not_lie_in_each_other(older: Path, log: str) -> None:
    with pytest.raises(UsageError, match="lie in each other"):
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


def test_the_directory_one_stands_in(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    same = here.stat().st_ino
    code, out, error = run("report", SAMPLE, "-o", ".", "--no-lifts", "-q", cwd=here)
    assert (code, out, error) == (0, "report.html\n", "")
    assert here.stat().st_ino == same
    assert {"report.html", "report.json", "figures", "tables"} == set(names(here))
    assert names(tmp_path) == ["here"]


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
    assert "s3://bucket/x: is an address; outputs are written to local paths" in error
    assert names(tmp_path) == []


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


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("late", [0.0, 1.5])
@pytest.mark.parametrize(
    "signal_, whole_group, code",
    [(signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143), (signal.SIGINT, False, 130),
     (signal.SIGINT, True, 130), (signal.SIGKILL, False, -9)],
)  # fmt: skip
def test_no_process_and_no_file_is_left(
    tmp_path: Path, signal_: int, whole_group: bool, code: int, late: float
) -> None:
    """Stopped when its workers (two, and Python's tracker of resources) have just begun, or later.

    The pipes would stay open if one of them went on.
    """
    work = subprocess.Popen(
        [sys.executable, "-m", "rocktok", "report", SAMPLE, "-o", "out", "--jobs", "2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert wait_until(lambda: len(members(work.pid)) == 4)
        time.sleep(late)
        (os.killpg if whole_group else os.kill)(work.pid, signal_)
        out, error = work.communicate(timeout=30)
    finally:
        work.kill()
    assert work.returncode == code
    assert out == b""
    if signal_ != signal.SIGKILL:
        assert error == b"rocktok: stopped\n"
    assert wait_until(lambda: not members(work.pid), 10)
    assert names(tmp_path) == []
