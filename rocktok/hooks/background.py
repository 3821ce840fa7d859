"""The writer thread: owns the `LogWriter`, so that steps of training never wait for a disk.

The training thread puts whole steps into a bounded queue and goes on. What does not fit, or what
the disk refuses, is dropped by whole steps and counted in the log. Nothing that is raised here ends
the thread, and one that ends all the same has a successor, which goes on with the same item.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rocktok.log import LogWriter
    from rocktok.log.manifest import Manifest, WeightsInForce


@dataclass(frozen=True)
class StepRows:
    """All rows that this rank has for one step of one table, and the sequences they belong to.

    `beside`: those of the same step in tables with more about these rows, which go where they go.
    """

    table: str
    step: int
    rows: int
    batches: Sequence[Mapping[str, Any]]
    sequences: Mapping[str, Any] | None = None
    beside: Sequence[StepRows] = ()


@dataclass(frozen=True)
class _Sequences:
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class _Dropped:
    table: str
    step: int
    rows: int
    reason: str


@dataclass(frozen=True)
class _Mismatch:
    step: int


@dataclass(frozen=True)
class _Weights:
    weights: WeightsInForce


@dataclass(frozen=True)
class _Flush:
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _Store:
    path: str
    encode: Callable[[], bytes]


@dataclass(frozen=True)
class _Close:
    final: bool


class Background:
    """Hands steps to a daemon thread that writes them. Only `close` and `settle` wait.

    Args:
        writer: used by the thread alone from now on.
        limit: steps that may wait (the one being written included) before `offer` refuses.
    """

    def __init__(self, writer: LogWriter, limit: int) -> None:
        self._writer = writer
        self._limit = limit
        # What is to be done stands here until it is done; `_bell` wakes the thread. Both may be
        # filled by a signal handler that interrupted another filling.
        self._items: deque[Any] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._problems: SimpleQueue[str] = SimpleQueue()
        # Each counter has one thread that writes it, so neither needs a lock.
        self._offered = 0
        self._taken = 0
        self._closed = False
        self._unstored: dict[str, Callable[[], bytes]] = {}
        _load_libraries()
        self._thread = self._start()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="rocktok-writer", daemon=True)
        thread.start()
        return thread

    def _put(self, item: Any) -> None:
        self._items.append(item)
        self._bell.put(None)
        if not self._thread.is_alive() and not self._closed:
            self._problems.put("the writer thread had ended; a new one continues")
            self._thread = self._start()

    @property
    def has_room(self) -> bool:
        """Whether `offer` would take a step now: true until the next one is offered."""
        return self._offered - self._taken < self._limit

    def offer(self, rows: StepRows) -> bool:
        """Queue a step; False if the queue is full, and then nothing was taken."""
        if not self.has_room:
            return False
        self._offered += 1
        self._put(rows)
        return True

    # What follows is a few bytes each, or bounded by the fixed set: it needs no limit.

    def write_sequences(self, columns: Mapping[str, Any]) -> None:
        """Queue rows of the sequences table that no step carries."""
        self._put(_Sequences(columns))

    def drop(self, table: str, step: int, rows: int, reason: str) -> None:
        """Count a step that was given up before it came here."""
        self._put(_Dropped(table, step, rows, reason))

    def mismatch(self, step: int) -> None:
        """Count a call whose recorded loss was not the trainer's."""
        self._put(_Mismatch(step))

    def store(self, path: str, encode: Callable[[], bytes]) -> None:
        """Put a small file into the log at the next flush, in the place of an older one."""
        self._put(_Store(path, encode))

    def note_weights(self, weights: WeightsInForce) -> None:
        """Say in the log, at the next flush, which weights the trained loss has."""
        self._put(_Weights(weights))

    def flush(self) -> threading.Event:
        """Ask that everything queued so far be published. Returns what is set once it was tried."""
        request = _Flush()
        self._put(request)
        return request.done

    def settle(self, timeout: float) -> bool:
        """Flush, and wait until that was tried, or the thread has ended, or time is up.

        Returns whether it was tried.
        """
        request = _Flush()
        self._put(request)
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < deadline:
            if request.done.wait(0.05):
                break
        return request.done.is_set()

    def close(self, final: bool, timeout: float) -> bool:
        """Publish everything, mark the rank final, end the thread; False if that took too long."""
        try:
            self._put(_Close(final))
        except RuntimeError:
            # The thread had ended, and at the interpreter's end no other can be started.
            self._run()
        self._thread.join(timeout)
        return self._closed

    @property
    def manifest(self) -> Manifest:
        """What was published and given up; whole once `close` has returned True."""
        return self._writer.manifest

    @property
    def is_saved(self) -> bool:
        """Whether the log says all that `manifest` does."""
        return self._writer.is_saved

    def problems(self) -> list[str]:
        """What went wrong in the thread since the last call, in words."""
        messages = []
        while not self._problems.empty():
            messages.append(self._problems.get())
        return messages

    def _run(self) -> None:
        while not self._closed:
            if not self._items:
                self._bell.get()
                continue
            item = self._items[0]
            try:
                self._handle(item)
            except BaseException as error:
                self._lose(item, describe(error))
            if isinstance(item, StepRows):
                self._taken += 1
            elif isinstance(item, _Flush):
                item.done.set()
            self._closed = isinstance(item, _Close)
            self._items.popleft()

    def _lose(self, item: Any, reason: str) -> None:
        """Count what an error took, where nobody was ready for it."""
        if isinstance(item, StepRows):
            for rows in (item, *item.beside):
                self._writer.drop_step(rows.step, rows.rows, reason, table=rows.table)
            self._problems.put(f"step {item.step} of {item.table} was dropped: {reason}")
        else:
            self._problems.put(f"the writer thread failed: {reason}")

    def _handle(self, item: Any) -> None:
        match item:
            case StepRows():
                self._write(item)
            case _Sequences():
                self._writer.write(item.columns, table="sequences")
            case _Dropped():
                self._writer.drop_step(item.step, item.rows, item.reason, table=item.table)
            case _Mismatch():
                self._writer.add_mismatch(item.step)
            case _Store():
                self._unstored[item.path] = item.encode
            case _Weights():
                self._writer.note_weights(item.weights)
            case _Flush():
                self._publish(self._writer.flush)
            case _Close():
                self._close(item.final)

    def _close(self, final: bool) -> None:
        for _ in range(2):
            # The second try stores what the first one had to give up.
            if self._publish(lambda: self._writer.close(final=final)):
                return
        self._give_up("the disk did not store the last shard", sequences=True)
        self._publish(lambda: self._writer.close(final=final))

    def _give_up(self, reason: str, *, sequences: bool = False) -> None:
        rows = self._writer.drop_buffered(reason, sequences=sequences)
        if rows or not sequences:
            self._problems.put(f"{rows} buffered rows were dropped: {reason}")

    def _write(self, item: StepRows) -> None:
        try:
            if item.sequences is not None:
                self._writer.write(item.sequences, table="sequences")
            for batch in item.batches:
                self._writer.write(batch, table=item.table)
        except BaseException as error:
            # Not the disk (only finished steps are published): rows that the format refuses.
            self._lose(item, describe(error))
            return
        if self._publish(lambda: self._writer.finish_step(item.step, table=item.table)):
            # Afterwards: rows beside others may be missing, but never be alone.
            for rows in item.beside:
                self._write(rows)
        else:
            reason = f"step {item.step} of {item.table} was dropped"
            for rows in item.beside:
                self._writer.drop_step(rows.step, rows.rows, reason, table=rows.table)

    def _publish(self, action: Callable[[], None]) -> bool:
        """Run what may touch the disk; on failure give up what is buffered."""
        try:
            action()
        except BaseException as error:
            self._give_up(f"writing failed: {describe(error)}")
            return False
        self._store_files()
        return True

    def _store_files(self) -> None:
        for path, encode in list(self._unstored.items()):
            try:
                self._writer.place.replace(path, encode())
            except Exception as error:
                # Kept for the next flush.
                self._problems.put(f"{path} could not be stored: {describe(error)}")
            else:
                del self._unstored[path]


def _load_libraries() -> None:
    """Import now what Arrow imports at its first conversion and at its first Parquet file.

    The first flush may come in a signal handler or at interpreter exit, where importing hangs
    on the import lock or is refused.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    pa.array(np.zeros(1))


def describe(error: BaseException) -> str:
    """One line that names an error, for reasons in the log and for warnings."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
