"""What grows with a log: rates at three sizes each, as docs/scale.md states them.

    python tests/benchmarks/scale.py [--only rows catalogue tasks writer manifests scheduler]

- rows: bytes of a row on disk, by preset of columns, at 2¹⁶, 2¹⁸ and 2²⁰ rows;
- catalogue: opening a log of many shards, and many pairs of rank and step: time, memory;
- tasks: what the client needs of each shard of a step before a pass begins;
- partials: bytes of a task's partial result, and the time to merge it, by rows of a task;
- writer: files, and bytes of manifests, of a rank that publishes many times;
- scheduler: empty tasks through `Engine.map` on a local Dask cluster of two workers.

Times are processor time, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rocktok
from rocktok.hooks.arguments import COLUMN_PRESETS
from rocktok.log import LogWriter
from rocktok.log.manifest import Attempt, Manifest, dump_json
from rocktok.log.shard import ShardEntry
from tests.benchmarks.large_logs import VOCABULARY, Text

RUN = {"vocab_size": VOCABULARY, "loss": {"exactness": "exact"}}
MIB = 1 << 20


def table(*names: str) -> None:
    """Print the head of a table."""
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)


def line(*cells: object) -> None:
    """Print a line of it."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def in_process(call: str, *arguments: object) -> dict[str, float]:
    """What a function of this module returns in a process of its own, with that one's peak."""
    code = (
        "import json, resource, sys; from tests.benchmarks import scale; "
        f"found = scale.{call}(*sys.argv[1:]); "
        "found['peak'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024; "
        "print(json.dumps(found))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- rows ----------------------------------------------------------------------------------


def rows(folder: Path) -> None:
    """Bytes of a row of `fixed`; values are random, so that no codec makes them smaller."""
    table("preset", "columns beside the loss", "rows", "bytes of a row on disk")
    for preset, columns in COLUMN_PRESETS.items():
        for size in (1 << 16, 1 << 18, 1 << 20):
            path = folder / f"rows-{preset}-{size}"
            rng = np.random.default_rng(0)
            batch = Text().rows(0, size // 512, 0)
            del batch["grad_norm"]
            batch |= {name: rng.random(size, dtype=np.float32) / 2 for name in columns}
            if "teacher_rank" in columns:
                batch["teacher_rank"] = rng.zipf(1.5, size).clip(1, VOCABULARY)
            with LogWriter(path, columns=columns, run=RUN, flush_bytes=1 << 62) as log:
                log.write(batch)
            held = sum(file.stat().st_size for file in path.glob("rollout/**/*.parquet"))
            line(preset, len(columns), f"{size:,}", f"{held / size:.1f}")


# -- catalogue -----------------------------------------------------------------------------


def make_listed(path: Path, ranks: int, shards: int, steps: int) -> None:
    """Manifests of ranks with `shards` shards each, which together hold `steps` steps.

    The shards are empty files: opening a log reads none.
    """
    attempt = Attempt(0, 0, ranks, ())
    for folder in ("attempts", "manifest", *(f"rollout/step-{s:08d}" for s in range(shards))):
        (path / folder).mkdir(parents=True)
    (path / "run.json").write_bytes(dump_json({**RUN, "run_id": "run"}))
    (path / attempt.path).write_bytes(attempt.encode())
    of_step = np.array_split(np.arange(steps), shards)
    for rank in range(ranks):
        entries = []
        for number, held in enumerate(of_step):
            name = f"rollout/step-{number:08d}/rank-{rank:05d}-00-{number:05d}.parquet"
            (path / name).touch()
            counts = {int(step): 100_000 for step in held}
            crcs = ("0123abcd" * 11,)
            entries.append(ShardEntry(name, 100_000 * len(held), 0, 1 << 31, counts, crcs))
        manifest = Manifest("run", rank, 0, True, entries, {"rollout": list(range(steps))})
        (path / manifest.path).write_bytes(manifest.encode())


def open_listed(path: str) -> dict[str, float]:
    """Time to open a log and to list its steps, and the memory that they take."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    log = rocktok.open(path)
    opened = time.process_time()
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = log.steps("rollout")
    assert all(step.complete for step in steps)
    listed = time.process_time()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "open": opened - began,
        "steps": listed - opened,
        "memory": (held - before) / 1024,
        "more": (after - held) / 1024,
    }


def catalogue(folder: Path) -> None:
    """Opening a log, by its shards and by its pairs of rank and step."""
    table(
        "ranks", "shards", "steps", "open, s", "µs a shard", "memory, MiB", "bytes a shard",
        "steps listed, s", "memory of that, MiB", "manifests, MiB",
    )  # fmt: skip
    for ranks, shards, steps in (
        (10, 300, 300), (30, 300, 300), (100, 300, 300),
        (100, 30, 300), (100, 30, 1_000), (100, 30, 3_000),
    ):  # fmt: skip
        path = folder / f"listed-{ranks}-{shards}-{steps}"
        make_listed(path, ranks, shards, steps)
        found = in_process("open_listed", path)
        size = sum(file.stat().st_size for file in path.glob("manifest/*")) / MIB
        number = ranks * shards
        line(
            ranks, f"{number:,}", f"{steps:,}", f"{found['open']:.2f}",
            f"{found['open'] / number * 1e6:.0f}", f"{found['memory']:.0f}",
            f"{found['memory'] * MIB / number:,.0f}", f"{found['steps']:.2f}",
            f"{found['more']:.0f}", f"{size:.1f}",
        )  # fmt: skip
        subprocess.run(["rm", "-rf", str(path)], check=True)


# -- tasks ---------------------------------------------------------------------------------


def tasks(folder: Path) -> None:
    """What the client does for each shard of a step before a pass, and tasks by rows."""
    from rocktok.log.tasks import joined_tasks, step_tasks

    table("shards of a step", "rows", "tasks of one step", "s", "joined: tasks", "s", "ms a shard")
    for ranks in (10, 30, 90):
        path = folder / f"tasks-{ranks}"
        _many_ranks(path, ranks, 8192)
        log = rocktok.open(path)
        log.steps("fixed")
        began = time.process_time()
        one = step_tasks(log, "fixed", 0)
        middle = time.process_time()
        two = joined_tasks(log, "fixed", 0, 1)
        end = time.process_time()
        line(
            ranks, f"{ranks * 8192:,}", len(one), f"{middle - began:.3f}", len(two),
            f"{end - middle:.2f}", f"{(end - middle) / 2 / ranks * 1e3:.2f}",
        )  # fmt: skip


def _many_ranks(path: Path, ranks: int, each: int) -> None:
    text, ids = Text(), {"attempt": None, "run_id": None}
    for rank in range(ranks):
        with LogWriter(
            path, columns=["grad_norm"], run=RUN, rank=rank, world_size=ranks, **ids
        ) as writer:
            ids = {"attempt": writer.attempt, "run_id": writer.run_id}
            for step in (0, 1):
                writer.write(text.rows(rank * each // 512, each // 512, step), table="fixed")
                writer.finish_step(step, "fixed")
                writer.flush()


# -- partials ------------------------------------------------------------------------------


def partials(_: Path) -> None:
    """Bytes of the sums of a task as they travel, and the time to add them."""
    from rocktok.stats.sums import TypeSums

    table("rows of a task", "types seen", "bytes of a partial", "merge, ms", "bytes a row")
    text = Text()
    for size in (1 << 18, 1 << 20, 1 << 22):
        batch = text.rows(0, size // 512, 0)
        part = TypeSums(("loss", "grad_norm"), compiled=True)
        part.update(batch)
        sent = pickle.dumps(part)
        whole = TypeSums(("loss", "grad_norm"), compiled=True)
        whole.update(batch)
        began = time.process_time()
        for _again in range(10):
            whole.merge(pickle.loads(sent))
        spent = (time.process_time() - began) / 10
        seen = np.count_nonzero(part.count_V)
        line(
            f"{size:,}", f"{seen:,}", f"{len(sent):,}", f"{spent * 1e3:.1f}",
            f"{len(sent) / size:.2f}",
        )  # fmt: skip


# -- writer --------------------------------------------------------------------------------


def writer(folder: Path) -> None:
    """Files, manifest and time of a rank that flushes after every step."""
    table("flushes", "files", "manifest, KiB", "manifests written, MiB", "ms of the last flushes")
    for flushes in (50, 100, 200):
        path = folder / f"writer-{flushes}"
        written, size = 0, 0
        batch = {k: v for k, v in Text().rows(0, 1, 0).items() if k != "grad_norm"}
        with LogWriter(path, run=RUN) as log:
            last = []
            for step in range(flushes):
                log.write({**batch, "step": step})
                log.finish_step(step)
                began = time.process_time()
                log.flush()
                last.append(time.process_time() - began)
                size = (path / log.manifest.path).stat().st_size
                written += size
        files = sum(1 for file in path.rglob("*") if file.is_file())
        line(
            flushes, files, f"{size / 1024:.0f}", f"{written / MIB:.1f}",
            f"{np.median(last[-20:]) * 1e3:.1f}",
        )  # fmt: skip


# -- scheduler -----------------------------------------------------------------------------


def nothing(_: int) -> None:
    """An empty task."""


def scheduler(folder: Path, sizes: tuple[int, ...] = (5_000, 20_000, 100_000)) -> None:
    """Empty tasks in order, a bounded number of them outstanding, as a pass makes them."""
    from distributed import Client

    from rocktok.engine.passes import Engine

    file = folder / "scheduler.json"
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard",
             "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]  # fmt: skip
    work = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--nworkers",
            "2", "--nthreads", "1", "--scheduler-file", str(file), "--local-directory",
            str(folder)]  # fmt: skip
    running = [subprocess.Popen(start, stderr=subprocess.DEVNULL)]
    try:
        while not file.exists():
            time.sleep(0.1)
        running.append(subprocess.Popen(work, stderr=subprocess.DEVNULL))
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2)
        table(
            "tasks", "clock, ms a task", "client, ms", "scheduler, ms", "client, MiB",
            "scheduler, MiB", "peak outstanding",
        )  # fmt: skip
        with Engine(dask=str(file)) as engine:
            for size in sizes:
                _through(engine, size, running[0].pid)
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


def _through(engine: Any, size: int, scheduler_pid: int) -> None:
    import psutil

    processes = psutil.Process(), psutil.Process(scheduler_pid)

    def spent() -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in processes]

    most, asked = 0, 0

    def calls() -> Any:
        nonlocal asked
        for number in range(size):
            asked += 1
            yield (number,)

    before, began = spent(), time.perf_counter()
    for done, _ in enumerate(engine.map(nothing, calls())):
        most = max(most, asked - done)
    clock = time.perf_counter() - began
    used = [(b - a) / size * 1e3 for a, b in zip(before, spent(), strict=True)]
    memory = [process.memory_info().rss / MIB for process in processes]
    line(
        f"{size:,}", f"{clock / size * 1e3:.2f}", f"{used[0]:.2f}", f"{used[1]:.2f}",
        f"{memory[0]:.0f}", f"{memory[1]:.0f}", most,
    )  # fmt: skip


PARTS: dict[str, Callable[[Path], None]] = {
    "rows": rows,
    "catalogue": catalogue,
    "tasks": tasks,
    "partials": partials,
    "writer": writer,
    "scheduler": scheduler,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
