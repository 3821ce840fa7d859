"""A Dask cluster: connecting to it, and handing out calls with a bounded number of them ahead."""

from __future__ import annotations

import gc
import json
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from rocktok._version import __version__
from rocktok.engine.heap import hold
from rocktok.engine.workers import in_order
from rocktok.errors import RocktokError
from rocktok.files import local_path

T = TypeVar("T")

#: Tasks at most that go to a worker of a cluster together: a scheduler takes milliseconds for each
#: that it hands out, a task little more. The last ones go alone, so that all workers end together.
BUNDLE = 8

#: Bundles at least that a thread's share of the tasks left is cut into.
SHARES = 4

#: Bytes of arguments that may go to a cluster with every task.
SMALL_BYTES = 1 << 16

#: Seconds that a cluster may be without workers: they may come later than the scheduler.
WORKERS_WAIT = 120

#: Seconds to find the scheduler of a cluster.
CONNECT_TIMEOUT = 20


class Cluster:
    """A connected cluster whose workers have this version."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(cls, dask: str) -> Self:
        """That of a scheduler's address, or of its scheduler file. Raises `RocktokError`."""
        return cls(_connect(dask))

    def close(self) -> None:
        """Let go of it; the cluster goes on."""
        self._client.close()

    @property
    def threads(self) -> int:
        """Of all workers at this moment."""
        return sum(self._client.nthreads().values())

    def bundles(self, tasks: Sequence[T]) -> list[Sequence[T]]:
        """The tasks in order, some together: a quarter of a thread's share of those left.

        At least one, at most `BUNDLE` (guided self-scheduling: Polychronopoulos and Kuck 1987).
        """
        return bundled(tasks, max(1, self.threads))

    def share(self, value: Any) -> Any:
        """What many calls have among their arguments; what is large goes to each worker once."""
        if len(pickle.dumps(value)) < SMALL_BYTES:
            return value
        return self._client.scatter(value, broadcast=True, hash=False)

    def map(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], ahead: int
    ) -> Iterator[Any]:
        """Results in the order of the calls; `ahead`: how many may wait for each thread.

        Raises what a call raises, and `RocktokError` where the cluster cannot go on.
        """
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        def submit(*call: Any) -> _Patient:
            # Not pure: Dask would hash every argument to look for an earlier answer.
            return _Patient(self._client.submit(on_worker, *call, pure=False), self._client)

        try:
            yield from in_order(submit, ahead * max(1, self.threads), function, calls)
        except ModuleNotFoundError as error:
            # Of one that has come since the client connected.
            raise RocktokError(
                f"a Dask worker lacks the module {error.name}; install rocktok {__version__} on "
                "all workers, and restart them"
            ) from error
        except (KilledWorker, FutureCancelledError) as error:
            raise RocktokError(
                f"the Dask cluster failed ({str(error).splitlines()[0]}); check the logs of its "
                "workers, and run the command again"
            ) from error


def on_worker(function: Callable[..., T], *call: Any) -> T:
    """What a function returns. Runs on a worker."""
    hold()
    return function(*call)


def bundled(tasks: Sequence[T], threads: int) -> list[Sequence[T]]:
    """`Cluster.bundles` for so many threads."""
    bundles, at = [], 0
    while at < len(tasks):
        size = min(max((len(tasks) - at) // (SHARES * threads), 1), BUNDLE)
        bundles.append(tasks[at : at + size])
        at += size
    return bundles


@dataclass
class _Patient:
    """A future that waits for its worker, though not for a cluster that has none left."""

    future: Any
    client: Any

    def result(self) -> Any:
        alone_since: float | None = None
        while True:
            try:
                return self.future.result(timeout=1.0)
            except TimeoutError:
                if self.future.status == "error":
                    raise
            if self.client.nthreads():
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > WORKERS_WAIT:
                raise RocktokError(
                    f"the Dask cluster has had no workers for {WORKERS_WAIT:g} s; check their "
                    "logs, start workers, and run the command again"
                )


#: What every worker must agree on, asked in words that need nothing of ours there.
_ASK = "__import__('rocktok._version', fromlist=['']).__version__"


def _connect(dask: str) -> Any:
    """A client of a cluster whose workers have this version. Raises `RocktokError`."""
    try:
        from distributed import Client
    except ImportError as error:
        raise RocktokError(
            "--dask needs the package `distributed`; install rocktok[dask]"
        ) from error
    address = _address(dask)
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError) as error:
        _drop_client(error)
        raise RocktokError(
            f"{dask}: no Dask scheduler answers there within {CONNECT_TIMEOUT} s; "
            "check the address, and that the scheduler runs"
        ) from error
    except Exception as error:  # what goes wrong in there has no common base
        _drop_client(error)
        line = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise RocktokError(
            f"{dask}: is not an address that Dask can connect to ({line}); give one such as "
            "tcp://host:8786, or a scheduler file"
        ) from error
    try:
        for worker, answer in sorted(client.run(eval, _ASK, on_error="return").items()):
            if isinstance(answer, ImportError | str):
                _check_worker(worker, None if isinstance(answer, ImportError) else answer)
    except BaseException:
        client.close()
        raise
    return client


def _drop_client(error: Exception) -> None:
    """Close the client that the error's frames hold.

    The collector would find it some time, and deadlock if that is while another client starts: both
    want the one lock that `distributed` has for its loops.
    """
    traceback.clear_frames(error.__traceback__)
    gc.collect()


def _address(dask: str) -> str:
    """The scheduler's address, out of its file where that is given. Raises `RocktokError`."""
    path = local_path(dask)
    if "://" in dask or not (path.suffix == ".json" or path.is_file()):
        return dask
    try:
        address = json.loads(path.read_bytes())["address"]
    except FileNotFoundError as error:
        raise RocktokError(f"{dask}: no such scheduler file; start the scheduler first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_scheduler_file(dask) from error
    if not isinstance(address, str):
        raise _no_scheduler_file(dask)
    return address


def _no_scheduler_file(dask: str) -> RocktokError:
    return RocktokError(
        f"{dask}: is not a scheduler file; give the file that `dask scheduler --scheduler-file "
        "FILE` writes"
    )


def _check_worker(worker: str, version: str | None) -> None:
    """Raise `RocktokError` for a worker with another version, or none."""
    if version != __version__:
        has = "no rocktok" if version is None else f"rocktok {version}"
        raise RocktokError(
            f"the Dask worker {worker} has {has}, this is rocktok {__version__}; install the "
            "same version on all workers, and restart them"
        )
