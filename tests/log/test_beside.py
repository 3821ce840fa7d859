"""`alternatives/` and `contexts/`: written, read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok import schema
from rocktok.analyses.info.passes import info
from rocktok.errors import DamagedError, DataError, LogError
from rocktok.log import LogWriter, encoding
from tests.faults.campaign import page_headers
from tests.log.beside import COLUMNS, LISTS, assert_rows, both, read, stored, write
from tests.logs import RUN, alternatives_rows, context_rows, rows, shards, write_by_hand
from tests.paths import ROOT

# -- written and read --------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    assert rocktok.open(tmp_path).tables() == ("fixed", "alternatives", "contexts")
    found = read(tmp_path, "alternatives")
    assert_rows(found, stored(both(*(alternatives_rows(step, range(8)) for step in (0, 10)))))
    assert [found[name].dtype for name in LISTS] == [np.int32, np.float32, np.int32, np.float32]
    assert_rows(read(tmp_path, "alternatives", [10]), stored(alternatives_rows(10, range(8))))
    contexts = read(tmp_path, "contexts")
    assert_rows(contexts, context_rows(0, range(8)))
    assert (contexts["context"].dtype, contexts["context"].shape) == (np.uint8, (96, 32))


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(1, 50),
    order=st.permutations(range(6)),
    tokens=st.integers(1, 5),
    cut=st.integers(1, 29),
)
def test_any_order_and_any_cut_of_batches_gives_the_same_rows(
    tmp_path_factory: Any, k: int, order: list[int], tokens: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("log")
    whole = alternatives_rows(3, order, tokens, k)
    with LogWriter(path, run=RUN) as writer:
        writer.write(rows(3, order, tokens), table="fixed")
        for part in (slice(0, cut), slice(cut, None)):
            writer.write({n: v[part] for n, v in whole.items()}, table="alternatives")
    rank = np.lexsort((whole["position"], whole["sequence_id"]))
    assert_rows(read(path, "alternatives"), stored({n: v[rank] for n, v in whole.items()}))
    assert info(path, verify=True).damage == ()


def test_frames_lists_and_tensors_are_taken(tmp_path: Path) -> None:
    import torch

    whole, sketches = alternatives_rows(0, range(3)), context_rows(0, range(3))
    as_lists = {n: v.tolist() for n, v in whole.items()}
    frame = pd.DataFrame({n: list(v) if v.ndim == 2 else v for n, v in whole.items()})
    tensors = {n: torch.from_numpy(v) for n, v in whole.items()}
    of_bytes = {**sketches, "context": [row.tobytes() for row in sketches["context"]]}
    of_tensors = {n: torch.from_numpy(v) for n, v in sketches.items()}
    given: list[tuple[Any, Any]] = [
        (as_lists, of_bytes), (frame, pd.DataFrame(of_bytes)), (tensors, of_tensors),
    ]  # fmt: skip
    for number, (alternatives, contexts) in enumerate(given):
        path = tmp_path / str(number)
        with LogWriter(path, run=RUN) as writer:
            writer.write(rows(0, range(3)), table="fixed")
            writer.write(alternatives, table="alternatives")
            writer.write(contexts, table="contexts")
        assert_rows(read(path, "alternatives"), stored(whole))
        assert_rows(read(path, "contexts"), sketches)


def test_probabilities_of_any_precision_are_those_of_float16(tmp_path: Path) -> None:
    import torch

    batch = alternatives_rows(0, range(3), k=1)
    prob_N = np.linspace(1, 0, len(batch["step"])).astype(np.float32)[:, None]
    for number, probs in enumerate((prob_N.astype(float), torch.from_numpy(prob_N).bfloat16())):
        with LogWriter(tmp_path / str(number), run=RUN) as writer:
            writer.write(rows(0, range(3)), table="fixed")
            writer.write({**batch, "student_probs": probs}, table="alternatives")
    exact, coarse = (read(tmp_path / n, "alternatives")["student_probs"] for n in "01")
    np.testing.assert_array_equal(exact, prob_N.astype(np.float16))
    np.testing.assert_array_equal(coarse, torch.from_numpy(prob_N).bfloat16().float())


def test_files_are_as_documented(tmp_path: Path) -> None:
    write(tmp_path)
    (path, _), (contexts,) = shards(tmp_path, "alternatives"), shards(tmp_path, "contexts")
    name = "step-00000000/rank-00000-00-00000.parquet"
    assert path == tmp_path / "alternatives" / name
    assert contexts == tmp_path / "contexts" / name
    for table, shard, codec in (("alternatives", path, "ZSTD"), ("contexts", contexts, "LZ4")):
        file = pq.ParquetFile(shard)
        assert file.schema_arrow.remove_metadata() == schema.arrow_schema(table)
        group = file.metadata.row_group(0)
        assert {group.column(i).compression for i in range(group.num_columns)} == {codec}
    manifest = json.loads((tmp_path / "manifest/rank-00000-00.json").read_text())
    assert manifest["steps"] == {
        "rollout": [], "fixed": [0, 10], "alternatives": [0, 10], "contexts": [0, 10],
    }  # fmt: skip


def test_the_page_on_the_format_has_every_column_of_positions() -> None:
    page = (ROOT / "docs/log-format.md").read_text()
    for table in ("fixed", *COLUMNS):
        for column in schema.columns_of(table):
            name = f"`{column.name}`" + f" ({column.since})" * (column.since > 1)
            required = "yes" if column.required else "no"
            meaning = column.meaning.replace("|S ∩ T|", r"\|S ∩ T\|")
            row = f"| {name} | {column.type} | {column.unit} | {required} | {meaning} |"
            assert row in page


@pytest.mark.parametrize("numbers", [1, 60, 250, 1000])
def test_row_groups_hold_so_many_numbers_and_whole_sequences(
    numbers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 positions of 20 numbers are 240 in a sequence."""
    monkeypatch.setattr(encoding, "ROW_GROUP_NUMBERS", numbers)
    write(tmp_path, steps=(0,))
    metadata = pq.read_metadata(shards(tmp_path, "alternatives")[0])
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == ([48, 48] if numbers == 1000 else [12] * 8)
    assert_rows(read(tmp_path, "alternatives"), stored(alternatives_rows(0, range(8))))


