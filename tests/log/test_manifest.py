"""The bytes of a manifest: those of its fields, however often it was written before."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from rocktok.files import place
from rocktok.log.manifest import Dropped, FileSeal, Manifest, dump_json, load_manifest
from rocktok.log.shard import ShardEntry

TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"shards":[]', '"shards": []', "\n  ", "\\", "ü"]
)
NUMBER = st.integers(0, 2**32 - 1)
#: Steps as text are not in the order of steps as numbers.
STEPS = st.dictionaries(st.sampled_from([0, 9, 10, 100, 25_000]), NUMBER, max_size=4)
ENTRIES = st.lists(
    st.builds(ShardEntry, TEXT, NUMBER, NUMBER, NUMBER, STEPS, st.just(("0a" * 8, "1b" * 8))),
    max_size=4,
)
MANIFESTS = st.builds(
    Manifest,
    TEXT,
    NUMBER,
    NUMBER,
    st.booleans(),
    ENTRIES,
    st.dictionaries(TEXT.filter(lambda name: name != "shards"), st.lists(NUMBER, max_size=3)),
    st.lists(st.builds(Dropped, TEXT, NUMBER, NUMBER, TEXT), max_size=2),
    STEPS,
    st.none() | st.builds(FileSeal, NUMBER, NUMBER),
    st.none() | TEXT,
)


@given(MANIFESTS, ENTRIES)
def test_the_bytes_of_a_manifest_are_those_of_its_fields(
    manifest: Manifest, more: list[ShardEntry]
) -> None:
    assert manifest.encode() == dump_json(asdict(manifest))
    for entry in more:
        manifest.shards.append(entry)
        manifest.final = not manifest.final
        assert manifest.encode() == dump_json(asdict(manifest))


@given(MANIFESTS, ENTRIES)
def test_entries_that_are_replaced_are_encoded_anew(
    manifest: Manifest, others: list[ShardEntry]
) -> None:
    manifest.encode()
    manifest.shards[:1] = others
    assert manifest.encode() == dump_json(asdict(manifest))


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    entry = ShardEntry("fixed/a.parquet", 5, 600, 7, {10: 2, 9: 3}, ("00ff00ff",))
    manifest = Manifest("run", 0, 0, steps={"fixed": [9, 10]})
    (tmp_path / "manifest").mkdir()
    for count in (0, 1, 2):
        manifest.shards = [replace(entry, path=f"fixed/{n}.parquet") for n in range(count)]
        (tmp_path / manifest.path).write_bytes(manifest.encode())
        assert load_manifest(place(tmp_path), manifest.path) == manifest
