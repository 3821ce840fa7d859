"""`rescore` stopped in the middle: what then stands, what is kept, and what is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.errors import LogError
from rocktok.files import place
from rocktok.log.opening import open_log
from rocktok.log.resume import only_writer
from rocktok.replay import rescore as replay
from tests.preloaded import Preloaded
from tests.processes import run_command, wait_until
from tests.trl_models import make_model, make_tokenizer, manifest, read_table

SEQUENCES = 160
BESIDE = {
    "alternatives": ("student_ids", "student_probs", "teacher_ids", "teacher_probs"),
    "contexts": ("context",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students, a teacher and a text long enough to be killed in."""
    folder = tmp_path_factory.mktemp("rescore")
    for name, seed in (("checkpoint-10", 1), ("checkpoint-20", 3), ("teacher", 2)):
        make_model(seed).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    rng = np.random.default_rng(1)
    rows = [
        {
            "sequence_id": 7 * i,
            "prompt_id": f"p{i // 2}",
            "prompt_token_ids": rng.integers(2, 200, 3 + i % 4).tolist(),
            "token_ids": rng.integers(2, 200, 4 + 3 * (i % 5)).tolist(),
        }
        for i in range(SEQUENCES)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "text.parquet")
    return folder


def command(folder: Path, output: Path) -> list[str]:
    """One text a batch and about eight a shard."""
    return ["rescore", "--text", str(folder / "text.parquet"),
            "--student", str(folder / "checkpoint-10"), "--student", str(folder / "checkpoint-20"),
            "--teacher", str(folder / "teacher"), "-o", str(output), "--device", "cpu",
            "--batch-tokens", "1", "--shard-rows", "80"]  # fmt: skip


def kill_when(folder: Path, output: Path, due: Callable[[], bool]) -> None:
    """Start it, and SIGKILL it once `due`."""
    with Preloaded("-m", "rocktok", *command(folder, output)) as process:
        wait_until(due, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def shards(output: Path, step: int | None = None) -> dict[str, tuple[int, int]]:
    """Path of each shard below fixed/ → what changes if it is written again."""
    pattern = "step-*" if step is None else f"step-{step:08d}"
    found = (output / "fixed").glob(f"{pattern}/rank-*.parquet")
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def same_rows(one: Path, other: Path) -> None:
    columns = ["grad_norm", "student_entropy", "teacher_logprob"]
    a, b = read_table(one, "fixed", columns), read_table(other, "fixed", columns)
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name])
    for table, names in BESIDE.items():
        a, b = (read_rows(log, table, names) for log in (one, other))
        assert len(a["step"]) > 0
        for name, values in a.items():
            np.testing.assert_array_equal(values, b[name])


def read_rows(log: Path, table: str, names: tuple[str, ...]) -> dict[str, Any]:
    batches = list(rocktok.open(log).scan(table, names))
    rows = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    order = np.lexsort((rows["position"], rows["sequence_id"], rows["step"]))
    return {name: values[order] for name, values in rows.items()}


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_killed_run_goes_on_behind_its_last_shard(folder: Path, tmp_path: Path) -> None:
    whole, log = tmp_path / "whole", tmp_path / "log"
    code, _, error = run_command(*command(folder, whole))
    assert (code, error) == (0, "")

    kill_when(folder, log, lambda: len(shards(log, 10)) >= 2)
    first = shards(log)
    assert 2 <= len(first) < len(shards(whole, 10))
    assert manifest(log)["steps"] == {"rollout": [], "fixed": []} and not manifest(log)["final"]
    assert rocktok.open(log).complete_steps("fixed") == []

    kill_when(folder, log, lambda: len(shards(log, 20)) >= 2)
    second = shards(log)
    assert first.items() <= second.items()
    assert 2 <= len(second) - len(shards(whole, 10)) < len(shards(whole, 20))
    assert rocktok.open(log).complete_steps("fixed") == [10]
    stood = sum(pq.ParquetFile(path).metadata.num_rows for path in second)

    with Preloaded("-m", "rocktok", *command(folder, log)) as process:
        printed, error = process.communicate()
        assert (process.returncode, error) == (0, "")
    rows = SEQUENCES * 10
    assert printed.splitlines()[0] == (
        f"Steps 20 scored: 160 sequences, {rows:,} positions each; {stood:,} positions "
        "were scored before."
    )
    assert second.items() <= shards(log).items()
    same_rows(whole, log)
    assert manifest(log)["final"] and len(list((log / "attempts").iterdir())) == 1
    assert sum(e["rows"] for e in manifest(log)["shards"] if "fixed/" in e["path"]) == 2 * rows
    _, printed, error = run_command("info", "--verify", log)
    assert "none found (every row read)" in printed and error == ""
    assert not list(log.glob(".*"))