# -- rules -------------------------------------------------------------------------------------


def changed(name: str, change: Any) -> Any:
    """A change of one column of rows of alternatives, to be made in place."""

    def apply(batch: dict[str, Any]) -> None:
        batch[name] = batch[name].astype(np.int64 if name.endswith("ids") else np.float64)
        change(batch[name])

    return apply


def put(row: int, at: int, value: float) -> Any:
    def apply(values_NK: Any) -> None:
        values_NK[row, at] = value

    return apply


def swap(values_NK: Any) -> None:
    values_NK[7] = values_NK[7, ::-1]


WRONG = [
    (changed("student_ids", put(7, 2, 50)), "student_ids: 50 is outside the vocabulary of 50"),
    (changed("teacher_ids", put(7, 2, -1)), "teacher_ids: -1 is negative: it is no token id"),
    (changed("teacher_ids", lambda v: v.__setitem__(7, 4)), r"\[4, 4, 4, 4, 4\] names a token twi"),
    (changed("student_probs", put(7, 0, 1.5)), "student_probs: 1.5 is above 1"),
    (changed("student_probs", put(7, 4, -0.5)), "student_probs: -0.5 is negative"),
    (changed("teacher_probs", swap), r"teacher_probs: \[.*\] ascends; the likeliest token comes f"),
    (
        changed("teacher_probs", lambda v: v.__setitem__(7, 0.25)),
        r"teacher_probs: \[0\.25, .*\] sums to more than 1",
    ),
    (changed("teacher_probs", put(7, 1, np.nan)), "teacher_probs: "),
    (changed("teacher_probs", put(7, 1, np.inf)), "teacher_probs: "),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_values_that_cannot_be_are_refused_by_the_writer(
    change: Any, message: str, tmp_path: Path
) -> None:
    batch = alternatives_rows(0, range(3))
    change(batch)
    if "probs: " in message and message.endswith(": "):
        message = "NaN or infinite values"
    with LogWriter(tmp_path, run=RUN) as writer:
        with pytest.raises(DataError, match=message):
            writer.write(batch, table="alternatives")
        writer.write(rows(0, range(3)), table="fixed")
    assert rocktok.open(tmp_path).tables() == ("fixed",)


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_and_by_the_reader_by_file_row_and_column(
    change: Any, message: str, tmp_path: Path
) -> None:
    batch = alternatives_rows(0, range(3))
    change(batch)
    path = by_hand(tmp_path, batch)
    with pytest.raises(DataError, match=message) as error:
        read(path, "alternatives")
    name = str(path / "alternatives" / "a.parquet")
    assert str(error.value).startswith(f"{name}: row group 0, row 7, column ")
    assert info(path, verify=True).damage == (str(error.value),)


def by_hand(path: Path, alternatives: Any = None, contexts: Any = None) -> Path:
    """fixed/ at step 0 as pandas writes it, and the tables beside it by Arrow."""
    write_by_hand(path, rows(0, range(3)))
    (path / "run.json").write_text(json.dumps(RUN))
    for table, batch in (("alternatives", alternatives), ("contexts", contexts)):
        if batch is not None:
            columns = {n: list(v) if np.ndim(v) == 2 else v for n, v in batch.items()}
            if getattr(batch.get("context"), "dtype", None) == np.uint8:
                columns["context"] = [row.tobytes() for row in batch["context"]]
            (path / table).mkdir()
            pq.write_table(pa.table(columns), path / table / "a.parquet")
    return path


def test_tables_by_hand_are_read_in_any_type_that_fits(tmp_path: Path) -> None:
    batch, sketches = alternatives_rows(0, range(3)), context_rows(0, range(3))
    exact = {n: v.astype(float) if n.endswith("probs") else v for n, v in batch.items()}
    frame = pd.DataFrame({n: list(v) if v.ndim == 2 else v for n, v in exact.items()})
    as_bytes = [row.tobytes() for row in sketches["context"]]
    write_by_hand(tmp_path / "pandas", rows(0, range(3)))
    write_by_hand(tmp_path / "pandas", frame, table="alternatives")
    write_by_hand(tmp_path / "pandas", {**sketches, "context": as_bytes}, table="contexts")
    assert_rows(read(tmp_path / "pandas", "alternatives"), batch)
    assert_rows(read(tmp_path / "pandas", "contexts"), sketches)
    for number, (of_lists, of_bytes) in enumerate(
        [(pa.large_list(pa.int64()), pa.large_binary()), (pa.list_(pa.int16(), 5), pa.binary(32))]
    ):
        ids = pa.array(list(batch["student_ids"]), of_lists)
        contexts = pa.array(as_bytes, of_bytes)
        path = by_hand(
            tmp_path / str(number), {**batch, "student_ids": ids}, {**sketches, "context": contexts}
        )
        assert_rows(read(path, "alternatives"), batch)
        assert_rows(read(path, "contexts"), sketches)
        assert info(path, verify=True).damage == ()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1, 2]] * 35 + [[1]], "row 35, column student_ids: 1 values where the row before has 2"),
        ([[1, 2]] * 35 + [None], "row 35, column student_ids: null or NaN; every row must have"),
        ([[1, 2]] * 35 + [[1, None]], "row 35, column student_ids: null or NaN in a list"),
        ([[]] * 36, "row 0, column student_ids: an empty list; every row must have a value"),
        ([7] * 36, "column student_ids: type int64; it must be list<int32>"),
        ([["a"]] * 36, "column student_ids: type string; it must be list<int32>"),
        ([[[1]]] * 36, r"column student_ids: type list<.*>; it must be list<int32>"),
        ([[1.5, 2.5]] * 36, "row 0, column student_ids: 1.5 does not fit int32"),
        ([[1, 2]] * 36, r"column student_probs: 5 values in a row where .*student_ids, has 2"),
        ([list(range(51))] * 36, "row 0, column student_ids: 50 is outside the vocabulary"),
    ],
)
def test_lists_that_will_not_do(column: Any, message: str, tmp_path: Path) -> None:
    path = by_hand(tmp_path, {**alternatives_rows(0, range(3)), "student_ids": pa.array(column)})
    with pytest.raises(DataError, match=message) as error:
        read(path, "alternatives")
    assert str(error.value).startswith(str(path / "alternatives" / "a.parquet"))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"x" * 32] * 35 + [b"x" * 31]), "row 35, column context: 31 bytes; there must"),
        (pa.array([b"x" * 32] * 35 + [None]), "row 35, column context: null or NaN"),
        (pa.array([b"x" * 31] * 36, pa.binary(31)), r"type fixed_size_binary\[31\]; it must be bi"),
        (pa.array(["x" * 32] * 36), r"column context: type string; it must be binary\[32\]"),
        (pa.array([[1] * 32] * 36), r"column context: type list<.*>; it must be binary\[32\]"),
    ],
)
def test_contexts_that_will_not_do(column: Any, message: str, tmp_path: Path) -> None:
    path = by_hand(tmp_path, None, {**context_rows(0, range(3)), "context": column})
    with pytest.raises(DataError, match=message):
        read(path, "contexts")


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("alternatives", {"student_ids": [[1, 2]] * 35 + [[1]]}, "row 35, column student_ids: 1 v"),
        ("alternatives", {"student_ids": [[1]] * 36}, "student_probs: 5 values in a row where"),
        ("alternatives", {"student_ids": [[1] * 4 + [None]] * 36}, "nulls are not allowed in li"),
        ("alternatives", {"student_ids": [None] * 36}, "student_ids: nulls are not allowed"),
        ("alternatives", {"student_ids": np.zeros((36, 0), int)}, "student_ids: an empty list"),
        ("alternatives", {"student_ids": 3}, "column student_ids: "),
        ("alternatives", {"student_ids": np.zeros((36, 5)) + 0.5}, "column student_ids: "),
        ("alternatives", {"token_id": 3}, "has token_id, which this log does not record"),
        ("contexts", {"context": np.zeros((36, 31), np.uint8)}, "column context: "),
        ("contexts", {"context": np.zeros((36, 32), int)}, "bytes as int64; they must be uint8"),
        ("contexts", {"context": [b"short"] * 36}, "column context: "),
    ],
)
def test_batches_that_will_not_do(table: str, change: Any, message: str, tmp_path: Path) -> None:
    make = alternatives_rows if table == "alternatives" else context_rows
    with (
        LogWriter(tmp_path, run=RUN) as writer,
        pytest.raises(DataError, match=message),
    ):
        writer.write({**make(0, range(3)), **change}, table=table)


