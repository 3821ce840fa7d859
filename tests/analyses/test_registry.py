"""The registry is the only list of analyses: commands and names at the root follow from it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

import rocktok
from rocktok.analyses import Analysis, analyses
from rocktok.cli import cli


def test_users_meet_them_in_this_order() -> None:
    assert list(analyses()) == [
        "demo", "info", "check", "compact", "export", "rescore", "detect", "report", "summary",
        "compare", "attribute", "stagnation", "controls", "stability", "lenses", "occurrences",
        "weights", "intervene", "pillars",
    ]  # fmt: skip
    assert cli.list_commands(click.Context(cli)) == list(analyses())


def test_the_root_has_a_name_for_each() -> None:
    names = ["__version__", "Log", "LogWriter", "open", "text", *analyses()]
    assert list(rocktok.__all__) == names
    assert dir(rocktok) == sorted(names)
    with pytest.raises(AttributeError, match="module 'rocktok' has no attribute 'detcet'"):
        rocktok.detcet  # noqa: B018


def test_names_for_type_checkers_are_those_of_the_registry() -> None:
    tree = ast.parse(Path(rocktok.__file__).read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    listed = {
        alias.asname: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    others = {"Log": "rocktok.log:Log", "LogWriter": "rocktok.log:LogWriter",
              "open": "rocktok.log:open_log",
              "text": "rocktok.report.text_passes:text"}  # fmt: skip
    assert listed == {entry.name: entry.function for entry in analyses().values()} | others


@pytest.mark.parametrize("name", list(analyses()))
def test_each_is_a_function_of_the_root_and_a_command(name: str) -> None:
    entry = analyses()[name]
    function = entry.load()
    assert function.__name__ == name
    assert inspect.getdoc(function)
    at_root = getattr(rocktok, name)
    assert inspect.signature(at_root) == inspect.signature(function)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert entry.help.endswith(".")


def test_log_and_open_are_those_of_the_format() -> None:
    from rocktok.log import Log, LogWriter, open_log

    assert (rocktok.Log, rocktok.LogWriter, rocktok.open) == (Log, LogWriter, open_log)


@pytest.mark.parametrize("before", ["", "import rocktok.report.passes", "rocktok.report"])
def test_report_is_a_function_though_a_package_has_its_name(before: str) -> None:
    code = (
        f"import rocktok\n{before}\nimport inspect\n"
        "print(list(inspect.signature(rocktok.report).parameters)[0])\n"
        "try: rocktok.report()\n"
        "except TypeError as error: print(error)\n"
        "import rocktok.report.result as result\n"
        "print(result.SCHEMA, callable(rocktok.report))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "log",
        "report() missing 1 required positional argument: 'log'",
        "rocktok.report/3 True",
    ]


def test_nothing_is_imported_until_it_is_used() -> None:
    code = "import sys, rocktok; rocktok.__all__, dir(rocktok); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ours = {name for name in done.stdout.split() if name.startswith("rocktok")}
    assert ours == {"rocktok", "rocktok._version", "rocktok.analyses"}


def test_an_entry_loads_its_function() -> None:
    assert Analysis("x", "X.", "json:dumps").load() is import_module("json").dumps
