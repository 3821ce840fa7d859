"""Sketches of hidden states: bits by hand, against float64, and the same on any ranks."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.hooks.contexts import (
    BITS,
    Projections,
    describe_contexts,
    mean_projection,
    pack,
    projection,
)
from rocktok.hooks.projecting import project_hidden


def test_bits_by_hand() -> None:
    """Bit i of a row is bit i % 8 of byte i // 8; at the mean it is 0."""
    projected_NK = np.zeros((3, 16), dtype=np.float32)
    mean_K = np.zeros(16)
    projected_NK[0, [0, 3, 9]] = 1.0
    projected_NK[1] = -1.0
    mean_K[[1, 15]] = -0.5
    projected_NK[1, 15] = -0.25
    assert pack(projected_NK, mean_K).tolist() == [
        [0b1011, 0b10000010],
        [0, 0b10000000],
        [0b10, 0b10000000],
    ]


def test_the_projection_is_the_same_everywhere() -> None:
    expected = np.random.Generator(np.random.PCG64(seed=0)).standard_normal((7, 256), np.float32)
    np.testing.assert_array_equal(projection(7), expected)
    assert BITS == 256
    assert describe_contexts(7) == {"bits": 256, "seed": 0, "hidden_size": 7}


def test_sketches_are_signs_of_projections_less_their_mean() -> None:
    rng = np.random.default_rng(3)
    hidden_NH = (rng.standard_normal((40, 12)) + 5 * rng.standard_normal(12)).astype(np.float32)
    sequence_N, position_N = np.repeat([4, 9, 11], [10, 25, 5]), np.arange(40)
    matrix_HK = projection(12)
    made = Projections()
    for first, last in ((0, 10), (10, 40)):
        made.add(sequence_N[first:last], position_N[first:last], hidden_NH[first:last] @ matrix_HK)
    rows = made.rows(mean_projection([made.sums()]))
    exact_NH = hidden_NH.astype(np.float64) - hidden_NH.mean(axis=0, dtype=np.float64)
    bits_NK = np.unpackbits(rows["context"], axis=1, bitorder="little")
    value_NK = exact_NH @ matrix_HK
    np.testing.assert_array_equal(bits_NK, value_NK > 0, err_msg=str(np.abs(value_NK).min()))
    assert rows["sequence_id"].tolist() == sequence_N.tolist()
    assert rows["position"].tolist() == position_N.tolist()
    # What they are for: the angle between two vectors.
    unit_NH = exact_NH / np.linalg.norm(exact_NH, axis=1, keepdims=True)
    hamming_NN = (bits_NK[:, None] != bits_NK[None]).sum(axis=2)
    error_NN = np.cos(np.pi * hamming_NN / 256) - unit_NH @ unit_NH.T
    assert np.sqrt((error_NN**2).mean()) < 0.1


def test_projections_are_float32_whatever_is_in_force() -> None:
    hidden_BTH = torch.randn(3, 5000, 24, generator=torch.Generator().manual_seed(1))
    row, column = torch.arange(9000) % 3, torch.arange(9000) % 5000
    expected = hidden_BTH[row, column].double().numpy() @ projection(24).astype(np.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = project_hidden(hidden_BTH, (row, column))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)
    half = project_hidden(hidden_BTH.bfloat16(), (row, column))
    rounded = hidden_BTH.bfloat16()[row, column].double().numpy() @ projection(24)
    np.testing.assert_allclose(half, rounded, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
    st.integers(0, 1000),
)
def test_ranks_and_batches_change_no_bit(lengths: list[int], cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        (np.full(n, 3 * i), np.arange(n), rng.standard_normal((n, BITS)).astype(np.float32))
        for i, n in enumerate(lengths)
    ]
    alone = Projections()
    alone.add(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    bounds = [0, *sorted(min(cut, len(parts)) for cut in cuts), len(parts)]
    ranks = []
    for first, last in pairwise(bounds):
        rank = Projections()
        for part in parts[first:last]:
            rank.add(*part)
        ranks.append(rank)
    mean_K = mean_projection([rank.sums() for rank in ranks])
    np.testing.assert_array_equal(mean_K, mean_projection([alone.sums()]))
    rows = [rank.rows(mean_K) for rank in ranks]
    for name, values in alone.rows(mean_K).items():
        np.testing.assert_array_equal(np.concatenate([r[name] for r in rows]), values)


def test_sequences_that_have_a_sketch_count_in_the_mean_alone() -> None:
    rng = np.random.default_rng(0)
    projected_NK = rng.standard_normal((6, BITS)).astype(np.float32)
    made, all_of = Projections(known=[5]), Projections()
    for one in (made, all_of):
        one.add(np.array([5, 5, 7, 7, 7, 8]), np.array([0, 1, 0, 1, 2, 0]), projected_NK)
    mean_K = mean_projection([made.sums()])
    np.testing.assert_array_equal(mean_K, mean_projection([all_of.sums()]))
    rows = made.rows(mean_K)
    assert rows["sequence_id"].tolist() == [7, 7, 7, 8]
    np.testing.assert_array_equal(rows["context"], all_of.rows(mean_K)["context"][2:])
    assert Projections().rows(np.zeros(BITS))["context"].shape == (0, 32)


def test_what_is_no_number_is_refused() -> None:
    projected_NK = np.zeros((2, BITS), np.float32)
    projected_NK[1, 3] = np.nan
    with pytest.raises(ValueError, match="the teacher's hidden state is NaN or infinite"):
        Projections().add(np.array([0, 0]), np.array([0, 1]), projected_NK)


def test_needs_no_torch() -> None:
    code = "import sys, rocktok.hooks.contexts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
