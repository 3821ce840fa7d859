"""Quantities of the lenses, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rocktok.analyses.lenses.lens import BY_NAME
from rocktok.analyses.lenses.quantities import Correct, Rows, shuffled


def rows(lengths: list[int], cuts: dict[tuple[str, float], float] | None = None,
         correct: Correct | None = None, **columns: Any) -> Rows:  # fmt: skip
    """Rows of sequences 0, 1, … of these lengths, without gaps unless positions are given."""
    batch = {
        "sequence_id": np.repeat(np.arange(len(lengths)), lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        **{name: np.array(values, dtype=np.float32) for name, values in columns.items()},
    }
    batch["position"] = batch["position"].astype(np.int32)
    return Rows(batch, "", cuts, correct)


def test_soft_or_of_tip() -> None:
    """h and d are clipped at the 5% and 95% quantiles, which become 0 and 1."""
    cuts = {("student_entropy", 0.05): 1.0, ("student_entropy", 0.95): 3.0,
            ("loss", 0.05): 0.0, ("loss", 0.95): 2.0}  # fmt: skip
    made = rows([5], cuts, student_entropy=[0.5, 1, 2, 2, 9], loss=[0.0, 2, 0, 1, 0.5])
    # h = 0, 0, ½, ½, 1; d = 0, 1, 0, ½, ¼.
    np.testing.assert_array_equal(made.of("soft_or"), np.float32([0, 1, 0.5, 0.75, 1]))


def test_quadrants_of_tip() -> None:
    cuts = {("student_entropy", 0.5): 1.0, ("loss", 0.5): 0.2}
    made = rows([4], cuts, student_entropy=[1, 2, 0.9, 0.5], loss=[0.2, 0.1, 0.3, 0.1])
    lens = BY_NAME["tip"]
    named = [lens.classes[code] for code in lens.codes(made)]
    assert named == ["uncertain_diverging", "uncertain_agreeing", "sure_diverging",
                     "sure_agreeing"]  # fmt: skip


def test_a_scale_without_width() -> None:
    cuts = {(name, q): 1.0 for name in ("loss", "student_entropy") for q in (0.05, 0.95)}
    made = rows([3], cuts, student_entropy=[0, 1, 2], loss=[1, 1, 1])
    np.testing.assert_array_equal(made.of("soft_or"), np.float32([0, 0, 1]))


def test_weights_of_iw_opd() -> None:
    """|a| = 1, 2, 1 of the one sequence; none of the other; 0.5, 0, 0.5 of the third."""
    made = rows([3, 2, 3], teacher_logprob=[-1, -1, -1, -2, -3, -1, -1, -1],
                student_logprob=[-2, -3, 0, -2, -3, -1.5, -1, -0.5])  # fmt: skip
    np.testing.assert_array_equal(
        made.of("iw_weight"), np.float32([2, 1.75, 1.25, 2, 2, 2, 1.5, 1.5])
    )
    halves = BY_NAME["iw_opd"].codes(made)
    assert halves.tolist() == [0, 0, 1, 0, 0, 0, 1, 1]


def test_the_near_future() -> None:
    """a = log q − log p; the mean of those that follow within 16 positions."""
    made = rows([4, 2], teacher_logprob=[-1, -2, -3, -4, -5, -5], student_logprob=[0] * 6)
    expected = [3, 3.5, 4, 0, 5, 0]
    np.testing.assert_array_equal(made.of("future_gap"), np.float32(expected))
    ratio = rows([4, 2], log_ratio=[1, 2, 3, 4, 5, 5])
    np.testing.assert_array_equal(ratio.of("future_gap"), np.float32(expected))


def test_the_near_future_counts_positions() -> None:
    made = rows([4], log_ratio=[1, 2, 3, 4])
    made.batch["position"][:] = [0, 16, 17, 40]
    np.testing.assert_array_equal(made.of("future_gap"), np.float32([2, 3, 0, 0]))
    long = rows([30], log_ratio=np.arange(30))
    assert long.of("future_gap")[0] == np.float32(np.arange(1, 17).mean())
    assert long.of("future_gap")[20] == np.float32(np.arange(21, 30).mean())


def test_quarters_of_a_text() -> None:
    made = rows([8, 1, 3])
    lens = BY_NAME["position"]
    assert lens.codes(made).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 2]


def test_perplexities_of_rollouts() -> None:
    correct = Correct(np.array([0, 1, 3]), np.array([True, False, False]))
    cuts = {("incorrect_surprise", 0.5): 1.0, ("correct_surprise", 0.5): 2.0}
    made = rows([2, 2, 1, 1], cuts, correct, student_logprob=[-1, -3, -1, -1, -1, -1],
                teacher_logprob=[-9, -9, 0, -2, -1, -4])  # fmt: skip
    np.testing.assert_array_equal(made.of("correct_surprise"), np.float32([2]))
    np.testing.assert_array_equal(made.of("incorrect_surprise"), np.float32([1, 4]))
    lens = BY_NAME["scope"]
    named = [lens.classes[code] for code in lens.codes(made)]
    assert named == ["correct_student_unsure"] * 2 + ["incorrect_teacher_sure"] * 2 + [
        "unknown", "incorrect_teacher_unsure"]  # fmt: skip


def test_off_distribution_and_branches() -> None:
    cuts = {("teacher_entropy", 0.8): 2.0, ("teacher_logprob", 0.2): -3.0}
    made = rows([4], cuts, teacher_entropy=[2, 3, 1, 1], teacher_logprob=[-3, -1, -9, -1])
    assert BY_NAME["teacher"].codes(made).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("cut", range(1, 6))
def test_sums_do_not_depend_on_what_stands_beside(cut: int) -> None:
    """The same bits of a sequence, whatever other sequences its batch holds."""
    rng = np.random.default_rng(0)
    lengths = [3, 17, 40, 17, 1, 23]
    gaps = (10.0 ** rng.uniform(-9, 9, sum(lengths))).astype(np.float32)
    whole, at = rows(lengths, log_ratio=gaps), sum(lengths[:cut])
    parts = rows(lengths[:cut], log_ratio=gaps[:at]), rows(lengths[cut:], log_ratio=gaps[at:])
    for name in ("iw_weight", "future_gap"):
        joined = np.concatenate([part.of(name) for part in parts])
        np.testing.assert_array_equal(whole.of(name), joined)


@pytest.mark.parametrize("seed", [0, 7, -1])
def test_losses_are_dealt_out_alike_compiled_and_not(seed: int) -> None:
    """Of sequences of one row and of many, with gaps, and of no rows."""
    rng = np.random.default_rng(seed % 5)
    for lengths in ([], [1], [1, 300, 2, 0, 40, 1]):
        sizes = np.array(lengths, dtype=np.int64)
        batch = {
            "sequence_id": np.repeat(rng.integers(-9, 1 << 40, len(sizes)), sizes),
            "position": (3 * np.arange(sizes.sum())).astype(np.int32),
            "loss": rng.random(sizes.sum()).astype(np.float32),
            "loss_pre": rng.random(sizes.sum()).astype(np.float32),
        }
        compiled, plain = (shuffled(batch, seed, compiled=how) for how in (True, False))
        for name, values in plain.items():
            assert compiled[name].tolist() == values.tolist()
        assert sorted(plain["loss"].tolist()) == sorted(batch["loss"].tolist())
        assert len(sizes) < 2 or plain["loss"].tolist() != batch["loss"].tolist()
