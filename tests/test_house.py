"""The house: who may import whom, how long a module may be, what the command line may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rocktok
from rocktok.errors import LimitError, LogError, RocktokError, UsageError

ROOT = Path(rocktok.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

BASE = {"schema", "errors", "files", "hashing", "inputs"}
MAY_IMPORT = {
    "log": BASE,
    "hooks": BASE | {"log"},
    "replay": BASE | {"hooks", "log", "analyse"},
    "analyse": BASE,
    "engine": BASE | {"analyse", "log"},
    "report": BASE | {"analyse"},
    "cli": BASE | {"directories", "log", "hooks", "replay", "analyse", "engine", "report"},
    "schema": set(),
    "errors": set(),
    "files": {"errors"},
    "directories": {"errors", "files"},
    "inputs": {"errors"},
    "hashing": set(),
}

HEAVY = ("torch", "pandas", "matplotlib", "scipy", "numba", "pyarrow", "numpy", "rich", "trl")


def _imports(path: Path) -> set[str]:
    """Names of rocktok's own parts that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "rocktok":
                names = [f"rocktok.{alias.name}" for alias in node.names]
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == "rocktok" and len(part) > 1}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return
    allowed = MAY_IMPORT[part] | {part}
    assert _imports(path) <= allowed


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
        "import rocktok.engine.detect as d\n"
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
