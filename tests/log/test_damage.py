"""Damage that used to change numbers in silence: each is an error that names the file."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok import schema
from rocktok.analyses.info.passes import info
from rocktok.errors import DamagedError, LogError
from rocktok.log import LogWriter, opening
from rocktok.log.chunks import chunks_of
from rocktok.log.manifest import dump_json
from tests.faults.campaign import page_headers
from tests.logs import RUN, rows, shards, write_by_hand, write_log

VERSIONS = [Path(__file__).parent / f"version_{number}" for number in (1, 2)]


def resumed(path: Path) -> Path:
    """Steps 0, 10 and 20, and a second attempt that does 20 again: 160 rows count."""
    for resume, steps in ((0, (0, 10, 20)), (20, (20,))):
        with LogWriter(path, run=RUN, resume_step=resume) as writer:
            for step in steps:
                writer.write(rows(step, range(10), tokens=4), table="fixed")
                writer.flush()
    return path


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(bytes(data))


# -- shards ----------------------------------------------------------------------------------


def test_a_header_that_claims_fewer_rows_is_damage(tmp_path: Path) -> None:
    """`num_values` of the page of `step` is no part of any checksum that Parquet has."""
    target = tmp_path / "fixed" / "a.parquet"
    target.parent.mkdir(parents=True)
    pq.write_table(pa.table(rows(0, range(20))), target, use_dictionary=False)
    (start, end), *_ = page_headers(target)
    data, short = target.read_bytes(), 0
    for bit in range(8 * start, 8 * end, 2):
        flip(target, bit // 8, bit % 8)
        try:
            assert sum(s.rows for s in rocktok.open(tmp_path).steps("fixed")) == 240
        except LogError as error:
            assert str(target) in str(error)
            short += "its page headers claim" in str(error)
        target.write_bytes(data)
    assert short


def test_a_footer_that_claims_more_rows_than_there_are_is_damage(tmp_path: Path) -> None:
    target = shards(write_by_hand(tmp_path, rows(0, range(20))))[0]
    data = target.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    assert footer.count(_varint(240)) > 2
    claimed = footer.replace(_varint(240), _varint(10**12))
    target.write_bytes(data[: -8 - length] + claimed + len(claimed).to_bytes(4, "little") + b"PAR1")
    message = r"a\.parquet: row group 0, column step: damaged \(its page headers claim 240 values, "
    with pytest.raises(DamagedError, match=message + "its footer 1,000,000,000,000"):
        rocktok.detect(tmp_path)


def _varint(number: int) -> bytes:
    """As Thrift's compact protocol writes an integer that is not negative."""
    number, out = 2 * number, []
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_a_flipped_bit_of_a_header_in_a_vouched_shard_is_noticed(tmp_path: Path) -> None:
    target = shards(write_log(tmp_path, steps=(0,), sequences=4))[0]
    data = target.read_bytes()
    for start, end in page_headers(target):
        for bit in range(8 * start, 8 * end, 23):
            flip(target, bit // 8, bit % 8)
            with pytest.raises(DamagedError, match="its CRC32 is not the manifest's"):
                list(rocktok.open(tmp_path).scan("fixed", ["token_id", "loss"]))
            target.write_bytes(data)


def test_the_manifest_holds_the_crc_of_every_chunk_as_stored(tmp_path: Path) -> None:
    write_log(tmp_path)
    (manifest,) = rocktok.open(tmp_path).manifests
    for entry in manifest.shards:
        data, metadata = (
            (tmp_path / entry.path).read_bytes(),
            pq.read_metadata(tmp_path / entry.path),
        )
        ranges = [
            [(chunk.start, chunk.stop) for chunk in chunks_of(metadata, group)]
            for group in range(metadata.num_row_groups)
        ]
        assert entry.chunk_crc32 == tuple(
            "".join(f"{zlib.crc32(data[start:stop]):08x}" for start, stop in group)
            for group in ranges
        )
        # Together with magic and footer the chunks are the whole file.
        length = int.from_bytes(data[-8:-4], "little")
        stored = sum(stop - start for group in ranges for start, stop in group)
        assert 4 + stored + length + 8 == entry.size


def test_a_chunk_that_is_not_read_is_not_checked(tmp_path: Path) -> None:
    write_log(tmp_path, steps=(0,))
    target = shards(tmp_path)[0]
    chunk = list(chunks_of(pq.read_metadata(target), 0))[-1]
    assert chunk.metadata.path_in_schema == "loss"
    flip(target, chunk.stop - 1)
    log = rocktok.open(tmp_path)
    assert sum(len(batch) for batch in log.scan("fixed", ["token_id"])) == 480
    with pytest.raises(DamagedError, match="row group 0, column loss: damaged"):
        list(log.scan("fixed", ["loss"]))


# -- JSON files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attempts/01.json", "attempts/00.json", "run.json"])
def test_a_small_file_that_is_gone_is_missed(tmp_path: Path, name: str) -> None:
    """Without attempts/01.json, superseded rows would count again: 160 became 320."""
    log = resumed(tmp_path)
    assert [s.rows for s in rocktok.open(log).steps("fixed")] == [40, 40, 40]
    (log / name).unlink()
    with pytest.raises(DamagedError, match=f"{name}: is missing, although later files exist"):
        rocktok.open(log)


def test_a_manifest_that_is_gone_is_missed(tmp_path: Path) -> None:
    log = resumed(tmp_path)
    name = "manifest/rank-00000-01.json"
    (log / name).unlink()
    with pytest.raises(
        DamagedError, match=f"{name}: is missing, and .* is of its rank and attempt"
    ):
        rocktok.open(log).steps("fixed")


def test_an_attempt_that_begins_while_a_log_is_opened_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed(tmp_path)
    real, late = opening.load_manifests, tmp_path / "manifest/rank-00000-01.json"
    hidden = late.rename(tmp_path / "later")

    def load(where: object) -> object:
        try:
            return real(where)
        finally:
            hidden.rename(late)

    monkeypatch.setattr(opening, "load_manifests", load)
    with pytest.raises(LogError, match="is of attempt 1, which began while the log was opened"):
        rocktok.open(tmp_path).steps("fixed")


def test_a_late_attempt_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = resumed(tmp_path) / "attempts/01.json"
    data = target.read_bytes()
    target.unlink()
    monkeypatch.setattr(opening, "MISSING_WAIT", 30.0)
    monkeypatch.setattr(opening.time, "sleep", lambda seconds: target.write_bytes(data))
    said: list[str] = []
    assert len(rocktok.log.open_log(tmp_path, notice=said.append).attempts) == 2
    assert said == [f"{target}: listed but absent; waiting up to 30 s"]


def test_a_flipped_bit_of_an_attempt_is_noticed(tmp_path: Path) -> None:
    target = resumed(tmp_path) / "attempts/01.json"
    data = target.read_bytes()
    for bit in range(0, 8 * len(data), 7):
        flip(target, bit // 8, bit % 8)
        with pytest.raises(DamagedError, match=r"attempts/01\.json"):
            rocktok.open(tmp_path)
        target.write_bytes(data)


def test_the_crc_of_a_json_file_is_that_of_its_content(tmp_path: Path) -> None:
    write_log(tmp_path)
    for path in tmp_path.rglob("*.json"):
        content = json.loads(path.read_text())
        assert content["schema_version"] == schema.SCHEMA_VERSION
        crc = content.pop("crc32")
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        assert crc == zlib.crc32(canonical.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vocab_size": 60},
            "altered or damaged .*; if you have changed it, set its crc32 to null",
        ),
        ({"crc32": "none"}, "altered or damaged"),
        ({"crc32": None}, None),
        ({"crc32": None, "vocab_size": 60}, None),
    ],
)
def test_a_run_json_that_was_edited(tmp_path: Path, change: dict[str, object], message) -> None:
    path = write_log(tmp_path) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if message is None:
        assert rocktok.open(tmp_path).rules.vocab_size == change.get("vocab_size", 50)
    else:
        with pytest.raises(DamagedError, match=message):
            rocktok.open(tmp_path)


