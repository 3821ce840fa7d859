"""Directories that a command writes: refused before the work, whole or not at all after it."""

from __future__ import annotations

import json
import secrets
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from rocktok.errors import LogError, UsageError
from rocktok.files import sync_directory, write_synced

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


def check_directory(
    path: Path,
    *,
    force: bool,
    own: Collection[str],
    marker: str,
    schema: str,
    inputs: Iterable[str] = (),
) -> Path:
    """Refuse a directory that must not or cannot be written. `force`: over one of ours.

    Ours are those whose JSON file `marker` has a schema that begins so, and which hold nothing
    that `own` does not match (patterns of relative paths) and none of `inputs`.

    Returns the directory that is meant, links followed. Raises `UsageError`, or `LogError` for
    one that cannot be written.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_dir():
            raise UsageError(f"{path}: is a file; give a directory")
        if target.exists() and any(target.iterdir()):
            _check_ours(path, own, marker, schema)
            if not force:
                raise UsageError(f"{path}: exists already; give --force to replace it")
            _check_apart(path, inputs)
        _probe(target)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise _unwritable(path, error) from error
    return target


def _check_ours(path: Path, own: Collection[str], marker: str, schema: str) -> None:
    try:
        ours = str(json.loads((path / marker).read_bytes())["schema"]).startswith(schema)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise UsageError(f"{path}: holds other files; give a new directory")
    folders = {pattern.rpartition("/")[0] for pattern in own}
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        if entry.is_dir() and not entry.is_symlink():
            is_ours = name in folders
        else:
            is_ours = any(fnmatchcase(name, p) and name.count("/") == p.count("/") for p in own)
        if not is_ours:
            raise UsageError(
                f"{path}: holds {name}, which no report made; move it away, or give a new directory"
            )


def _check_apart(path: Path, inputs: Iterable[str]) -> None:
    """What is read is never in the way of what is written."""
    target = path.resolve()
    for name in inputs:
        read = None if "://" in name else Path(name).resolve()
        if read and (read.is_relative_to(target) or target.is_relative_to(read)):
            raise UsageError(f"{path}: and the log {name} lie in each other; give a new directory")


def _probe(target: Path) -> None:
    """Make and remove what writing will make first: an hour of work may come before it."""
    place = target
    while not place.exists():
        place = place.parent
    trial = _temporary(place)
    trial.mkdir()
    trial.rmdir()


def _unwritable(path: Path, error: Exception) -> LogError:
    reason = getattr(error, "strerror", None) or str(error)
    return LogError(f"{path}: cannot be written ({reason}); give another place, or make room there")


def write_directory(path: Path, files: Mapping[str, bytes], *, marker: str) -> None:
    """Write a directory of files, whole or not at all; what it held is replaced.

    One that is there stays the same directory, so that a mount point and a shell's own will do:
    complete entries are moved in, `marker` last. A new one is renamed to its name.

    Raises `LogError` if the disk fails; what the directory held is then there still.
    """
    filled = path.is_dir()
    made = _temporary(path if filled else path.parent)
    aside = made.with_suffix(".old")
    try:
        for name, data in files.items():
            write_synced(made / name, data)
        if filled:
            _exchange(path, made, aside, marker)
        else:
            made.rename(path)
        for directory in (path, path.parent):
            sync_directory(directory)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        for left in (made, aside):
            shutil.rmtree(left, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    return folder / f".rocktok.{secrets.token_hex(6)}.tmp"


def _exchange(path: Path, made: Path, aside: Path, marker: str) -> None:
    """Move what `path` holds aside and the entries of `made` in; all back if one fails."""
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        source.rename(target)
        moved.append((source, target))

    aside.mkdir()
    earlier = [entry for entry in path.iterdir() if entry not in (made, aside)]
    try:
        for entry in sorted(earlier, key=lambda one: one.name != marker):
            move(entry, aside / entry.name)
        for entry in sorted(made.iterdir(), key=lambda one: one.name == marker):
            move(entry, path / entry.name)
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise
