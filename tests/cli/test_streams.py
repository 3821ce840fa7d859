"""stdout and stderr that are closed, full, devices, pipes without a reader; control characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest

import rocktok
import rocktok.cli
from rocktok.analyses import analyses
from rocktok.cli import cli, options, streams
from rocktok.errors import LogError, printable
from rocktok.log import LogWriter
from rocktok.tables.terminal import View
from tests import processes
from tests.logs import RUN, rows, sequence_rows, write_log
from tests.processes import run_command

CLOSED = "rocktok: the output cannot be written (stdout is closed)\n"
FULL = "rocktok: the output cannot be written (No space left on device)\n"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("streams") / "log")


def shell(words: str, cwd: Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a line of the shell in which `rocktok` is ours."""
    ours = f'rocktok() {{ "{sys.executable}" -m rocktok "$@"; }}; {words}'
    environment = {**os.environ, "PYTHONPATH": str(Path(rocktok.__file__).parents[1])}
    done = subprocess.run(["sh", "-c", ours], capture_output=True, cwd=cwd, env=environment)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


# -- closed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["info log >&-", *(pytest.param(f"{w} >&-", marks=pytest.mark.long)
              for w in ("--help", "--version", "detect --help", "info log --format json",
                        "detect log -q"))]
)  # fmt: skip
def test_a_closed_stdout_is_an_output_that_cannot_be_written(words: str, log: Path) -> None:
    assert shell(f"rocktok {words}", log.parent) == (1, "", CLOSED)