def test_a_vocabulary_is_not_vouched_for_anew_within_an_attempt(tmp_path: Path) -> None:
    log = rocktok.open(write_log(tmp_path))
    (manifest,) = log.manifests
    flip(tmp_path / "vocab.parquet", 40)
    LogWriter(tmp_path, attempt=0, run_id=log.run_id, manifest=manifest).close()
    with pytest.raises(DamagedError, match=r"vocab\.parquet: altered or damaged"):
        assert rocktok.open(tmp_path).vocab


def test_only_run_json_may_be_edited(tmp_path: Path) -> None:
    path = write_log(tmp_path) / "attempts/00.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "crc32": None}))
    with pytest.raises(DamagedError, match=r"00\.json: altered or damaged"):
        rocktok.open(tmp_path)


def test_a_checksum_that_was_lost_is_missed(tmp_path: Path) -> None:
    path = write_log(tmp_path) / "run.json"
    content = json.loads(path.read_text())
    del content["crc32"]
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=r"run\.json: altered or damaged"):
        rocktok.open(tmp_path)


@pytest.mark.parametrize("folder", ["attempts/00.json", "manifest/rank-00000-00.json"])
def test_two_files_of_one_kind_are_refused(tmp_path: Path, folder: str) -> None:
    path = write_log(tmp_path) / folder
    shutil.copy(path, path.with_name("copy.json"))
    with pytest.raises(DamagedError, match=r"\.json: is .*\.json is; keep one"):
        rocktok.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"extra": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("[1]", "is not a JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"vocab_size": 1' + "0" * 5000 + "}", "cannot be read as JSON"),
        ('{"vocab_size": 2147483647}', "the largest that is read is 4194304"),
        ('{"vocab_size": true}', "must be a positive integer"),
    ],
)
def test_json_that_will_not_do_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    write_by_hand(tmp_path, rows(0, [0]))
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(LogError, match=message) as error:
        rocktok.open(tmp_path)
    assert "\n" not in str(error.value)


