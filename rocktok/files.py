"""Files that appear whole or not at all, on local disks and on anything pyarrow or fsspec open."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocktok.errors import DamagedError, LogError, UsageError
from rocktok.folders import Entry, walk, why_no_file
from rocktok.publishing import PUT, create_file, file_to_be, replace_file
from rocktok.temporary import clear

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

#: Bytes that a JSON file or a vocabulary may have.
SMALL_FILE_BYTES = 1 << 28

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{12}\.tmp|claim)")


class NotAFileError(OSError):
    """What has the name of a file is none that can be read without waiting."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Place:
    """A directory: a pyarrow filesystem, the path in it, and the name that the user gave."""

    filesystem: Any
    path: str
    name: str

    @property
    def is_local(self) -> bool:
        """Whether plain `os` calls work on the path."""
        return bool(self.filesystem.type_name == "local")

    def join(self, relative: str) -> str:
        """The filesystem's own path of a file below this directory."""
        return f"{self.path}/{relative}" if self.path else relative

    def show(self, relative: str) -> str:
        """How a message names a file below this directory."""
        return f"{self.name.rstrip('/')}/{relative}"

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Turns what a storage says no with into a `LogError` that names the place."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise LogError(
                f"{self.name}: the storage failed ({_line(error)}); check the address and the "
                "permissions, and try again"
            ) from error

    def exists(self, relative: str = "") -> bool:
        """Whether there is a file or directory, or a link, wherever it leads."""
        from pyarrow.fs import FileType

        target = self.join(relative) if relative else self.path
        if self.is_local:
            return os.path.lexists(target)
        return bool(self.filesystem.get_file_info(target).type != FileType.NotFound)

    def is_directory(self) -> bool:
        """Whether the place itself is a directory (object stores: has anything below it)."""
        from pyarrow.fs import FileType

        return bool(self.filesystem.get_file_info(self.path).type == FileType.Directory)

    def entries(self, relative: str, suffix: str) -> list[Entry]:
        """What a folder and those below it hold under names with a suffix, sorted by path.

        Hidden names and those with other endings are left out. Links are followed; one that leads
        nowhere may stand for a folder, and is a problem whatever its ending.
        """
        found = (
            walk(self.path, relative, suffix) if self.is_local else self._listed(relative, suffix)
        )
        return sorted(found, key=lambda entry: entry.path)

    def _listed(self, relative: str, suffix: str) -> Iterator[Entry]:
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.join(relative), recursive=True, allow_not_found=True)
        start = len(self.path) + 1 if self.path else 0
        for info in self.filesystem.get_file_info(selector):
            path = info.path[start:]
            if path.endswith(suffix) and not any(p.startswith(".") for p in path.split("/")):
                is_file = info.type == FileType.File
                yield Entry(path, info.size or 0, None if is_file else "is a directory")

    def files(self, relative: str, suffix: str) -> Iterator[tuple[str, int]]:
        """(relative path, size) of the files among `entries`.

        Raises `DamagedError` for a name that is no file.
        """
        for entry in self.entries(relative, suffix):
            if entry.problem is not None:
                raise DamagedError(
                    f"{self.show(entry.path)}: {entry.problem}, where a file of the log must be; "
                    "restore the file, or move this away"
                )
            yield entry.path, entry.size

    def temporaries(self) -> list[str]:
        """Files that a writer has begun and not given their names, sorted by path."""
        if not self.is_local:
            return []
        found = (
            f"{folder}/{name}".removeprefix(f"{self.path}/")
            for folder, _, names in os.walk(self.path)
            for name in names
            if _TEMPORARY.fullmatch(name)
        )
        return sorted(found)

    def remove_temporaries(self, prefixes: tuple[str, ...]) -> None:
        """Remove what was begun of files whose names begin so, by writers that are gone."""
        for path in self.temporaries():
            if path.rsplit("/", 1)[-1].removeprefix(".").startswith(prefixes):
                Path(self.join(path)).unlink(missing_ok=True)

    def open(self, relative: str) -> Any:
        """A file, open to read at any place.

        Raises `FileNotFoundError`, and `NotAFileError` for what would have to be waited for.
        """
        path = self.join(relative)
        if self.is_local and (problem := why_no_file(path)) is not None:
            raise NotAFileError(problem)
        return self.filesystem.open_input_file(path)

    def read(self, relative: str, *, largest: int | None = None) -> bytes:
        """All bytes of a file; `FileNotFoundError` if it is not there.

        Raises `NotAFileError` also for one of more than `largest` bytes.
        """
        with self.open(relative) as file:
            if largest is not None and file.size() > largest:
                raise NotAFileError(
                    f"has {file.size():,} bytes; such a file has no more than {largest:,}"
                )
            return bytes(file.read())

    def create(self, relative: str, data: bytes) -> str:
        """Publish a new file; `FileExistsError` if the name is taken. Returns how: see `LINK`."""
        if self.is_local:
            return create_file(Path(self.join(relative)), data)
        if self.exists(relative):
            raise FileExistsError(errno.EEXIST, "exists already", self.show(relative))
        self._put(relative, data)
        return PUT

    def replace(self, relative: str, data: bytes) -> None:
        """Write a file, in the place of an older one if there is one. See `replace_file`."""
        if self.is_local:
            replace_file(Path(self.join(relative)), data)
        else:
            self._put(relative, data)

    def _put(self, relative: str, data: bytes) -> None:
        # Object stores make a PUT visible whole when it is complete: no temporary name needed.
        with self.filesystem.open_output_stream(self.join(relative)) as stream:
            stream.write(data)


