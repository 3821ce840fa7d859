"""Compiled loops around an occurrence, against their NumPy twins."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from rocktok._types import Array
from rocktok.analyses.detect import windows
from rocktok.analyses.detect.clusters import choose_clusters
from rocktok.analyses.detect.hard_sums import HardSums, type_sums
from rocktok.analyses.detect.neighbours import Neighbours
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.tested import hard_tests
from rocktok.analyses.detect.window_loops import near_rows
from rocktok.hashing import hash_rows
from rocktok.stats.tally import Tally

THRESHOLDS = Thresholds(0.6, post=0.5)


def rows(seed: int, sequences: int = 40, tokens: int = 9) -> dict[str, Array]:
    """Whole sequences with gaps, of few types, some of a single position."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, sequences)
    id_S = np.cumsum(rng.integers(1, 4, sequences))
    position_N = np.concatenate([np.cumsum(rng.integers(1, 3, size)) - 1 for size in sizes])
    count = int(sizes.sum())
    return {
        "sequence_id": np.repeat(id_S, sizes),
        "position": position_N.astype(np.int32),
        "token_id": rng.integers(0, tokens, count).astype(np.int32),
        "prompt": np.repeat(hash_rows(1, id_S // 5), sizes),
        "loss_pre": rng.random(count).astype(np.float32) * 1.4,
        "loss_post": rng.random(count).astype(np.float32) * 1.4,
    }


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_those_of_the_twin(seed: int) -> None:
    batch = rows(seed)
    rows_M = np.flatnonzero(np.random.default_rng(seed).random(len(batch["position"])) < 0.5)
    for offset_K in (windows.offsets(4), np.arange(-4, 5), windows.offsets(40)):
        found, twin = (
            windows.window_tokens(batch, rows_M, offset_K, compiled=compiled)
            for compiled in (True, False)
        )
        assert found.tolist() == twin.tolist()


@pytest.mark.parametrize("seed", [0, 7, -3, 2**63 + 5])
def test_rows_below_a_limit_are_those_of_the_hash(seed: int) -> None:
    batch = rows(1)
    hash_N = hash_rows(seed, batch["sequence_id"], batch["position"])
    for limit in (np.uint64(0), np.sort(hash_N)[50], np.uint64(2**64 - 1)):
        row_M, hash_M = near_rows(seed, batch, limit)
        assert row_M.tolist() == np.flatnonzero(hash_N <= limit).tolist()
        assert hash_M.tolist() == hash_N[row_M].tolist()


def test_a_pool_holds_the_same_rows() -> None:
    for total in (None, 1500):
        pools = [windows.Pool(3, 2, 100, total, compiled=compiled) for compiled in (True, False)]
        for pool in pools:
            for seed in range(3):
                pool.update(rows(seed))
        assert pools[0].seen == pools[1].seen
        for name, values in pools[1].result().items():
            assert pools[0].result()[name].tolist() == values.tolist()


@pytest.mark.parametrize("rocks", [[0, 1, 2, 3, 8], [4], [2, 30]])
def test_what_stands_beside_rocks_is_that_of_the_twin(rocks: list[int]) -> None:
    batch = rows(5)
    batch["token_id"][:2] = 30
    clusters = choose_clusters(np.unique(batch["prompt"]), np.bincount(batch["token_id"]), 0)
    found = []
    for compiled in (False, True):
        sums = HardSums(THRESHOLDS, clusters, compiled=compiled)
        sums.update(batch)
        beside = Neighbours(THRESHOLDS, sums.expected(), np.array(rocks), compiled=compiled)
        part = copy.deepcopy(beside)
        part.update(batch)
        tallies = [part.beside.settle(), part.shades.settle(), part.unshaded.tally.settle()]
        part.close()
        beside.merge(part)
        flags = beside.result()
        found.append(
            [both.tolist() for tally in tallies for both in tally]
            + [getattr(flags, name).tolist() for name in ("shadowed_by", "stretch")]
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("clusters", [1, 7])
def test_sums_of_types_and_votes_are_those_of_the_twin(clusters: int) -> None:
    batch = rows(3, tokens=200)
    middle = int(np.searchsorted(batch["sequence_id"], np.unique(batch["sequence_id"])[20]))
    cut = choose_clusters(np.unique(batch["prompt"]), np.bincount(batch["token_id"]), 0)
    both = []
    for compiled in (False, True):
        sums = HardSums(THRESHOLDS, cut, compiled=compiled)
        for rows_of in (slice(None, middle), slice(middle, None)):
            part = HardSums(THRESHOLDS, cut, compiled=compiled)
            part.update({name: values[rows_of] for name, values in batch.items()})
            part.close()
            sums.merge(part)
        expected = sums.expected()
        votes = expected.all_votes()
        key_I, sum_IQ = sums.places.settle()
        types = type_sums(key_I, sum_IQ, clusters, compiled=compiled)
        both.append(
            [
                getattr(votes, name)
                for name in ("token_T", "type_E", "cluster_E", "rows_E", "hard_E")
            ]
            + [votes.chance_E, expected.loss_T, *types]
            + [
                values
                for all_types in (False, True)
                for values in vars(
                    hard_tests(votes, all_types=all_types, compiled=compiled)
                ).values()
            ]
        )
    for one, other in zip(*both, strict=True):
        assert np.array_equal(one, other, equal_nan=one.dtype == np.float64)


def test_tallies_merge_alike() -> None:
    rng = np.random.default_rng(0)
    settled = []
    for compiled in (False, True):
        rng = np.random.default_rng(0)
        tally = Tally(2, compiled=compiled)
        for size in (5, 0, 40, 7):
            key_E = np.unique(rng.integers(0, 60, size))
            tally.add(key_E, rng.integers(0, 9, (len(key_E), 2)), distinct=True)
        settled.append([values.tolist() for values in tally.settle()])
        tally.add(np.array([5, 2, 5]), np.ones((3, 2), np.int64))
        settled.append([values.tolist() for values in tally.settle()])
    assert settled[:2] == settled[2:]
