"""Similar pairs: the compiled loops against similarity as it is defined, bit for bit."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from rocktok.analyses.detect.compared import Windows, partner_counts
from rocktok.analyses.detect.similarity import Similarity
from rocktok.pairs import few, few_sparse
from rocktok.pairs import index as pair_index
from rocktok.pairs.count import SimilarPairs, count_similar
from rocktok.pairs.rows import KINDS, PairRule, SparseRows, window_rows

seeds = st.integers(0, 2**32 - 1)
slow_ok = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def windows(rng: np.random.Generator, count: int, width: int, vocabulary: int) -> Windows:
    """Windows with gaps, empty ones, equal ones, and few tokens, so that scores tie."""
    window_MK = rng.zipf(1.3, (count, width)).astype(np.int64) % vocabulary
    copies = rng.random(count) < 0.3
    window_MK[copies] = window_MK[rng.integers(0, max(1, count // 4), int(copies.sum()))]
    window_MK[rng.random(window_MK.shape) < rng.choice([0, 0.1, 0.5])] = -1
    window_MK[rng.random(count) < 0.05] = -1
    prompt_M = rng.integers(0, 9, count).astype(np.uint64) + np.uint64(2**63)
    return Windows(window_MK.astype(np.int32), prompt_M)


@pytest.fixture(params=[(1 << 16, 40), (128, 3), (64, 0)], ids=["one block", "blocks", "no head"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    block, head = request.param
    monkeypatch.setattr(pair_index, "BLOCK", block)
    monkeypatch.setattr(pair_index, "HEAD", head)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("apart", [False, True], ids=["labels", "own labels"])
@pytest.mark.parametrize("kind", KINDS)
@slow_ok
@given(
    seed=seeds, gamma=st.sampled_from([1e-10, 0.2, 1 / 3, 0.5, 0.75, 1.0]), reach=st.integers(1, 4)
)
def test_counts_are_those_of_similarity(
    kind: str, apart: bool, seed: int, gamma: float, reach: int
) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = int(rng.choice([3, 12, 200]))
    ours = windows(rng, int(rng.integers(0, 60)), 2 * reach, vocabulary)
    theirs = windows(rng, int(rng.integers(0, 300)), 2 * reach, vocabulary)
    weight_V = rng.choice([np.log(2), 1.0, 3.5, 0.0], vocabulary)
    similarity = Similarity(kind, gamma, 2 * reach, weight_V)
    rule = PairRule(kind, similarity.threshold, 2 * reach)
    our_rows, their_rows = (window_rows(w.window_MK, kind, weight_V) for w in (ours, theirs))
    if apart:
        ours, theirs = own_labels(ours, 1_000), own_labels(theirs, 0)
    expected = similarity.count_similar_scipy(ours, theirs)
    given_labels = None if apart else (ours.label_M, theirs.label_M)
    found = count_similar(our_rows, their_rows, rule, given_labels)
    assert found.tolist() == expected.tolist()
    expected = similarity.count_similar_scipy(theirs, theirs)
    given_labels = None if apart else (theirs.label_M, theirs.label_M)
    jobs = int(rng.integers(1, 4))
    found = count_similar(their_rows, None, rule, given_labels, jobs=jobs)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("itself", [False, True])
def test_many_pairs_are_counted_by_the_loops(
    kind: str, itself: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    ours = windows(rng, 300, 6, 40)
    theirs = ours if itself else windows(rng, 400, 6, 40)
    monkeypatch.setattr("rocktok.analyses.detect.similarity.MANY", 90_000)
    similarity = Similarity(kind, 0.5, 6, rng.random(40), jobs=2)
    expected = similarity.count_similar_scipy(ours, theirs)
    monkeypatch.setattr(Similarity, "count_similar_scipy", None)
    assert similarity.count_similar(ours, theirs).tolist() == expected.tolist()


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "sparse"])
@pytest.mark.parametrize("kind", KINDS)
@slow_ok
@given(
    seed=seeds, gamma=st.sampled_from([1e-10, 0.2, 1 / 3, 0.5, 0.75, 1.0]), reach=st.integers(1, 4)
)
def test_counts_by_type_are_those_of_similarity(
    kind: str, compiled: bool, seed: int, gamma: float, reach: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    # The cut of the pairs does not show.
    monkeypatch.setattr(few_sparse, "BLOCK", int(rng.choice([1, 50, 2_000_000])))
    # Nor does which types have an index of their own.
    monkeypatch.setattr(few, "MANY", int(rng.choice([0, 40, 2_000])))
    vocabulary = int(rng.choice([3, 12, 200]))
    weight_V = rng.choice([np.log(2), 1.0, 3.5, 0.0], vocabulary)
    similarity = Similarity(kind, gamma, 2 * reach, weight_V, loaded=compiled)
    sizes = rng.integers(0, 90, rng.integers(1, 5)).tolist()
    types = [windows(rng, size, 2 * reach, vocabulary) for size in sizes]
    draws = windows(rng, 40, 2 * reach, vocabulary)
    picks = [np.flatnonzero(rng.random(40) < rng.choice([0, 0.6])) for _ in types]
    counted = similarity.count_by_type(types, draws, picks)
    drawn = [Windows(draws.window_MK[at], draws.label_M[at]) for at in picks]
    for name, function in (
        ("similar", similarity.count_similar_scipy),
        ("partners", partner_counts),
    ):
        ours = [function(windows_of, windows_of) for windows_of in types]
        theirs = [function(*pair) for pair in zip(drawn, types, strict=True)]
        assert getattr(counted, f"{name}_N").tolist() == np.concatenate(ours).tolist()
        assert getattr(counted, f"{name}_E").tolist() == np.concatenate(theirs).tolist()


@pytest.mark.parametrize("kind", ["bag", "hidden"])
@pytest.mark.parametrize("compiled", [True, False])
@slow_ok
@given(seed=seeds, gamma=st.sampled_from([0.2, 0.5, 1.0]))
def test_both_sides_of_pairs_are_counted_at_once(
    kind: str, compiled: bool, seed: int, gamma: float
) -> None:
    rng = np.random.default_rng(seed)
    similarity = Similarity(kind, gamma, 4, np.ones(12), loaded=compiled)
    ours, *others = (windows(rng, size, 4, 12) for size in rng.integers(0, 50, 4).tolist())
    if kind == "hidden":
        ours, *others = (
            Windows(rng.integers(0, 4, (len(side), 4)).astype(np.uint64), side.label_M)
            for side in (ours, *others)
        )
    others = [ours, *others]
    for theirs, (our_M, their_M) in zip(
        others, similarity.count_between(ours, others), strict=True
    ):
        assert our_M.tolist() == similarity.count_similar_scipy(ours, theirs).tolist()
        assert their_M.tolist() == similarity.count_similar_scipy(theirs, ours).tolist()


def own_labels(given: Windows, first: int) -> Windows:
    return Windows(given.window_MK, np.arange(first, first + len(given), dtype=np.uint64))


@pytest.mark.parametrize("kind", KINDS)
@slow_ok
@given(seed=seeds)
def test_rows_are_those_of_similarity(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_windows = windows(rng, int(rng.integers(1, 60)), 2 * int(rng.integers(1, 12)), 40)
    weight_V = rng.random(40)
    rows = window_rows(given_windows.window_MK, kind, weight_V)
    similarity = Similarity(kind, 0.5, given_windows.window_MK.shape[1], weight_V)
    side, _ = similarity._sides(given_windows.window_MK, given_windows.window_MK[:0])
    assert rows.ptr_N.tolist() == side.matrix.indptr.tolist()
    assert np.unique(rows.column_E, return_inverse=True)[1].tolist() == side.matrix.indices.tolist()
    assert rows.value_E.tolist() == side.matrix.data.tolist()
    assert rows.size_N.tolist() == side.size.tolist()


def random_rows(rng: np.random.Generator, count: int, columns: int, kind: str) -> SparseRows:
    """Rows whose weights span nine orders of magnitude, for "surprisal"."""
    filled = rng.random((count, columns)) < rng.random((count, 1)) * 0.5
    values = np.ones((count, columns))
    if kind == "surprisal":
        values = 10.0 ** rng.uniform(-8, 1, (count, columns))
    elif kind == "bag":
        values = rng.integers(1, 5, (count, columns)).astype(float)
    matrix = csr_matrix(np.where(filled, values, 0.0))
    square = np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
    size = square if kind == "jaccard" else np.sqrt(square)
    return SparseRows(matrix.indptr, matrix.indices, matrix.data, size)


def all_scores(ours: SparseRows, theirs: SparseRows, kind: str, offsets: int) -> Any:
    """Every pair's similarity, dense, by SciPy's product."""
    width = 1 + max(int(r.column_E.max(initial=0)) for r in (ours, theirs))
    left, right = (
        csr_matrix((r.value_E, r.column_E, r.ptr_N), shape=(len(r), width)) for r in (ours, theirs)
    )
    dots = (left @ right.T).toarray()
    scale = {
        "jaccard": ours.size_N[:, None] + theirs.size_N[None, :] - dots,
        "positional": float(offsets),
    }.get(kind, ours.size_N[:, None] * theirs.size_N[None, :])
    return np.divide(dots, scale, out=np.zeros_like(dots), where=dots > 0)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("kind", KINDS)
@slow_ok
@given(seed=seeds)
def test_ties_at_the_threshold_are_called_to_the_last_bit(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = (random_rows(rng, int(rng.integers(1, 150)), 30, kind) for _ in range(2))
    scores = all_scores(ours, theirs, kind, 30)
    some = rng.choice(scores[scores > 0]) if (scores > 0).any() else 0.5
    for threshold in (some, np.nextafter(some, 2), np.nextafter(some, 0)):
        found = count_similar(ours, theirs, PairRule(kind, float(threshold), 30))
        assert found.tolist() == ((scores >= threshold) & (scores > 0)).sum(axis=1).tolist()


@slow_ok
@given(seed=seeds, cuts=st.lists(st.integers(0, 400), max_size=5), labelled=st.booleans())
def test_any_ranges_of_rows_add_up(seed: int, cuts: list[int], labelled: bool) -> None:
    rng = np.random.default_rng(seed)
    both = windows(rng, 200, 8, 30)
    rows = window_rows(both.window_MK, "bag")
    labels = (both.label_M, both.label_M) if labelled else None
    rule = PairRule("bag", 0.5 - 1e-9, 8)
    for theirs in (None, rows):
        pairs = SimilarPairs(rows, theirs, rule, labels)
        edges = sorted({0, pairs.rows, *(min(c, pairs.rows) for c in cuts)})
        total = pairs.tally()
        for start, stop in pairwise(edges):
            tally = pairs.tally()
            pairs.add(tally, start, stop)
            total.merge(tally)
        expected = count_similar(rows, theirs, rule, labels)
        assert pairs.counts(total).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="not within"):
        pairs.add(total, 0, pairs.rows + 1)


def test_ranges_cover_the_rows_and_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from rocktok.pairs import count as module

    monkeypatch.setattr(module, "_SMALL", 0)
    rows = window_rows(windows(np.random.default_rng(1), 500, 8, 300).window_MK, "bag")
    pairs = SimilarPairs(rows, None, PairRule("bag", 0.5, 8))
    ranges = pairs.ranges(2)
    assert [a for a, _ in ranges][1:] == [b for _, b in ranges][:-1]
    assert (ranges[0][0], ranges[-1][1], len(ranges)) == (0, pairs.rows, 32)
    work = [b * b - a * a for a, b in ranges]
    assert max(work) < 2 * pairs.rows**2 / 32


def test_ids_of_any_size_and_unlike_rows() -> None:
    wide = SparseRows(
        np.array([0, 2, 3, 3]),
        np.array([7, 2**40, 2**40]),
        np.array([1.0, 1.0, 1.0]),
        np.array([2**0.5, 1.0, 0.0]),
    )
    found = count_similar(wide, None, PairRule("bag", 0.5, 4))
    assert found.tolist() == [1, 1, 0]
    nothing = window_rows(np.zeros((0, 4), dtype=np.int32), "bag")
    assert count_similar(nothing, wide, PairRule("bag", 0.5, 4)).tolist() == []
    assert count_similar(wide, nothing, PairRule("bag", 0.5, 4)).tolist() == [0, 0, 0]
    assert count_similar(nothing, None, PairRule("bag", 0.5, 4)).tolist() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ptr_N": np.array([0, 2])}, "do not fit"),
        ({"ptr_N": np.array([0, 3, 2])}, "do not fit"),
        ({"column_E": np.array([-1, 2])}, "negative"),
        ({"value_E": np.array([1.0])}, "do not fit"),
    ],
)
def test_rows_that_would_run_wild_are_refused(change: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {
        "ptr_N": np.array([0, 1, 2]),
        "column_E": np.array([0, 2]),
        "value_E": np.ones(2),
        "size_N": np.ones(2),
    }
    with pytest.raises(ValueError, match=message):
        count_similar(SparseRows(**{**arrays, **change}), None, PairRule("bag", 0.5, 4))


def test_other_refusals() -> None:
    rows = window_rows(np.ones((2, 4), dtype=np.int32), "bag")
    with pytest.raises(ValueError, match="'embedding' is not one of"):
        PairRule("embedding", 0.5, 4)
    rule, labels = PairRule("bag", 0.5, 4), np.zeros(2, dtype=np.int64)
    with pytest.raises(ValueError, match="do not compare"):
        count_similar(rows, rows, rule, (labels, labels.astype(np.uint64)))
    with pytest.raises(ValueError, match="one label for each row"):
        count_similar(rows, rows, rule, (labels, labels[1:]))


def test_equal_hashes_do_not_merge_unequal_rows() -> None:
    from rocktok.pairs import merge

    window_NK = np.array([[1, 2], [3, 4], [1, 2], [1, 2]], dtype=np.int32)
    rows = window_rows(window_NK, "bag")
    group_N, first_G = np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)
    raw = merge.PackedRows(rows.ptr_N, rows.column_E, rows.value_E, rows.size_N)
    hash_N = np.zeros(4, dtype=np.uint64)
    assert merge.group_rows(raw, hash_N, np.arange(4), group_N, first_G) == 3
    assert group_N.tolist() == [0, 1, 2, 2]


def test_the_interpreter_runs_on_beside_a_kernel() -> None:
    rng = np.random.default_rng(0)
    rows = window_rows(rng.integers(0, 400, (12_000, 16)).astype(np.int32), "bag")
    pairs = SimilarPairs(rows, None, PairRule("bag", 0.5, 16))
    pairs.add(pairs.tally(), 0, 1)

    def ticks() -> int:
        thread = threading.Thread(target=pairs.add, args=(pairs.tally(), 0, pairs.rows))
        count = 0
        thread.start()
        while thread.is_alive():
            time.sleep(0.0005)
            count += 1
        return count

    # With the interpreter lock held, there would be one tick or two, however often it is tried;
    # without, too, while other processes have the cores.
    assert any(ticks() >= 5 for _ in range(100))