def test_a_writer_keeps_to_one_length(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(alternatives_rows(0, [0], k=4), table="alternatives")
        with pytest.raises(DataError, match="3 values in a row where alternatives, student_ids, h"):
            writer.write(alternatives_rows(0, [1], k=3), table="alternatives")


def test_a_list_as_long_as_the_vocabulary_is_the_longest(tmp_path: Path) -> None:
    write(tmp_path / "whole", k=50)
    assert read(tmp_path / "whole", "alternatives")["student_ids"].shape == (192, 50)
    batch = alternatives_rows(0, [0], k=50)
    for name in LISTS:
        batch[name] = np.concatenate([batch[name], batch[name][:, :1]], axis=1)
    with (
        LogWriter(tmp_path / "more", run=RUN) as writer,
        pytest.raises(DataError, match=r"51 values, more than the vocabulary of 50 \(run.json\)"),
    ):
        writer.write(batch, table="alternatives")


STATISTICS = {
    "overlap": (0.5, [(-0.25, "is negative: it is a share"), (1.5, "is above 1: it is a share")]),
    "student_mass": (0.5, [(-0.25, "is negative"), (1.5, "is above 1")]),
    "teacher_mass": (1.00001, [(-0.25, "is negative"), (1.5, "is above 1")]),
    "teachability": (-0.00001, [(-0.25, "is negative"), (1.5, "is above 1")]),
    "student_end": (0.0, [(-0.25, "is negative"), (1.5, "is above 1")]),
    "teacher_end": (1.0, [(-0.25, "is negative"), (1.5, "is above 1")]),
    "teacher_rank": (
        50,
        [(0, "is no rank: the likeliest token's is 1"), (51, "the vocabulary of")],
    ),
    "forward_kl": (-0.00001, [(-0.25, "a forward KL is never negative")]),
    "jsd": (0.6931, [(-0.25, "divergence is never negative"), (0.75, "above log 2, the largest")]),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_keep_to_their_ranges(name: str, tmp_path: Path) -> None:
    good, bad = STATISTICS[name]
    batch = {**rows(0, range(3)), name: np.full(36, good)}
    with LogWriter(tmp_path / "log", run=RUN, columns=[name]) as writer:
        for value, message in bad:
            wrong = batch[name].astype(type(value))
            wrong[7] = value
            with pytest.raises(DataError, match=f"row 7, column {name}: {value} .*{message}"):
                writer.write({**batch, name: wrong}, table="fixed")
            path = write_by_hand(tmp_path / f"{value}", {**batch, name: wrong})
            (path / "run.json").write_text(json.dumps(RUN))
            with pytest.raises(DataError, match=f"row 7, column {name}: {value} .*{message}"):
                list(rocktok.open(path).scan("fixed", [name]))
        writer.write(batch, table="fixed")
    (found,) = rocktok.open(tmp_path / "log").scan("fixed", [name])
    expected = np.int32 if name == "teacher_rank" else np.float32
    np.testing.assert_array_equal(found.columns[name], batch[name].astype(expected))


@pytest.mark.parametrize("name", ["forward_kl", "jsd"])
def test_estimates_of_divergences_may_be_negative(name: str, tmp_path: Path) -> None:
    run = {"vocab_size": 50, "loss": {"exactness": "sampled"}}
    with LogWriter(tmp_path, run=run, columns=[name]) as writer:
        writer.write({**rows(0, range(3)), name: -2.0}, table="fixed")
    assert info(tmp_path, verify=True).damage == ()


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "values"), [("alternatives", 180), ("contexts", 36)])
def test_a_column_that_claims_a_value_fewer_is_damage(
    table: str, values: int, tmp_path: Path
) -> None:
    """Wherever the number stands in a shard that nothing vouches for: page header or footer."""
    path = by_hand(tmp_path, alternatives_rows(0, range(3)), context_rows(0, range(3)))
    target = shards(path, table)[0]
    data, whole, refused = target.read_bytes(), read(path, table), 0
    number, footer = _varint(values), int.from_bytes(data[-8:-4], "little") + 8
    for start, stop in (*page_headers(target), (len(data) - footer, len(data))):
        for at in range(start, stop):
            if data[at : at + len(number)] != number:
                continue
            target.write_bytes(data[:at] + _varint(values - 1) + data[at + len(number) :])
            try:
                found = read(path, table)
            except LogError as error:
                assert str(target) in str(error)
                refused += 1
            else:
                assert_rows(found, whole)
    assert refused >= 4


