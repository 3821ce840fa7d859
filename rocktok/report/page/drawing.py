"""Draws figures into files: here, or in other processes while the log is still being read."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rocktok.report.page.figures.figure import AnyNumbers

#: Processes that draw, at most: each takes some 80 MB.
WORKERS = 2

#: What is drawn, beside files: the places of types.
POINTS = "points"


def draw_one(
    name: str,
    numbers: AnyNumbers,
    formats: Sequence[str],
    several: bool = False,
    columns: int = 1,
) -> dict[str, bytes]:
    """Format → bytes of one figure. `several`: the numbers are label → numbers of each log.

    Beside the formats, `POINTS`: as JSON, where the types of a figure of one log lie in its SVG.
    """
    from rocktok.report.page.figures import BY_NAME
    from rocktok.report.page.figures.multiples import multiples
    from rocktok.report.page.figures.points import placed
    from rocktok.report.page.figures.style import encode, settle

    figure = BY_NAME[name]
    canvas = multiples(figure, numbers) if several else figure.alone(numbers, columns)
    settle(canvas)
    files = {form: encode(canvas, form) for form in dict.fromkeys(("svg", *formats))}
    # Of several logs each has token ids of its own.
    points = [] if several else placed(canvas)
    return {**files, POINTS: json.dumps(points, allow_nan=False).encode()}


def _start_worker() -> None:
    """In a new process: this one's parent alone is asked to stop, and it never outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", RuntimeWarning)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals to stop wait; processes that start within are deaf to Ctrl-C until they are ready."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # Its own start would let signals through again.
    resource_tracker.ensure_running()
    waiting: list[int] = []
    handlers = {}
    # The mask is this thread's alone: another thread may take the signal, and Python then runs the
    # handler in the main thread all the same.
    if threading.current_thread() is threading.main_thread():
        stops = (signal.SIGINT, signal.SIGTERM)
        handlers = {n: handler for n in stops if callable(handler := signal.getsignal(n))}
    for stop in handlers:
        signal.signal(stop, lambda number, _: waiting.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
        for number in waiting[:1]:
            signal.raise_signal(number)


def _get_ready() -> None:
    """Load what takes longest to load."""
    from rocktok.report.page import draws

    _ = draws


def _begin(workers: int) -> ProcessPoolExecutor:
    """Processes that draw, not forks of this one, which would copy locks of threads that read.

    On Linux they are forks of one that loads what draws meanwhile, made for the first figure.
    Elsewhere libraries of the system may not survive a fork: they begin here, and each loads it.
    """
    if sys.platform != "linux":
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
        for _ in range(workers):
            pool.submit(_get_ready)
        return pool
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rocktok.report.page.draws"])
    forkserver.ensure_running()
    return ProcessPoolExecutor(workers, context, _start_worker)


class Drawing(AbstractContextManager["Drawing"]):
    """Figures to be drawn, and what came of them; the same bytes for any number of processes.

    Args:
        formats: png, pdf, svg; svg is drawn in any case.
        columns: 1 or 2, of a paper: the width of figures of one log.
        jobs: processes; 1: draw in this one, when the results are asked for.
    """

    def __init__(self, formats: Sequence[str], jobs: int = 1, columns: int = 1) -> None:
        self.formats, self.columns = tuple(formats), columns
        self.numbers: dict[str, AnyNumbers] = {}
        self._waiting: dict[str, Future[dict[str, bytes]]] = {}
        self._several: dict[str, bool] = {}
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            try:
                with _signals_held():
                    self._pool = _begin(min(jobs, WORKERS))
            except BaseException:
                # A signal that waited is raised here, before `with` has begun.
                self.__exit__()
                raise

    def __exit__(self, *details: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, name: str, numbers: AnyNumbers, *, several: bool = False) -> None:
        """A figure to be drawn; one that was added with these numbers already is left as it is."""
        if self.numbers.get(name) == numbers:
            return
        self.numbers[name], self._several[name] = numbers, several
        if self._pool is not None:
            # The first of them begin processes.
            with _signals_held():
                self._waiting[name] = self._pool.submit(
                    draw_one, name, numbers, self.formats, several, self.columns
                )

    def drawn(self) -> dict[str, dict[str, bytes]]:
        """Figure → format → bytes, of all that were added."""
        return {name: self._one(name) for name in self.numbers}

    def _one(self, name: str) -> dict[str, bytes]:
        if name in self._waiting:
            return self._waiting[name].result()
        several = self._several[name]
        return draw_one(name, self.numbers[name], self.formats, several, self.columns)