def place(name: str | os.PathLike[str]) -> Place:
    """Open a local directory or any URI that pyarrow's filesystems or fsspec know.

    Raises `UsageError` for a URI that neither knows, and for a path that is not UTF-8.
    """
    from pyarrow import fs

    text = os.fspath(name)
    if "://" not in text:
        return Place(fs.LocalFileSystem(), _utf8(local_path(text).absolute()), text)
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except Exception as error:
        filesystem, path = _fsspec(text, error)
    # Endpoint and region stand in the address; messages name the place without them.
    return Place(filesystem, path.rstrip("/"), text.partition("?")[0])


def _utf8(path: Path) -> str:
    """A path as Arrow takes it. Raises `UsageError` for one that is not UTF-8."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UsageError(f"{shown}: is not UTF-8, as paths of logs must be; rename it") from error
    return text


def _fsspec(text: str, first: Exception) -> tuple[Any, str]:
    from pyarrow import fs

    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(text)
    except Exception as error:
        raise UsageError(
            f"{text}: no filesystem opens this address (pyarrow: {_line(first)}; "
            f"fsspec: {_line(error)}); use a local path or an address one of them knows"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def local_path(name: str | os.PathLike[str]) -> Path:
    """A path as a shell would take it: `~` is the user's home."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path's raises for unknown users


def resolved(name: str | os.PathLike[str]) -> Path:
    """The path that a name means, links followed. Raises `OSError` for links in a circle."""
    path = local_path(name)
    with suppress(FileNotFoundError):
        path.stat()
    return path.resolve()


#: What stands for an open file of this process, as `/dev/stdout` does.
_DESCRIPTOR = re.compile(r"(?:/dev|/proc/(?:self|\d+))/(?:fd/(\d+)|std(out|err))")
_STANDARD = {"out": 1, "err": 2}


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """The open file of this process that a path means, through links; None for none."""
    name = os.fspath(local_path(path))
    for _ in range(40):  # links, as the system follows them
        match = _DESCRIPTOR.fullmatch(name)
        if match:
            return _STANDARD[match[2]] if match[2] else int(match[1])
        try:
            name = os.path.normpath(Path(name).parent / Path(name).readlink())
        except OSError:
            return None
    return None


def writes_into(path: Path) -> bool:
    """Whether a path is written into, as it is no regular file: a device, a FIFO, an open file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return descriptor_of(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_output(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> None:
    """Write a result of a command: whole or not at all, over another file only with `force`.

    A link stays, and what it leads to is written. What is no regular file is written into.

    Raises `UsageError` if the file exists, `LogError` if it cannot be written.
    """
    target = local_path(path)
    try:
        if writes_into(target):
            number = descriptor_of(target)
            with target.open("wb") if number is None else os.fdopen(os.dup(number), "wb") as file:
                file.write(data)
            return
        final = resolved(target)
        clear(final)
        if force:
            replace_file(final, data)
        else:
            create_file(final, data)
    except FileExistsError as error:
        raise UsageError(f"{target}: exists already; give --force to replace it") from error
    except OSError as error:
        raise LogError(f"{target}: cannot be written ({error.strerror or error})") from error


def refuse_output(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise `UsageError` for what `open_output` cannot write: before the work is done for it."""
    target = local_path(path)
    if writes_into(target):
        raise UsageError(f"{target}: is no regular file; give the name of a file for the output")
    if target.exists() and not force:
        raise UsageError(f"{target}: exists already; give --force to replace it")


@contextmanager
def open_output(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """`write_output` piece by piece, for what need not fit in memory; a regular file.

    Raises `UsageError` as `refuse_output`, `LogError` if it cannot be written.
    """
    target = local_path(path)
    refuse_output(path, force=force)
    try:
        final = resolved(target)
        clear(final)
        with file_to_be(final, replace=force) as file:
            yield file
    except FileExistsError as error:
        raise UsageError(f"{target}: exists already; give --force to replace it") from error
    except OSError as error:
        raise LogError(f"{target}: cannot be written ({error.strerror or error})") from error
