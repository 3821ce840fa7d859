"""Page headers, looked at one by one, and added up by the compiled loop: the same is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from rocktok.errors import DamagedError
from rocktok.log import open_log, pages
from rocktok.log.chunks import chunks_of
from rocktok.log.page_loops import DEPTH, sum_pages
from tests.logs import rows, shards, write_by_hand

Chunk = tuple[bytes, int, tuple[str, ...]]


def chunks(**options: Any) -> list[Chunk]:
    """Bytes, values and encodings of column chunks of one file; each has several pages."""
    sink = pa.BufferOutputStream()
    ids = np.arange(3_000)
    table = pa.table(
        {"id": ids // 7, "word": [f"w{i % 50}" for i in ids], "x": pa.array(ids / 3, pa.float32())}
    )
    pq.write_table(table, sink, data_page_size=500, **options)
    data = bytes(sink.getvalue())
    metadata = pq.read_metadata(pa.BufferReader(data))
    return [
        (data[c.start : c.stop], c.metadata.num_values, c.metadata.encodings)
        for group in range(metadata.num_row_groups)
        for c in chunks_of(metadata, group)
    ]


KINDS: list[dict[str, Any]] = [
    {},
    {"data_page_version": "2.0"},
    {"write_page_checksum": True, "compression": "zstd"},
    {"use_dictionary": False, "column_encoding": {"x": "BYTE_STREAM_SPLIT"}},
    {"write_statistics": False, "row_group_size": 900},
]
ALL = [chunk for options in KINDS for chunk in chunks(**options)]


@pytest.mark.parametrize("options", KINDS)
def test_the_headers_that_writers_write_are_added_up(options: dict[str, Any]) -> None:
    for data, values, encodings in chunks(**options):
        assert len(list(pages.pages_of(data))) > 1
        pages.look_at_pages(data, values, encodings)
        assert pages._as_claimed(data, values, encodings)
        assert not pages._as_claimed(data, values + 1, encodings)
        assert not pages._as_claimed(data, values, ())


def is_accepted(data: bytes, values: int, encodings: tuple[str, ...]) -> bool:
    try:
        pages.look_at_pages(data, values, encodings)
    except ValueError:
        return False
    return True


@given(st.sampled_from(ALL), st.data())
@settings(max_examples=300)
def test_what_the_loop_accepts_is_accepted_one_by_one(chunk: Chunk, draw: st.DataObject) -> None:
    data, values, encodings = chunk
    changed = bytearray(data)
    headers = [at for page in pages.pages_of(data) for at in range(page.start, page.start + 30)]
    for at in draw.draw(st.lists(st.sampled_from(headers), max_size=3)):
        if at < len(changed):
            changed[at] = draw.draw(st.integers(0, 255))
    cut = bytes(changed[: draw.draw(st.sampled_from([len(data), len(data) - 1, len(data) // 2]))])
    if pages._as_claimed(cut, values, encodings):
        assert is_accepted(cut, values, encodings)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_within_their_end(data: bytes) -> None:
    total_2 = np.zeros(2, np.int64)
    accepted = sum_pages(np.frombuffer(data, np.uint8), np.zeros(DEPTH, np.int64), total_2)
    if accepted:
        assert sum(page.values or 0 for page in pages.pages_of(data)) == total_2[0]


def test_a_damaged_header_is_told_after_many_pages_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_by_hand(tmp_path, rows(0, range(5)))
    (path,) = shards(tmp_path)
    metadata = pq.read_metadata(path)
    chunk = next(c for c in chunks_of(metadata, 0) if c.metadata.path_in_schema == "loss")
    data = bytearray(path.read_bytes())
    data[chunk.start + 1] ^= 0xFF
    path.write_bytes(data)
    told = []
    for many in (False, True):
        monkeypatch.setattr(pages, "_looked_at", pages._FEW_PAGES if many else 0)
        with pytest.raises(DamagedError) as caught:
            list(open_log(tmp_path).scan("fixed", ["loss"]))
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert "column loss: damaged (a page header" in told[0]
