"""Sums by token type whose bits do not depend on order or parts, against rational arithmetic."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocktok.stats import exact_types, fixed_point
from rocktok.stats.exact_types import ExactTypeSums, sums_compiled, sums_numpy

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
#: Most of hypothesis' floats are large; losses are not.
losses = st.one_of(floats, st.floats(-64, 64, width=32), st.floats(0, 2.0**-20, width=32))
rows_of = st.lists(st.tuples(st.integers(0, 6), losses, losses), max_size=60)
slow_ok = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def batch(rows: list[tuple[int, float, float]], dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {
        "token_id": np.array([r[0] for r in rows], dtype=np.int32),
        "x": np.array([r[1] for r in rows], dtype=dtype),
        "y": np.array([r[2] for r in rows], dtype=dtype),
    }


def summed(*parts: dict[str, np.ndarray], columns: tuple[str, ...] = ("x", "y"), **how: bool) -> (
    ExactTypeSums
):  # fmt: skip
    """Each part by itself, sent as workers send it, then merged."""
    whole = ExactTypeSums(columns, squares=True, **how)
    for part in parts:
        one = ExactTypeSums(columns, squares=True, **how)
        one.update(part)
        whole.merge(pickle.loads(pickle.dumps(one)))
    return whole


def bits(sums: ExactTypeSums) -> dict[str, bytes]:
    named = {**sums.sum_V, **{f"{name}²": sum_V for name, sum_V in sums.square_V.items()}}
    return {"": sums.count_V.tobytes(), **{name: sum_V.tobytes() for name, sum_V in named.items()}}


def rounded(x: float) -> Fraction:
    """To a multiple of 2⁻⁸⁰, a tie to the even one."""
    return Fraction(round(Fraction(x) * 2**80), 2**80)


@slow_ok
@given(rows=rows_of, seed=st.integers(0, 2**32 - 1), double=st.booleans())
def test_order_and_parts_do_not_matter(
    rows: list[tuple[int, float, float]], seed: int, double: bool
) -> None:
    rng = np.random.default_rng(seed)
    whole = batch(rows, np.float64 if double else np.float32)
    if double:
        whole["y"] = whole["y"] / 3
    alone = summed(whole)
    order = rng.permutation(len(rows))
    cuts = np.sort(rng.integers(0, len(rows) + 1, 3))
    parts = [{n: v[at] for n, v in whole.items()} for at in np.split(order, cuts)]
    assert bits(summed(*parts)) == bits(alone)
    assert bits(summed(*parts, compiled=True)) == bits(alone)

    for name in ("x", "y"):
        values = whole[name].astype(np.float64)
        for terms, found_V in ((values, alone.sum_V), (values * values, alone.square_V)):
            for v in range(len(alone.count_V)):
                exact = sum((rounded(x) for x in terms[whole["token_id"] == v]), Fraction(0))
                found = float(found_V[name][v])
                assert abs(Fraction(found) - exact) < Fraction(math.ulp(found))
    assert alone.count_V.tolist() == np.bincount(whole["token_id"]).tolist()


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("squares", [False, True])
@slow_ok
@given(rows=rows_of, double=st.booleans())
def test_the_loops_have_the_bits_of_their_twin(
    columns: int, squares: bool, rows: list[tuple[int, float, float]], double: bool
) -> None:
    whole = batch(rows, np.float64 if double else np.float32)
    values = [whole["x"], whole["y"] / 3][:columns]
    width = 1 + 3 * columns * (1 + squares)
    ours_VS, twin_VS = (np.zeros((7, width), dtype=np.int64) for _ in range(2))
    for _ in range(2):
        left = sums_compiled(whole["token_id"], values, ours_VS, squares=squares)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact_types, "_BLOCK", 7)
            twin = sums_numpy(whole["token_id"], values, twin_VS, squares=squares)
        np.testing.assert_array_equal(left, twin)
    np.testing.assert_array_equal(ours_VS, twin_VS)
    terms = np.array(values, dtype=np.float64)
    beyond_N = (np.maximum(terms**2, abs(terms)) if squares else abs(terms)) >= fixed_point.LIMIT
    assert left.tolist() == np.flatnonzero(beyond_N.any(axis=0)).tolist()


def test_a_table_that_does_not_fit_is_refused() -> None:
    token_N, x_N = np.zeros(3, dtype=np.int32), np.zeros(3, dtype=np.float32)
    for values, width in (([x_N] * 3, 10), ([x_N], 7), ([x_N, x_N], 4)):
        with pytest.raises(ValueError, match="one or two columns"):
            sums_compiled(token_N, values, np.zeros((3, width), dtype=np.int64))
    with pytest.raises(ValueError, match="differ in length"):
        sums_compiled(token_N, [x_N[1:]], np.zeros((3, 4), dtype=np.int64))


def test_by_hand() -> None:
    rows = [(0, 1.0, 0.1), (0, 2.0**-30, 0.1), (2, -1.0, 2.0**100), (2, 1.0, 2.0**-60)]
    sums = summed(batch(rows[:3], np.float64), batch(rows[3:], np.float64))
    assert sums.count_V.tolist() == [2, 0, 2]
    assert sums.sum_V["x"].tolist() == [1 + 2.0**-30, 0, 0]
    assert sums.sum_V["y"].tolist() == [0.2, 0, 2.0**100]
    assert sums.square_V["x"].tolist() == [1 + 2.0**-60, 0, 2]
    # A huge value takes nothing from other types, nor from what it is added to and taken from.
    rows += [(2, 0.0, -(2.0**100))]
    assert summed(batch(rows, np.float64)).sum_V["y"].tolist() == [0.2, 0, 2.0**-60]


def test_what_is_not_finite_is_refused() -> None:
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match="finite"):
            summed(batch([(0, 1.0, bad)]))


@pytest.mark.parametrize("x", [2.0**26.999, -(2.0**26.999), 2.0**-6, -(2.0**-44), 2.0**-80])
def test_no_word_overflows(x: float) -> None:
    """Partials are doubled up to as many rows as a type may have."""
    one = batch([(1, x, 0.0)], np.float64)
    sums = summed(one, columns=("x",)) if abs(x) < 2**13 else ExactTypeSums(("x",))
    if not sums.squares:
        sums.update(one)
    for doubling in range(31):
        sums.merge(pickle.loads(pickle.dumps(sums)))
        assert sums._loose <= fixed_point.LOOSE
        assert sums.count_V[1] == 2 ** (doubling + 1)
        assert sums.sum_V["x"][1] == x * 2.0 ** (doubling + 1)


def test_batches_may_be_longer_than_the_words_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = {
        "token_id": rng.integers(0, 5, 1000).astype(np.int32),
        "x": (10.0 ** rng.uniform(-20, 3, 1000)).astype(np.float32),
        "y": rng.standard_normal(1000).astype(np.float32),
    }
    alone = bits(summed(rows))
    monkeypatch.setattr(fixed_point, "LOOSE", 64)
    monkeypatch.setattr(exact_types, "_BLOCK", 2)
    assert bits(summed(rows)) == alone
    halves = [{n: v[half::2] for n, v in rows.items()} for half in range(2)]
    assert bits(summed(*halves, compiled=True)) == alone


def test_partials_are_sparse_and_columns_may_repeat() -> None:
    rows = batch([(150_000, 0.5, 0.25), (3, 2.0**60, 1.0)])
    sums = ExactTypeSums(("x", "y", "x"), squares=True)
    sums.update(rows)
    assert len(pickle.dumps(sums)) < 3_000
    again = pickle.loads(pickle.dumps(sums))
    assert again.count_V[[3, 150_000]].tolist() == [1, 1]
    assert again.sum_V["x"][[3, 150_000]].tolist() == [2.0**60, 0.5]
    assert again.square_V["y"][[3, 150_000]].tolist() == [1.0, 0.0625]