def score(folder: Path, output: Path, **options: Any) -> Any:
    students = tuple(str(folder / f"checkpoint-{step}") for step in (10, 20))
    options = {"device": "cpu", "batch_tokens": 200, "shard_rows": 500, "sequences": 100, **options}
    return replay.rescore(str(folder / "text.parquet"), students, str(folder / "teacher"),
                          str(output), **options)  # fmt: skip


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a run that nothing stopped."""
    log = tmp_path_factory.mktemp("whole") / "log"
    score(folder, log)
    return log


class StoppedError(Exception):
    pass


#: In the order in which they are published. Right after one is right before the next, but for the
#: manifest, whose reserve follows, and for what a later manifest follows: this is the first one.
PUBLISHED = ["run.json", "attempts/", "vocab", "manifest/", "sequences/", "fixed/step-00000010",
             "alternatives/step-00000010", "contexts/step-00000010", "fixed/step-00000020",
             "alternatives/step-00000020"]  # fmt: skip
NOT_BEFORE_THE_NEXT = ["manifest/", "alternatives/step-00000010", "contexts/step-00000010",
                       "alternatives/step-00000020"]  # fmt: skip
#: Before there is a run, a table and a step; with some tables of a step; with rows of one step.
ONE_OF_EACH = [("run.json", False), ("manifest/", True), ("sequences/", False),
               ("alternatives/step-00000010", False), ("fixed/step-00000020", False)]  # fmt: skip
EXHAUSTIVE = pytest.mark.exhaustive


@pytest.mark.long
@pytest.mark.parametrize(
    ("at", "after"),
    [
        pytest.param(name, after, marks=[] if (name, after) in ONE_OF_EACH else EXHAUSTIVE)
        for after, names in ((False, PUBLISHED), (True, NOT_BEFORE_THE_NEXT))
        for name in names
    ],
)
def test_any_file_may_be_the_last(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, after: bool
) -> None:
    """The process ends before a file is published, or right after it."""
    from rocktok.files import Place
    from rocktok.log import LogWriter

    with monkeypatch.context() as patch:
        # A process that is killed flushes nothing.
        patch.setattr(LogWriter, "close", lambda self, final=True: None)
        for name in ("create", "replace"):
            original = getattr(Place, name)

            def stops(self: Any, path: str, data: bytes, original: Any = original) -> None:
                if path.startswith(at) and not after:
                    raise StoppedError
                original(self, path, data)
                if path.startswith(at):
                    raise StoppedError

            patch.setattr(Place, name, stops)
        with pytest.raises(StoppedError):
            score(folder, tmp_path / "log")
    stood = shards(tmp_path / "log")
    done = score(folder, tmp_path / "log")
    assert done.kept_rows == sum(pq.ParquetFile(path).metadata.num_rows for path in stood)
    assert stood.items() <= shards(tmp_path / "log").items()
    same_rows(whole, tmp_path / "log")
    log = open_log(tmp_path / "log")
    assert log.complete_steps("fixed") == [10, 20] and log.warnings() == []
    assert log.complete_steps("alternatives") == [10, 20] and log.complete_steps("contexts") == [10]
    assert len(log.vocab) > 200
    assert all(shard.entry is not None for table in log.tables() for shard in log.shards(table))


def test_a_run_that_lacks_only_its_final_mark(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.log import LogWriter

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "close", lambda self, final=True: None)
        score(folder, tmp_path / "log")
    assert not manifest(tmp_path / "log")["final"]
    monkeypatch.setattr(replay, "load_model", None)  # no model is needed
    assert score(folder, tmp_path / "log").steps == ()
    assert manifest(tmp_path / "log")["final"]


@pytest.mark.long
def test_it_goes_on_with_other_batches_and_shards(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [], replay.score

    def stops(texts: Any, batch_B: Any, *rest: Any) -> Any:
        calls.append(batch_B)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(texts, batch_B, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(replay, "score", stops)
        score(folder, tmp_path / "log")
    # What was scored is published when an error ends the run, not only what filled a shard.
    rows = sum(e["rows"] for e in manifest(tmp_path / "log")["shards"] if "fixed/" in e["path"])
    done = score(folder, tmp_path / "log", batch_tokens=90, shard_rows=10_000)
    assert done.kept_rows == rows > 0
    a, b = (read_table(log, "fixed", ["grad_norm"]) for log in (whole, tmp_path / "log"))
    for name in ("step", "sequence_id", "position", "token_id"):
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4, atol=1e-5)
    assert rocktok.detect(rocktok.open(tmp_path / "log"), context="required").log["post"] == 20


@pytest.mark.long
def test_a_slow_shard_is_published_as_far_as_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "SHARD_SECONDS", 0.0)
    score(folder, tmp_path / "log", shard_rows=1 << 20)
    entries = [e for e in manifest(tmp_path / "log")["shards"] if "step-00000010" in e["path"]]
    assert len(entries) > 5
    monkeypatch.undo()
    score(folder, tmp_path / "other", shard_rows=1 << 20)
    assert len(shards(tmp_path / "other", 10)) == 1
    same_rows(tmp_path / "log", tmp_path / "other")


def test_a_second_process_is_refused(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with only_writer(place(log)):
        assert run_command(*command(folder, log)) == (
            1,
            "",
            f"rocktok: {log}: another process is writing it; wait until it has ended, or give "
            "another directory\n",
        )
    assert list(log.iterdir()) == []
    assert score(folder, log).steps == (10, 20)


@pytest.mark.long
def test_two_at_once_leave_one_good_log(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ExitStack() as stack:
        started = [
            stack.enter_context(Preloaded("-m", "rocktok", *command(folder, log))) for _ in range(2)
        ]
        errors = [process.communicate()[1] for process in started]
        codes = sorted(process.wait() for process in started)
    # One may have started when the other had ended: then both are right.
    assert codes in ([0, 1], [0, 0]), errors
    for line in filter(None, errors):
        assert line.count("\n") == 1 and "another process" in line
    score_rows = read_table(log, "fixed")
    assert len(score_rows["loss"]) == 2 * SEQUENCES * 10


@pytest.mark.long
def test_damage_and_strangers(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    score(folder, log)
    path = log / "manifest/rank-00000-00.json"
    content = json.loads(path.read_text())
    path.write_text(path.read_text().replace('"final": true', '"final": false'))
    message = r"rank-00000-00.json: altered or damaged .*; restore it from a copy"
    with pytest.raises(LogError, match=message):
        score(folder, log)
    # A shard that nothing lists any more is read through before it is vouched for.
    path.unlink()
    shard = log / content["shards"][1]["path"]
    data = bytearray(shard.read_bytes())
    data[40] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(LogError, match=r"parquet: .*damaged .*; restore it from a copy"):
        score(folder, log)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LogError, match="file: is not a directory; give another -o"):
        score(folder, file)
    other = tmp_path / "other"
    (other / "fixed").mkdir(parents=True)
    shard.rename(other / "fixed" / "x.parquet")
    with pytest.raises(rocktok.errors.HookError, match="shards are here, but no run"):
        score(folder, other)