def test_a_json_file_larger_than_any_can_be_is_not_read(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, [0]))
    with (tmp_path / "run.json").open("w") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError, match="such a file has no more than 268,435,456"):
        rocktok.open(tmp_path)


# -- names that are no files -----------------------------------------------------------------


def _link_to_nothing(path: Path) -> str:
    path.symlink_to("/nowhere/at/all")
    return "is a link to a file that does not exist"


def _pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a pipe, a socket or a device"


def _device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "is a pipe, a socket or a device"


def _directory(path: Path) -> str:
    path.mkdir()
    return "is a directory"


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("make", [_link_to_nothing, _pipe, _device, _directory])
@pytest.mark.parametrize(
    "name",
    ["fixed/z.parquet", "run.json", "vocab.parquet", "attempts/00.json", "manifest/z.json"],
)
def test_a_name_that_is_no_file_is_an_error_and_waited_for_by_nobody(
    tmp_path: Path, name: str, make: Callable[[Path], str]
) -> None:
    write_by_hand(tmp_path, rows(0, range(20)))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    problem = make(tmp_path / name)
    with pytest.raises(DamagedError) as error:
        assert rocktok.open(tmp_path).vocab
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert problem in str(error.value)


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_links_to_files_and_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    write_by_hand(tmp_path / "elsewhere", rows(0, range(20)))
    log = write_by_hand(tmp_path / "log", rows(10, range(20)))
    (log / "fixed" / "more").symlink_to(tmp_path / "elsewhere" / "fixed")
    assert [s.rows for s in rocktok.open(log).steps("fixed")] == [240, 240]
    (log / "fixed" / "again").symlink_to(log / "fixed")
    with pytest.raises(DamagedError, match="again: is a link to a folder that contains it"):
        rocktok.open(log)
    (log / "fixed" / "again").unlink()
    (log / "fixed" / "lost").symlink_to(tmp_path / "gone")
    with pytest.raises(DamagedError, match="lost: is a link to a file that does not exist"):
        rocktok.open(log)


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_listed_shard_that_is_a_dead_link_is_left_out_if_asked(tmp_path: Path) -> None:
    target = shards(write_log(tmp_path))[0]
    target.unlink()
    target.symlink_to("/nowhere/at/all")
    log = rocktok.log.open_log(tmp_path, allow_missing=True)
    assert [(s.name, s.reason) for s in log.skipped] == [
        (str(target), "is a link to a file that does not exist")
    ]
    assert log.incomplete_steps("fixed") == [0]


