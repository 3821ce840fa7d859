"""The log, written and read back: rows, order, attempts, manifests, publishing."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok import files, publishing, schema
from rocktok.errors import DamagedError, DataError, HookError, LogError
from rocktok.log import LogWriter, encoding, manifest, opening
from rocktok.log.join import JoinedSteps
from rocktok.log.sequences import load_prompts
from rocktok.log.shard import OpenShard
from rocktok.log.tasks import joined_tasks
from tests.logs import RUN, rows, sequence_rows, shards, write_by_hand, write_log


def read(path: Path, table: str = "fixed", columns: tuple[str, ...] = ("token_id", "loss")):
    batches = list(rocktok.open(path).scan(table, columns))
    return {name: np.concatenate([b.columns[name] for b in batches]) for name in batches[0].columns}


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    batch = rows(7, [5, 2, 9])
    shuffled = np.random.default_rng(0).permutation(len(batch["step"]))
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write({name: values[shuffled] for name, values in batch.items()}, table="fixed")
    found = read(tmp_path)
    order = np.lexsort((batch["position"], batch["sequence_id"]))
    for name, values in batch.items():
        np.testing.assert_array_equal(found[name], values[order])


def test_a_dataframe_and_scalars_are_taken(tmp_path: Path) -> None:
    frame = pd.DataFrame(rows(3, [0, 1])).drop(columns="step").assign(step=3)
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(frame)
        batch = rows(4, [0])
        writer.write({**batch, "step": 4})
    log = rocktok.open(tmp_path)
    assert [(s.step, s.rows, s.complete) for s in log.steps("rollout")] == [
        (3, 24, True),
        (4, 12, True),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": None}, "rollout: the batch lacks loss"),
        ({"weight": [1.0]}, "rollout: the batch has weight, which this log does not record"),
        ({"token_id": [2**40]}, "rollout: column token_id: Integer value 1099511627776"),
        ({"loss": [float("nan")]}, "rollout: column loss: NaN or infinite values"),
        ({"position": [0, 1]}, "rollout: column step has 1 rows, others 2"),
    ],
)
def test_the_writer_refuses_what_the_format_forbids(tmp_path, change, message) -> None:
    batch = {"step": [1], "sequence_id": [1], "position": [0], "token_id": [3], "loss": [0.5]}
    batch = {k: v for k, v in {**batch, **change}.items() if v is not None}
    with LogWriter(tmp_path, run=RUN) as writer, pytest.raises(DataError) as error:
        writer.write(batch)
    assert str(error.value).startswith(message)


def test_files_on_disk_are_as_documented(tmp_path: Path) -> None:
    write_log(tmp_path)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert names == [
        "attempts/00.json",
        "fixed/step-00000000/rank-00000-00-00000.parquet",
        "fixed/step-00000010/rank-00000-00-00001.parquet",
        "manifest/rank-00000-00.json",
        "run.json",
        "sequences/rank-00000-00-00000.parquet",
        "vocab.parquet",
    ]
    metadata = pq.read_metadata(shards(tmp_path)[0])
    assert metadata.metadata[schema.KEY_VERSION] == str(schema.SCHEMA_VERSION).encode()
    assert metadata.metadata[schema.KEY_RANK] == b"0"
    assert metadata.metadata[schema.KEY_ATTEMPT] == b"0"
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    encodings = {c.path_in_schema: c.encodings for c in columns}
    assert "RLE_DICTIONARY" in encodings["step"]
    assert "RLE_DICTIONARY" in encodings["sequence_id"]
    assert "DELTA_BINARY_PACKED" in encodings["position"]
    assert {c.compression for c in columns} == {"LZ4"}


def test_strangers_read_it_without_us(tmp_path: Path) -> None:
    write_log(tmp_path)
    frame = pd.read_parquet(tmp_path / "fixed")
    assert list(frame.columns) == list(schema.required_names("fixed"))
    assert len(frame) == 2 * 40 * 12


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 20))
def test_no_sequence_straddles_a_row_group(lengths: list[int], target: int) -> None:
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    table = pd.DataFrame({"step": 0, "sequence_id": sequence, "position": position})
    import pyarrow as pa

    data = encoding.encode_shard(
        pa.Table.from_pandas(table, preserve_index=False),
        run_id="r",
        attempt=0,
        row_group_rows=target,
    )
    file = pq.ParquetFile(pa.BufferReader(data))
    groups = [
        set(file.read_row_group(g)["sequence_id"].to_pylist()) for g in range(file.num_row_groups)
    ]
    assert sum(map(len, groups)) == len(lengths)
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    assert all(size <= target or len(group) == 1 for size, group in zip(sizes, groups, strict=True))


def test_a_later_attempt_supersedes(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as first:
        first.write(sequence_rows(range(4)), table="sequences")
        for step in (0, 10, 20):
            first.write(rows(step, range(4)), table="fixed")
    with LogWriter(tmp_path, run=RUN, resume_step=10) as second:
        second.write(rows(10, range(4), seed=1), table="fixed")
    assert (first.attempt, second.attempt) == (0, 1)
    assert first.run_id == second.run_id
    log = rocktok.open(tmp_path)
    assert [(s.step, s.rows) for s in log.steps("fixed")] == [(0, 48), (10, 48)]
    found = read(tmp_path)
    late = found["step"] == 10
    np.testing.assert_array_equal(found["loss"][late], rows(10, range(4), seed=1)["loss"])
    from rocktok.analyses.info.passes import info

    assert info(log).tables["fixed"].superseded_rows == 96


def test_superseded_sequences_go_too(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as first:
        first.write(sequence_rows([1], step=0), table="sequences")
        first.write(sequence_rows([2], step=30), table="sequences")
        first.write(rows(0, [1]), table="fixed")
    with LogWriter(tmp_path, run=RUN, resume_step=20) as second:
        second.write(sequence_rows([3], step=20), table="sequences")
        second.write(rows(20, [1]), table="fixed")
    assert load_prompts(rocktok.open(tmp_path)).sequence_S.tolist() == [1, 3]


def test_a_step_is_complete_when_every_rank_has_it(tmp_path: Path) -> None:
    zero = LogWriter(tmp_path, run=RUN, world_size=2)
    one = LogWriter(tmp_path, rank=1, world_size=2, attempt=zero.attempt, run_id=zero.run_id)
    for step in (0, 10, 20):
        zero.write(rows(step, range(3)))
        zero.finish_step(step)
    one.write(rows(0, range(10, 13)))
    one.finish_step(0)
    one.finish_step(10)  # has nothing for it, and says so
    zero.close()
    one.close(final=False)
    log = rocktok.open(tmp_path)
    assert log.complete_steps("rollout") == [0, 10]
    assert log.incomplete_steps("rollout") == [20]
    assert log.warnings() == [
        "rank 1 of attempt 0 has no final mark: it may still be writing, or was killed",
        "no sequences/ table: each sequence counts as its own prompt",
    ]


def test_a_dropped_step_is_counted_and_incomplete(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(rows(0, range(3)))
        writer.finish_step(0)
        writer.write(rows(10, range(3)))
        writer.drop_step(10, 36, "queue full")
        writer.write(rows(20, range(3)))
    log = rocktok.open(tmp_path)
    assert log.complete_steps("rollout") == [0, 20]
    assert log.incomplete_steps("rollout") == [10]
    assert log.manifests[0].dropped == [manifest.Dropped("rollout", 10, 36, "queue full")]


def test_a_disk_failure_keeps_the_buffer_and_a_retry_publishes(tmp_path, monkeypatch) -> None:
    writer = LogWriter(tmp_path, run=RUN)
    writer.write(rows(0, range(3)))
    writer.finish_step(0)
    real = files.create_file

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "create_file", full)
    with pytest.raises(OSError, match="No space left"):
        writer.flush()
    monkeypatch.setattr(files, "create_file", real)
    writer.close()
    assert [s.rows for s in rocktok.open(tmp_path).steps("rollout")] == [36]


def test_giving_the_buffer_up_is_counted(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(rows(0, range(3)))
        writer.finish_step(0)
        writer.write(rows(5, range(2)))
        assert writer.drop_buffered("disk full") == 60
        writer.write(rows(6, range(2)))
    log = rocktok.open(tmp_path)
    assert [s.step for s in log.steps("rollout")] == [6]
    assert log.incomplete_steps("rollout") == [0, 5]


def test_an_open_step_is_not_published_by_a_flush(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, run=RUN)
    writer.write(rows(0, [0]))
    writer.flush()
    assert shards(tmp_path, "rollout") == []
    writer.write(rows(0, [1]))
    writer.close()
    assert rocktok.open(tmp_path).steps("rollout")[0].rows == 24


def test_a_flush_comes_by_size_and_by_age(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, run=RUN, flush_bytes=1000, flush_seconds=1e9)
    writer.write(rows(0, range(10)))
    writer.finish_step(0)
    assert len(shards(tmp_path, "rollout")) == 1
    aged = LogWriter(tmp_path / "b", run=RUN, flush_bytes=1 << 30, flush_seconds=0.0)
    aged.write(rows(0, [0]))
    aged.finish_step(0)
    assert len(shards(tmp_path / "b", "rollout")) == 1


def test_other_columns_or_another_run_are_refused_at_the_start(tmp_path: Path) -> None:
    LogWriter(tmp_path, run=RUN, columns=["grad_norm"]).close()
    with pytest.raises(HookError, match=r"records the columns grad_norm, this attempt wants \(no"):
        LogWriter(tmp_path, run=RUN)
    with pytest.raises(HookError, match="holds a run with vocab_size 50, this one has 60"):
        LogWriter(tmp_path, run={**RUN, "vocab_size": 60}, columns=["grad_norm"])
    with pytest.raises(HookError, match="no columns mood in the format"):
        LogWriter(tmp_path / "new", columns=["mood"])


def test_a_hand_written_log_is_not_recorded_into(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, [0]))
    with pytest.raises(HookError, match=r"shards are here, but no run\.json says of which run"):
        LogWriter(tmp_path)


def test_publishing_never_overwrites(tmp_path: Path) -> None:
    target = tmp_path / "x"
    publishing.create_file(target, b"first")
    with pytest.raises(FileExistsError):
        publishing.create_file(target, b"second")
    assert target.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_without_hard_links_an_exclusive_rename_publishes(tmp_path, monkeypatch) -> None:
    def no_link(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(publishing.os, "link", no_link)
    target = tmp_path / "x"
    publishing.create_file(target, b"first")
    with pytest.raises(FileExistsError):
        publishing.create_file(target, b"second")
    assert target.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_unknown_keys_of_run_json_are_kept(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "run.json"
    changed = {**json.loads(path.read_text()), "cluster": "west"}
    path.write_text(json.dumps(changed))
    with pytest.raises(DamagedError, match="if you have changed it, set its crc32 to null"):
        rocktok.open(tmp_path)
    path.write_text(json.dumps({**changed, "crc32": None}))
    assert rocktok.open(tmp_path).run["cluster"] == "west"


def test_wider_types_nullable_fields_and_dictionaries_are_accepted(tmp_path: Path) -> None:
    batch = rows(0, [0, 1])
    wide = pd.DataFrame(
        {
            "step": batch["step"].astype(np.uint8),
            "sequence_id": batch["sequence_id"].astype(np.float64),
            "position": pd.array(batch["position"], dtype="Int64"),
            "token_id": pd.Categorical(batch["token_id"]),
            "loss": batch["loss"].astype(np.float64),
        }
    )
    write_by_hand(tmp_path, wide)
    found = read(tmp_path)
    for name, values in batch.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_a_sequence_may_break_over_row_groups(tmp_path: Path) -> None:
    batch = rows(0, [0, 1, 2], tokens=10)
    path = tmp_path / "fixed" / "a.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame(batch).to_parquet(path, index=False, row_group_size=7)
    batches = list(rocktok.open(tmp_path).scan("fixed", ["token_id"]))
    whole = [np.unique(b.columns["sequence_id"], return_counts=True) for b in batches]
    assert {int(s): int(n) for ids, ns in whole for s, n in zip(ids, ns, strict=True)} == {
        0: 10,
        1: 10,
        2: 10,
    }
    assert sum(len(ids) for ids, _ in whole) == 3


def test_dot_files_and_strangers_are_ignored(tmp_path: Path) -> None:
    write_log(tmp_path)
    (tmp_path / "fixed" / ".half.parquet").write_bytes(b"half")
    (tmp_path / "fixed" / "notes.txt").write_text("mine")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "00.parquet").write_bytes(b"not ours to read")
    assert len(rocktok.open(tmp_path).shards("fixed")) == 2


def test_pairs_join_any_order_and_count_the_rest(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, [0, 1, 2, 3]), "a")
    write_by_hand(tmp_path, rows(0, [4, 5]), "b")
    write_by_hand(tmp_path, rows(9, [3, 5]), "c")
    write_by_hand(tmp_path, rows(9, [0, 1, 7]), "d")
    log = rocktok.open(tmp_path)
    (task,) = joined_tasks(log, "fixed", 0, 9)
    pairs = JoinedSteps(log.reader, "fixed", 0, 9, (), task)
    batches = list(pairs)
    ids = np.concatenate([np.unique(b["sequence_id"]) for b in batches])
    assert sorted(ids.tolist()) == [0, 1, 3, 5]
    assert pairs.unpaired == 3
    for batch in batches:
        for sequence in np.unique(batch["sequence_id"]).tolist():
            at = batch["sequence_id"] == sequence
            np.testing.assert_array_equal(batch["loss_pre"][at], rows(0, [sequence])["loss"])
            np.testing.assert_array_equal(batch["loss_post"][at], rows(9, [sequence])["loss"])


def test_pairs_have_columns_as_they_are_at_both_steps(tmp_path: Path) -> None:
    for step, name in ((0, "a"), (9, "b")):
        batch = rows(step, [3, 5])
        write_by_hand(tmp_path, {**batch, "student_entropy": 2 * batch["loss"]}, name)
    log = rocktok.open(tmp_path)
    (task,) = joined_tasks(log, "fixed", 0, 9)
    columns = ["student_entropy"]
    batches = list(JoinedSteps(log.reader, "fixed", 0, 9, columns, task, columns))
    assert sum(len(batch["loss_pre"]) for batch in batches) == 24
    for batch in batches:
        np.testing.assert_array_equal(batch["student_entropy"], 2 * batch["loss_post"])
        np.testing.assert_array_equal(batch["student_entropy_pre"], 2 * batch["loss_pre"])
        assert not np.array_equal(batch["loss_pre"], batch["loss_post"])


def test_row_groups_that_nothing_vouches_for_are_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pass is shared out by their ids; a log by hand keeps these in its rows alone."""
    (tmp_path / "fixed").mkdir()
    for step, name in ((0, "a"), (9, "b")):
        frame = pd.DataFrame(rows(step, range(20)))
        frame.to_parquet(tmp_path / f"fixed/{name}.parquet", index=False, row_group_size=60)
    log, looked, read_group = rocktok.open(tmp_path), [], OpenShard.read_group

    def spy(self: OpenShard, group: int, columns: list[str]):
        looked.append((self.name, group, tuple(columns)))
        return read_group(self, group, columns)

    first = joined_tasks(log, "fixed", 0, 9, task_rows=50)
    monkeypatch.setattr(OpenShard, "read_group", spy)
    assert joined_tasks(log, "fixed", 0, 9, task_rows=50) == first
    assert looked == [] and len(first) == 4
    # In a log that is opened anew, each is looked up again, once.
    again = rocktok.open(tmp_path)
    for _ in range(2):
        assert joined_tasks(again, "fixed", 0, 9, task_rows=50) == first
    at_groups = [one for one in looked if one[2] == ("step", "sequence_id")]
    assert len(at_groups) == len(set(at_groups)) == 8


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write_log(tmp_path, steps=(0,), sequences=20)
    target = shards(tmp_path)[0]
    data = target.read_bytes()
    good = read(tmp_path)
    rng = np.random.default_rng(0)
    silent = 0
    for bit in rng.choice(len(data) * 8, 300, replace=False).tolist():
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        target.write_bytes(bytes(changed))
        try:
            found = read(tmp_path)
        except LogError:
            continue
        silent += any(not np.array_equal(found[name], good[name]) for name in good)
    assert silent == 0


