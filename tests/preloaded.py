"""Processes of their own that have PyTorch, transformers and TRL loaded when they start.

They are forked from one server for each process that runs tests, which did nothing but import.
Starting Python and importing these takes 5 to 10 CPU seconds, more than what most tests of a child
process then do in it. What a process inherits besides its modules, environment, directory and
streams, is set as for `subprocess`. All have one seed of hashes, another than the tests' process.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.paths import ROOT
from tests.processes import wait_until

#: What is imported before a process is asked for.
MODULES = ["rocktok.cli", "rocktok.hooks.trl", "rocktok.replay.rescore", "tests.trl_models"]


class Preloaded:
    """A process that runs a command of Python, as `subprocess.Popen` would.

    Args:
        arguments: what follows `python`: "-c" and code, or "-m" and a module; then its own.
        env: environment variables; None: those of this process.
        cwd: its directory; None: that of this process.
    """

    def __init__(
        self, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self._streams = [tempfile.NamedTemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        with _importable():
            SERVER.ensure_running()
        context = multiprocessing.get_context("forkserver")
        paths = [stream.name for stream in self._streams]
        words, folder = [str(word) for word in arguments], str(cwd or Path.cwd())
        self._process = context.Process(
            target=_work, args=(words, dict(os.environ if env is None else env), folder, paths)
        )
        with _own_server():
            self._process.start()

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """`returncode`, looked for now."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        """`returncode` at its end."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def communicate(self) -> tuple[str, str]:
        """Wait for its end, then what it wrote to stdout and stderr."""
        self.wait()
        return self._read(self._streams[0]), self._read(self._streams[1])

    def __enter__(self) -> Preloaded:
        return self

    def __exit__(self, *details: object) -> None:
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
        self.wait()
        for stream in self._streams:
            stream.close()

    @staticmethod
    def _read(stream: Any) -> str:
        stream.seek(0)
        return str(stream.read())


def run_preloaded(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run` with text that is captured."""
    with Preloaded(*arguments, **options) as process:
        out, error = process.communicate()
        return subprocess.CompletedProcess(list(arguments), process.wait(), out, error)


def run_ranks(number: int, *arguments: object) -> None:
    """Run a command in so many processes that train together, as torchrun does; all end well."""
    from torch.distributed import TCPStore

    # What they meet at is there before they are, at a port that nobody else can take meanwhile.
    store = TCPStore("127.0.0.1", 0, number, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "tests",
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "GROUP_RANK": "0",
    }
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(Preloaded(*arguments, env={**os.environ, **common, **own}))
            for own in ({"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(number))
        ]
        # One that fails ends all: another would wait for it.
        wait_until(lambda: all(r.poll() == 0 for r in ranks) or any(r.poll() for r in ranks))
        failed = [rank.communicate()[1][-6000:] for rank in ranks if rank.poll()]
        assert failed == []


#: Not the one of all: a command that draws figures in the tests' process may have started that.
SERVER = forkserver.ForkServer()
SERVER.set_forkserver_preload(MODULES)


@contextlib.contextmanager
def _own_server() -> Iterator[None]:
    """Processes that start within are forks of the tests' server."""
    before = forkserver.connect_to_new_process
    forkserver.connect_to_new_process = SERVER.connect_to_new_process
    try:
        yield
    finally:
        forkserver.connect_to_new_process = before


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Let the server import from this tree, wherever a test stands when it starts."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _work(words: list[str], environment: dict[str, str], folder: str, streams: list[str]) -> None:
    """Be the process."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, what, *rest = words
    sys.argv = [kind, *rest]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        # At its end a child of multiprocessing does not what the program asked for.
        atexit._run_exitfuncs()
        sys.stdout.flush()
