"""One identity of a prompt whatever its type, in every place that reads it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.info.passes import info
from rocktok.errors import DataError
from rocktok.hashing import prompt_hash
from rocktok.log import labels as labels_module
from rocktok.log.checks import Where
from rocktok.log.labels import label_codes, label_column
from rocktok.log.sequences import load_domains, load_prompts, load_rows
from tests.logs import rows, write_by_hand

WHERE = Where("x.parquet", 0)
UUIDS = [uuid.UUID(int=7919**9 * i) for i in range(1, 11)]


def uuids(values: list[uuid.UUID]) -> Any:
    return pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([value.bytes for value in values], pa.binary(16))
    )


def labels_of(array: Any, **options: Any) -> list[str | None]:
    return label_column(array, "prompt_id", WHERE, **options).to_pylist()


@pytest.mark.parametrize(
    ("array", "labels"),
    [
        (pa.array([7, 8, 7]), ["7", "8", "7"]),
        (pa.array([7, 255], pa.uint8()), ["7", "255"]),
        (pa.array([-(2**63), 2**63 - 1]), [str(-(2**63)), str(2**63 - 1)]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([7.0, -0.0, 2.0**53]), ["7", "0", str(2**53)]),
        (pa.array([7.0, 2.0**24], pa.float32()), ["7", str(2**24)]),
        (pa.array(["7", "7.0", "é", ""]), ["7", "7.0", "é", ""]),
        (pa.array(["p"], pa.large_string()), ["p"]),
        (pa.array(["p", "q"], pa.string_view()), ["p", "q"]),
        (pa.array([b"7", "é".encode(), b"\xff\x00"]), ["7", "é", "0xff00"]),
        (pa.array([b"p"], pa.large_binary()), ["p"]),
        (pa.array([b"p"], pa.binary_view()), ["p"]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
        (uuids(UUIDS[:2]), [str(value) for value in UUIDS[:2]]),
        (pa.array([UUIDS[0].bytes], pa.binary(16)), [str(UUIDS[0])]),
        (pa.array([b"0123456789abcdef"], pa.binary(16)), ["0123456789abcdef"]),
        (pa.array(["p", "q", "p"]).dictionary_encode(), ["p", "q", "p"]),
        (pa.array([7.0, 8.0]).dictionary_encode(), ["7", "8"]),
        (pa.chunked_array([[7, 8], [9]]), ["7", "8", "9"]),
        (pa.array([], pa.int64()), []),
    ],
)
def test_a_value_has_one_label(array: Any, labels: list[str]) -> None:
    assert labels_of(array) == labels


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1, None]), "row 1, column prompt_id: null or NaN"),
        (pa.array(["p", None]), "row 1, column prompt_id: null or NaN"),
        (pa.array([None, None]), "row 0, column prompt_id: null or NaN"),
        (pa.array(["p", None]).dictionary_encode(), "row 1, column prompt_id: null or NaN"),
        (pa.DictionaryArray.from_arrays([0, 1], ["p", None]), "row 1, .* null or NaN"),
        (pa.array([1.0, np.nan]), "row 1, column prompt_id: nan is not a whole number"),
        (pa.array([1.0, np.inf]), "row 1, column prompt_id: inf is not a whole number"),
        (pa.array([1.0, 1.5]), r"row 1, column prompt_id: 1\.5 is not whole"),
        (pa.array([2.0**53 + 2]), "is not a whole number up to 9,007,199,254,740,992"),
        (pa.array([2.0**24 + 2], pa.float32()), "is not a whole number up to 16,777,216"),
        (pa.array([[1]]), "column prompt_id: type list<.*; it must be text, whole numbers"),
        (pa.array([{"a": 1}]), "column prompt_id: type struct<"),
        (pa.array([True]), "column prompt_id: type bool"),
    ],
)
def test_what_is_no_name_is_refused(array: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels_of(array)


def test_a_value_of_a_dictionary_that_no_row_has_is_not_looked_at() -> None:
    assert labels_of(pa.DictionaryArray.from_arrays([1], [np.nan, 3.0])) == ["3"]


def test_a_label_may_be_missing_where_that_is_said() -> None:
    assert labels_of(pa.array(["a", None, "b"]), nulls=True) == ["a", None, "b"]
    assert labels_of(pa.nulls(2), nulls=True) == [None, None]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**53), 2**53), max_size=20))
def test_numbers_are_the_same_in_every_type(numbers: list[int]) -> None:
    expected = [str(number) for number in numbers]
    as_types = [
        pa.array(numbers, pa.int64()),
        pa.array([float(n) for n in numbers], pa.float64()),
        pa.array(expected, pa.string()),
        pa.array([text.encode() for text in expected], pa.binary()),
    ]
    for array in as_types:
        assert labels_of(array) == expected
        labels, code_N = label_codes(array, "prompt_id", WHERE)
        assert [labels[code] for code in code_N] == expected


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=30),
        st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "p1"])), max_size=30),
        st.lists(st.one_of(st.none(), st.sampled_from([b"a", b"\xff"])), max_size=30),
        st.lists(st.one_of(st.none(), st.sampled_from([0.0, 2.0, 7.0])), max_size=30),
    ),
)
def test_few_rows_are_encoded_as_many_are(values: list[Any]) -> None:
    array = pa.array(values)
    few = label_codes(array, "prompt_id", WHERE, nulls=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_module, "_FEW", -1)
        many = label_codes(array, "prompt_id", WHERE, nulls=True)
    # Of nothing but nulls Arrow lists one value, that of no row.
    assert few[0] == [label for label in many[0] if label]
    assert few[1].tolist() == many[1].tolist()


PAIRS = {
    "int64 and float64": (pa.array(range(10)), pa.array([float(i) for i in range(10)])),
    "int64 and string": (pa.array(range(10)), pa.array([str(i) for i in range(10)])),
    "string and binary": (
        pa.array([f"p{i}" for i in range(10)]),
        pa.array([b"p%d" % i for i in range(10)]),
    ),
    "uuid and string": (uuids(UUIDS), pa.array([str(value) for value in UUIDS])),
}


@pytest.mark.parametrize("types", PAIRS)
def test_two_files_of_one_log_agree(tmp_path: Path, types: str) -> None:
    """10 prompts of two rollouts each; they became 20, or 10 after `compact` and 20 before."""
    log = write_by_hand(tmp_path / "log", rows(0, range(20)))
    write_by_hand(log, rows(10, range(20)), "b")
    (log / "sequences").mkdir()
    for number, prompts in enumerate(PAIRS[types]):
        ids = np.arange(10 * number, 10 * number + 10)
        columns = {"sequence_id": ids, "step": 0 * ids, "num_tokens": 0 * ids + 12}
        table = pa.table({**columns, "prompt_id": prompts, "domain": prompts})
        pq.write_table(table, log / "sequences" / f"{number}.parquet")
    rocktok.compact(log, tmp_path / "out")
    texts = [str(value) for value in PAIRS[types][1].to_pylist()]
    texts = [plain(text) for text in texts]
    for path in (log, tmp_path / "out"):
        opened = rocktok.open(path)
        assert info(path).prompts == 10
        prompts = load_prompts(opened)
        assert prompts.prompt_S.tolist() == [prompt_hash(text) for text in texts * 2]
        assert {k: v.tolist() for k, v in load_domains(opened).items()} == {
            text: [i, i + 10] for i, text in enumerate(texts)
        }
        stored = load_rows(opened, np.arange(20))
        assert [stored[i]["prompt_id"] for i in range(20)] == texts * 2


def plain(text: str) -> str:
    """`7.0` is 7, and b'p' is p."""
    return text.removeprefix("b'").removesuffix("'").removesuffix(".0")