def test_a_manifest_that_was_altered_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "manifest" / "rank-00000-00.json"
    path.write_text(path.read_text().replace('"final": true', '"final": false'))
    with pytest.raises(DamagedError, match="its CRC32 does not match its content"):
        rocktok.open(tmp_path)


def test_a_late_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path)
    target = shards(tmp_path)[0]
    data = target.read_bytes()
    target.unlink()
    monkeypatch.setattr(opening, "MISSING_WAIT", 30.0)
    monkeypatch.setattr(opening.time, "sleep", lambda seconds: target.write_bytes(data))
    said: list[str] = []
    log = rocktok.log.open_log(tmp_path, notice=said.append)
    assert len(log.shards("fixed")) == 2
    assert said == [f"{target}: listed but absent; waiting up to 30 s"]


def test_allow_missing_leaves_damage_out_and_says_so(tmp_path: Path) -> None:
    write_log(tmp_path, steps=(0, 10, 20))
    first, second, third = shards(tmp_path)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    log = rocktok.log.open_log(tmp_path, allow_missing=True)
    assert [s.path for s in log.shards("fixed")] == [str(third.relative_to(tmp_path))]
    assert log.identity()["skipped_shards"] == 2
    assert [shard.name for shard in log.skipped] == [str(first), str(second)]


