"""SIGTERM: schedulers send it before they kill a job, and what is buffered must be on disk then."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class TerminationHandler:
    """Runs `action` at SIGTERM, then whatever handler was there before (also the default one).

    Only Python's main thread may set signal handlers: elsewhere this does nothing.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._process = os.getpid()
        self._previous: Any = None
        # One object: each look at a method makes a new one, and `remove` compares identities.
        self._handler = self._handle
        self._installed = False

    def install(self) -> None:
        """Set the handler; not where C code holds the signal, for that could not be restored."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is None:
            return
        self._previous = signal.signal(signal.SIGTERM, self._handler)
        self._installed = True

    def remove(self) -> None:
        """Restore the earlier handler, unless another has been set over this one."""
        if not self._installed or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, self._previous)
        # A handler set over this one may still call it: it then only passes the signal on.
        self._installed = False

    def _handle(self, number: int, frame: Any) -> None:
        # A forked child (a data loader's worker) inherits the handler, but not the thread.
        if self._installed and os.getpid() == self._process:
            self._action()
        if callable(self._previous):
            self._previous(number, frame)
        elif self._previous == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