# -- vocab.parquet ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_vouched_vocabulary_is_compared(tmp_path: Path, damage: str) -> None:
    path = write_log(tmp_path) / "vocab.parquet"
    if damage == "missing":
        path.unlink()
    else:
        flip(path, 40)
    with pytest.raises(DamagedError, match=r"vocab\.parquet: .*go on without text"):
        rocktok.detect(tmp_path)
    log = rocktok.log.open_log(tmp_path, allow_missing=True)
    assert log.vocab.text(3) == "<id 3>"
    (note,) = (line for line in log.warnings() if "vocab.parquet: left out" in line)
    assert damage in note


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"token_id": ["0", "1"], "token": ["a", "b"]}, "column token_id: type string"),
        ({"token_id": [0, None], "token": ["a", "b"]}, "column token_id: null"),
        ({"token_id": [0, -1], "token": ["a", "b"]}, "-1 is negative"),
        ({"token_id": [3, 3], "token": ["a", "b"]}, "a token_id is listed twice"),
        ({"token_id": [0, 2**31 - 1], "token": ["a", "b"]}, "2147483647 is not a token id"),
        ({"token_id": [0, 1]}, "has no column token;"),
        ({"token_id": [0], "token": [b"a"]}, "column token: type binary; it must be text"),
        (
            {"token_id": [0], "token": ["a"], "bytes": ["a"]},
            "bytes: type string; it must be binary",
        ),
        ({"token_id": [0], "token": ["a"], "bytes": [[97]]}, "bytes: type list<.*must be binary"),
    ],
)
def test_a_vocabulary_that_will_not_do_is_one_line(tmp_path: Path, columns, message) -> None:
    write_by_hand(tmp_path, rows(0, range(20)))
    pq.write_table(pa.table(columns), tmp_path / "vocab.parquet")
    with pytest.raises(LogError, match=message) as error:
        assert rocktok.open(tmp_path).vocab
    assert str(error.value).startswith(str(tmp_path / "vocab.parquet"))
    assert "\n" not in str(error.value)


def test_a_vocabulary_that_unpacks_to_more_than_one_can_be_is_refused(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, range(20)))
    text = pa.DictionaryArray.from_arrays(np.zeros(300_000, np.int32), pa.array(["x" * 1000]))
    pq.write_table(
        pa.table({"token_id": np.arange(300_000), "token": text}), tmp_path / "vocab.parquet"
    )
    assert (tmp_path / "vocab.parquet").stat().st_size < 3 << 20
    with pytest.raises(LogError, match="column token: more than 268,435,456 bytes"):
        assert rocktok.open(tmp_path).vocab


def test_a_token_without_text_or_bytes_prints_as_its_id(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, range(20)))
    columns = {"token_id": [0, 1, 2], "token": [None, "b", None], "bytes": [b"\xff", None, None]}
    pq.write_table(pa.table(columns), tmp_path / "vocab.parquet")
    vocab = rocktok.open(tmp_path).vocab
    assert [vocab.text(i) for i in range(3)] == ["\\xff", "b", "<id 2>"]


# -- shards that make no sense ---------------------------------------------------------------


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, range(20)))
    names = ["step", "sequence_id", "position", "token_id", "loss", "loss"]
    pq.write_table(pa.table([pa.array([1])] * 6, names=names), tmp_path / "fixed" / "z.parquet")
    with pytest.raises(LogError, match=r"z\.parquet: has two columns loss; keep one"):
        rocktok.detect(tmp_path)


def test_a_column_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    batch = {**rows(0, range(20)), "zzzzzzzz": 1}
    target = shards(write_by_hand(tmp_path, batch))[0]
    target.write_bytes(target.read_bytes().replace(b"zzzzzzzz", b"\xff\xfezzzzzz"))
    with pytest.raises(DamagedError, match=r"a\.parquet: the name of a column is not UTF-8"):
        rocktok.detect(tmp_path)


def test_a_frame_without_rows_is_one_line(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, range(20)))
    write_by_hand(tmp_path, {name: [] for name in rows(0, [0])}, "z")
    empty = pa.table({name: pa.array([], pa.null()) for name in rows(0, [0])})
    pq.write_table(empty, tmp_path / "fixed" / "z.parquet")
    with pytest.raises(LogError, match=r"z\.parquet: has no rows, and columns without a type"):
        rocktok.detect(tmp_path)