def test_a_log_prints_as_what_it_holds_without_reading_it(tmp_path: Path) -> None:
    write_log(tmp_path / "recorded", steps=(0, 10, 20))
    first, second, third = shards(tmp_path / "recorded")
    first.unlink()
    log = rocktok.log.open_log(tmp_path / "recorded", allow_missing=True)
    for path in (second, third):
        path.unlink()
    assert repr(log).splitlines() == [
        f"Log {str(tmp_path / 'recorded')!r}",
        f"  run        {log.run_id}",
        "  fixed      2 shards, 960 rows, 2 steps",
        "  sequences  1 shard, 40 rows",
        "  left out   1 shard",
    ]
    assert "<th>fixed</th><td>2 shards, 960 rows, 2 steps</td>" in log._repr_html_()


def test_a_hand_written_log_prints_as_its_shards(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, [4, 5]))
    log = rocktok.open(tmp_path)
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()
    assert repr(log) == f"Log {str(tmp_path)!r}\n  fixed      1 shard"


def test_prompts_without_a_table_are_the_sequences(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, [4, 5]))
    prompts = load_prompts(rocktok.open(tmp_path))
    assert not prompts.known
    hashes = prompts.of(np.array([4, 5, 4]))
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_log_opens_through_an_address(tmp_path: Path) -> None:
    write_log(tmp_path)
    by_path = rocktok.open(tmp_path)
    by_uri = rocktok.open(tmp_path.as_uri())
    assert [s.path for s in by_uri.shards("fixed")] == [s.path for s in by_path.shards("fixed")]


