"""PyTorch's own operations, which devices without a kernel get, in the place of compiled loops.

What holds of the compiled loops must hold of them: tests of `test_statistics.py`, again.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from rocktok.hooks.statistics import compiled
from tests.hooks.test_statistics import (  # noqa: F401
    test_a_case_by_hand,
    test_a_constant_added_to_logits_changes_nothing,
    test_an_all_but_certain_student_over_a_long_tail,
    test_an_underflowing_student_probability_is_not_zero,
    test_both_ways_agree,
    test_bounds,
    test_columns_are_those_asked_for,
    test_equal_models_lose_nothing,
    test_extra_memory_is_under_two_tiles,
    test_float64_and_half_inputs_give_float32,
    test_gradient_norms_are_autograds,
    test_inputs_and_settings_stay_as_they_are,
    test_logits_of_80_stay_finite,
    test_losses_from_tiny_to_large,
    test_mask_picks_positions_in_row_major_order,
    test_minus_infinity,
    test_nan_stays_in_its_row,
    test_nothing_scored_gives_empty_columns,
    test_temperature_scale_and_cap_by_hand,
    test_threads_do_not_change_a_bit,
    test_tokens_that_both_models_mask_count_for_nothing,
)


@pytest.fixture(autouse=True)
def _no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("computed by the compiled loops")

    monkeypatch.setattr(compiled, "usable", lambda *_: False)
    monkeypatch.setattr(compiled, "statistics", refuse)
