"""Accumulators: exact against NumPy, and the same however the rows are cut and merged."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.analyses.detect import windows
from rocktok.analyses.detect.density import Density
from rocktok.analyses.detect.persistence import (
    HardCounts,
    PersistentWindows,
    Thresholds,
    of_type,
    reaches,
    sample_limits,
)
from rocktok.hashing import hash_rows
from rocktok.stats.arrays import longer
from rocktok.stats.exact_types import ExactTypeSums
from rocktok.stats.prompts import PromptCounts, PromptFloor
from rocktok.stats.quantiles import Histogram, ordered_bits, quantile, quantile_rank, value_of
from rocktok.stats.sums import SequenceCounts, TypeSums
from tests import twin

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def batch(seed: int, sequences: int = 9) -> dict[str, np.ndarray]:
    """Rows of whole sequences, with gaps in position as tool output leaves them."""
    rng = np.random.default_rng(seed)
    parts = []
    for sequence in range(sequences):
        position = np.flatnonzero(rng.random(rng.integers(1, 30)) < 0.85)
        n = len(position)
        parts.append(
            {
                "sequence_id": np.full(n, sequence * 3 + 2),
                "position": position.astype(np.int32),
                "prompt": np.full(n, np.uint64(sequence // 2)),
                "token_id": rng.integers(0, 12, n).astype(np.int32),
                "loss_pre": rng.choice([0, 0.25, 0.5, 1, 2], n).astype(np.float32),
                "loss_post": rng.choice([0, 0.25, 0.5, 1, 2], n).astype(np.float32),
            }
        )
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def cut(rows: dict[str, np.ndarray], after: int) -> list[dict[str, np.ndarray]]:
    """Two batches of whole sequences."""
    first = rows["sequence_id"] < after
    return [{n: v[first] for n, v in rows.items()}, {n: v[~first] for n, v in rows.items()}]


MAKERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "sums": (
        lambda: TypeSums(("loss_post", "loss_pre", "loss_post")),
        lambda a: [np.trim_zeros(t.sum(axis=1), "b").tolist() for t in a._tables],
    ),
    "upper": (lambda: Histogram("loss_pre"), lambda a: a.count_B.tolist()),
    "lower": (lambda: Histogram("loss_pre", 0xBF00), lambda a: a.count_B.tolist()),
    "prompts": (lambda: PromptCounts(np.array([0, 3, 7])), lambda a: a.result()),
    "many prompts": (lambda: PromptCounts(np.arange(12), most=2), lambda a: a.result()),
    "prompts, compiled": (
        lambda: PromptCounts(np.array([0, 3, 7]), most=3, compiled=True),
        lambda a: a.result(),
    ),
    "hard": (
        lambda: HardCounts(Thresholds(0.5, post=0.5)),
        lambda a: {name: np.trim_zeros(c, "b").tolist() for name, c in a.count_V.items()},
    ),
    "sizes": (SequenceCounts, lambda a: (a.sequences, a.rows)),
    "pool": (
        lambda: windows.Pool(3, 2, size=20),
        lambda a: {name: values.tolist() for name, values in a.result().items()},
    ),
    "free": (
        lambda: windows.FreePools(3, 4, [0, 5], (4, 2, 1), 10),
        lambda a: {
            key: {name: values.tolist() for name, values in pool.result().items()}
            for key, pool in a.pools.items()
        },
    ),
    "persistent": (
        lambda: PersistentWindows(Thresholds(0.5, post=0.5), 3, 0),
        lambda a: {n: v.tolist() for n, v in copy.deepcopy(a).result().items()},
    ),
    "density": (lambda: Density(np.array([1, 4]), None), lambda a: a.result()),
    "density of few": (
        lambda: Density(
            np.array([1, 4, 5]),
            (np.array([2, 8]), np.array([1, 2])),
            {5: 0.25},
            Thresholds(0.5, post=0.5),
            most=4,
        ),
        lambda a: (a.seen, a.result()),
    ),
}


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), after=st.integers(3, 24))
def test_cut_anew_and_merged_is_the_same(name: str, seed: int, after: int) -> None:
    make, result = MAKERS[name]
    rows = batch(seed)
    whole, in_two, merged, other = (make() for _ in range(4))
    whole.update(rows)
    first, second = cut(rows, after)
    for part in (first, second):
        if len(part["token_id"]):
            in_two.update(part)
    if len(first["token_id"]):
        merged.update(first)
    if len(second["token_id"]):
        other.update(second)
    before = copy.deepcopy(result(other)) if len(second["token_id"]) else None
    merged.merge(other)
    assert result(in_two) == result(whole)
    assert result(merged) == result(whole)
    if before is not None:
        assert result(other) == before


TABLES: dict[str, tuple[Callable[[bool], Any], Callable[[Any], Any]]] = {
    "sums": (
        lambda compiled: TypeSums(("loss_post",), compiled=compiled),
        lambda a: np.trim_zeros(a.count_V, "b").tolist(),
    ),
    "exact": (
        lambda compiled: ExactTypeSums(("loss_post",), compiled=compiled),
        lambda a: (a.count_V.tolist(), a.sum_V["loss_post"].tolist()),
    ),
    "floor": (
        lambda compiled: PromptFloor(2, compiled=compiled),
        lambda a: a.result(40).tolist(),
    ),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("travels", [False, True])
def test_what_is_empty_takes_the_first_part_and_adds_the_others(
    name: str, compiled: bool, travels: bool
) -> None:
    make, result = TABLES[name]
    whole, merged = make(compiled), make(compiled)
    merged.merge(make(compiled))
    for part in range(3):
        rows = batch(part)
        # Each part has larger ids than the one before.
        rows["token_id"] = rows["token_id"] + np.int32(9 * part)
        rows["prompt"] = rows["prompt"] + np.uint64(part)
        one = make(compiled)
        one.update(rows)
        whole.update(rows)
        merged.merge(pickle.loads(pickle.dumps(one)) if travels else one)
    assert result(merged) == result(whole)


def test_a_table_grows_by_an_eighth_and_keeps_its_rows() -> None:
    table_VS = np.arange(6.0).reshape(3, 2)
    assert longer(table_VS, 3) is table_VS
    grown_VS = longer(table_VS, 1_000)
    assert grown_VS.shape == (1_024, 2)
    np.testing.assert_array_equal(grown_VS[:3], table_VS)
    assert not grown_VS[3:].any()
    assert len(longer(table_VS[:, 0], 151_936)) == 163_840
    assert len(longer(np.zeros(0, np.uint64), 1)) == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), columns=st.integers(1, 5))
def test_sums_are_those_of_each_column(seed: int, columns: int) -> None:
    rows = batch(seed)
    names = ("loss_pre", "loss_post", "position", "loss_pre", "loss_post")[:columns]
    rows["position"] = rows["position"].astype(np.float64) / 3
    sums = TypeSums(names)
    sums.update(rows)
    token_N, length = rows["token_id"], len(sums.count_V)
    assert sums.count_V.tolist() == np.bincount(token_N, minlength=length).tolist()
    for name in set(names):
        x_N = rows[name].astype(np.float64)
        exact = np.bincount(token_N, x_N, minlength=length)
        np.testing.assert_array_equal(sums.sum_V[name], exact)
        exact = np.bincount(token_N, x_N * x_N, minlength=length)
        np.testing.assert_array_equal(sums.square_V[name], exact)


@pytest.mark.parametrize("name", MAKERS)
def test_a_partial_survives_the_way_to_the_client(name: str) -> None:
    make, result = MAKERS[name]
    partial = make()
    partial.update(batch(1))
    assert result(pickle.loads(pickle.dumps(partial))) == result(partial)


def test_partials_are_sparse() -> None:
    sums, histogram = TypeSums(("loss_post", "loss_pre")), Histogram("loss_pre")
    rows = batch(1)
    rows["token_id"][0] = 150_000
    sums.update(rows)
    histogram.update(rows)
    assert len(pickle.dumps(sums)) < 3_000
    assert len(pickle.dumps(histogram)) < 3_000


def test_prompts_beyond_the_limit_are_estimated() -> None:
    rng = np.random.default_rng(0)
    counts = PromptCounts(np.array([3, 5]), most=4096)
    for _ in range(10):
        prompt = rng.integers(0, 100_000, 40_000).astype(np.uint64)
        counts.update({"token_id": np.full(40_000, 3), "prompt": prompt})
        counts.update({"token_id": np.full(10, 5), "prompt": prompt[:10] % np.uint64(7)})
    true = 100_000 * (1 - np.exp(-4.0))
    found = counts.result()
    assert abs(found[3] - true) < 4 * true / 64
    assert found[5] == 7


@pytest.mark.parametrize("most", [2, 7, 1000])
@pytest.mark.parametrize("compiled", [False, True])
def test_prompts_are_those_of_sets(
    most: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rocktok.stats.prompts._LOOSE", 8)
    rng = np.random.default_rng(most)
    types = np.array([1, 4, 6, 30])
    counts = PromptCounts(types, most, compiled=compiled)
    hashes: dict[int, set[int]] = {v: set() for v in types.tolist()}
    for _ in range(6):
        part = PromptCounts(types, most, compiled=compiled)
        for _ in range(3):
            token = rng.integers(0, 9, 50).astype(np.int32)
            prompt = np.sort(rng.integers(0, 40, 50)).astype(np.uint64)
            part.update({"token_id": token, "prompt": prompt})
            for v, g in zip(token.tolist(), prompt.tolist(), strict=True):
                if v in hashes:
                    hashes[v].add(int(hash_rows(0, np.array([g], np.uint64), np.array([v]))[0]))
        counts.merge(part)
    for v, found in counts.result().items():
        smallest = sorted(hashes[v])[:most]
        expected = len(smallest)
        if expected == most:
            expected = max(most, round((most - 1) / (smallest[-1] / 2**64)))
        assert found == expected


@pytest.mark.parametrize("most", [5, 40])
def test_the_smallest_hashes_of_a_type_are_its_sample(most: int) -> None:
    rows = batch(3, sequences=120)
    everything = PersistentWindows(Thresholds(0.5, post=0.5), 2, seed=9)
    everything.update(rows)
    whole = everything.result()
    count_V = np.bincount(whole["token"], minlength=12)
    counted = {v: int(count_V[v]) for v in (2, 7)}
    limit_V = sample_limits(counted, most, lambda n: n > most)
    some = PersistentWindows(Thresholds(0.5, post=0.5), 2, 9, limit_V)
    some.update(rows)
    held = some.result()
    assert set(held["token"].tolist()) == {2, 7}
    for v in (2, 7):
        sample, direct = of_type(held, v, most), of_type(whole, v, most)
        hashes = np.sort(whole["hash"][whole["token"] == v])[:most]
        assert np.sort(sample["hash"]).tolist() == hashes.tolist()
        for name in direct:
            np.testing.assert_array_equal(sample[name], direct[name])


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(st.lists(floats, min_size=1, max_size=60), st.sampled_from([0.1, 0.5, 0.8, 0.95, 0.999]))
def test_two_histograms_give_the_exact_quantile(values: list[float], q: float) -> None:
    array = np.array(values, dtype=np.float32)
    upper = Histogram("x")
    upper.update({"x": array})
    rank = quantile_rank(q, len(array))
    prefix, within = upper.locate(rank)
    lower = Histogram("x", prefix)
    lower.update({"x": array})
    exact = np.sort(array)[rank - 1]
    assert value_of(prefix, lower.locate(within)[0]) == exact
    assert quantile(array, q) == exact


@given(floats, floats)
def test_ordered_bits_sort_as_the_values(a: float, b: float) -> None:
    bits = ordered_bits(np.array([a, b], dtype=np.float32))
    assert (bits[0] < bits[1]) == (np.float32(a) < np.float32(b))
    assert (bits[0] == bits[1]) == (np.float32(a) == np.float32(b))


@pytest.mark.parametrize(
    ("q", "n", "rank"), [(0.8, 10, 8), (0.1, 10, 1), (0.3, 10, 3), (0.7, 10, 7), (0.8, 1, 1)]
)
def test_quantiles_are_read_as_decimals(q: float, n: int, rank: int) -> None:
    assert quantile_rank(q, n) == rank


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**40))
def test_the_hash_is_the_documented_one(sequence: int, position: int, seed: int) -> None:
    ours = hash_rows(seed, np.array([sequence], dtype=np.int64), np.array([position], np.int32))
    assert int(ours[0]) == twin.position_hash(seed, sequence, position)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), reach=st.integers(1, 5))
def test_windows_go_by_position(seed: int, reach: int) -> None:
    rows = batch(seed, sequences=4)
    offset_K = windows.offsets(reach)
    found = windows.window_tokens(rows, np.arange(len(rows["position"])), offset_K)
    text = {
        (s, p): t
        for s, p, t in zip(rows["sequence_id"], rows["position"], rows["token_id"], strict=True)
    }
    for row, (s, p) in enumerate(zip(rows["sequence_id"], rows["position"], strict=True)):
        expected = [text.get((s, p + k), windows.MISSING) for k in offset_K]
        assert found[row].tolist() == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), v=st.integers(0, 12), distance=st.integers(0, 6))
def test_far_from_is_what_it_says(seed: int, v: int, distance: int) -> None:
    rows = batch(seed, sequences=4)
    where = list(zip(rows["sequence_id"], rows["position"], rows["token_id"], strict=True))
    expected = [
        not any(s == s2 and t == v and abs(p - p2) <= distance for s2, p2, t in where)
        for s, p, _ in where
    ]
    assert windows.far_from(rows, v, distance).tolist() == expected


def test_float32_reach_what_they_reach_as_float64() -> None:
    rng = np.random.default_rng(0)
    value_N = np.concatenate([rng.exponential(1.0, 50), [0.0, np.inf, np.nan, 0.1, 0.3]])
    single_N = value_N.astype(np.float32)
    near = [np.nextafter(np.float64(x), side) for x in single_N[:9] for side in (-np.inf, np.inf)]
    for least in (0.0, 0.1, 0.3, np.inf, 1e-60, 1e300, *single_N[:9].tolist(), *near):
        for given_N in (single_N, value_N):
            expected = given_N.astype(np.float64) >= least
            assert reaches(given_N, float(least)).tolist() == expected.tolist()
