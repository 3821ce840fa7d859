"""Where runs of equal neighbours begin."""

from __future__ import annotations

import numpy as np
import pytest

from rocktok.runs import remember, run_starts


def test_the_starts_of_runs() -> None:
    assert run_starts(np.array([4, 4, 7, 4, 4, 4])).tolist() == [0, 2, 3]
    assert run_starts(np.array([4])).tolist() == [0]
    assert run_starts(np.zeros(0)).tolist() == []


def test_they_are_found_once_for_a_column_and_anew_for_an_equal_one() -> None:
    one = np.array([1, 1, 2])
    starts = run_starts(one)
    assert run_starts(one) is starts
    assert run_starts(one.copy()) is not starts
    assert run_starts(one) is not starts  # only those of the last one are remembered
    with pytest.raises(ValueError, match="read-only"):
        starts[0] = 1


def test_what_is_known_is_taken() -> None:
    column = np.array([1, 1, 2])
    remember(column, np.array([0, 2]))
    assert run_starts(column).tolist() == [0, 2]
    del column
    assert run_starts(np.array([3, 4])).tolist() == [0, 1]
