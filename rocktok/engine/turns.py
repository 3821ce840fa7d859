"""Analyses that take turns, so that one pass over the rows serves several of them.

Each companion has a thread, but one thread alone is ever awake: whoever needs a pass sleeps, and
when all sleep a pass is made for those that ask for the same rows. Who has given work to other
threads lets the others go on meanwhile. What is computed, and which requests a pass serves, follows
from the log and the options alone.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from rocktok.engine.requests import Request, next_pass

T = TypeVar("T")

#: Names of the analyses under way, the outermost first: what a pass is for.
NAMES: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("names", default=())


@contextmanager
def named(name: str) -> Iterator[None]:
    """Passes made here are for the analysis of this name, whatever it is part of."""
    token = NAMES.set((*NAMES.get(), name))
    try:
        yield
    finally:
        NAMES.reset(token)


class _AbandonedError(BaseException):
    """Nobody waits for this companion any more."""


_NUMBERS = itertools.count()


class Life:
    """A companion's thread, and what it waits for; `passes`: that it had a part in."""

    def __init__(self, turns: Turns, function: Callable[[], Any], parent: Life | None) -> None:
        self.number, self.parent = next(_NUMBERS), parent
        self.passes = 0
        self.request: Request | None = None
        self.until: Callable[[], bool] | None = None
        self.work: Future[Any] | None = None
        self.done = self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._turns, self._function = turns, function
        self._wake = threading.Semaphore(0)
        self._context = contextvars.copy_context()
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether it can go on."""
        if self.request is not None:
            return self.request.outcome is not None
        if self.work is not None:
            return self.work.done()
        return self.until is None or self.until()

    def resume(self) -> None:
        """Wake it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, daemon=True)
            self._thread.start()
        else:
            self._wake.release()

    def sleep(
        self,
        *,
        request: Request | None = None,
        until: Callable[[], bool] | None = None,
        work: Future[Any] | None = None,
    ) -> None:
        """Give the turn back, until a request is answered, a condition holds, or work is done."""
        if not self.abandoned:
            self.request, self.until, self.work = request, until, work
            self._turns.turn.release()
            self._wake.acquire()
            self.request = self.until = self.work = None
        self.check()

    def check(self) -> None:
        """End the thread if nobody waits for it."""
        if self.abandoned:
            raise _AbandonedError

    def abandon(self) -> None:
        """Let it end, at its next pass if it is awake."""
        self.abandoned = True
        if self._thread is not None and not self.done:
            self._wake.release()

    def join(self) -> None:
        """Wait for the end of its thread."""
        if self._thread is not None:
            self._thread.join()

    def _live(self) -> None:
        _HERE.life = self
        try:
            self.result = self._context.run(self._function)
        except _AbandonedError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            # What it held is not held for longer by a thread that ends.
            self._function, self._context = _nothing, contextvars.Context()
            if not self.abandoned:
                self._turns.turn.release()


def _nothing() -> None:
    return None


class _Here(threading.local):
    life: Life | None = None


_HERE = _Here()


class Companion(Generic[T]):
    """An analysis that goes on beside others; ask for its `result`. Dropped, it ends."""

    def __init__(self, turns: Turns, life: Life) -> None:
        self._turns, self._life = turns, life

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._life.done

    def result(self) -> T:
        """What its function returned, or raises what that raised."""
        self._turns.wait(lambda: self._life.done)
        if self._life.error is not None:
            raise self._life.error
        return cast(T, self._life.result)

    def __del__(self) -> None:
        self._turns.drop(self._life)


class Turns:
    """Who is awake, and who waits for which pass.

    Args:
        serve: answers requests by one pass.
    """

    def __init__(self, serve: Callable[[Sequence[Request]], None]) -> None:
        self.turn = threading.Semaphore(0)
        self._serve = serve
        self._lives: list[Life] = []

    @property
    def here(self) -> Life | None:
        """The companion whose thread this is."""
        life = _HERE.life
        return life if life is not None and life._turns is self else None

    def start(self, function: Callable[[], T]) -> Companion[T]:
        """Begin an analysis; it first runs when whoever starts it waits for something."""
        life = Life(self, function, self.here)
        self._lives.append(life)
        return Companion(self, life)

    def ask(self, request: Request) -> None:
        """Wait until a request is answered."""
        if self.here is not None:
            self.here.sleep(request=request)
        else:
            self._until(lambda: request.outcome is not None, request)

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until a condition holds that others bring about."""
        if self.here is not None:
            while not until():
                self.here.sleep(until=until)
        else:
            self._until(until, None)

    def wait_for(self, work: Future[Any]) -> None:
        """Let others go on until work is done that some thread was given.

        It makes no passes, and none is made for others before it is done: which requests one pass
        serves does not depend on how long it takes.
        """
        if self.here is not None:
            self.here.sleep(work=work)
        else:
            self._until(work.done, None, work)

    def check(self) -> None:
        """End this thread if it is a companion's for whom nobody waits."""
        if self.here is not None:
            self.here.check()

    def drop(self, life: Life) -> None:
        """Nobody waits for a companion any more."""
        if life in self._lives:
            self._lives.remove(life)
            life.abandon()

    def close(self) -> None:
        """Let all end."""
        lives, self._lives = self._lives, []
        for life in lives:
            life.abandon()
        for life in lives:
            life.join()

    def _until(
        self, done: Callable[[], bool], own: Request | None, work: Future[Any] | None = None
    ) -> None:
        """Let the companions run, and make passes, until the condition holds."""
        while not done():
            self._lives = [life for life in self._lives if not life.done]
            ready = next((life for life in self._lives if life.ready), None)
            if ready is not None:
                self._resume(ready)
                continue
            busy = [life.work for life in self._lives if life.work is not None]
            if work is not None or busy:
                wait([*busy, *([] if work is None else [work])], return_when=FIRST_COMPLETED)
                continue
            asked = [life.request for life in self._lives if life.request is not None]
            waiting = [*([] if own is None else [own]), *asked]
            assert waiting, "all companions wait for each other"
            self._serve(next_pass(waiting))

    def _resume(self, life: Life) -> None:
        life.resume()
        try:
            self.turn.acquire()
        except BaseException:
            # Interrupted while it is awake: it ends at its next pass, and others do now.
            self.close()
            raise