def test_a_log_in_memory_through_fsspec() -> None:
    batch = rows(0, range(3))
    with LogWriter("memory://log", run=RUN) as writer:
        writer.write(sequence_rows(range(3)), table="sequences")
        writer.write(batch)
    log = rocktok.open("memory://log")
    found = np.concatenate([b.columns["loss"] for b in log.scan("rollout", ["loss"])])
    np.testing.assert_array_equal(found, batch["loss"])


def test_two_runs_without_a_run_json_are_noticed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_log(tmp_path / name, steps=(0,) if name == "a" else (10,))
    target = tmp_path / "mixed" / "fixed"
    target.mkdir(parents=True)
    for name in ("a", "b"):
        (target / f"{name}.parquet").write_bytes(shards(tmp_path / name)[0].read_bytes())
    with pytest.raises(LogError, match=r"b\.parquet: belongs to run .*a\.parquet is of run"):
        rocktok.detect(rocktok.open(tmp_path / "mixed"))


def test_steps_that_only_void_rows_have_are_not_incomplete(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as first:
        for step in (0, 10, 20, 30):
            first.write(rows(step, range(3)))
    with LogWriter(tmp_path, run=RUN, resume_step=20) as second:
        second.write(rows(20, range(3)))
    log = rocktok.open(tmp_path)
    assert log.complete_steps("rollout") == [0, 10, 20]
    assert log.incomplete_steps("rollout") == []


def test_a_step_that_lost_a_shard_is_incomplete(tmp_path: Path) -> None:
    write_log(tmp_path, steps=(0, 10, 20))
    shards(tmp_path)[1].unlink()
    log = rocktok.log.open_log(tmp_path, allow_missing=True)
    assert log.incomplete_steps("fixed") == [10]
    assert log.complete_steps("fixed") == [0, 20]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"loss": "reverse_kl"}, "loss is 'reverse_kl'; it must be an object"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; it must be a positive integer"),
        ({"loss": {"exactness": "good"}}, "exactness 'good'; it must be one of exact, topk"),
    ],
)
def test_a_run_json_that_makes_no_sense_is_one_line(tmp_path, content, message) -> None:
    write_by_hand(tmp_path, rows(0, [0]))
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(LogError, match=message):
        rocktok.detect(rocktok.open(tmp_path))


