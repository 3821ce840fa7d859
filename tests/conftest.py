from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

# Before any library of the Hugging Face family is imported: tests never ask a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads of NumPy and PyTorch wait by spinning, which tests that run side by side pay for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before anything imports Triton: its kernels run on the CPU, in its interpreter. (0: compiled.)
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

#: What others keep in the directory for temporary files until the process ends, or for good:
#: sockets of multiprocessing, Dask's scratch directory, PyTorch's cache of compiled code.
KEPT = ("pymp-", "dask-scratch-space", "torchinductor_")

TEMPORARY = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Give this process, and those that it starts, an empty directory for temporary files."""
    # tmp_path stays where it is without this.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    worker = getattr(config, "workerinput", {}).get("workerid")
    # Short, as a Unix socket's path has room for about 100 bytes.
    if worker is None:
        folder = Path(tempfile.mkdtemp(prefix="rocktok-"))
    else:
        # In the directory of the process that started this worker.
        folder = Path(tempfile.gettempdir(), worker)
        folder.mkdir()
    config.stash[TEMPORARY] = folder
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # Removed at the end, after what multiprocessing removes of it (at priority -100).
    util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-200)


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves nothing in the directory for temporary files, nor does what it tests."""
    folder = request.config.stash[TEMPORARY]

    def there() -> list[Path]:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(KEPT))

    before = there()
    yield
    if set(there()) - set(before):
        # What goes with an object that nobody holds is not left.
        gc.collect()
    left = [path for path in there() if path not in before]
    assert left == [], "is left in the directory for temporary files"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed files that are absent are not waited for; one test puts the wait back."""
    from rocktok.log import opening

    monkeypatch.setattr(opening, "MISSING_WAIT", 0.0)
