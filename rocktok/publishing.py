"""Local files that appear whole or not at all, and never over another by accident."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rocktok.temporary import holding, temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a filesystem answers that lacks a call, or a flag of it (s3fs, rclone, gcsfuse, exFAT).
_LACKING = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_LINK = _LACKING | {errno.EXDEV, errno.EMLINK}

#: How a file got its name without replacing another.
PUT, LINK, RENAME, CLAIM = "put", "link", "exclusive rename", "claim and rename"


def create_file(path: Path, data: bytes) -> str:
    """Write a new file so that it appears whole, or not at all, and never over another.

    Written under a dot-name, fsynced, then published: by link(), where that is missing by an
    exclusive rename, and where that is missing, too, by claiming the name with a hidden file and a
    plain rename. Returns which.

    Raises `FileExistsError` if `path` exists, `OSError` if the disk fails or another process has
    claimed the name.
    """
    with _write_temporary(path, data) as temporary:
        way = _publish(temporary, path)
    sync_directory(path.parent)
    return way


@contextmanager
def file_to_be(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A file that is written piece by piece, and gets its name when the block has ended.

    `replace`: over an older one; else as `create_file`, which see for what is raised. It is gone
    if the block raises.
    """
    with _temporary(path) as (temporary, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        if replace:
            temporary.replace(path)
        else:
            _publish(temporary, path)
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    with _write_temporary(path, data) as temporary:
        temporary.replace(path)
    sync_directory(path.parent)


def write_synced(target: Path, data: bytes) -> None:
    """Write a new file and its folders, and wait until the disk has it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        _write_through(file, data)


def _write_through(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _write_temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A file of the data beside `path`, held, and removed in the end if it is still there."""
    with _temporary(path) as (temporary, file):
        _write_through(file, data)
        file.close()
        yield temporary


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, held, and removed in the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with ExitStack() as stack, temporary.open("xb") as file:
            stack.enter_context(holding(temporary))
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> str:
    try:
        os.link(temporary, path)
        return LINK
    except (OSError, AttributeError) as error:  # AttributeError: a system without os.link
        if isinstance(error, OSError) and error.errno not in _NO_LINK:
            raise
    try:
        _rename_exclusive(temporary, path)
        return RENAME
    except OSError as error:
        if error.errno not in _LACKING:
            raise
    _claim_and_rename(temporary, path)
    return CLAIM


def _claim_and_rename(source: Path, target: Path) -> None:
    """Rename without overwriting, where nothing but the creation of a file is exclusive.

    What is claimed is a hidden name beside the target: a reader never sees an empty file. Whoever
    holds the claim alone looks whether the target is there.
    """
    claim = target.with_name(f".{target.name}.claim")
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError as error:
        raise OSError(
            errno.EBUSY, "another process is giving this name, or died over it: remove", str(claim)
        ) from error
    try:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        source.rename(target)
    finally:
        claim.unlink(missing_ok=True)


def _rename_exclusive(source: Path, target: Path) -> None:
    """Rename without overwriting, by a flag of the system's own rename."""
    if os.name == "nt":
        source.rename(target)  # on Windows a rename never overwrites
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform.startswith("linux") and hasattr(libc, "renameat2"):
        at_fdcwd, rename_noreplace = -100, 1
        done = libc.renameat2(
            at_fdcwd, os.fsencode(source), at_fdcwd, os.fsencode(target), rename_noreplace
        )
    elif sys.platform == "darwin":
        rename_excl = 4
        done = libc.renamex_np(os.fsencode(source), os.fsencode(target), rename_excl)
    else:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(target))
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def sync_directory(directory: Path) -> None:
    """Make a new name durable; filesystems that cannot sync a directory are left alone."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _LACKING:
            raise
    finally:
        os.close(descriptor)
