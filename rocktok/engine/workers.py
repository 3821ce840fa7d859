"""Threads of this process, for what is computed outside of passes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from rocktok.engine.turns import Turns

T = TypeVar("T")


def cores() -> int:
    """Cores this process may use; only Linux can tell them from the cores there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def called(function: Callable[[], T]) -> T:
    """What it returns."""
    return function()


def in_order(
    submit: Callable[..., Any],
    limit: int,
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
) -> Iterator[Any]:
    """Results of what was submitted, in the order of the calls; `limit`: how many wait at once."""
    waiting: deque[Any] = deque()
    todo = iter(calls)
    while True:
        while len(waiting) < limit and (call := next(todo, None)) is not None:
            waiting.append(submit(function, *call))
        if not waiting:
            return
        yield waiting.popleft().result()


class Workers:
    """As many threads, which start when they are given work, for all analyses that take turns."""

    def __init__(self, threads: int, turns: Turns) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._turns = turns

    def map(
        self, function: Callable[..., T], calls: Iterable[tuple[Any, ...]], ahead: int
    ) -> Iterator[T]:
        """Results in the order of the calls, `ahead` of them at once; others go on meanwhile."""
        waiting: deque[Future[Any]] = deque()

        def submit(*call: Any) -> _Yielding:
            waiting.append(self._pool.submit(*call))
            return _Yielding(waiting[-1], self._turns)

        try:
            for result in in_order(submit, ahead, function, calls):
                waiting.popleft()
                yield result
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(cancel_futures=True)


@dataclass
class _Yielding:
    """A future; whoever waits for it gives the turn back until it is done."""

    future: Future[Any]
    turns: Turns

    def result(self) -> Any:
        self.turns.wait_for(self.future)
        return self.future.result()
