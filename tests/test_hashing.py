"""Halves and sketches, against loops over Python integers: what they are must never change."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from rocktok.hashing import (
    SKETCH_TABLES,
    halves,
    prompt_hash,
    sketch,
    sketch_order,
    sketch_signs,
    sketch_widths,
)

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def hashed(seed: int, *keys: int) -> int:
    x = mix((seed + GOLDEN) & MASK)
    for key in keys:
        x = mix((x + GOLDEN * ((key + 1) & MASK)) & MASK)
    return x


def prompts(count: int) -> np.ndarray:
    return np.array([prompt_hash(f"prompt {n}") for n in range(count)], dtype=np.uint64)


@pytest.mark.parametrize("seed", [0, 1, 12345, -3])
def test_the_half_of_a_prompt(seed: int) -> None:
    for n, half in enumerate(halves(prompts(50), seed).tolist()):
        digest = hashlib.blake2b(f"prompt {n}".encode(), digest_size=8).digest()
        assert half == hashed(seed & MASK, int.from_bytes(digest, "little")) >> 63


def test_halves_are_even_and_seeds_independent() -> None:
    half_N = halves(prompts(4000), seed=0)
    assert half_N.dtype == np.int32 and set(half_N.tolist()) == {0, 1}
    tolerance = 4 * 0.5 / math.sqrt(4000)
    assert abs(half_N.mean() - 0.5) < tolerance
    assert abs((half_N == halves(prompts(4000), seed=1)).mean() - 0.5) < tolerance


def test_a_half_does_not_depend_on_who_else_is_there() -> None:
    hash_N = prompts(40)
    assert halves(hash_N[::-3], 0).tolist() == halves(hash_N, 0)[::-3].tolist()


@pytest.mark.parametrize(("vocabulary", "dims", "seed"), [(1000, 256, 0), (777, 301, 9)])
def test_a_sketch_by_hand(vocabulary: int, dims: int, seed: int) -> None:
    vector = np.random.default_rng(0).normal(size=vocabulary)
    order = sorted(range(vocabulary), key=lambda u: hashed(seed, u))
    expected = np.zeros(dims)
    least = (dims - 28) // 8
    widths = [least + r for r in range(8)]
    widths[-1] += dims - sum(widths)
    for place, token in enumerate(order):
        for table in range(8):
            sign = -1 if hashed(seed, token, 1) >> table & 1 else 1
            bucket = sum(widths[:table]) + place % widths[table]
            expected[bucket] += sign * vector[token]
    np.testing.assert_allclose(sketch(vector[None], dims, seed)[0], expected, atol=1e-12)


@pytest.mark.parametrize("dims", [256, 257, 1000, 4096])
def test_widths(dims: int) -> None:
    widths = sketch_widths(dims)
    assert sum(widths) == dims and len(set(widths)) == SKETCH_TABLES
    assert max(widths) - min(widths) < 2 * SKETCH_TABLES


def test_order_and_signs() -> None:
    assert sorted(sketch_order(500, 3).tolist()) == list(range(500))
    signs_RV = sketch_signs(50_000, 3)
    assert signs_RV.dtype == np.int8 and set(np.unique(signs_RV)) == {-1, 1}
    overlap = signs_RV.astype(float) @ signs_RV.T / 50_000 - np.eye(SKETCH_TABLES)
    assert np.abs(overlap).max() < 5 / math.sqrt(50_000)
    assert np.abs(signs_RV.mean(axis=1)).max() < 5 / math.sqrt(50_000)


def test_sketches_are_linear() -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 900))
    parts = sketch(vectors, 256, 0)
    np.testing.assert_allclose(parts[0] - 2 * parts[2], sketch(
        (vectors[0] - 2 * vectors[2])[None], 256, 0
    )[0], atol=1e-12)  # fmt: skip


def test_inner_products_are_right_on_average() -> None:
    rng = np.random.default_rng(2)
    one = rng.normal(size=600)
    other = one + rng.normal(size=600)
    found = []
    for seed in range(400):
        first, second = sketch(np.stack([one, other]), 256, seed)
        found.append(first @ second / SKETCH_TABLES)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - one @ other) < 4 * error
    # The variance of a signed hash: at most (‖x‖²‖y‖² + (x·y)²)/dims.
    most = ((one @ one) * (other @ other) + (one @ other) ** 2) / 256
    assert np.var(found) < 1.25 * most
