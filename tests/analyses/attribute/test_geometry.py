"""Gradient geometry: by hand, against brute force over occurrences, and what sketches may say.

Shape suffixes: N occurrences, W width, H halves, T types.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rocktok.analyses.attribute.geometry import MEASURES, T_QUANTILE, Geometry, geometry
from rocktok.errors import UsageError
from rocktok.hashing import SKETCH_TABLES, sketch

Array = Any


def sums(
    gradient_NW: Array, token_N: Array, half_N: Array, types: Array | None = None
) -> dict[str, Any]:
    """The arguments of `geometry`, summed occurrence by occurrence."""
    token_T = np.unique(token_N) if types is None else np.asarray(types)
    n_N = np.array([(token_N == token).sum() for token in token_N])
    norm_N = np.linalg.norm(gradient_NW, axis=1)

    def per_type(values_N: Array) -> Array:
        chosen = [[(half_N == half) & (token_N == t) for t in token_T] for half in (0, 1)]
        found = [[values_N[at].sum(axis=0) for at in row] for row in chosen]
        return np.array(found).reshape(2, len(token_T), *values_N.shape[1:])

    def per_half(values_N: Array) -> Array:
        return np.array([values_N[half_N == half].sum(axis=0) for half in (0, 1)])

    return {
        "token_T": token_T,
        "count_HT": per_type(np.ones(len(token_N), int)),
        "norm_HT": per_type(norm_N),
        "square_HT": per_type(norm_N**2),
        "vector_HTW": per_type(gradient_NW),
        "count_H": per_half(np.ones(len(token_N), int)),
        "global_HW": per_half(gradient_NW),
        "balanced_HW": per_half(gradient_NW / n_N[:, None]),
    }


def sketched(arguments: dict[str, Any], dims: int, seed: int) -> Geometry:
    """Geometry of the sketches of these sums."""
    vectors = {
        name: sketch(arguments[name].reshape(-1, arguments[name].shape[-1]), dims, seed)
        for name in ("vector_HTW", "global_HW", "balanced_HW")
    }
    shaped = {n: v.reshape(*arguments[n].shape[:-1], dims) for n, v in vectors.items()}
    return geometry(**{**arguments, **shaped}, sketch_dims=dims)


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


# --- by hand -----------------------------------------------------------------------------------


def test_a_case_by_hand() -> None:
    # Type 1: (3, 0) and (0, 4) in half 0, (3, 4) in half 1. Type 2: (1, 0) in each half.
    gradient = np.array([[3.0, 0], [0, 4], [3, 4], [1, 0], [1, 0]])
    got = geometry(**sums(gradient, np.array([1, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 1])))
    # Σg of type 1 is (6, 8), ḡ = (2, 8/3); of type 2 (2, 0), ḡ = (1, 0).
    assert got.frequency_T.tolist() == [3, 2]
    assert got.half_frequency_HT.tolist() == [[2, 1], [1, 1]]
    np.testing.assert_allclose(got.mean_norm, [10 / 3, 1])
    # G_balanced = (3, 8/3), G_global = (8, 8).
    balanced = math.sqrt(9 + 64 / 9)
    cosines = [(0.6 * 3 + 0.8 * 8 / 3) / balanced, 3 / balanced]
    np.testing.assert_allclose(got.cos_balanced, cosines)
    np.testing.assert_allclose(got.cos_global, [1.4 / math.sqrt(2), 1 / math.sqrt(2)])
    np.testing.assert_allclose(got.contribution, [10 * cosines[0], 2 * cosines[1]])
    # ‖Σg‖² = 100, Σ‖g‖² = 9 + 16 + 25, Σ‖g‖ = 12.
    np.testing.assert_allclose(got.squared_mean, [50 / 6, 1])
    np.testing.assert_allclose(got.coherence, [50 / 94, 1])
    # Without type 1 only type 2 is left, (1, 0), in either half; type 1 is (3, 4) in both.
    # Without type 2 type 1 is left: (3, 4).
    np.testing.assert_allclose(got.split_cos_global, [0.6, 0.6])
    np.testing.assert_allclose(got.split_cos_balanced, [0.6, 0.6])
    assert got.exact and got.standard_error("cos_global").tolist() == [0, 0]


def test_opposite_occurrences_have_a_negative_square() -> None:
    gradient = np.array([[1.0, 0], [-1, 0], [0, 1], [0, 1]])
    got = geometry(**sums(gradient, np.array([1, 1, 2, 2]), np.array([0, 1, 0, 1])))
    # ‖Σg‖² = 0 is below what two unit vectors have by chance.
    assert got.squared_mean.tolist() == [-1, 1]
    assert got.coherence.tolist() == [-1, 1]
    assert got.mean_norm.tolist() == [0, 1]
    assert math.isnan(got.cos_global[0]) and got.cos_global[1] == 1


def test_what_cannot_be_is_null() -> None:
    # Type 1 once; type 2 in half 0 only; type 3 in both, without a gradient.
    gradient = np.array([[1.0, 2], [3, 1], [1, 1], [0, 0], [0, 0], [2, 2]])
    tokens, halves = np.array([1, 2, 2, 3, 3, 4]), np.array([0, 0, 0, 0, 1, 1])
    rows = {row["token_id"]: row for row in geometry(**sums(gradient, tokens, halves)).rows()}
    assert rows[1]["squared_mean"] is None and rows[1]["coherence"] is None
    assert rows[1]["mean_norm"] == pytest.approx(math.sqrt(5))
    assert rows[2]["split_cos_global"] is None and rows[2]["split_cos_balanced"] is None
    assert rows[2]["coherence"] == pytest.approx(4 / math.sqrt(20))
    assert rows[3]["squared_mean"] == 0 and rows[3]["mean_norm"] == 0
    for name in ("cos_balanced", "cos_global", "contribution", "coherence", "split_cos_global"):
        assert rows[3][name] is None, name
    assert list(rows[1]) == ["token_id", "frequency", *MEASURES]


def test_a_type_that_has_a_half_to_itself_has_no_split_cosine() -> None:
    gradient = np.random.default_rng(0).normal(size=(6, 4))
    tokens, halves = np.array([1, 1, 2, 2, 1, 1]), np.array([0, 0, 0, 0, 1, 1])
    got = geometry(**sums(gradient, tokens, halves))
    # In half 1 nothing is left without type 1; type 2 is not there.
    assert np.isnan(got.split_cos_global).all() and np.isnan(got.split_cos_balanced).all()


def test_one_occurrence_that_outweighs_all_has_no_coherence() -> None:
    gradient = np.array([[1.0, 0], [1e-14, 0], [1, 1]])
    got = geometry(**sums(gradient, np.array([1, 1, 2]), np.array([0, 1, 1])))
    assert np.isnan(got.coherence).all()


def test_no_types_at_all() -> None:
    gradient = np.ones((2, 3))
    got = geometry(**sums(gradient, np.array([1, 1]), np.array([0, 1]), types=np.zeros(0, int)))
    assert got.rows() == []


# --- brute force -------------------------------------------------------------------------------


def brute(gradient_NW: Array, token_N: Array, half_N: Array, token: int) -> dict[str, float]:
    """Every measure of one type from its definition, over occurrences and pairs of them."""
    mine = np.flatnonzero(token_N == token)
    others = token_N != token
    n = len(mine)
    mean = gradient_NW[mine].mean(axis=0)
    means = {t: gradient_NW[token_N == t].mean(axis=0) for t in np.unique(token_N)}
    balanced = sum(means.values())
    pairs = [(i, j) for i in mine for j in mine if i != j]
    norm_N = np.linalg.norm(gradient_NW, axis=1)
    dots = sum(gradient_NW[i] @ gradient_NW[j] for i, j in pairs)
    found = {
        "mean_norm": float(np.linalg.norm(mean)),
        "cos_balanced": cosine(mean, balanced),
        "cos_global": cosine(mean, gradient_NW.sum(axis=0)),
        "contribution": n * float(np.linalg.norm(mean)) * cosine(mean, balanced),
        "squared_mean": dots / len(pairs) if pairs else math.nan,
        "coherence": dots / sum(norm_N[i] * norm_N[j] for i, j in pairs) if pairs else math.nan,
    }
    n_N = np.array([(token_N == t).sum() for t in token_N])
    for name, weight_N in (("global", np.ones(len(token_N))), ("balanced", 1 / n_N)):
        ways = []
        for here, there in ((0, 1), (1, 0)):
            own = (half_N == here) & ~others
            rest = (half_N == there) & others
            if not own.any() or not rest.any() or not ((half_N == there) & ~others).any():
                ways.append(math.nan)
                continue
            total = (gradient_NW * weight_N[:, None])[rest].sum(axis=0)
            ways.append(cosine(gradient_NW[own].sum(axis=0), total))
        found[f"split_cos_{name}"] = sum(ways) / 2
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    count, width = draw(st.integers(1, 25)), draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    token_N = rng.integers(0, draw(st.integers(1, 6)), count)
    shift = rng.normal(size=width) * draw(st.sampled_from([0.0, 1.0, 10.0]))
    return rng.normal(size=(count, width)) + shift, token_N, rng.integers(0, 2, count)


few = settings(max_examples=80, deadline=None)


@few
@given(cases())
def test_against_brute_force(case: tuple[Array, Array, Array]) -> None:
    got = geometry(**sums(*case))
    for at, token in enumerate(got.token_T.tolist()):
        for name, value in brute(*case, token).items():
            np.testing.assert_allclose(
                getattr(got, name)[at], value, rtol=1e-7, atol=1e-8, err_msg=name
            )


@few
@given(cases(), st.integers(0, 2**32))
def test_order_of_occurrences_and_of_coordinates_does_not_matter(
    case: tuple[Array, Array, Array], seed: int
) -> None:
    gradient_NW, token_N, half_N = case
    rng = np.random.default_rng(seed)
    order, columns = rng.permutation(len(token_N)), rng.permutation(gradient_NW.shape[1])
    one = geometry(**sums(*case))
    other = geometry(**sums(gradient_NW[order][:, columns], token_N[order], half_N[order]))
    for name in MEASURES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-8)


@few
@given(cases(), st.integers(1, 24))
def test_sums_of_two_parts_are_those_of_the_whole(
    case: tuple[Array, Array, Array], cut: int
) -> None:
    """What ranks add up to: G_balanced needs the counts of the whole."""
    gradient_NW, token_N, half_N = case
    types = np.unique(token_N)
    whole = sums(*case)
    parts = [sums(*(v[part] for v in case), types=types) for part in (slice(cut), slice(cut, None))]
    merged = {name: parts[0][name] + parts[1][name] for name in whole if name != "token_T"}
    n_N = np.array([(token_N == token).sum() for token in token_N])
    merged["balanced_HW"] = np.array(
        [(gradient_NW / n_N[:, None])[half_N == half].sum(axis=0) for half in (0, 1)]
    )
    one, other = geometry(**whole), geometry(token_T=types, **merged)
    for name in MEASURES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-8)


@few
@given(cases(), st.floats(1e-3, 1e3))
def test_scale_changes_lengths_and_no_angle(case: tuple[Array, Array, Array], by: float) -> None:
    one = geometry(**sums(*case))
    other = geometry(**sums(case[0] * by, *case[1:]))
    for name in MEASURES:
        power = {"mean_norm": 1, "contribution": 1, "squared_mean": 2}.get(name, 0)
        expected = getattr(one, name) * by**power
        scale = 1e-8 * by**power
        np.testing.assert_allclose(getattr(other, name), expected, rtol=1e-6, atol=scale)


@few
@given(cases())
def test_bounds(case: tuple[Array, Array, Array]) -> None:
    got = geometry(**sums(*case))
    for name in ("cos_balanced", "cos_global", "split_cos_balanced", "split_cos_global"):
        values = getattr(got, name)
        assert (np.abs(values[~np.isnan(values)]) <= 1).all()
    known = ~np.isnan(got.coherence)
    assert (got.coherence[known] <= 1 + 1e-9).all()


def test_the_square_of_the_mean_is_unbiased_where_its_norm_is_not() -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal(size=20) * 0.2
    squares, norms = [], []
    for _ in range(600):
        gradient = mean + rng.normal(size=(15, 20))
        got = geometry(**sums(gradient, np.repeat([1, 2, 3], 5), np.tile([0, 1, 0, 1, 1], 3)))
        squares += got.squared_mean.tolist()
        norms += got.mean_norm.tolist()
    error = np.std(squares) / math.sqrt(len(squares))
    assert abs(np.mean(squares) - mean @ mean) < 4 * error
    assert np.mean(np.square(norms)) > 3 * (mean @ mean)


# --- sketches ----------------------------------------------------------------------------------

FAMILIES = ("dense", "peaked", "few", "spiked")


def occurrences(family: str, vocabulary: int, seed: int) -> tuple[Array, Array, Array]:
    """Gradients of four types: like each other or not, spread out or on a handful of tokens."""
    rng = np.random.default_rng(seed)
    token_N = np.repeat(np.arange(4), (3, 6, 12, 24))
    half_N = np.tile([0, 1, 1], 15)
    shape = len(token_N), vocabulary
    if family == "dense":
        gradient = rng.normal(size=shape) + 0.4 * rng.normal(size=vocabulary)
    elif family == "peaked":
        weight = 1 / np.arange(1, vocabulary + 1) ** 1.2
        gradient = np.array([rng.permutation(weight) for _ in token_N])
        gradient = gradient * rng.choice([-1, 1], shape) + rng.permutation(weight)
    elif family == "few":
        gradient = np.zeros(shape)
        for row, token in enumerate(token_N):
            gradient[row, rng.choice(60, 12)] = rng.normal(size=12)
            gradient[row, token] += 1
    else:
        gradient = rng.normal(size=shape) * 0.01
        gradient[np.arange(len(token_N)), token_N] += 1
    return gradient, token_N, half_N


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dims", [256, pytest.param(1024, marks=pytest.mark.long)])
def test_the_bound_covers(family: str, dims: int) -> None:
    """95% is claimed; over 150 seeds × 4 types (errors of types of one seed are correlated)."""
    arguments = sums(*occurrences(family, 3000, seed=1))
    exact = geometry(**arguments)
    seeds = 150
    covered = dict.fromkeys(MEASURES, 0)
    for seed in range(seeds):
        got = sketched(arguments, dims, seed)
        for name in MEASURES:
            error = np.abs(getattr(got, name) - getattr(exact, name))
            slack = 1e-9 * np.maximum(1, np.abs(getattr(exact, name)))
            covered[name] += int((error <= got.bound(name) + slack).sum())
    # Four standard deviations of a binomial with a quarter of the draws independent.
    least = 0.95 - 4 * math.sqrt(0.05 * 0.95 / seeds)
    shares = {name: count / (4 * seeds) for name, count in covered.items()}
    assert min(shares.values()) > least, shares
    assert np.mean(list(shares.values())) > 0.92, shares


@pytest.mark.exhaustive
@pytest.mark.long
def test_errors_shrink_with_the_width_and_are_as_large_as_said() -> None:
    """A cosine of two unrelated vectors: standard deviation 1/√dims, 0.0156 at 4,096."""
    # One type is nearly all of the total, eight others are nothing beside it.
    gradient = np.random.default_rng(2).normal(size=(9, 20_000))
    gradient[0] *= 100
    arguments = sums(gradient, np.arange(9), np.arange(9) % 2)
    exact = geometry(**arguments)
    for dims in (256, 1024, 4096):
        found = [sketched(arguments, dims, seed) for seed in range(16)]
        errors = np.stack([g.cos_global - exact.cos_global for g in found])[:, 1:]
        claimed = np.stack([g.standard_error("cos_global") for g in found])[:, 1:]
        # 128 draws: the deviation is known to 6%.
        assert np.sqrt((errors**2).mean()) == pytest.approx(1 / math.sqrt(dims), rel=0.25)
        assert np.sqrt((claimed**2).mean()) == pytest.approx(1 / math.sqrt(dims), rel=0.15)


def test_a_sketch_without_collisions_is_exact() -> None:
    gradient_NW, token_N, half_N = occurrences("few", 3000, seed=3)
    gradient_NW[:, 1:] = 0
    got = sketched(sums(gradient_NW, token_N, half_N), 256, 0)
    exact = geometry(**sums(gradient_NW, token_N, half_N))
    np.testing.assert_allclose(got.mean_norm, exact.mean_norm)
    assert np.nanmax(got.bound("mean_norm")) < 1e-12


def test_the_quantile_is_students() -> None:
    assert pytest.approx(stats.t.ppf(0.975, SKETCH_TABLES - 1), abs=1e-6) == T_QUANTILE


# --- comparisons -------------------------------------------------------------------------------


def test_exact_differences_are_told() -> None:
    arguments = sums(*occurrences("dense", 300, seed=4))
    got = geometry(**arguments)
    found = got.difference("cos_global", [3], [0])
    assert found.value == got.cos_global[3] - got.cos_global[0]
    assert (found.bound, found.reason) == (0.0, None)
    means = got.difference("cos_balanced", [0, 1], [2, 3])
    assert means.value == pytest.approx(
        got.cos_balanced[:2].mean() - got.cos_balanced[2:].mean(), rel=1e-12
    )


def test_differences_below_the_bound_are_refused() -> None:
    # Types 1 and 2 have the same direction; type 3 another.
    rng = np.random.default_rng(5)
    direction, other = rng.normal(size=(2, 3000))
    gradient = np.concatenate([direction + rng.normal(size=(8, 3000)) * 0.5,
                               other * 0.3 + rng.normal(size=(4, 3000)) * 0.1])  # fmt: skip
    tokens = np.repeat([1, 2, 3], 4)
    arguments = sums(gradient, tokens, np.tile([0, 1], 6))
    exact = geometry(**arguments)
    assert abs(exact.cos_global[0] - exact.cos_global[1]) < 0.01
    got = sketched(arguments, 256, seed=0)
    refused = got.difference("cos_global", [1], [2])
    assert refused.value is None and refused.bound is not None
    assert refused.reason is not None
    assert refused.reason.startswith("not distinguishable: cos_global differs by 0.0")
    assert "the error bound of the sketch of 256 dimensions is 0.0" in refused.reason
    assert "record exact vectors of these types (gradient_types), or a wider sketch" in (
        refused.reason
    )
    told = got.difference("cos_global", [1], [3])
    true = exact.cos_global[0] - exact.cos_global[2]
    assert told.value is not None and told.bound is not None and told.reason is None
    assert abs(told.value - true) < told.bound < told.value


def test_refusals_hold_where_nothing_differs() -> None:
    """Two types of one direction: at most about 5% of sketches may tell them apart."""
    rng = np.random.default_rng(6)
    direction = rng.normal(size=2000)
    half = rng.normal(size=(6, 2000))
    # The second type is the mirror image of the first around their direction: equal cosines.
    half -= np.outer(half @ direction, direction) / (direction @ direction)
    gradient = np.concatenate([direction + half, direction - half, [direction] * 2])
    tokens = np.repeat([1, 2, 3], (6, 6, 2))
    arguments = sums(gradient, tokens, np.tile([0, 1], 7))
    exact = geometry(**arguments)
    assert exact.difference("cos_global", [1], [2]).value == pytest.approx(0, abs=1e-12)
    told = sum(
        sketched(arguments, 256, seed).difference("cos_global", [1], [2]).value is not None
        for seed in range(200)
    )
    assert told / 200 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)


def test_comparisons_that_cannot_be() -> None:
    gradient = np.array([[1.0, 2], [3, 1], [1, 1], [2, 0]])
    got = geometry(**sums(gradient, np.array([1, 2, 2, 1]), np.array([0, 0, 0, 1])))
    nothing = got.difference("split_cos_global", [2], [1])
    assert nothing.value is None and nothing.bound is None
    assert nothing.reason == "split_cos_global is null for all types of the first group"
    with pytest.raises(UsageError, match="type 9 has no gradient sums at this step"):
        got.difference("cos_global", [1], [2, 9])
    with pytest.raises(UsageError, match="no measure 'cos'; choose from mean_norm, cos_balanced"):
        got.difference("cos", [1], [2])


def test_rows_of_a_sketch_have_bounds() -> None:
    got = sketched(sums(*occurrences("dense", 900, seed=7)), 256, seed=0)
    row = got.rows()[0]
    assert list(row) == ["token_id", "frequency", *MEASURES, *(f"{m}_bound" for m in MEASURES)]
    assert row["cos_global_bound"] > 0 and not got.exact