def test_a_closed_stdout_matters_to_what_is_printed_alone(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "info.json"
    assert shell(f"rocktok info log -o {output} >&- 2>&- <&-", log.parent) == (0, "", "")
    assert json.loads(output.read_text())["schema"].startswith("rocktok.info/")


@pytest.mark.parametrize(
    ("words", "code"),
    [("info log", 0), *(pytest.param(w, c, marks=pytest.mark.long)
     for w, c in (("info nowhere", 1), ("info --nothing", 2), ("detect log", 0)))],
)  # fmt: skip
@pytest.mark.parametrize("lost", ["2>&-", pytest.param("2>/dev/full", marks=pytest.mark.long)])
def test_lost_messages_change_nothing_else(words: str, code: int, lost: str, log: Path) -> None:
    if "full" in lost and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    whole = shell(f"rocktok {words}", log.parent)
    assert shell(f"rocktok {words} {lost}", log.parent) == (code, whole[1], "")


# -- full, or without a reader --------------------------------------------------------------


def run_into(target: str | int, *words: object, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """(exit code, stderr) of the command line whose stdout is such a file, in this process."""
    descriptor = target if isinstance(target, int) else os.open(target, os.O_WRONLY)
    stream = streams._text(streams._Stdout(descriptor, "w"), "utf-8")

    def main() -> None:
        with redirect_stdout(stream):
            rocktok.cli.main()

    monkeypatch.setattr(processes, "main", main)
    code, _, error = run_command(*words)  # type: ignore[arg-type]
    return code, error


@needs_full
@pytest.mark.parametrize("name", ["", *analyses()])
def test_help_on_a_full_disk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = *name.split(), "--help"
    assert run_into("/dev/full", *words, monkeypatch=monkeypatch) == (1, FULL)


@needs_full
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_result_on_a_full_disk(form: str, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "detect", log, "-q", "--format", form
    assert run_into("/dev/full", *words, monkeypatch=monkeypatch) == (1, FULL)


@needs_full
@pytest.mark.long
def test_a_report_on_a_full_disk(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["report", log, "-o", tmp_path / "report", "-q", "--no-lifts", "--replicates", 100]
    assert run_into("/dev/full", *words, monkeypatch=monkeypatch) == (1, FULL)


def test_a_reader_that_has_gone_is_no_error(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--help"], ["info", log], ["detect", log, "-q", "--format", "json"]):
        reader, writer = os.pipe()
        os.close(reader)
        assert run_into(writer, *words, monkeypatch=monkeypatch) == (0, "")
        monkeypatch.undo()


def test_a_pipe_that_does_not_block_is_written_whole() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data, parts = b"x" * 300_000, []

    def read() -> None:
        while part := os.read(reader, 4096):
            parts.append(part)

    thread = threading.Thread(target=read)
    thread.start()
    with streams._Stdout(writer, "w") as stream:
        assert stream.write(data) == len(data)
    thread.join()
    os.close(reader)
    assert b"".join(parts) == data


def test_help_in_an_encoding_that_lacks_characters(log: Path) -> None:
    code, out, error = shell("PYTHONIOENCODING=latin-1 rocktok report --help", log.parent)
    assert (code, error) == (0, "")
    assert "F,F,\\u2026" in out


# -- devices, FIFOs, links ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
def test_what_means_stdout_is_stdout(
    name: str, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    plain = run_command("info", log, cwd=tmp_path)
    assert run_command("info", log, "-o", name, cwd=tmp_path) == plain
    assert plain[1]
    assert os.listdir(tmp_path) == ["link"]  # noqa: PTH208


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_written_into(log: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.json"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    assert run_command("info", log, "-o", fifo) == (0, "", "")
    reader.join()
    assert fifo.is_fifo()
    assert json.loads(read[0])["schema"].startswith("rocktok.info/")


@needs_full
def test_a_device_is_written_into(log: Path) -> None:
    before = os.stat("/dev/null")  # noqa: PTH116
    assert run_command("info", log, "-o", "/dev/null", "--force") == (0, "", "")
    assert os.path.samestat(before, os.stat("/dev/null"))  # noqa: PTH116
    code, out, error = run_command("info", log, "-o", "/dev/full")
    assert (code, out) == (1, "")
    assert error == "rocktok: /dev/full: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_written_through(there: bool, log: Path, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("real.json")
    if there:
        (tmp_path / "real.json").write_text("older")
        code, _, error = run_command("info", log, "-o", tmp_path / "link.json")
        assert (code, "exists already" in error) == (2, True)
    force = ["--force"] if there else []
    assert run_command("info", log, "-o", tmp_path / "link.json", *force) == (0, "", "")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["schema"].startswith("rocktok.info/")


@pytest.mark.parametrize("command", [["info"], ["compact"], ["report"]])
def test_links_in_a_circle_are_one_line(command: list[str], log: Path, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    code, out, error = run_command(*command, log, "-o", tmp_path / "a")
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert error.startswith(f"rocktok: {tmp_path}/a: cannot be written (Too many levels")


@pytest.mark.parametrize("command", ["report", "compact", "rescore"])
@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_directory_is_no_stream(command: str, name: str, log: Path, tmp_path: Path) -> None:
    words = ["--text", log, "--student", "s", "--teacher", "t"] if command == "rescore" else [log]
    code, out, error = run_command(command, *words, "-o", name, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert f"{name}: the output is a directory; give its name" in error
    assert list(tmp_path.iterdir()) == []


# -- ~ --------------------------------------------------------------------------------------


def test_a_tilde_is_the_home(log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell leaves it in `--output=~/x` and in quotes; Python's callers have no shell."""
    home = log.parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    assert run_command("info", "~/log", "--output=~/tilde.json", cwd=tmp_path)[0] == 0
    assert json.loads((home / "tilde.json").read_text())["log"]["path"] == "~/log"
    (home / "tilde.json").unlink()
    found = rocktok.detect("~/log", rule="top-k", top_k=3, tau_pre=0.1, tau_post=0.1)
    (home / "rocks.json").write_text(found.to_json())
    words = ["controls", "~/log", "--rocks=~/rocks.json", "-q"]
    assert run_command(*words, cwd=tmp_path)[::2] == (0, "")
    words = ["compare", "~/rocks.json", "~/rocks.json", "-q"]
    assert run_command(*words, cwd=tmp_path)[::2] == (0, "")
    rocktok.compact("~/log", "~/compact")
    assert rocktok.open(home / "compact").complete_steps("fixed") == [0, 10]
    assert list(tmp_path.iterdir()) == []


def _parameters(command: click.Command, name: str) -> list[tuple[str, click.Parameter]]:
    context = click.Context(command)
    if isinstance(command, click.Group):
        commands = {n: command.get_command(context, n) for n in command.list_commands(context)}
        return [found for n, c in commands.items() if c for found in _parameters(c, n)]
    return [(name, parameter) for parameter in command.params]


def test_every_path_option_expands_it() -> None:
    paths = [(n, p) for n, p in _parameters(cli, "") if isinstance(p.type, click.Path)]
    assert len(paths) > 10
    assert {type(p.type) for _, p in paths} == {options.InputFile, options.OutputFile}


# -- control characters ---------------------------------------------------------------------

EVIL = "a\x1b[31m\x9b2J\x07\rb\n\u202ec\x7f"


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose every string steers a terminal, in a directory whose name does."""
    path = tmp_path_factory.mktemp("evil") / "x\x1b[2Jy\x07"
    run = {**RUN, "student": EVIL, "teacher": EVIL}
    vocab = [(i, f"{EVIL}{i}", f"{EVIL}{i}".encode()) for i in range(50)]
    with LogWriter(path, run=run, vocab=vocab) as writer:
        listed = {**sequence_rows(range(60)), "domain": [EVIL] * 60}
        writer.write(listed, table="sequences")
        for step in (0, 10):
            writer.write(rows(step, range(60)), table="fixed")
            writer.finish_step(step, "fixed")
            writer.flush()
    content = json.loads((path / "run.json").read_text())
    changed = {**content, "created_at": EVIL + "\ud800", "crc32": None}
    (path / "run.json").write_text(json.dumps(changed))
    return path


def steering(text: str) -> set[str]:
    return {c for c in text if c != "\n" and printable(c) != c}


COMMANDS_OF_EVIL = [
    ["info", "{log}"],
    ["info", "{log}", "--format", "json"],
    ["detect", "{log}", "--context", "off"],
    ["detect", "{log}", "--context", "off", "--format", "json"],
    ["detect", "{log}", "--context", "off", "--format", "csv"],
    ["detect", "{log}", "--pre", "{log}"],
    ["detect", "{log}/nowhere"],
    ["detect", "{log}", "--pre", "7"],
    ["attribute", "{log}"],
    ["compare", "{log}", "{log}"],
    ["compact", "{log}", "-o", "{log}/in"],
    ["stagnation", "{log}", "--top-k", "3", "--replicates", "100"],
]


@pytest.mark.parametrize("words", COMMANDS_OF_EVIL, ids=lambda words: " ".join(words))
def test_nothing_of_a_log_steers_a_terminal(words: list[str], evil: Path) -> None:
    code, out, error = run_command(*(word.replace("{log}", str(evil)) for word in words))
    assert steering(out) == steering(error) == set()
    assert "\\x1b[2J" in out + error or "--format" in words
    assert not error.startswith("rocktok: internal error")
    if code == 1:
        assert error.splitlines()[-1].startswith("rocktok: ")


def test_in_python_neither(evil: Path) -> None:
    assert steering(repr(rocktok.open(evil))) == set()
    assert steering(repr(rocktok.detect(evil, context="off"))) == set()
    with pytest.raises(LogError) as raised:
        rocktok.detect(evil, pre=7)
    assert steering(str(raised.value)) == set()
    kept = json.loads(rocktok.info(evil).to_json())["run"]
    assert (kept["student"], kept["created_at"]) == (EVIL, EVIL + "\ud800")


def test_styles_of_our_own_stay() -> None:
    view = View(color=True)
    answer = view.answer(["a\x1b[1mb"])[0]
    assert answer == "\x1b[36m\x1b[1ma\\x1b[1mb\x1b[0m" == view.safe(answer)
    assert view.safe("\x1b[31mred\x1b[8mhidden") == "\\x1b[31mred\\x1b[8mhidden"


@pytest.mark.parametrize("text", ["plain", "naïve ▁ 日本 🙂", "e\u0301", ""])
def test_text_that_steers_nothing_stays(text: str) -> None:
    assert printable(text) == text
