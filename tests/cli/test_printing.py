"""What commands print: lists as long as asked, colour on a terminal alone, whole in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import click
import pytest
from rich.cells import cell_len

import rocktok
from tests.paths import SAMPLE
from tests.processes import run_command

#: Command that lists → options that make it quick.
LISTS = {
    "detect": "",
    "attribute": "--replicates 100",
    "stagnation": "--replicates 100",
    "stability": "--context off --repeats 2 --replicates 100",
    "compare": str(SAMPLE),
}


def rows(printed: str) -> int:
    """Lines that begin with a token, as a Python literal."""
    return len(re.findall(r"^['\"]", printed, re.MULTILINE))


def listed(command: str, *more: str) -> str:
    options = shlex.split(LISTS[command])
    code, printed, _ = run_command(command, SAMPLE, *options, *more, "-q")
    assert code == 0
    return printed


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[] if c in ("detect", "compare") else pytest.mark.long) for c in LISTS],
)
def test_a_list_is_as_long_as_asked_and_names_its_remedy(command: str) -> None:
    cut = re.compile(r"^… (\d+) more(?! column).*? \(([^)]*)\)$", re.MULTILINE)
    shown = listed(command)
    assert rows(shown) == 20
    # Longer than by default in one command, shorter in the others.
    top = 23 if command == "detect" else 3
    assert rows(listed(command, "--top", str(top))) == top
    ((left, remedy),) = cut.findall(shown)
    whole = listed(command, *shlex.split(remedy))
    assert not cut.search(whole)
    # The types with less loss, too, are more than a result of `stagnation` counts.
    more = rows(whole) - 20 - int(left)
    assert more > 0 if command == "stagnation" else more == 0


def test_lists_of_controls_are_as_long_as_asked() -> None:
    def shown(*options: str) -> list[int]:
        printed = run_command("controls", SAMPLE, "-q", "--kind", "loss", *options)[1]
        (items,) = re.findall(r"no match for the types\n((?:  .*\n)+)", printed)
        return [len(re.split(r",\s+", items.strip())), printed.count("… ")]

    assert shown() == [20, 1]
    assert shown("--top", "3") == [3, 1]
    assert shown("--all") == [25, 0]


@pytest.mark.long
def test_files_are_not_cut_by_what_a_terminal_shows(tmp_path: Path) -> None:
    for options, length in (((), 30), (("--top", "3"), 30), (("--all",), 232)):
        path = tmp_path / f"{len(options)}{length}.json"
        assert run_command("detect", SAMPLE, "-q", *options, "-o", path)[0] == 0
        assert len(json.loads(path.read_text())["tokens"]) == length
    for options, length in (((), 100), (("--top", "3"), 3), (("--all",), 232)):
        path = tmp_path / f"{len(options)}{length}.csv"
        quick = ("--replicates", 100, "-q")
        assert run_command("attribute", SAMPLE, *quick, *options, "-o", path)[0] == 0
        assert len(path.read_text().splitlines()) == 1 + length


def test_no_rows_are_refused() -> None:
    for command in ("detect", "controls", "compare", "attribute", "stability"):
        call = (command, SAMPLE, *((SAMPLE,) if command == "compare" else ()), "--top", 0)
        assert run_command(*call) == (2, "", "rocktok: --top is 0; it must be 1 or more\n")


def test_a_result_in_python_is_what_the_command_prints() -> None:
    assert run_command("detect", SAMPLE, "-q")[1] == f"{rocktok.detect(SAMPLE)!r}\n"
    options = {"top": 5, "replicates": 100}
    result = rocktok.attribute(SAMPLE, **options)
    assert listed("attribute", "--top", "5") == f"{result!r}\n"


def on_a_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """What a process prints on a terminal so wide."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rocktok", *arguments], stdout=child, stderr=subprocess.DEVNULL,
        env={**own, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(child)
    parts = []
    with os.fdopen(parent, "rb", buffering=0) as stream:
        # At its end a terminal whose other side is closed is an error on Linux.
        try:
            while part := stream.read(65536):
                parts.append(part)
        except OSError:
            pass
    assert process.wait() == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [pytest.param(80, marks=pytest.mark.long), 160])
def test_on_a_terminal(columns: int) -> None:
    shown = on_a_terminal(columns, "detect", str(SAMPLE))
    lines = shown.splitlines()
    assert lines[0].startswith("\x1b[36m\x1b[1m30 rock tokens carry ")
    plain = click.unstyle(shown)
    assert max(cell_len(line) for line in plain.splitlines()) <= columns
    assert ("persist" in plain.split("'So'")[0]) == (columns == 160)
    if columns == 160:
        assert on_a_terminal(columns, "detect", str(SAMPLE), NO_COLOR="1") == plain


def test_color_can_be_forced_into_a_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = run_command("detect", SAMPLE, "-q")[1]
    assert "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    colored = run_command("detect", SAMPLE, "-q")[1]
    assert colored != plain
    assert click.unstyle(colored) == plain
    # Neither files nor other formats have any.
    run_command("detect", SAMPLE, "-q", "-o", tmp_path / "table.txt")
    assert (tmp_path / "table.txt").read_text() == plain
    assert "\x1b" not in run_command("detect", SAMPLE, "-q", "--format", "json")[1]


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "rocktok", "detect", str(SAMPLE), "-q"], stdout=write,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
