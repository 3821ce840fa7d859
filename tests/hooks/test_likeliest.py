"""The likeliest tokens, ranks, agreement and end masses, and divergences at their limits.

Each test runs on the compiled loops and on PyTorch's operations; `test_fused.py` has the kernel's.

Shape suffixes: N positions, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rocktok.hooks.statistics import compiled, likeliest, token_statistics
from rocktok.schema import TOP_K
from tests.hooks.test_statistics import (
    ALTERNATIVES,
    INF,
    LARGE,
    assert_close,
    from_logits,
    largest,
    models,
    reference,
)

LOG2 = torch.tensor(math.log(2)).item()
few = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=["compiled", "operations"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who computes."""
    if request.param == "operations":
        monkeypatch.setattr(compiled, "usable", lambda *_: False)
    return str(request.param)


def in_order(values: list[float]) -> list[int]:
    """Ids from the largest value to the smallest, of equal ones the smaller id first."""
    return sorted(range(len(values)), key=lambda token: (-values[token], token))


LEVELS = [-INF, -1e30, -2.0, -0.0, 0.0, 1.0, 1.0078125, 3.0]


@st.composite
def tied(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of few levels; every row keeps one that is not excluded."""
    count, vocabulary = draw(st.integers(1, 3)), draw(st.integers(1, 300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = torch.tensor(draw(st.lists(st.sampled_from(LEVELS), min_size=1, max_size=8)))
    pair = []
    for _ in "pq":
        logits = levels[torch.randint(len(levels), (count, vocabulary), generator=generator)]
        logits[:, int(torch.randint(vocabulary, (1,), generator=generator))] = 2.0
        pair.append(logits)
    return pair[0], pair[1], torch.randint(vocabulary, (count,), generator=generator)


@few
@given(tied(), st.integers(1, 40))
def test_orders_are_those_of_a_sort(case: tuple[Tensor, Tensor, Tensor], count: int) -> None:
    student, teacher, tokens = case
    count = min(count, student.shape[1])
    k = min(TOP_K, student.shape[1])
    columns = ("overlap", "student_mass", "teacher_mass", "teachability", "teacher_rank")
    got = from_logits(student, teacher, tokens, columns=columns, alternatives=count)
    for n in range(len(tokens)):
        of_p, of_q = in_order(student[n].tolist()), in_order(teacher[n].tolist())
        assert got["student_ids"][n].tolist() == of_p[:count]
        assert got["teacher_ids"][n].tolist() == of_q[:count]
        assert got["teacher_rank"][n] == 1 + of_q.index(int(tokens[n]))
        p, q = student[n].double().softmax(0), teacher[n].double().softmax(0)
        both = sorted(set(of_p[:k]) & set(of_q[:k]))
        expected = len(both) / k, p[both].sum(), q[both].sum(), q[of_p[:k]].sum()
        for name, value in zip(columns, expected, strict=False):
            assert got[name][n].item() == pytest.approx(float(value), rel=1e-5), name
        for name, probs, best in (("student", p, of_p), ("teacher", q, of_q)):
            ours = got[f"{name}_probs"][n].double()
            torch.testing.assert_close(ours, probs[best[:count]], rtol=1e-5, atol=1e-30)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    count, vocabulary = draw(st.integers(1, 4)), draw(st.integers(2, 200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    student = torch.randn(count, vocabulary, generator=generator)
    student *= draw(st.sampled_from([0.1, 3.0, 40.0]))
    away = draw(st.sampled_from([1e-4, 0.1, 3.0, 100.0]))
    teacher = student + torch.randn(count, vocabulary, generator=generator) * away
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    tokens = torch.randint(vocabulary, (count,), generator=generator)
    return student.to(dtype), teacher.to(dtype), tokens


@few
@given(pairs())
def test_bounds_and_symmetry(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, tokens = case
    vocabulary = student.shape[1]
    options: dict[str, Any] = {"terminal_ids": range(vocabulary // 2), "alternatives": vocabulary}
    got = from_logits(student, teacher, tokens, **options)
    for name in ("overlap", "student_mass", "teacher_mass", "teachability"):
        assert (got[name] >= 0).all() and (got[name] <= 1).all(), name
    for name in ("student_end", "teacher_end"):
        assert (got[name] >= 0).all() and (got[name] <= 1).all(), name
    assert (got["jsd"] >= 0).all() and (got["jsd"] <= LOG2).all()
    assert (got["forward_kl"] >= 0).all()
    assert (got["teacher_rank"] >= 1).all() and (got["teacher_rank"] <= vocabulary).all()
    for name in ("student", "teacher"):
        probs = got[f"{name}_probs"]
        assert (probs.diff() <= 0).all() and (probs.sum(1) - 1).abs().max() < 1e-5
        assert (got[f"{name}_ids"].sort().values == torch.arange(vocabulary)).all()
    turned = from_logits(teacher, student, tokens, **options)
    for name, other in (
        ("overlap", "overlap"),
        ("jsd", "jsd"),
        ("forward_kl", "loss"),
        ("loss", "forward_kl"),
        ("student_mass", "teacher_mass"),
        ("student_ids", "teacher_ids"),
        ("student_end", "teacher_end"),
    ):
        torch.testing.assert_close(got[name], turned[other], rtol=2e-4, atol=2e-6, msg=name)


@few
@given(pairs())
def test_both_ways_give_the_same(way: str, case: tuple[Tensor, Tensor, Tensor]) -> None:
    if way == "operations":
        return  # the same comparison
    student, teacher, tokens = case
    options: dict[str, Any] = {"terminal_ids": (0, 1), "alternatives": 2}
    one = from_logits(student, teacher, tokens, **options)
    with patch.object(compiled, "usable", lambda *_: False):
        other = from_logits(student, teacher, tokens, **options)
    assert list(one) == list(other)
    # A difference is no more exact than what it is the difference of: two roundings each.
    ratio, turned = one.pop("log_ratio"), other.pop("log_ratio")
    size = torch.maximum(one["student_logprob"].abs(), one["teacher_logprob"].abs()).clamp_min(1)
    assert bool(((ratio - turned).abs() <= 4 * 2.0**-23 * size).all())
    assert_close(one, other, relative=1e-4, absolute=5e-6)


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 127, 128, 129, 1025])
def test_vocabularies_of_any_size(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    student, teacher = (torch.randn(3, vocabulary, generator=generator) * 2 for _ in "pq")
    tokens = torch.tensor([0, vocabulary - 1, vocabulary // 2])
    got = from_logits(student, teacher, tokens, alternatives=vocabulary)
    assert_close(got, reference(student, teacher, tokens))
    assert torch.equal(got["student_ids"].long(), largest(student, vocabulary))
    if vocabulary <= TOP_K:
        for name in ("overlap", "student_mass", "teacher_mass", "teachability"):
            assert got[name].tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_ties_of_a_large_vocabulary_in_bfloat16() -> None:
    generator = torch.Generator().manual_seed(3)
    student = (torch.randn(3, LARGE, generator=generator) * 2).bfloat16()
    teacher = (student + torch.randn(3, LARGE, generator=generator) * 0.1).bfloat16()
    teacher[1] = 0.0  # all alike
    teacher[2] = torch.arange(LARGE).div(2000, rounding_mode="floor").bfloat16()
    tokens = torch.tensor([77, 150_000, LARGE - 3])
    got = from_logits(student, teacher, tokens, alternatives=20)
    for name, logits in (("student", student), ("teacher", teacher)):
        assert torch.equal(got[f"{name}_ids"].long(), largest(logits, 20))
    assert got["teacher_ids"][1].tolist() == list(range(20))
    assert got["teacher_rank"][1] == 150_001
    top = 150_000 // 2000 * 2000
    assert got["teacher_ids"][2].tolist() == list(range(top, top + 20))
    assert got["teacher_rank"][2] == LARGE - 3 - top + 1


def test_orders_are_of_the_logits_at_the_temperature() -> None:
    """A soft cap makes ties that the raw logits do not have."""
    raw = torch.tensor([[400.0, 500.0, 1.0, 600.0]])
    got = from_logits(raw, raw, torch.tensor([3]), teacher_softcap=10.0, alternatives=3)
    assert got["student_ids"].tolist() == [[3, 1, 0]]
    assert got["teacher_ids"].tolist() == [[0, 1, 3]]
    assert got["teacher_rank"].tolist() == [3]
    got = from_logits(raw / 100, raw / 100, torch.tensor([3]), temperature=2.0, alternatives=1)
    p = (raw.double() / 200).softmax(1)[0, 3].item()
    assert got["student_probs"].item() == pytest.approx(p, rel=1e-6)


def test_end_masses() -> None:
    p, q = torch.tensor([[0.5, 0.2, 0.3]]), torch.tensor([[0.1, 0.6, 0.3]])
    token = torch.tensor([0])
    columns = ("student_end", "teacher_end")
    got = from_logits(p.log(), q.log(), token, columns=columns, terminal_ids=[2, 0, 2])
    assert list(got) == ["loss", *columns]
    assert got["student_end"].item() == pytest.approx(0.8, rel=1e-6)
    assert got["teacher_end"].item() == pytest.approx(0.4, rel=1e-6)


# ---------------------------------------------------------------------------- limits


def test_what_one_model_excludes() -> None:
    base = torch.tensor([0.3, -1.0, 2.0, 0.0])
    student, teacher = base.repeat(6, 1), base.flip(0).repeat(6, 1)
    student[1, 0] = -INF  # p = 0 where q > 0
    teacher[2, 0] = -INF  # q = 0 where p > 0
    student[3, 0] = teacher[3, 0] = -INF  # both
    student[4, :2], teacher[4, 2:] = -INF, -INF  # nothing in common
    student[5, 0], teacher[5, 0] = -300.0, 1.0  # p underflows, and is no 0
    got = from_logits(student, teacher, torch.zeros(6, dtype=torch.long))
    assert got["forward_kl"].isinf().tolist() == [False, True, False, False, True, False]
    assert got["loss"].isinf().tolist() == [False, False, True, False, True, False]
    p, q = student.double().softmax(-1), teacher.double().softmax(-1)
    mean = (p + q) / 2
    jsd = (torch.xlogy(p, p / mean).nan_to_num(0) + torch.xlogy(q, q / mean).nan_to_num(0)) / 2
    torch.testing.assert_close(got["jsd"].double(), jsd.sum(-1), rtol=1e-6, atol=0)
    assert LOG2 * (1 - 1e-6) < got["jsd"][4].item() <= LOG2
    forward = torch.xlogy(q, q / p).nan_to_num(0).sum(-1)
    for n in (0, 2, 3):
        assert got["forward_kl"][n].item() == pytest.approx(forward[n].item(), rel=1e-6)
    logp, logq = student[5].double().log_softmax(0), teacher[5].double().log_softmax(0)
    expected = (logq.exp() * (logq - logp)).sum().item()
    assert got["forward_kl"][5].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("low", [-1e4, -1e9, -1e30])
def test_what_one_model_masks_with_a_number(low: float) -> None:
    generator = torch.Generator().manual_seed(6)
    student, teacher = torch.randn(2, 2, 900, generator=generator)
    student[0, :300] = low
    teacher[1, :300] = low
    tokens = torch.tensor([500, 600])
    expected = reference(student, teacher, tokens)
    got = from_logits(student, teacher, tokens)
    for name in ("loss", "forward_kl", "jsd"):
        torch.testing.assert_close(got[name].double(), expected[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("vocabulary", [3, 5000])
@pytest.mark.parametrize("distance", [3e-3, 0.03, 0.3, 3.0])
def test_divergences_however_small(vocabulary: int, distance: float) -> None:
    """Divergences of 1e-6 nats, to parts of themselves."""
    generator = torch.Generator().manual_seed(7)
    student, noise = torch.randn(2, 6, vocabulary, generator=generator)
    student[3:, 1] = student.max() + 4
    teacher = student + distance * noise
    expected = reference(student, teacher, torch.zeros(6, dtype=torch.long))
    got = from_logits(student, teacher, torch.zeros(6, dtype=torch.long))
    for name in ("loss", "forward_kl", "jsd"):
        large = expected[name] > 1e-7
        assert large.any()
        error = (got[name].double() / expected[name] - 1).abs()[large].max()
        assert error < 1e-3, name


def test_nan_and_rows_without_a_distribution() -> None:
    student, teacher = torch.randn(2, 5, 60, generator=torch.Generator().manual_seed(8))
    student[1] = -INF
    teacher[2, 3] = INF
    student[3, 59], teacher[4, 0] = -math.nan, math.nan
    got = from_logits(student, teacher, torch.ones(5, dtype=torch.long), alternatives=3)
    for name in ("loss", "forward_kl", "jsd", "grad_norm", "overlap", "teachability"):
        assert got[name].isnan().tolist() == [False, True, True, True, True], name
    assert (got["teacher_rank"] == 0).tolist() == [False, False, True, False, True]
    for name in ALTERNATIVES[::2]:
        assert (got[name] >= 0).all() and (got[name] < 60).all()


# ---------------------------------------------------------------------------- arguments


def test_mask_heads_and_half_precision_with_alternatives() -> None:
    given_ = models(11, torch.bfloat16)
    tokens = torch.randint(97, (3, 5))
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(9)) < 0.6
    every = token_statistics(token_ids=tokens, **given_, alternatives=3)
    some = token_statistics(token_ids=tokens, **given_, alternatives=3, mask=mask)
    for name, values in some.items():
        assert torch.equal(values, every[name][mask.flatten()]), name
    assert some["student_ids"].dtype == torch.int32
    assert some["student_probs"].dtype == torch.float32


def test_errors_of_ends_and_alternatives() -> None:
    logits, tokens = torch.randn(4, 9), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="student_end needs terminal_ids"):
        from_logits(logits, logits, tokens, columns=["student_end"])
    for token in (-1, 9):
        with pytest.raises(ValueError, match=f"terminal id {token} is outside the vocabulary of 9"):
            from_logits(logits, logits, tokens, terminal_ids=[0, token])
    for count in (-1, 10):
        with pytest.raises(ValueError, match=f"alternatives is {count}"):
            from_logits(logits, logits, tokens, alternatives=count)


def test_chunk_maxima_lead_to_the_largest() -> None:
    """Ties across chunks, a short last chunk, and chunks of one column."""
    generator = torch.Generator().manual_seed(10)
    for width in (1, 4, 7, 64):
        logits = torch.randint(-3, 3, (5, 60), generator=generator).float()
        whole = [logits[:, start : start + width].amax(1) for start in range(0, 60, width)]
        got = likeliest.ids_within(logits, torch.stack(whole, 1), width, 9)
        assert torch.equal(got, largest(logits, 9))