def test_verify_reads_superseded_rows_too(tmp_path: Path) -> None:
    for _ in range(2):
        with LogWriter(tmp_path, run=RUN, supersede=True) as writer:
            writer.write(rows(0, range(20)), table="fixed")
    void = shards(tmp_path)[0]
    data = bytearray(void.read_bytes())
    data[len(data) // 2] ^= 1
    void.write_bytes(bytes(data))
    from rocktok.analyses.info.passes import info

    (problem,) = info(rocktok.open(tmp_path), verify=True).damage
    assert str(void) in problem


def test_a_sequences_column_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, [0]))
    wrong = {**sequence_rows([0]), "correct": ["perhaps"]}
    write_by_hand(tmp_path, wrong, table="sequences")
    from rocktok.analyses.info.passes import info

    (problem,) = info(rocktok.open(tmp_path), verify=True).damage
    assert "column correct: is not bool" in problem


def test_sequences_that_the_table_lacks_are_said(tmp_path: Path) -> None:
    for step, name in ((0, "a"), (10, "b")):
        write_by_hand(tmp_path, rows(step, range(20)), name)
    write_by_hand(tmp_path, sequence_rows(range(15)), table="sequences")
    notes = rocktok.detect(rocktok.open(tmp_path)).notes
    assert "5 sequences are not in sequences/: each counts as its own prompt" in notes
