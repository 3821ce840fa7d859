"""Processes that tests fork from a server that has imported PyTorch and TRL."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.preloaded import Preloaded, run_preloaded

pytestmark = pytest.mark.long


def test_it_starts_with_its_modules_loaded() -> None:
    code = "import sys; print(*sorted({'torch', 'trl', 'rocktok.replay.rescore'} & {*sys.modules}))"
    assert run_preloaded("-c", code).stdout == "rocktok.replay.rescore torch trl\n"


def test_it_has_the_arguments_environment_and_directory_that_it_is_given(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], dict(os.environ), os.getcwd())"
    done = run_preloaded("-c", code, "a", 5, env={"A": "b"}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"['a', '5'] {{'A': 'b'}} {tmp_path}\n")


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("import atexit; atexit.register(print, 'at the end')", 0, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", 1, None),
    ],
)
def test_it_ends_as_any(code: str, ended: int, said: str | None) -> None:
    done = run_preloaded("-c", code)
    assert done.returncode == ended
    assert done.stdout == ("at the end\n" if "atexit" in code else "")
    if said is None:
        assert done.stderr.endswith("KeyboardInterrupt\n")
    else:
        assert done.stderr == said


def test_it_is_killed_where_nobody_waits_for_it() -> None:
    with Preloaded("-c", "import signal; signal.pause()") as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