def test_a_shard_without_rows_is_read(tmp_path: Path) -> None:
    write_by_hand(tmp_path, rows(0, range(20)))
    write_by_hand(tmp_path, {name: values[:0] for name, values in rows(0, [0]).items()}, "z")
    assert [s.rows for s in rocktok.open(tmp_path).steps("fixed")] == [240]


def test_a_step_in_the_name_of_a_folder_only_is_said(tmp_path: Path) -> None:
    batch = rows(7, range(20))
    del batch["step"]
    write_by_hand(tmp_path, batch, "step=7/a")
    with pytest.raises(LogError, match="has no column step: values in folder names are not read"):
        rocktok.detect(tmp_path)


def test_token_ids_beyond_every_vocabulary_ask_for_no_memory(tmp_path: Path) -> None:
    write_by_hand(tmp_path, {**rows(0, range(20)), "token_id": 2**31 - 2})
    with pytest.raises(LogError, match="2147483646 is not a token id: these are below 4,194,304"):
        rocktok.detect(tmp_path)


# -- older versions ---------------------------------------------------------------------------


@pytest.mark.parametrize("old", VERSIONS, ids=lambda path: path.name)
def test_a_log_of_an_older_version_is_read_as_before(old: Path) -> None:
    log = rocktok.open(old)
    result = info(log, verify=True)
    assert result.damage == ()
    assert [(s.step, s.rows) for s in log.steps("fixed")] == [(0, 80), (10, 80), (20, 80), (30, 80)]
    assert (result.sequences, result.prompts, len(log.vocab)) == (10, 4, 50)
    found = list(log.scan("fixed", ["loss", "grad_norm"], steps=[20]))
    loss_N = np.concatenate([batch.columns["loss"] for batch in found])
    expected_N = rows(20, range(10), tokens=8)["loss"] + np.float32(20)
    np.testing.assert_array_equal(loss_N, expected_N)
    norm_N = np.concatenate([batch.columns["grad_norm"] for batch in found])
    np.testing.assert_array_equal(norm_N, expected_N * 2)


@pytest.mark.parametrize("old", VERSIONS, ids=lambda path: path.name)
def test_a_log_of_an_older_version_is_gone_on_with(old: Path, tmp_path: Path) -> None:
    path = tmp_path / "log"
    shutil.copytree(old, path)
    with LogWriter(path, run=RUN, resume_step=30, columns=["grad_norm"]) as writer:
        batch = rows(30, range(10), tokens=8)
        writer.write({**batch, "grad_norm": batch["loss"]}, table="fixed")
    log = rocktok.open(path)
    assert (writer.attempt, info(log, verify=True).damage) == (2, ())
    (found,) = log.scan("fixed", ["loss"], steps=[30])
    np.testing.assert_array_equal(found.columns["loss"], batch["loss"])
    assert [len(entry.chunk_crc32) for m in log.manifests for entry in m.shards][-1] == 1
    (path / "vocab.parquet").unlink()
    with pytest.raises(DamagedError, match="is listed in a manifest but missing"):
        assert rocktok.open(path).vocab


@pytest.mark.parametrize("old", VERSIONS, ids=lambda path: path.name)
def test_compact_makes_the_latest_version_of_an_older_one(old: Path, tmp_path: Path) -> None:
    rocktok.compact(old, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.json"):
        content = json.loads(path.read_text())
        assert content["schema_version"] == schema.SCHEMA_VERSION
        assert path.read_bytes() == dump_json(content)
    new = rocktok.open(tmp_path / "out")
    assert new.steps("fixed") == rocktok.open(old).steps("fixed")
    assert info(new, verify=True).damage == ()
    assert all(entry.chunk_crc32 for m in new.manifests for entry in m.shards)


def test_shards_alone_are_read_as_if_by_hand(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    shutil.copytree(log / "fixed", tmp_path / "bare" / "fixed")
    assert [s.rows for s in rocktok.open(tmp_path / "bare").steps("fixed")] == [480, 480]
