"""`gradients/` on disk: written, merged, checked, shown and compacted like other tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok import schema
from rocktok.analyses.attribute.geometry_passes import geometry_at
from rocktok.errors import DamagedError, DataError, LogError
from rocktok.log import LogWriter, StepGradients, compact, encoding, load_gradients
from tests.logs import rows as fixed_rows
from tests.logs import shards, write_by_hand
from tests.paths import ROOT
from tests.processes import run_command

WIDTH = 6
RUN = {"vocab_size": WIDTH}
ARRAYS = ("token_T", "count_HT", "norm_HT", "square_HT", "vector_HTW", "count_H", "norm_H",
          "square_H", "global_HW", "balanced_HW")  # fmt: skip


def table(
    at: int, keys: list[tuple[int, str, int]], draw: int = 0, width: int = WIDTH, **changes: Any
) -> dict[str, Any]:
    rng = np.random.default_rng([draw, at])
    count = len(keys)
    return {
        "step": np.full(count, at),
        "half": [half for half, _, _ in keys],
        "kind": [kind for _, kind, _ in keys],
        "token_id": [token for _, _, token in keys],
        "count": rng.integers(1, 9, count),
        "norm_sum": rng.exponential(1, count),
        "square_sum": rng.exponential(1, count),
        "vector": rng.normal(size=(count, width)).astype(np.float32),
        "vocab_size": np.full(count, WIDTH),
        "sketch_dims": np.zeros(count, int),
        "seed": np.zeros(count, int),
    } | changes


def keys_of(types: dict[int, list[int]]) -> list[tuple[int, str, int]]:
    """The rows that a rank with these types in each half has."""
    return [
        key
        for half, tokens in types.items()
        for key in [(half, "global", -1), (half, "balanced", -1)]
        + [(half, "type", token) for token in tokens]
    ]


BOTH = keys_of({0: [2, 4], 1: [4]})
ONE = keys_of({1: [1, 4]})


def write(path: Path, ranks: list[list[dict[str, Any]]], **writer: Any) -> Path:
    """A log of fixed text and, for each rank, its tables of gradients."""
    identity: dict[str, Any] = {}
    for rank, tables in enumerate(ranks):
        log = LogWriter(path, run=RUN, rank=rank, world_size=len(ranks), **identity, **writer)
        identity = {"attempt": log.attempt, "run_id": log.run_id}
        for batch in tables:
            step = int(np.asarray(batch["step"])[0])
            text = fixed_rows(step, [rank], tokens=4)
            text["token_id"] %= WIDTH
            log.write(text, table="fixed")
            log.write(batch, table="gradients")
            log.finish_step(step, "fixed")
            log.finish_step(step, "gradients")
            log.flush()
        log.close()
    return path


def assert_same(one: StepGradients, other: StepGradients) -> None:
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("step", "vocab_size", "sketch_dims", "seed", "complete"):
        assert getattr(one, name) == getattr(other, name), name


def test_ranks_are_summed(tmp_path: Path) -> None:
    one, other = table(10, BOTH, draw=1), table(10, ONE, draw=2)
    write(tmp_path, [[table(0, BOTH), one], [table(0, ONE), other]])
    got = load_gradients(rocktok.open(tmp_path))
    assert (got.step, got.vocab_size, got.sketch_dims, got.complete) == (10, WIDTH, 0, True)
    assert got.token_T.tolist() == [1, 2, 4]
    vectors = [np.asarray(b["vector"], np.float64) for b in (one, other)]
    # BOTH: 0 global, balanced, 2, 4; 1 global, balanced, 4. ONE: 1 global, balanced, 1, 4.
    zero = np.zeros(WIDTH)
    expected = [[zero, vectors[0][2], vectors[0][3]],
                [vectors[1][2], zero, vectors[0][6] + vectors[1][3]]]  # fmt: skip
    assert np.array_equal(got.vector_HTW, expected)
    assert np.array_equal(got.global_HW, [vectors[0][0], vectors[0][4] + vectors[1][0]])
    assert np.array_equal(got.balanced_HW, [vectors[0][1], vectors[0][5] + vectors[1][1]])
    assert got.count_HT[1, 2] == one["count"][6] + other["count"][3]
    assert got.norm_H[1] == one["norm_sum"][4] + other["norm_sum"][0]
    assert load_gradients(rocktok.open(tmp_path), 0).step == 0


def test_any_order_of_ranks_gives_the_same(tmp_path: Path) -> None:
    tables = [[table(0, BOTH, draw=s)] for s in range(3)]
    one = load_gradients(rocktok.open(write(tmp_path / "one", tables)))
    other = load_gradients(rocktok.open(write(tmp_path / "other", tables[::-1])))
    np.testing.assert_allclose(one.vector_HTW, other.vector_HTW, rtol=1e-12)
    again = load_gradients(rocktok.open(write(tmp_path / "again", tables)))
    assert_same(one, again)


def test_shards_are_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ROW_GROUP_NUMBERS", 3 * WIDTH)
    write(tmp_path, [[table(10, BOTH[::-1])]])
    (path,) = shards(tmp_path, "gradients")
    assert (
        path.relative_to(tmp_path).as_posix()
        == "gradients/step-00000010/rank-00000-00-00000.parquet"
    )
    file = pq.ParquetFile(path)
    assert file.schema_arrow.remove_metadata() == schema.arrow_schema("gradients")
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [3, 3, 1]
    rows = file.read().to_pandas()
    assert rows[["half", "token_id"]].apply(tuple, axis=1).is_monotonic_increasing
    entry = json.loads((tmp_path / "manifest/rank-00000-00.json").read_text())["shards"]
    assert [e["rows"] for e in entry if e["path"].startswith("gradients")] == [7]
    assert load_gradients(rocktok.open(tmp_path)).count_HT.shape == (2, 2)


def test_later_attempts_supersede(tmp_path: Path) -> None:
    write(tmp_path, [[table(0, BOTH), table(10, BOTH), table(20, BOTH)]])
    write(tmp_path, [[table(10, ONE, draw=7)]], resume_step=10)
    log = rocktok.open(tmp_path)
    assert [s.step for s in log.steps("gradients")] == [0, 10]
    assert load_gradients(log).token_T.tolist() == [1, 4]
    assert load_gradients(log, 0).token_T.tolist() == [2, 4]


def test_a_step_without_some_rank_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [[table(0, BOTH), table(10, BOTH)], [table(0, ONE)]])
    log = rocktok.open(tmp_path)
    assert load_gradients(log).step == 0
    with pytest.raises(LogError) as caught:
        load_gradients(log, 10)
    assert str(caught.value) == (
        f"{tmp_path}/gradients: step 10 lacks the sums of some rank, so that no total is right; "
        "choose another (0), or go on with --allow-missing"
    )
    partly = load_gradients(rocktok.open(tmp_path, allow_missing=True), 10)
    assert not partly.complete and partly.token_T.tolist() == [2, 4]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    write(tmp_path / "log", [[table(0, BOTH), table(5, BOTH)]])
    with pytest.raises(LogError, match=r"gradients: nothing at step 3; there are 0, 5$"):
        load_gradients(rocktok.open(tmp_path / "log"), 3)
    write_by_hand(tmp_path / "none", fixed_rows(0, [1]))
    with pytest.raises(LogError, match=r"none/gradients: no gradient sums in this log; record th"):
        load_gradients(rocktok.open(tmp_path / "none"))


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    batch = table(0, BOTH, width=5, vocab_size=np.full(7, 5))
    write(tmp_path, [[batch]])
    with pytest.raises(DataError) as caught:
        load_gradients(rocktok.open(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}/gradients/step-00000000/rank-00000-00-00000.parquet: row group 0, row 0, "
        "column vocab_size: 5 is not the log's 6 (run.json): these sums are from another model's "
        "logits; use gradients/ of this run, or move it out of the log"
    )
    code, printed, _ = run_command("info", tmp_path, "--verify")
    assert code == 1 and "5 is not the log's 6 (run.json)" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"half": [0, 0, 2, 0, 1, 1, 1]}, "column half: 2 is neither 0 nor 1"),
        ({"kind": ["all"] * 7}, "column kind: all is not a kind of sum"),
        ({"token_id": [-1, -1, 9, 4, -1, -1, 4]}, "column token_id: 9 is outside the vocabulary"),
        ({"token_id": [0, -1, 2, 4, -1, -1, 4]}, "column token_id: 0 must be −1: not one type"),
        ({"count": [0] * 7}, "column count: 0 is not positive"),
        ({"norm_sum": [-1.0] * 7}, "column norm_sum: -1.0 is not a sum of norms"),
        ({"sketch_dims": [4] * 7}, "column vector: 6 numbers differ from the width of the row"),
        ({"sketch_dims": [-4] * 7}, "column sketch_dims: -4 is negative"),
        ({"seed": [0] * 6 + [1]}, "seed 1 at step 0, but 0 in other rows of it; sums of a step"),
        (
            {"kind": ["global", *["type"] * 3, "global", "balanced", "type"],
             "token_id": [-1, 1, 2, 4, -1, -1, 4]},
            "lacks rows of kind global or balanced; every half that has rows must have both",
        ),
    ],
)  # fmt: skip
def test_rows_that_break_a_rule(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, [[table(0, BOTH, **changes)]])
    with pytest.raises(DataError) as caught:
        load_gradients(rocktok.open(tmp_path))
    assert message in str(caught.value)
    assert str(tmp_path / "gradients") in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_are_finite(tmp_path: Path, bad: float) -> None:
    batch = table(0, BOTH)
    batch["vector"][3, 2] = bad
    with pytest.raises(DataError, match="gradients: column vector: NaN or infinite values"):
        write(tmp_path / "log", [[batch]])
    # A hand-written shard may have them all the same.
    by_hand(tmp_path, batch)
    why = (
        "row 3, column vector: a vector has numbers that are not finite|vector: null or NaN; every"
    )
    with pytest.raises(DataError, match=why):
        load_gradients(rocktok.open(tmp_path / "hand"))


def by_hand(folder: Path, batch: dict[str, Any]) -> Path:
    path = write_by_hand(folder / "hand", fixed_rows(0, [1]))
    (path / "gradients").mkdir()
    frame = pd.DataFrame({**batch, "vector": list(batch["vector"])})
    frame.to_parquet(path / "gradients/mine.parquet", index=False)
    return path


def test_a_table_by_hand_is_read(tmp_path: Path) -> None:
    batch = table(0, BOTH)
    log = rocktok.open(by_hand(tmp_path, batch))
    theirs = load_gradients(rocktok.open(write(tmp_path / "log", [[batch]])))
    ours = load_gradients(log)
    for name in ARRAYS:
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_nulls_and_wrong_types_are_refused(tmp_path: Path) -> None:
    path = by_hand(tmp_path, table(0, BOTH)) / "gradients/mine.parquet"
    good = pq.read_table(path)
    place = good.schema.get_field_index("vector")
    values = good["vector"].to_pylist()
    for column, message in (
        (
            pa.array([None, *values[1:]], pa.list_(pa.float32())),
            "column vector: null or NaN; every",
        ),
        (pa.array([[None, *values[0][1:]], *values[1:]]), "column vector: null or NaN; every"),
        (pa.array([1.0] * 7), "column vector: type double; it must be list<float32>"),
    ):
        pq.write_table(good.set_column(place, "vector", column), path)
        with pytest.raises(DataError, match=message):
            load_gradients(rocktok.open(tmp_path / "hand"))
    pq.write_table(good.drop_columns(["square_sum"]), path)
    with pytest.raises(LogError, match="has no column square_sum"):
        load_gradients(rocktok.open(tmp_path / "hand"))


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    write(tmp_path, [[table(0, BOTH)]])
    (path,) = shards(tmp_path, "gradients")
    data = path.read_bytes()
    expected = load_gradients(rocktok.open(tmp_path))
    rng = np.random.default_rng(0)
    for place in rng.integers(4, len(data), 60).tolist():
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            found = load_gradients(rocktok.open(tmp_path))
        except DamagedError as error:
            assert str(path) in str(error)
        else:
            assert_same(found, expected)
    path.write_bytes(data[:-30])
    with pytest.raises(DamagedError, match="truncated or overwritten"):
        load_gradients(rocktok.open(tmp_path))
    path.unlink()
    with pytest.raises(DamagedError, match="but missing"):
        rocktok.open(tmp_path)


def test_info_shows_them(tmp_path: Path) -> None:
    write(tmp_path, [[table(0, BOTH), table(10, BOTH)], [table(0, ONE), table(10, ONE)]])
    for more in ([], ["--verify"]):
        code, printed, error = run_command("info", tmp_path, *more)
        assert code == 0, error
        words = " ".join(printed.split())
        assert "gradients/ 22 rows in 4 shards; 2 steps, 0 to 10 columns" in words
    found = json.loads(run_command("info", tmp_path, "--format", "json")[1])
    assert found["tables"]["gradients"]["columns"] == [c.name for c in schema.GRADIENT_COLUMNS]


def test_compact_carries_them_over(tmp_path: Path) -> None:
    write(tmp_path / "log", [[table(0, BOTH), table(10, BOTH)], [table(0, ONE)]])
    write(tmp_path / "log", [[table(20, ONE)]], resume_step=20)
    old = rocktok.open(tmp_path / "log")
    compact.compact(old, tmp_path / "out")
    new = rocktok.open(tmp_path / "out")
    for step in (0, 20):
        assert_same(load_gradients(old, step), load_gradients(new, step))
    assert new.complete_steps("gradients") == old.complete_steps("gradients") == [0, 20]
    assert len(shards(tmp_path / "out", "gradients")) == 3
    assert run_command("info", tmp_path / "out", "--verify")[0] == 0


def test_detect_does_not_mind_them(tmp_path: Path) -> None:
    write(tmp_path, [[table(0, BOTH), table(10, BOTH)]])
    assert rocktok.detect(rocktok.open(tmp_path), context="off", all_types=True).tokens


def test_geometry_of_a_log(tmp_path: Path) -> None:
    write(tmp_path, [[table(0, BOTH), table(10, BOTH)], [table(0, ONE), table(10, ONE)]])
    step, found = geometry_at(rocktok.open(tmp_path))
    assert step == 10 and found.exact
    assert [row["token_id"] for row in found.rows()] == [1, 2, 4]
    assert geometry_at(rocktok.open(tmp_path), 0)[0] == 0


def test_the_page_on_the_format_has_the_columns() -> None:
    page = (ROOT / "docs/log-format.md").read_text()
    rows = [
        f"| `{c.name}` | {c.type} | {c.unit} | {'yes' if c.required else 'no'} | {c.meaning} |"
        for c in schema.GRADIENT_COLUMNS
    ]
    assert "\n".join(rows) in page
