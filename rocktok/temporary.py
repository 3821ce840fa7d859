"""Temporary files and directories beside an output: whose process lives, and what dead ones left.

A name in use is locked by the system, so that a process that is killed holds nothing. Where there
are no locks (Windows, some network filesystems) nobody can tell, and the later run goes first.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def temporary_name(target: Path) -> Path:
    """A new name beside `target`; hidden, so that readers of logs do not see it."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")


def abandoned(target: Path, endings: str = "tmp") -> Iterator[Path]:
    """Temporary names beside `target` that no living process holds; each held while it is seen.

    `endings`: of the names, with | between them.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.(?:{endings})")
    try:
        paths = sorted(p for p in target.parent.iterdir() if pattern.fullmatch(p.name))
    except OSError:
        return
    yield from _free(paths)


def _free(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        # Another run may be clearing up, too.
        with suppress(FileNotFoundError), holding(path) as ours:
            if ours:
                yield path


def clear(target: Path) -> None:
    """Remove what killed processes have left beside `target`."""
    for path in abandoned(target):
        remove(path)


def clear_below(folder: Path) -> None:
    """Remove what killed processes have left anywhere in a directory."""
    pattern = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
    paths = [path for path in sorted(folder.rglob(".*.tmp")) if pattern.fullmatch(path.name)]
    for path in _free(paths):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it can be; what stays is cleared by the next run."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, held, and removed in the end if it is still there."""
    clear(target)
    path = temporary_name(target)
    path.mkdir(parents=True)
    try:
        with holding(path):
            yield path
    finally:
        remove(path)


@contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Hold a file or directory against other processes; False if another one holds it."""
    try:
        import fcntl  # noqa: F401 - elsewhere an open file could not be renamed
    except ImportError:
        yield True
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process holds it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a filesystem without locks
    return True
