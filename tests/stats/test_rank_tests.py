"""Mann-Whitney's and Wilcoxon's tests against SciPy's, and cases by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, wilcoxon

from rocktok.stats.rank_tests import FEW, mann_whitney_p, wilcoxon_p

#: On a loaded machine drawing takes long, too.
SLOW = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
GROUPS = st.lists(st.integers(-9, 9), min_size=1, max_size=30)


@SLOW
@given(GROUPS, GROUPS)
def test_with_ties_it_is_scipys(first: list[int], second: list[int]) -> None:
    x, y = np.array(first, float), np.array(second, float)
    assert mann_whitney_p(x, y) == pytest.approx(mannwhitneyu(x, y).pvalue, rel=1e-12)


@SLOW
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_without_ties_it_is_scipys(first: int, second: int, seed: int) -> None:
    x, y = np.split(np.random.default_rng(seed).normal(size=first + second), [first])
    assert mann_whitney_p(x, y) == pytest.approx(mannwhitneyu(x, y).pvalue, rel=1e-12)


def test_by_hand() -> None:
    """Nine values each, all of the first above: U = 81, z = (81 − 40.5 − 0.5)/√(81·19/12)."""
    x = np.arange(9.0)
    assert mann_whitney_p(x + 9, x) == pytest.approx(2 * 0.00020627, rel=1e-3)
    assert mann_whitney_p(x, x + 9) == mann_whitney_p(x + 9, x)


def test_of_equal_values_nothing_is_known() -> None:
    assert mann_whitney_p(np.ones(4), np.ones(20)) == 1.0
    assert np.isnan(mann_whitney_p(np.array([1.0, np.nan]), np.ones(3)))
    with pytest.raises(ValueError, match="a value in each group"):
        mann_whitney_p(np.zeros(0), np.ones(3))


@SLOW
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=80).filter(any))
def test_of_pairs_with_ties_it_is_scipys(apart: list[int]) -> None:
    values = np.array(apart, float)
    assert wilcoxon_p(values) == wilcoxon(values).pvalue


@SLOW
@given(st.integers(1, 90), st.floats(-1, 1), st.integers(0, 99))
def test_of_pairs_without_ties_it_is_scipys(pairs: int, shift: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(shift, size=pairs)
    assert wilcoxon_p(values) == wilcoxon(values).pvalue


def test_pairs_by_hand() -> None:
    """Of 3 differences all above 0: one of the 2³ signs is as extreme, twice."""
    assert wilcoxon_p(np.array([1.0, 2, 3])) == 2 / 8
    assert wilcoxon_p(np.array([-1.0, 2, 3])) == 4 / 8
    with pytest.raises(ValueError, match="a difference that is not 0"):
        wilcoxon_p(np.zeros(3))


def test_larger_groups_do_not_load_scipy_stats() -> None:
    code = (
        "import sys, numpy as np\n"
        "from rocktok.stats.rank_tests import mann_whitney_p, wilcoxon_p\n"
        f"mann_whitney_p(np.arange({FEW + 1}.0), np.arange({FEW + 1}.0))\n"
        "wilcoxon_p(np.arange(20.0)), wilcoxon_p(np.arange(1, 9.0))\n"
        "print('scipy.stats' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
