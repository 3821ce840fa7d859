"""The house: who may import whom, how long a module may be, what the command line may load."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rocktok
from rocktok.errors import LimitError, LogError, RocktokError, UsageError

ROOT = Path(rocktok.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

#: What everything may import: none of it imports anything but its like.
BASE = {
    "_types",
    "_version",
    "errors",
    "hashing",
    "schema",
    "folders",
    "files",
    "inputs",
    "kernel",
    "outcomes",
    "publishing",
    "runs",
    "temporary",
    "weighting",
    "words",
}

#: Room → the other rooms it may import. `analyses/detect` is a room of `analyses`.
MAY_IMPORT = {
    "_types": set(),
    "_version": set(),
    "errors": set(),
    "hashing": {"_types"},
    "schema": set(),
    "kernel": {"_types", "errors"},
    "folders": set(),
    "temporary": set(),
    "publishing": {"temporary"},
    "files": {"errors", "folders", "publishing", "temporary"},
    "directories": {"errors", "files", "publishing", "temporary"},
    "inputs": {"errors", "_types", "files"},
    "outcomes": {"errors", "_types", "files"},
    "runs": {"_types"},
    "weighting": {"errors", "files"},
    "words": set(),
    "stats": {"kernel", "hashing", "_types", "errors", "runs"},
    "pairs": {"kernel", "hashing", "_types", "errors"},
    "log": BASE,
    "hooks": BASE | {"log"},
    "replay": BASE | {"hooks", "log", "stats"},
    "importers": BASE | {"hooks", "log"},
    "engine": BASE | {"log", "stats"},
    "tables": BASE,
    "exporting": BASE | {"directories", "log", "tables"},
    "analyses": BASE | {"engine", "log", "stats", "pairs", "tables"},
    "report": BASE | {"analyses", "engine", "log", "stats", "tables"},
}

HEAVY = ("torch", "pandas", "matplotlib", "scipy", "numba", "pyarrow", "numpy", "rich", "trl")


def _name(path: Path) -> str:
    parts = ("rocktok", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


NAMES = {_name(path): path for path in MODULES}


def _imported(path: Path, *, at_start: bool = False) -> set[str]:
    """Modules of ours that a module imports: anywhere in it, or `at_start` when it is loaded."""
    tree = ast.parse(path.read_text())
    checked = [n for n in tree.body if isinstance(n, ast.If) and _is_type_checking(n.test)]
    skipped = {id(n) for block in checked for n in ast.walk(block)}
    nodes = tree.body if at_start else [n for n in ast.walk(tree) if id(n) not in skipped]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                both if (both := f"{node.module}.{alias.name}") in NAMES else node.module
                for alias in node.names
            }
    return {name for name in found if name in NAMES}


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _room(name: str) -> str:
    return name.split(".")[1] if "." in name else "rocktok"


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_one_way(name: str) -> None:
    room = _room(name)
    if room in ("rocktok", "__main__", "cli"):
        return
    allowed = MAY_IMPORT[room] | {room}
    assert {_room(other) for other in _imported(NAMES[name])} <= allowed


def test_nothing_imports_the_package_root_or_the_command_line() -> None:
    for name, path in NAMES.items():
        if _room(name) not in ("__main__", "cli"):
            assert not {"rocktok", "rocktok.cli"} & _imported(path), name
            # Nor by way of a module in it: the root looks names up that it does not have.
            froms = [
                n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)
            ]
            assert name == "rocktok" or "rocktok" not in {n.module for n in froms}, name


def test_no_modules_import_each_other() -> None:
    """No circle, not even of imports that wait within functions."""
    arrows = {name: _imported(path) - {name} for name, path in NAMES.items()}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above[above.index(name) :], name))
        if name not in done:
            for other in sorted(arrows[name]):
                walk(other, (*above, name))
            done.add(name)

    for name in NAMES:
        walk(name, ())


@pytest.mark.parametrize("name", [n for n in NAMES if _room(n) == "analyses"])
def test_pure_modules_stay_pure(name: str) -> None:
    """Of an analysis only passes read logs, and only tables write them out."""
    module = name.rsplit(".", 1)[1]
    rooms = {_room(other) for other in _imported(NAMES[name])}
    if not (module.endswith("passes") or module == "run" or name == "rocktok.analyses"):
        assert not rooms & {"engine", "log", "files"}
    if not module.endswith("table"):
        assert "tables" not in rooms


IMPURE = {"time", "random", "os", "pathlib", "io", "tempfile", "datetime", "shutil", "subprocess"}


@pytest.mark.parametrize("name", [n for n in NAMES if _room(n) in ("stats", "pairs", "analyses")])
def test_arithmetic_reads_no_file_no_clock_and_no_chance(name: str) -> None:
    if name.endswith(("passes", ".run", "rocktok.analyses")):
        return
    tree = ast.parse(NAMES[name].read_text())
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {module.split(".")[0] for module in modules} & IMPURE
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call)
             and isinstance(n.func, ast.Name)}  # fmt: skip
    assert "open" not in calls


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_is_two_ideas(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def _loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_help_loads_nothing_heavy() -> None:
    loaded = _loaded(
        "from rocktok.cli import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass"
    )
    assert "click" in loaded
    assert not loaded & set(HEAVY)


def test_the_recorder_needs_no_torch_to_be_imported() -> None:
    assert "torch" not in _loaded("from rocktok.hooks import Recorder")


def test_detect_on_a_small_log_loads_neither_pandas_nor_numba(tmp_path: Path) -> None:
    from tests.logs import write_log

    write_log(tmp_path)
    loaded = _loaded(
        f"from rocktok.cli import cli\ncli.main(['detect', {str(tmp_path)!r}, '-q'], "
        "standalone_mode=False)"
    )
    assert not loaded & {"torch", "pandas", "numba", "matplotlib"}


def test_exit_codes() -> None:
    assert [e.exit_code for e in (RocktokError, LogError, UsageError, LimitError)] == [1, 1, 2, 3]


def test_version_and_help() -> None:
    def run(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "rocktok", *arguments], capture_output=True, text=True
        ).stdout

    assert run("--version") == f"rocktok {rocktok.__version__}\n"
    for command in ("info", "detect"):
        assert command in run("--help")
        assert "Usage: rocktok" in run(command, "--help").replace("python -m rocktok", "rocktok")


def test_an_unexpected_error_shows_no_traceback(tmp_path: Path) -> None:
    code = (
        "import rocktok.analyses.detect.passes as d\n"
        "def broken(*a, **k): raise KeyError('boom')\n"
        "d.detect = broken\n"
        "import sys\n"
        f"sys.argv = ['rocktok', 'detect', {str(tmp_path)!r}]\n"
        "from rocktok.cli import main\n"
        "main()"
    )
    from tests.logs import write_log

    write_log(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("rocktok: internal error: KeyError: 'boom'; this is a bug")
    assert "Traceback" not in done.stderr


def test_a_process_ends_with_its_code_and_all_it_had_to_say(tmp_path: Path) -> None:
    """`run` ends the process itself: exit handlers run, what was printed is flushed."""
    code = (
        "import atexit, sys\n"
        "atexit.register(print, 'at exit')\n"
        "sys.argv = ['rocktok', *sys.argv[1:]]\n"
        "from rocktok.cli import run\n"
        "run()"
    )
    for arguments, expected, first in (
        (["--version"], 0, f"rocktok {rocktok.__version__}"),
        (["info", str(tmp_path)], 1, ""),
        (["no-such"], 2, ""),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True
        )
        assert done.returncode == expected
        assert done.stdout == f"{first}\nat exit\n".lstrip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_nothing_else_lies_at_the_top_of_the_checkout() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT.parent, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout")
    top = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} == {
        "LICENSE", "README.md", "docs", "pyproject.toml", "rocktok", "sample_data", "tests",
    }  # fmt: skip
