"""The engine: the same bytes on one thread, on many, and on a Dask cluster that loses a worker."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.analyses.detect import lift_passes as lifts
from rocktok.analyses.info.passes import info
from rocktok.engine import cluster as clusters
from rocktok.engine import source
from rocktok.engine.kept import KeptRows
from rocktok.engine.passes import Engine
from rocktok.errors import DamagedError, RocktokError, UsageError
from rocktok.log import LogWriter, tasks
from rocktok.log.sequences import Prompts, load_prompts
from rocktok.report.passes import report
from tests.beside_logs import alternatives
from tests.gradient_logs import frame, write
from tests.logs import RUN, rows, sequence_rows, shards, write_by_hand, write_log
from tests.processes import LIMIT, run_command, wait_until

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards a step; the second step is cut otherwise than the first, alternatives again."""
    path = tmp_path_factory.mktemp("engine") / "log"
    with LogWriter(path, run=RUN) as writer:
        writer.write(sequence_rows(range(160)), table="sequences")
        writer.flush()
    with LogWriter(path, run=RUN, resume_step=0) as writer:
        writer.write(sequence_rows(range(160)), table="sequences")
    for rank in range(8):
        with LogWriter(
            path, rank=rank, world_size=8, attempt=writer.attempt, run_id=writer.run_id
        ) as part:
            for step, size in ((0, 20), (10, 20)):
                ids = range(rank * size, (rank + 1) * size)
                part.write(rows(step, ids, tokens=40), table="fixed")
                part.finish_step(step, "fixed")
                part.flush()
            for half in (ids[:7], ids[7:]):
                part.write(alternatives(rows(10, half, tokens=40), share=0.7), "alternatives")
                part.flush(whole=True)
    return path


def answer(log: Path, engine: Engine) -> str:
    with engine:
        options = {"all_types": True, "quantile_pre": 0.5, "quantile_post": 0.5, "gamma": 0.3}
        return rocktok.detect(rocktok.open(log), engine=engine, **options).to_json()


@pytest.fixture(scope="module")
def alone(log: Path) -> str:
    """The answer of one thread, of tasks as small as in every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TASK_ROWS", 500)
        return answer(log, Engine(1))


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 500)


def test_tasks_cut_no_sequence_and_cover_all(log: Path) -> None:
    shared = tasks.joined_tasks(rocktok.open(log), "fixed", 0, 10, task_rows=500)
    assert len(shared) == 8
    assert shared[0].span.low is None
    assert shared[-1].span.high is None
    bounds = [(t.span.low, t.span.high) for t in shared]
    assert [high for _, high in bounds[:-1]] == [low for low, _ in bounds[1:]]


def test_what_goes_with_a_task_does_not_grow_with_the_log(log: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "small", sequences=20)

    def size(path: Path) -> int:
        opened = rocktok.open(path)
        whole = source.Source(opened, "fixed", 0, 10, load_prompts(opened))
        return len(pickle.dumps(whole.for_task(whole.tasks()[0])))

    assert size(log) < size(tmp_path / "small") + 500


def test_the_answer_holds_what_the_teacher_wrote_instead(alone: str) -> None:
    rows = json.loads(alone)["tokens"]
    assert all(row["instead_occurrences"] < row["persistent"] for row in rows)
    assert all(len(row["instead"]) == 3 for row in rows)


@pytest.mark.parametrize("jobs", [2, 3, 16])
def test_any_number_of_threads_gives_the_same_bytes(log: Path, alone: str, jobs: int) -> None:
    assert answer(log, Engine(jobs)) == alone


def test_info_is_the_same_on_threads(log: Path) -> None:
    one, many = (info(rocktok.open(log), verify=True, engine=Engine(n)) for n in (1, 8))
    assert one == many


def test_progress_tells_the_rows(log: Path) -> None:
    told: list[tuple[int, int]] = []
    answer(log, Engine(2, progress=lambda done, total: told.append((done, total))))
    assert told[7] == (12800, 12800)
    assert [done for done, _ in told[:8]] == sorted(done for done, _ in told[:8])


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass reads the log, as those over more rows than are kept do."""
    monkeypatch.setattr("rocktok.analyses.detect.passes.KeptRows", lambda: KeptRows(0))


@pytest.mark.usefixtures("read_again")
def test_a_shard_that_vanishes_during_the_run_is_an_error(tmp_path: Path) -> None:
    opened = rocktok.open(write_log(tmp_path, sequences=20))
    gone = shards(tmp_path)[1]

    def remove(done: int, total: int) -> None:
        gone.unlink(missing_ok=True)

    with pytest.raises(DamagedError, match=f"{gone}: is missing"):
        rocktok.detect(opened, engine=Engine(1, progress=remove))


