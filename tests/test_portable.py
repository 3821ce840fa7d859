"""What other systems lack: nothing of it is needed, as each has a fallback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.logs import write_log
from tests.paths import ROOT

#: Windows and macOS lack some of these, some filesystems and builds of Python others.
_HIDE = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "spwd", "crypt",
             "readline"):
    sys.modules[name] = None
for module, names in {
    os: ("link", "fork", "forkpty", "sched_getaffinity", "mkfifo", "getuid", "geteuid", "getpgid",
         "killpg", "setsid", "fchmod", "chown", "posix_fallocate"),
    signal: ("pthread_sigmask", "SIGHUP", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGKILL", "alarm",
             "setitimer", "siginterrupt", "sigwait", "pthread_kill"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""

_IMPORT = """
import importlib, pkgutil
import rocktok
def needs_settings(name):
    # Importing a hook for verl starts it, and it refuses to start without a log.
    if name != "rocktok.hooks.verl":
        raise
for module in pkgutil.walk_packages(rocktok.__path__, "rocktok.", needs_settings):
    parts = module.name.split(".")
    if "hooks" not in parts and "replay" not in parts and parts[-1] != "__main__":
        importlib.import_module(module.name)
"""


def python(code: str, *words: object, cwd: Path | None = None) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _HIDE + code, *map(str, words)],
        capture_output=True, text=True, env=environment, cwd=cwd,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_every_module_is_imported_without_them() -> None:
    assert python(_IMPORT) == (0, "", "")


def test_commands_run_without_them(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    run = "from rocktok.cli import run\nrun()"
    assert python(run, "info", log, "-q", "-o", "info.json", cwd=tmp_path) == (0, "", "")
    assert json.loads((tmp_path / "info.json").read_text())["schema"].startswith("rocktok.info/")
    code, _, error = python(run, "info", log, "-o", "info.json", cwd=tmp_path)
    assert (code, "exists already" in error) == (2, True)
    assert python(run, "compact", log, "-q", "-o", "compact", cwd=tmp_path)[::2] == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compact", "info.json", "log"]


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_report_is_written_without_them(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    words = ["report", log, "-o", "report", "-q", "--no-lifts", "--replicates", 100, "--jobs", 2]
    run = "if __name__ == '__main__':\n    from rocktok.cli import run\n    run()"
    for force in ([], ["--force"]):
        assert python(run, *words, *force, cwd=tmp_path)[::2] == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "report"]