def _varint(number: int) -> bytes:
    """Zigzag, as Thrift writes it."""
    low, high = (2 * number) & 127, (2 * number) >> 7
    return bytes([low | 128, high]) if high else bytes([low])


def test_values_that_a_footer_claims_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path)
    log = rocktok.open(path)
    opened = log.open(log.shards("alternatives")[0])
    assert opened.read_group(0, ["student_ids"]).num_rows == 96

    class Short:
        """A file whose lists come one value short, as of a page that lost its last."""

        metadata, schema, schema_arrow = (
            opened.file.metadata,
            opened.file.schema,
            opened.file.schema_arrow,
        )

        def __init__(self, file: Any) -> None:
            self.file = file

        def read_row_group(self, group: int, **options: Any) -> Any:
            table = self.file.read_row_group(group, **options)
            lists = table["student_ids"].to_pylist()
            return pa.table({"student_ids": pa.array([*lists[:-1], lists[-1][:-1]])})

        def iter_batches(self, size: int, *, row_groups: list[int], **options: Any) -> Any:
            return self.read_row_group(row_groups[0], **options).to_batches()

    opened.file = Short(opened.file)
    message = "column student_ids: damaged .479 values where its footer claims 480"
    with pytest.raises(DamagedError, match=message):
        opened.read_group(0, ["student_ids"])
    with pytest.raises(DamagedError, match=message):
        list(opened.stream_group(0, ["student_ids"]))


def test_a_damaged_shard_is_left_out_if_asked(tmp_path: Path) -> None:
    write(tmp_path)
    for table, at in (("alternatives", 1), ("contexts", 0)):
        target = shards(tmp_path, table)[at]
        data = bytearray(target.read_bytes())
        data[len(data) // 2] ^= 1
        target.write_bytes(bytes(data))
    with pytest.raises(DamagedError, match="contexts/step-00000000"):
        read(tmp_path, "contexts")
    log = rocktok.log.open_log(tmp_path, allow_missing=True)
    assert [skipped.table for skipped in log.skipped] == ["alternatives", "contexts"]
    assert log.tables() == ("fixed", "alternatives")
    assert (log.complete_steps("alternatives"), log.incomplete_steps("alternatives")) == ([0], [10])
    assert log.incomplete_steps("contexts") == [0]
    assert info(log, verify=True).damage == ()


def test_rows_beside_a_shard_that_was_left_out_are_no_error(tmp_path: Path) -> None:
    write(tmp_path)
    shards(tmp_path, "fixed")[0].unlink()
    log = rocktok.log.open_log(tmp_path, allow_missing=True)
    assert info(log, verify=True).damage == ()
