"""Who takes the gradients of a pass, and how they come to him in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor


class GradientSink(Protocol):
    """Takes the gradients of a pass, a few rows at a time: `rocktok.hooks.gradients` has one."""

    def add(self, rows: Sequence[int], gradient_NV: Tensor) -> None:
        """Take the gradients (N, V) of these scored positions; the tensor is used again.

        Called for one block at a time, in the same order for any number of threads. A position
        may come twice, the first time as 0.
        """

    def finish(self, norm_N: Tensor) -> None:
        """All has come; these are the norms (N,) of all scored positions."""


class Delivery:
    """Hands the blocks of a pass to a sink in the order of their rows, on whatever thread.

    Floating-point sums depend on the order of their terms; blocks are finished in any.

    Args:
        sink: who takes them.
        rows: which of the scored positions each row of the pass is.
    """

    def __init__(self, sink: GradientSink, rows: Sequence[int]) -> None:
        self._sink = sink
        self._rows = rows
        self._turn = threading.Condition()
        self._next = 0
        self._error: BaseException | None = None

    @contextmanager
    def block(self, first: int, last: int) -> Iterator[Callable[[Tensor], None]]:
        """Around the work on rows first:last: gives what takes their gradients.

        A block that fails ends the wait of the others, which fail with the same error.
        """
        try:
            yield lambda gradient_NV: self._take(first, last, gradient_NV)
        except BaseException as error:
            with self._turn:
                self._error = self._error or error
                self._turn.notify_all()
            raise

    def _take(self, first: int, last: int, gradient_NV: Tensor) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._next == first or self._error is not None)
            if self._error is not None:
                raise self._error
            self._sink.add(self._rows[first:last], gradient_NV)
            self._next = last
            self._turn.notify_all()
