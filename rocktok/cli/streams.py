"""stdout and stderr that may be closed, full, or a pipe whose reader has gone."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

from rocktok.errors import LogError


class ReaderGoneError(Exception):
    """Whoever read our output has gone (`| head`): nothing is wrong."""


class _Whole(io.FileIO):
    """Writes all that it is given, at once: nothing is kept that would be written twice."""

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        while left:
            written: int | None = super().write(left)
            if written is None:  # whoever shares it made it non-blocking
                select.select([], [self], [])
            left = left[written or 0 :]
        return len(data)


class _Stdout(_Whole):
    """A failure to write is an error of ours; click would end by 1 where a reader has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderGoneError from None
        except OSError as error:
            raise _unwritable(error.strerror or str(error)) from error


class _Closed(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        raise _unwritable("stdout is closed")


class _Stderr(_Whole):
    """Messages that cannot be written are lost; the result and the exit code stand."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data)


def _unwritable(why: str) -> LogError:
    return LogError(f"the output cannot be written ({why})")


def guard_streams() -> None:
    """Make the process's stdout and stderr fit for being closed or full."""
    _reserve()
    sys.stdout = _guarded(sys.stdout, 1, _Stdout, _Closed())
    sys.stderr = _guarded(sys.stderr, 2, _Stderr, _Nowhere())


def _reserve() -> None:
    """Open what is closed: a log or an output would take the number, and get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)


def _guarded(stream: Any, number: int, kind: type[io.FileIO], closed: io.RawIOBase) -> Any:
    if stream is None:
        return _text(closed, "utf-8")
    # What a legacy encoding lacks is escaped: a help text must not end in an error.
    stream.reconfigure(errors="backslashreplace")
    if stream.isatty():
        return stream
    stream.flush()
    return _text(kind(number, "w", closefd=False), stream.encoding)


def _text(raw: Any, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, encoding, "backslashreplace", write_through=True)