@pytest.mark.usefixtures("read_again")
def test_a_hand_written_shard_that_changes_during_the_run_is_an_error(tmp_path: Path) -> None:
    for step, name in ((0, "a"), (10, "b")):
        write_by_hand(tmp_path, rows(step, range(20)), name)
    opened = rocktok.open(tmp_path)

    def rewrite(done: int, total: int) -> None:
        write_by_hand(tmp_path, rows(10, range(21)), "b")

    with pytest.raises(DamagedError, match=r"b\.parquet: has \d+ bytes, \d+ when the log was open"):
        rocktok.detect(opened, engine=Engine(1, progress=rewrite))


def test_rows_that_were_kept_are_those_that_were_read(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", sequences=20)
    found = rocktok.detect(log, replication=False).to_json()
    opened = rocktok.open(log)

    def remove(done: int, total: int) -> None:
        for shard in shards(log) if done == total else []:
            shard.unlink(missing_ok=True)

    engine = Engine(1, progress=remove)
    assert rocktok.detect(opened, replication=False, engine=engine).to_json() == found
    # The halves of the prompts are read by themselves, and what is gone is no remark.
    with pytest.raises(DamagedError, match="is missing"):
        rocktok.detect(opened, engine=engine)


@pytest.mark.usefixtures("read_again")
def test_a_shard_replaced_by_another_of_its_size_is_an_error(tmp_path: Path) -> None:
    opened = rocktok.open(write_log(tmp_path, sequences=20))
    changed = shards(tmp_path)[1]

    def replace(done: int, total: int) -> None:
        data = bytearray(changed.read_bytes())
        data[len(data) // 3] ^= 1
        changed.write_bytes(data)

    with pytest.raises(DamagedError, match=f"{changed}: "):
        rocktok.detect(opened, engine=Engine(1, progress=replace))


def test_jobs_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="jobs is 0; it must be 1 or more"):
        Engine(0)


class Cluster:
    """A scheduler and two workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "True"}
        run = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
        self.scheduler = subprocess.Popen(
            [*run, "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
             "--scheduler-file", str(self.file)],
            env=environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self.file.exists, self.scheduler)
        worker = [sys.executable, "-m", "distributed.cli.dask_worker"]
        self.workers = [
            subprocess.Popen(
                [*worker, "--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny",
                 "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(folder)],
                env=environment, stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]  # fmt: skip
        with distributed.Client(scheduler_file=str(self.file), timeout=LIMIT) as client:
            client.wait_for_workers(2, timeout=LIMIT)

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster for one test, which may kill its workers."""
    running = Cluster(tmp_path)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for all tests that leave it as it is."""
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    yield running
    running.stop()


def test_a_cluster_gives_the_same_bytes_and_survives_a_lost_worker(
    log: Path, alone: str, cluster: Cluster
) -> None:
    file = str(cluster.file)
    assert answer(log, Engine(dask=file)) == alone
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed and done < total:
            cluster.workers[0].send_signal(signal.SIGKILL)
            killed.append(done)

    assert answer(log, Engine(dask=file, progress=kill)) == alone
    assert killed
    code, printed, error = run_command("detect", log, "--dask", file, "--format", "json")
    assert code == 0, error
    assert json.loads(printed)["totals"]["sequences"] == 160
    address = json.loads(cluster.file.read_text())["address"]
    with Engine(dask=address) as engine:
        assert list(engine.map(np.add, [(1, 2), (3, 4)])) == [3, 7]


def _allow_failures(number: int, dask_scheduler: Any) -> int:
    """How often a task may lose its worker; returns what it was."""
    before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, number
    return int(before)


@pytest.mark.parametrize(("tasks", "threads"), [(0, 1), (1, 3), (8, 2), (200, 2), (4_768, 100)])
def test_bundles_hold_all_tasks_in_order_and_the_last_go_alone(tasks: int, threads: int) -> None:
    bundles = clusters.bundled(range(tasks), threads)
    assert [task for bundle in bundles for task in bundle] == list(range(tasks))
    sizes = [len(bundle) for bundle in bundles]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes, default=0) == min(8, max(tasks // (4 * threads), min(tasks, 1)))
    alone = sizes.count(1)
    assert alone >= min(tasks, 4 * threads)
    # Fewer by far than the tasks: what the scheduler hands out.
    if tasks > 1_000:
        assert len(bundles) < tasks / 2


@pytest.mark.long
def test_tasks_in_bundles_give_the_same_bytes(
    log: Path, alone: str, shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "SHARES", 1)
    assert list(map(len, clusters.bundled(range(8), 2))) == [4, 2, 1, 1]
    told: list[tuple[int, int]] = []
    engine = Engine(
        dask=str(shared_cluster.file), progress=lambda done, total: told.append((done, total))
    )
    assert answer(log, engine) == alone
    assert [total for _, total in told[:8]] == [12_800] * 8


@pytest.mark.long
def test_large_prototypes_go_to_a_cluster_once(
    log: Path, alone: str, shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "SMALL_BYTES", 0)
    assert answer(log, Engine(dask=str(shared_cluster.file))) == alone


@pytest.mark.long
def test_attribute_on_a_cluster_gives_the_same_bytes(
    tmp_path: Path, shared_cluster: Cluster
) -> None:
    path = write(tmp_path / "log", frame(1))

    def answer_of(engine: Engine) -> str:
        with engine:
            return rocktok.attribute(rocktok.open(path), engine=engine, replicates=100).to_json()

    assert answer_of(Engine(dask=str(shared_cluster.file))) == answer_of(Engine(1))


def answers(log: Path) -> dict[str, Callable[[Engine], str]]:
    """What makes passes beside `detect` and `attribute`, each as JSON."""
    opened = rocktok.open(log)
    tau: dict[str, Any] = {"quantile_pre": 0.5, "quantile_post": 0.5, "eta": 0.0, "gamma": 0.2}

    def with_lifts(engine: Engine) -> str:
        return rocktok.detect(opened, lifts=True, engine=engine, **tau).to_json()

    def stagnation(engine: Engine) -> str:
        return rocktok.stagnation(opened, engine=engine, top_k=5, replicates=100).to_json()

    def stability(engine: Engine) -> str:
        options: dict[str, Any] = {"repeats": 4, "replicates": 100}
        return rocktok.stability(opened, engine=engine, **options).to_json()

    def controls(engine: Engine) -> str:
        return rocktok.controls(opened, rocks=(0, 1, 2), window=2, engine=engine).to_json()

    def lenses(engine: Engine) -> str:
        return rocktok.lenses(opened, rocks=(0, 1, 2), replicates=100, engine=engine).to_json()

    def whole(engine: Engine) -> str:
        found = report(opened, engine=engine, top_k=10, replicates=100, sequences=5)
        return json.dumps(asdict(found))

    return {
        "report": whole,
        "lifts": with_lifts,
        "stagnation": stagnation,
        "stability": stability,
        "controls": controls,
        "lenses": lenses,
    }


@pytest.mark.long
@pytest.mark.exhaustive
def test_the_other_passes_give_the_same_bytes_on_threads_and_on_a_cluster(
    log: Path, shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Samples, and rounds, too: what large logs do.
    monkeypatch.setattr(lifts, "LIFT_SAMPLE", 20)
    monkeypatch.setattr(lifts, "ROUND_LIFTS", 7)
    for name, answer_of in answers(log).items():
        alone = answer_of(Engine(1))
        # On other numbers of threads, too: see above, for `detect`.
        assert answer_of(Engine(3)) == alone, name
        with Engine(dask=str(shared_cluster.file)) as engine:
            assert answer_of(engine) == alone, name
    # Compiled loops, as for large logs: the same bits.
    plain = answers(log)["stability"](Engine(1))
    monkeypatch.setattr(source, "LARGE", 1)
    assert answers(log)["stability"](Engine(2)) == plain
    with Engine(dask=str(shared_cluster.file)) as engine:
        assert answers(log)["stability"](engine) == plain


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clusters, "CONNECT_TIMEOUT", 1)
    with pytest.raises(RocktokError, match="no Dask scheduler answers there within 1 s"):
        Engine(dask="tcp://127.0.0.1:1")
    with pytest.raises(RocktokError, match="no such scheduler file; start the scheduler first"):
        Engine(dask=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"address": 5}', b"\xff\xfe", b'"tcp://x:1"', b"null", None],
)
def test_garbage_as_a_scheduler_file_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(
        RocktokError, match=rf"^{file}: is not a scheduler file; give the file that `dask sch"
    ):
        Engine(dask=str(file))


@pytest.mark.parametrize(
    "address",
    ["", "x", "tcp://", "tcp://a b:1", "foo://x:1", "tls://127.0.0.1:1", "ws://127.0.0.1:1",
     "inproc://x", "tcp://[::1", "tcp://127.0.0.1:http"],
)  # fmt: skip
@pytest.mark.parametrize("in_file", [False, True])
def test_garbage_as_an_address_is_one_line(
    address: str, in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "CONNECT_TIMEOUT", 1)
    given = address
    if in_file:
        given = str(tmp_path / "scheduler.json")
        Path(given).write_text(json.dumps({"address": address}))
    with pytest.raises(RocktokError) as raised:
        Engine(dask=given)
    assert type(raised.value) is RocktokError
    assert str(raised.value).startswith((
        f"{given}: is not an address that Dask can connect to (",
        f"{given}: no Dask scheduler answers there within 1 s; check the address, and that",
    ))  # fmt: skip
    assert "\n" not in str(raised.value)


def _forget(dask_worker: Any, version: str | None) -> None:
    """Make a worker one with another version of ours (None: without ours)."""
    import sys

    import rocktok._version

    rocktok._version.__version__ = version or ""
    for name in [name for name in sys.modules if name.split(".")[0] == "rocktok"]:
        if version is None:
            sys.modules[name] = None  # type: ignore[assignment]
        elif name in ("rocktok.engine.cluster", "rocktok.engine.partial"):
            sys.modules[name].__version__ = version  # type: ignore[attr-defined]
    if version is None:
        sys.modules["rocktok"] = None  # type: ignore[assignment]


@pytest.mark.long
def test_workers_that_cannot_be_used_are_one_line(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another version, without ours, killed by a task, gone: one cluster that gets ever worse,
    since to start one takes longer than all of this.
    """
    log, file = write_log(tmp_path / "log"), str(cluster.file)
    with (
        distributed.Client(scheduler_file=file, timeout=LIMIT) as client,
        Engine(dask=file) as engine,
    ):
        client.run(_forget, version="0.0.1")
        # Those that come late meet the tasks alone.
        with pytest.raises(RocktokError, match=r"a Dask worker has rocktok 0\.0\.1, this"):
            rocktok.detect(log, engine=engine)
        for version, has in (("0.0.1", "rocktok 0.0.1"), (None, "no rocktok")):
            client.run(_forget, version=version)
            message = (
                rf"the Dask worker tcp://\S+ has {has}, this is rocktok {rocktok.__version__}; "
            )
            with pytest.raises(RocktokError, match=message):
                Engine(dask=file)
            code, out, error = run_command("detect", log, "--dask", file)
            assert (code, out, error.count("\n")) == (1, "", 1)
        before = client.run_on_scheduler(_allow_failures, 0)
        with pytest.raises(
            RocktokError, match=r"the Dask cluster failed \(.*check the logs of its workers"
        ):
            list(engine.map(os._exit, [(1,), (1,), (1,)]))
        client.run_on_scheduler(_allow_failures, before)
        monkeypatch.setattr(clusters, "WORKERS_WAIT", 2)
        for worker in cluster.workers:
            worker.send_signal(signal.SIGKILL)
        with pytest.raises(RocktokError, match="has had no workers for 2 s; check their logs"):
            list(engine.map(np.add, [(1, 2)]))


def test_of_a_step_a_task_takes_its_own_sequences_along(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = rocktok.open(log)
    whole = source.Source(opened, "fixed", None, 10, load_prompts(opened))
    monkeypatch.setattr(tasks, "TASK_ROWS", 800)
    monkeypatch.setattr(source, "MANY_SEQUENCES", 1)
    parts = whole.tasks(["sequence_id"])
    assert len(parts) == 8
    for rank, task in enumerate(parts):
        here, there = whole.for_task(task), whole.for_task(task, travels=True)
        assert here.prompts.sequence_S.tolist() == list(range(160))
        assert there.prompts.sequence_S.tolist() == list(range(rank * 20, (rank + 1) * 20))
        assert (here.reader.writers is None, there.reader.writers) == (False, None)
        read = [
            [
                batch["prompt"].tolist()
                for (batch,) in source.Reading((one,), task, [frozenset({"prompt"})])
            ]
            for one in (here, pickle.loads(pickle.dumps(there)))
        ]
        assert read[0] == read[1]


def test_of_shards_that_nothing_vouches_for_all_sequences_go_with_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = rocktok.open(write_by_hand(tmp_path / "log", rows(0, range(4)), "all"))
    monkeypatch.setattr(source, "MANY_SEQUENCES", 1)
    known = Prompts(np.arange(4), np.arange(4, dtype=np.uint64), known=True)
    whole = source.Source(opened, opened.tables()[0], None, 0, known)
    (task,) = whole.tasks()
    assert whole.for_task(task, travels=True).prompts.sequence_S.tolist() == [0, 1, 2, 3]


def test_footers_of_a_step_are_read_for_the_first_pass_alone(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = rocktok.open(log)
    whole = source.Source(opened, "fixed", 0, 10, load_prompts(opened))
    first = whole.tasks()
    read: list[str] = []
    monkeypatch.setattr(tasks, "_read_groups", lambda *key: read.append(str(key)) or [])
    assert whole.tasks() == first
    assert read == []
    for step in range(tasks.STEPS_KEPT + 3):
        tasks._groups(opened, "rollout", step)
        assert whole.tasks() == first  # those in use stay
    assert len(opened.row_groups) == tasks.STEPS_KEPT
    assert len(read) == tasks.STEPS_KEPT + 3
