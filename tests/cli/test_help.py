"""Help of commands: what it shows, and that its examples are right."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

import rocktok.cli
from rocktok.analyses import analyses
from rocktok.cli.help import GROUPS, Command


def command_of(name: str) -> Command:
    command = rocktok.cli.cli.get_command(click.Context(rocktok.cli.cli), name)
    assert isinstance(command, Command)
    return command


def shown(name: str, option: str) -> list[str]:
    """The options in a command's help, by their first name."""
    done = CliRunner().invoke(command_of(name), [option])
    assert done.exit_code == 0
    before = done.output.split("\nExamples:")[0]
    return [line.split()[0].rstrip(",") for line in before.splitlines() if line.startswith("  -")]


@pytest.mark.parametrize("name", analyses())
def test_help_shows_few_options_and_help_all_every_one(name: str) -> None:
    command = command_of(name)
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    everything = shown(name, "--help-all") if command.common else shown(name, "--help")
    assert len(everything) == len(options) + 1  # and --help
    short = shown(name, "--help")
    assert len(short) <= 14
    assert set(short) <= set(everything)
    if command.common:
        assert len(short) == len(command.common) + 2


@pytest.mark.parametrize("name", analyses())
def test_common_options_exist(name: str) -> None:
    command = command_of(name)
    assert set(command.common) <= {p.name for p in command.params}


def test_no_name_stands_in_two_groups() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", analyses())
def test_examples_are_valid(
    name: str, tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    command = command_of(name)
    assert command.examples
    for line, text in command.examples:
        program, called, *arguments = shlex.split(line.replace("\\\n", " "))
        assert (program, called) == ("rocktok", name)
        command.make_context(name, arguments)
        assert text.endswith(".")


def test_groups_stand_in_one_order() -> None:
    output = CliRunner().invoke(command_of("detect"), ["--help-all"]).output
    headings = [line[:-1] for line in output.splitlines() if line[:-1] in GROUPS]
    assert headings == [group for group in GROUPS if group in headings]
    assert "more options" not in output
