"""`rocktok demo`: the log that ships, its report, and when a browser is opened."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import webbrowser
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest

import rocktok
import rocktok.cli.demo as command
from rocktok.log import shipped
from tests.paths import ROOT
from tests.processes import run_command

#: What the wheel may spend on it.
LIMIT = 300_000


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_the_log_is_small_and_whole() -> None:
    assert sum(map(len, files(shipped.demo_path()).values())) <= LIMIT
    code, printed, error = run_command("info", shipped.demo_path(), "--verify")
    assert (code, error) == (0, "")
    assert printed.splitlines()[0].endswith("nothing is damaged.")


def test_it_has_what_a_report_is_about() -> None:
    """Fixed text at two steps or more with gradient norms, prompts, texts; rocks are found."""
    log = rocktok.demo()
    assert len(log.complete_steps("fixed")) >= 2
    assert {"token_id", "loss", "grad_norm"} <= set(log.columns("fixed"))
    ids = {int(v) for part in log.scan("fixed", ["token_id"]) for v in part.columns["token_id"]}
    assert ids <= set(log.vocab.texts)
    found = rocktok.detect(log)
    assert found.log["pre"] < found.log["post"]
    assert found.rocks
    assert found == rocktok.detect(shipped.demo_path())


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Instead of making a report write an empty page; the arguments of `rocktok report`."""
    calls: list[list[str]] = []

    def main(arguments: list[str], **_: Any) -> None:
        calls.append(arguments)
        folder = Path(arguments[arguments.index("--output") + 1])
        folder.mkdir(exist_ok=True)
        (folder / "report.html").write_text("")

    import rocktok.cli.report as report

    monkeypatch.setattr(report.report_command, "main", main)
    return calls


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: calls.append(address) or True)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return calls


def test_a_browser_is_opened_where_there_is_a_display(
    no_report: list[list[str]], opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a folder"
    assert run_command("demo", "-o", out)[0] == 0
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert run_command("demo", "-o", out, "--no-open")[0] == 0
    assert opened == []
    assert run_command("demo", "-o", out, "--force")[0] == 0
    assert opened == [(out / "report.html").as_uri()]
    log = str(shipped.demo_path())
    assert no_report == [
        ["--output", str(out), "--quiet", "--", log],
        ["--output", str(out), "--quiet", "--", log],
        ["--output", str(out), "--quiet", "--force", "--", log],
    ]
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert run_command("demo", "-o", out)[0] == 0
    assert len(opened) == 2


def test_without_a_directory_it_is_a_new_temporary_one(
    no_report: list[list[str]], opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):
        assert run_command("demo")[0] == 0
    folders = [Path(call[1]) for call in no_report]
    assert len(set(folders)) == 2
    assert {folder.parent for folder in folders} == {tmp_path}


def test_a_report_that_fails_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rocktok.cli.report as report

    def stopped(*_: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(report.report_command, "main", stopped)
    assert run_command("demo")[0] == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_report_is_whole_and_asks_for_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.socket.connect

    def refuse(one: socket.socket, *where: object) -> None:
        # Processes on this machine that draw are spoken to by sockets of their own kind.
        assert one.family == socket.AF_UNIX, "a connection was opened"
        connect(one, *where)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    out = tmp_path / "report"
    code, printed, _ = run_command("demo", "-o", out, "--no-open")
    assert code == 0
    assert printed.splitlines()[-1] == str(out / "report.html")
    content = json.loads((out / "report.json").read_text())
    # Every section is there, or says what it lacks and what would help.
    assert all(row["why"] and row["remedy"] for row in content["missing"])
    assert {row["what"] for row in content["missing"]} <= {"gradient directions"}
    assert content["tokens"] and content["figures"] and set(content["analyses"]) >= {"check"}


def test_the_log_is_copied(tmp_path: Path) -> None:
    code, printed, error = run_command("demo", "--log-only", tmp_path / "copy")
    assert (code, error) == (0, "")
    assert printed.splitlines() == [f"rocktok detect {tmp_path / 'copy'}", str(tmp_path / "copy")]
    assert files(tmp_path / "copy") == files(shipped.demo_path())
    assert run_command("info", tmp_path / "copy")[0] == 0
    again = run_command("demo", "--log-only", tmp_path / "copy")
    said = f"rocktok: {tmp_path / 'copy'}: exists already; give a new directory\n"
    assert again == (2, "", said)
    both = run_command("demo", "--log-only", tmp_path / "new", "-o", tmp_path / "report")
    assert both == (2, "", "rocktok: --log-only makes no report; leave out --output\n")
    (tmp_path / "file").write_text("")
    code, _, error = run_command("demo", "--log-only", tmp_path / "file" / "log")
    assert code == 1
    assert error.count("\n") == 1 and "cannot be written" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "file"]


def test_an_installation_without_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "rocktok" / "log" / "shipped.py"))
    said = (
        f"rocktok: {tmp_path / 'rocktok' / 'demo'}: the log that ships in the package is not "
        "there; install rocktok again\n"
    )
    assert run_command("demo", "-o", tmp_path / "report") == (1, "", said)
    assert run_command("demo", "--log-only", tmp_path / "copy") == (1, "", said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["s3://bucket/x", "-"])
def test_an_output_that_is_no_local_directory_is_refused(name: str) -> None:
    assert run_command("demo", "-o", name)[0] == 2
    assert run_command("demo", "--log-only", name)[0] == 2


def test_the_browser_is_asked_for_by_a_flag() -> None:
    (option,) = (p for p in command.demo_command.params if p.name == "show")
    assert isinstance(option, click.Option)
    assert (option.opts, option.secondary_opts, option.default) == (["--open"], ["--no-open"], True)


@pytest.mark.long
@pytest.mark.exhaustive
def test_the_wheel_holds_the_log(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {i.filename: i for i in wheel.infolist() if i.filename.startswith("rocktok/demo/")}
        assert {name.removeprefix("rocktok/demo/"): wheel.read(name) for name in packed} == files(
            shipped.demo_path()
        )
        assert sum(info.compress_size for info in packed.values()) <= LIMIT
