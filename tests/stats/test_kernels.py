"""Compiled sums and histograms against their plain twins, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocktok.stats import kernels
from rocktok.stats.quantiles import Histogram

floats = st.floats(width=32, allow_nan=False)
seeds = st.integers(0, 2**32 - 1)
slow_ok = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("double", [False, True])
@slow_ok
@given(rows=st.lists(st.tuples(st.integers(0, 6), floats, floats), max_size=60), cut=seeds)
def test_type_sums_have_the_bits_of_their_twin(
    columns: int, double: bool, rows: list[tuple[int, float, float]], cut: int
) -> None:
    token_N = np.array([r[0] for r in rows], dtype=np.int32)
    values = [np.array([r[1 + c] for r in rows], dtype=np.float32) for c in range(columns)]
    if double:
        values[-1] = values[-1].astype(np.float64) / 3
    ours_VS, twin_VS = (np.zeros((8, 1 + 2 * columns)) for _ in range(2))
    at = cut % (len(rows) + 1)
    with np.errstate(all="ignore"):
        for part in (slice(0, at), slice(at, None)):
            kernels.type_sums(token_N[part], [x[part] for x in values], ours_VS)
            kernels.type_sums_numpy(token_N[part], [x[part] for x in values], twin_VS)
        np.testing.assert_array_equal(ours_VS, twin_VS)
        for c, x_N in enumerate(values):
            x_N = x_N.astype(np.float64)
            sums = (np.bincount(token_N, w, minlength=8) for w in (None, x_N, x_N * x_N))
            for column, sum_V in zip((0, 1 + 2 * c, 2 + 2 * c), sums, strict=True):
                np.testing.assert_array_equal(ours_VS[:, column], sum_V)


def test_type_sums_take_read_only_and_strided_columns() -> None:
    token_N = np.arange(10, dtype=np.int64) % 3
    values = np.linspace(0, 1, 20, dtype=np.float32)[::2]
    values.flags.writeable = False
    table_VS = np.zeros((3, 3))
    kernels.type_sums(token_N, [values], table_VS)
    assert table_VS[:, 0].tolist() == [4, 3, 3]
    np.testing.assert_array_equal(table_VS[:, 1], np.bincount(token_N, values))
    np.testing.assert_array_equal(table_VS[:, 2], np.bincount(token_N, values.astype(float) ** 2))


def test_type_sums_refuse_what_does_not_fit() -> None:
    token_N, x_N = np.zeros(3, dtype=np.int32), np.zeros(3, dtype=np.float32)
    for values, columns in (([x_N] * 3, 7), ([x_N], 5), ([x_N, x_N], 3)):
        with pytest.raises(ValueError, match="one or two columns"):
            kernels.type_sums(token_N, values, np.zeros((3, columns)))
    with pytest.raises(ValueError, match="differ in length"):
        kernels.type_sums(token_N, [x_N[1:]], np.zeros((3, 3)))
    with pytest.raises(ValueError, match="bins"):
        kernels.histogram16(x_N, None, np.zeros(3, dtype=np.int64))


@slow_ok
@given(values=st.lists(st.floats(width=32), max_size=60), at=seeds)
def test_histogram16_is_the_accumulator(values: list[float], at: int) -> None:
    column = np.array([*values, -0.0, 0.0], dtype=np.float32)
    upper = Histogram("x")
    upper.update({"x": column})
    prefixes = np.flatnonzero(upper.count_B)
    for prefix in (None, int(prefixes[at % len(prefixes)]), 0x1234):
        twin = Histogram("x", prefix)
        ours_B = np.zeros(1 << 16, dtype=np.int64)
        for _ in range(2):
            twin.update({"x": column})
            kernels.histogram16(column, prefix, ours_B)
        np.testing.assert_array_equal(ours_B, twin.count_B)


@slow_ok
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=60),
    types=st.sets(st.integers(0, 7), max_size=5),
)
def test_first_in_runs_are_those_of_a_walk(rows: list[tuple[int, int]], types: set[int]) -> None:
    token_N = np.array([v for v, _ in rows], dtype=np.int32)
    prompt_N = np.array([g for _, g in rows], dtype=np.uint64) + np.uint64(2**63)
    table_V = np.full(9, len(types), dtype=np.int32)
    table_V[sorted(types)] = np.arange(len(types))
    expected, seen = [], set()
    for i, (v, g) in enumerate(rows):
        if i and g != rows[i - 1][1]:
            seen = set()
        if v in types - seen:
            expected.append(i)
            seen.add(v)
    for function in (kernels.first_in_runs, kernels.first_in_runs_numpy):
        assert function(table_V, token_N, prompt_N, len(types)).tolist() == expected
