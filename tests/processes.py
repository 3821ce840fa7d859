"""The command line as tests call it: within this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rocktok.cli import main

Argument = str | bytes | Path | int

#: Seconds after which something will never happen, on the slowest and busiest of machines, too.
LIMIT = 600.0


def run_command(*arguments: Argument, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line, run within this process.

    Spares the start of Python and the imports, which take longer than most commands do.
    """
    streams = [
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors, write_through=True)
        for errors in ("strict", "backslashreplace")
    ]
    with _process_state(cwd):
        sys.argv = ["rocktok", *map(_text, arguments)]
        sys.stdout, sys.stderr = streams
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
    out, error = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return code if isinstance(code, int) else int(code is not None), out, error


def run_process(*arguments: Argument, cwd: Path | None = None) -> tuple[int, str, str]:
    """The same, in a process of its own: where its start, its end or its pipes are the point."""
    done = subprocess.run(
        [sys.executable, "-m", "rocktok", *map(_text, arguments)], capture_output=True, cwd=cwd
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()


def start(
    command: list[str], *, sigint: Any = signal.default_int_handler, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process that Ctrl-C stops, or does not (`sigint=signal.SIG_IGN`).

    Otherwise it would inherit what became of SIGINT where the tests were started: nohup, and a
    shell's `&`, ignore it.
    """
    inherited = signal.signal(signal.SIGINT, sigint)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    finally:
        signal.signal(signal.SIGINT, inherited)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait for a state, which `process` must not end before."""
    end = time.monotonic() + LIMIT
    while not holds():
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def _text(argument: Argument) -> str:
    return os.fsdecode(argument) if isinstance(argument, bytes) else str(argument)


@contextlib.contextmanager
def _process_state(cwd: Path | None) -> Iterator[None]:
    """Put back what a command changes, since its process usually ends with it."""
    names = ("argv", "stdout", "stderr")
    before = {name: getattr(sys, name) for name in names}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # pytest listens to the root logger, so that warnings would not reach stderr.
    listeners, logging.root.handlers = logging.root.handlers, []
    try:
        with contextlib.chdir(cwd or Path.cwd()):
            yield
    finally:
        logging.root.handlers = listeners
        for name, value in before.items():
            setattr(sys, name, value)
        for number, handler in handlers.items():
            signal.signal(number, handler)
