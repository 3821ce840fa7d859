"""What the nulls of types are drawn from, and types judged side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rocktok.analyses.detect import judging
from rocktok.analyses.detect.clusters import choose_clusters
from rocktok.analyses.detect.context import Context, ContextRule
from rocktok.analyses.detect.null import (
    DRAWS,
    MIN_DRAWS,
    Null,
    free_enough,
    null_threshold,
    null_thresholds_by_type,
    scarce_types,
)
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.similarity import Similarity
from rocktok.analyses.detect.windows import FreePools
from rocktok.hashing import hash_rows

Array = np.ndarray[Any, Any]
WINDOW = 2


def pool_of(rng: np.random.Generator, rows: int, frequent: float) -> dict[str, Array]:
    """Positions of sequences of 40 tokens; token 0 stands in a share of all places."""
    around = rng.integers(1, 60, (rows, 4 * WINDOW + 1)).astype(np.int32)
    around[rng.random(around.shape) < frequent] = 0
    around[rng.random(around.shape) < 0.05] = -1
    sequence, position = np.arange(rows) // 40, (np.arange(rows) % 40).astype(np.int32)
    return {
        "hash": hash_rows(1, sequence, position),
        "sequence": sequence,
        "position": position,
        "prompt": (sequence // 3).astype(np.uint64),
        "around": around,
    }


@pytest.mark.parametrize("rows", [150, 600, 1_500, 5_000])
@pytest.mark.parametrize("frequent", [0.02, 0.3, 0.97])
def test_the_front_of_a_pool_has_the_draws_of_each_type(rows: int, frequent: float) -> None:
    null = Null(pool_of(np.random.default_rng(rows), rows, frequent), None, WINDOW, "other-prompt")
    types = np.arange(60)
    judgeable_T = null.judgeable(types)
    for v in types.tolist():
        nearest, picked = null.nearest(v), null.picks(v)
        assert judgeable_T[v] == (nearest is not None)
        if picked is not None:
            assert nearest is not None
            drawn, distance = nearest
            assert distance == 2 * WINDOW
            np.testing.assert_array_equal(null.front.windows.window_MK[picked], drawn.window_MK)
            np.testing.assert_array_equal(null.front.windows.label_M[picked], drawn.label_M)
        else:
            around = null.pool["around"]
            free = ~(around == v).any(axis=1)
            assert free[: 2 * DRAWS].sum() < (MIN_DRAWS if rows <= 2 * DRAWS else DRAWS)


def test_pools_of_their_own_decide_who_can_be_judged() -> None:
    pool = pool_of(np.random.default_rng(2), 5_000, 0.97)
    free = FreePools(0, 2 * WINDOW, [0], (2 * WINDOW, WINDOW, 1), DRAWS)
    null = Null(pool, free, WINDOW, "other-prompt")
    assert null.judgeable(np.arange(3)).tolist() == [False, True, True]
    rows = 8 * MIN_DRAWS
    batch: dict[str, Array] = {
        "token_id": np.full(rows, 7, np.int32),
        "sequence_id": np.arange(rows) // 40,
        "position": (np.arange(rows) % 40).astype(np.int32),
        "prompt": np.zeros(rows, np.uint64),
    }
    free.update(batch)
    assert null.picks(0) is None
    assert null.judgeable(np.arange(3)).tolist() == [True, True, True]


@pytest.mark.parametrize("enough", [1, 40, 90])
def test_free_rows_are_counted_as_by_looking_at_each(enough: int) -> None:
    rng = np.random.default_rng(enough)
    around = rng.zipf(1.4, (90, 5)).astype(np.int32) % 40 - 1
    types = np.arange(40)
    expected = [(~(around == v).any(axis=1)).sum() >= enough for v in types]
    assert free_enough(around, types, enough).tolist() == expected
    whole = {"around": around}
    assert scarce_types(whole, types).all()  # 90 positions are fewer than are drawn


def test_the_threshold_is_the_951st_of_1000() -> None:
    values = np.random.default_rng(0).permutation(1_000)
    assert null_threshold(values) == 950
    assert null_threshold(np.array([3.0])) == 3.0


def test_thresholds_of_types_with_unlike_draws() -> None:
    rng = np.random.default_rng(4)
    for draws in ([300, 1_000, 300, 200], [500, 500], [7], []):
        parts = [rng.integers(0, 50, size) for size in draws]
        values_E = np.concatenate([*parts, np.zeros(0, np.int64)])
        found = null_thresholds_by_type(values_E, np.array(draws, np.int64))
        assert found.tolist() == [null_threshold(part) for part in parts]


def windows_of(rng: np.random.Generator, sizes: dict[int, int]) -> dict[str, Array]:
    """Persistent occurrences of some types, half of each in one of three contexts."""
    token = np.repeat(np.array(list(sizes)), list(sizes.values())).astype(np.int32)
    rows = len(token)
    window = rng.integers(1, 60, (rows, 2 * WINDOW)).astype(np.int32)
    recurring = rng.random(rows) < 0.5
    window[recurring] = rng.integers(1, 60, (3, 2 * WINDOW))[rng.integers(0, 3, recurring.sum())]
    return {
        "token": token,
        "window": window,
        "sequence": np.arange(rows),
        "position": np.zeros(rows, np.int32),
        "prompt": rng.integers(0, 30, rows).astype(np.uint64),
        "loss": rng.exponential(1.0, rows).astype(np.float32),
        "hash": hash_rows(3, np.arange(rows)),
    }


@pytest.mark.parametrize("partners", ["other-prompt", "other-sequence", "all"])
@pytest.mark.parametrize("eta", ["auto", 0.05])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "sparse"])
def test_types_judged_together_are_as_if_judged_alone(
    partners: str, eta: Any, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    sizes = {0: 12, 1: 1, 2: 0, 5: 300, 9: 40, 40: 7}
    windows = windows_of(rng, sizes)
    null = Null(pool_of(rng, 3_000, 0.97), None, WINDOW, partners) if eta == "auto" else None
    clusters = choose_clusters(np.arange(30, dtype=np.uint64), np.array([360]), 0)
    rule = ContextRule(Similarity("bag", 0.5, 2 * WINDOW, np.ones(60)), partners, eta, clusters)
    monkeypatch.setattr(judging, "ALONE", 200)
    monkeypatch.setattr(judging, "ALONE_SPARSE", 200)
    monkeypatch.setattr(judging, "TOGETHER", 45)
    tasks = list(judging.cut(list(sizes), np.array(list(sizes.values()))))
    assert tasks == [[0, 1, 2], [5], [9], [40]]
    similarity = rule.similarity.compiled() if compiled else rule.similarity
    used = replace(rule, similarity=similarity)
    found = [one for tokens in tasks for one in judging.judge(used, null, windows, tokens)]
    # By SciPy, one after another: so few pairs are never counted by compiled loops there.
    for v, one in zip(sizes, found, strict=True):
        rows = of_type(windows, v)
        assert_same(one, rule.judge(rows, None if null is None else null.nearest(v)))
    assert sum(one.hits for one in found) > 0
    assert [one.judgeable for one in found] == [eta != "auto", True, True, True, True, True]


def test_parts_with_the_most_pairs_come_first() -> None:
    sizes = [30, 10, 10, 45, 5, 5, 5, 40]
    parts = [[7], [3, 1, 0], [4], [9, 8], [11]]
    # 900, 100 + 100 + 2,025, 25, 25 + 25, 1,600 pairs.
    assert judging.longest_first(parts, np.array(sizes)) == [1, 4, 0, 3, 2]
    assert judging.longest_first([], np.zeros(0, np.int64)) == []


def assert_same(one: Context, other: Context) -> None:
    for name, value in vars(one).items():
        if name == "by_cluster" and value is not None:
            for field, counts in vars(value).items():
                same = getattr(other.by_cluster, field)
                np.testing.assert_array_equal(counts, same, strict=True, err_msg=field)
            continue
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
