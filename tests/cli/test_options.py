"""Options that commands share: where the output goes, names that options had, thin commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import rocktok.cli
from rocktok.analyses import analyses
from rocktok.cli.job import Job
from rocktok.cli.options import Renamed
from tests.logs import write_log
from tests.processes import run_command


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "rocktok", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, cwd=cwd)


@pytest.mark.parametrize("options", [(), ("--format", "csv")])
def test_a_dash_is_stdout(options: tuple[str, ...], tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    code, plain, _ = run_command("detect", log, *options, cwd=tmp_path)
    assert code == 0 and plain
    assert run_command("detect", log, *options, "-o", "-", cwd=tmp_path)[:2] == (0, plain)
    # A file of that name has a path.
    assert run_command("info", log, "-o", "./-", cwd=tmp_path)[1] == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["-", "log"]


@pytest.mark.long
def test_a_dash_is_stdout_for_bytes_too(tmp_path: Path) -> None:
    """Parquet, through the pipe of a process."""
    log = write_log(tmp_path / "log")
    plain, dashed = (
        run("detect", log, "--format", "parquet", *more, cwd=tmp_path) for more in ((), ("-o", "-"))
    )
    assert plain.returncode == 0 and plain.stdout.startswith(b"PAR1")
    assert (dashed.returncode, dashed.stdout) == (0, plain.stdout)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@click.command()
@click.option("--post", cls=Renamed, old="--last", type=int, metavar="STEP", help="Later step.")
@click.option("--pre", type=int)
def renamed(post: int | None, pre: int | None) -> None:
    click.echo(f"{post} {pre}")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ([], "None None"),
        (["--post", "3"], "3 None"),
        (["--last", "3"], "3 None"),
        (["--last=3", "--pre", "1"], "3 1"),
        (["--last", "3", "--post", "4"], "4 None"),
    ],
)
def test_an_old_name_of_an_option_works(arguments: list[str], printed: str) -> None:
    done = CliRunner().invoke(renamed, arguments)
    assert (done.exit_code, done.output) == (0, f"{printed}\n")


def test_an_old_name_of_an_option_is_not_shown() -> None:
    shown = CliRunner().invoke(renamed, ["--help"]).output
    assert "--post STEP" in shown
    assert "--last" not in shown
    done = CliRunner().invoke(renamed, ["--last", "x"])
    assert done.exit_code == 2
    assert "Invalid value for '--post': 'x' is not a valid integer." in done.output


def test_a_job_is_frozen() -> None:
    job = Job("log", None, None, False, False, False, None, None)
    with pytest.raises(FrozenInstanceError):
        job.log = "other"  # type: ignore[misc]


COMMANDS = sorted(Path(rocktok.cli.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_is_thin(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            last = node.body[-1].end_lineno
            assert last is not None
            assert last - node.body[0].lineno < 60, node.name


@pytest.mark.parametrize("name", analyses())
def test_every_option_has_a_text_that_stands_alone(name: str) -> None:
    command = rocktok.cli.cli.get_command(click.Context(rocktok.cli.cli), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            text = option.help or ""
            assert text[:1].isupper() or text.startswith("`"), (option.opts, text)
            assert not text.startswith(("Of ", "Default")), (option.opts, text)
            assert text.endswith("."), (option.opts, text)
