"""Room on the disk that is given back when the disk is full, so that losses can be counted."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rocktok.publishing import write_synced

if TYPE_CHECKING:
    from rocktok.files import Place

#: The least size, and how many manifests there must be room for.
LEAST, TIMES = 1 << 16, 4

_FULL = {errno.ENOSPC, errno.EDQUOT}


class Reserve:
    """A file that nobody reads, in the room that a manifest needs. Local filesystems only.

    Args:
        where: the log.
        path: of the file, one for each rank; a name that readers ignore.
    """

    def __init__(self, where: Place, path: str) -> None:
        self._path = Path(where.join(path)) if where.is_local else None
        self._size = 0

    def release(self, error: OSError) -> bool:
        """Give the room back if the disk is full; whether another try is worth making."""
        if error.errno not in _FULL or self._size == 0:
            return False
        self.remove()
        return True

    def renew(self, manifest_bytes: int) -> None:
        """Take up room for manifests of that size, if there is any left."""
        if self._path is None or self._size >= 2 * manifest_bytes > 0:
            return
        self.remove()
        size = max(LEAST, TIMES * manifest_bytes)
        try:
            # Random: a filesystem that compresses would keep no room for zeros.
            write_synced(self._path, os.urandom(size))
            self._size = size
        except OSError:
            self.remove()

    def remove(self) -> None:
        """Give the room back; also what a killed process has left."""
        self._size = 0
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
