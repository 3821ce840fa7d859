"""What a teacher's likeliest tokens tell: a lower bound, by hand and at random."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.hooks.statistics import token_statistics
from rocktok.hooks.topk import TOPK_COLUMNS, topk_statistics


def test_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.2, 0.2, 0.1]]), [0.7, 0.1, 0.15, 0.05]
    ids = torch.tensor([[0, 2]])
    got = topk_statistics(
        student_logits=p.log(),
        teacher_ids=ids,
        teacher_logprobs=torch.tensor([[log(q[0]), log(q[2])]]),
        token_ids=torch.tensor([1]),
        columns=("student_logprob", "student_entropy"),
    )
    bound = 0.5 * log(0.5 / 0.7) + 0.2 * log(0.2 / 0.15) + 0.3 * log(0.3 / 0.15)
    assert got["loss"].item() == pytest.approx(bound, rel=1e-4)
    assert got["student_logprob"].item() == pytest.approx(log(0.2), rel=1e-6)
    entropy = -sum(each * log(each) for each in (0.5, 0.2, 0.2, 0.1))
    assert got["student_entropy"].item() == pytest.approx(entropy, rel=1e-6)


def logits(seed: int, rows: int, width: int, scale: float) -> Any:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(17, 60), st.floats(0.1, 12), st.data())
def test_never_above_the_reverse_kl_and_nearer_with_more_tokens(
    seed: int, width: int, scale: float, data: Any
) -> None:
    student, teacher = (logits(seed + i, 5, width, scale) for i in range(2))
    tokens = torch.arange(5) % width
    exact = token_statistics(token_ids=tokens, student_logits=student, teacher_logits=teacher)
    order = teacher.double().log_softmax(-1).sort(descending=True, stable=True)
    least = 0.0
    for k in sorted({data.draw(st.integers(1, width)), 16, width}):
        columns = TOPK_COLUMNS if k >= 16 else TOPK_COLUMNS[:2]
        got = topk_statistics(
            student_logits=student,
            teacher_ids=order.indices[:, :k],
            teacher_logprobs=order.values[:, :k].float(),
            token_ids=tokens,
            columns=columns,
        )
        slack = 1e-4 + 1e-4 * exact["loss"]
        assert (got["loss"] <= exact["loss"] + slack).all()
        assert (got["loss"] >= least - 1e-3 - 1e-3 * exact["loss"]).all()
        least = got["loss"]
        for name in columns:
            torch.testing.assert_close(got[name], exact[name], rtol=1e-4, atol=1e-4)


def test_all_tokens_give_the_reverse_kl_itself() -> None:
    student, teacher = (logits(i, 600, 30, 1.0) for i in range(2))
    got = topk_statistics(
        student_logits=student,
        teacher_ids=torch.arange(30).expand(600, 30),
        teacher_logprobs=teacher.log_softmax(-1),
    )
    log_p, log_q = student.double().log_softmax(-1), teacher.double().log_softmax(-1)
    exact = (log_p.exp() * (log_p - log_q)).sum(-1)
    np.testing.assert_allclose(got["loss"].numpy(), exact.numpy(), rtol=1e-4, atol=2e-6)


def test_what_was_filled_up_is_not_given() -> None:
    student, teacher = (logits(i, 3, 20, 1.0) for i in range(2))
    top = teacher.log_softmax(-1).topk(5)
    filled = [torch.cat([top.values, torch.full((3, 2), -torch.inf)], 1),
              torch.cat([top.indices, torch.zeros(3, 2, dtype=torch.long)], 1)]  # fmt: skip
    some = topk_statistics(
        student_logits=student, teacher_ids=top.indices, teacher_logprobs=top.values
    )
    same = topk_statistics(
        student_logits=student, teacher_ids=filled[1], teacher_logprobs=filled[0]
    )
    torch.testing.assert_close(some, same)


def test_ties_go_to_the_smaller_id() -> None:
    student = torch.zeros(1, 40)
    student[0, :16] = 1
    ids = torch.arange(39, -1, -1)[None]
    got = topk_statistics(
        student_logits=student,
        teacher_ids=ids,
        teacher_logprobs=torch.full((1, 40), -log(40)),
        columns=("overlap",),
    )
    assert got["overlap"].item() == 1


def test_no_position() -> None:
    got = topk_statistics(
        student_logits=torch.zeros(0, 4),
        teacher_ids=torch.zeros(0, 2, dtype=torch.long),
        teacher_logprobs=torch.zeros(0, 2),
    )
    assert got["loss"].shape == (0,)


def test_what_cannot_be_had_is_said() -> None:
    few: dict[str, Any] = {
        "student_logits": torch.zeros(1, 40),
        "teacher_ids": torch.zeros(1, 3, dtype=torch.long),
        "teacher_logprobs": torch.zeros(1, 3),
    }
    with pytest.raises(ValueError, match="need the teacher's 16 likeliest tokens; it gave 3"):
        topk_statistics(**few, columns=("overlap",))
    with pytest.raises(ValueError, match="needs token_ids"):
        topk_statistics(**few, columns=("student_logprob",))
