"""The statistics of a block of rows by PyTorch's own operations, on any device.

Shape suffixes: N rows of a block (scored positions), V vocabulary, M terminal ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rocktok.hooks.statistics import likeliest, tiles

# Buffers (N, V) that `statistics` is given.
COPIES = 3


@torch.no_grad()  # again, because it holds per thread
def statistics(
    block: tiles.Block,
    student_NV: Tensor,
    teacher_NV: Tensor,
    token_N: Tensor,
    space: Tensor,
    take: Callable[[Tensor], None] | None,
    excluded: bool = False,
) -> dict[str, Tensor]:
    """Columns of (N,) from raw logits (N, V), which may lie in the first two buffers.

    `take` is given the gradients (N, V), in a buffer that is used again; rows whose loss is not
    finite are 0. Where the teacher gives -inf, a row's loss comes out inf or NaN. To say inf only
    where the loss is infinite takes more time and memory: with `excluded` it is done.
    """
    result: dict[str, Tensor] = {}
    with_gradient = "grad_norm" in block.columns
    slope = block.student.slope(student_NV, block.temperature) if with_gradient else 1.0
    student_NV = block.student.final_logits(student_NV, block.temperature, space[0])
    teacher_NV = block.teacher.final_logits(teacher_NV, block.temperature, space[1])
    # Orders are of the logits as they are: counting them from the largest makes new ties.
    if block.top:
        student_ids_NK = likeliest.ids(student_NV, block.top)
        teacher_ids_NK = likeliest.ids(teacher_NV, block.top)
    if "teacher_rank" in block.columns:
        result["teacher_rank"] = likeliest.ranks(teacher_NV, token_N)
    if excluded:
        student_NV, teacher_NV, infinite_N = _without_excluded(student_NV, teacher_NV)
    # Logits from here on count from their row's largest: exp() of one is at most 1.
    teacher_NV = torch.sub(teacher_NV, teacher_NV.amax(-1, keepdim=True), out=space[1])
    masked = bool(teacher_NV.amin() < tiles.MASK) if teacher_NV.numel() else False
    weight_NV = torch.clamp_min(teacher_NV, tiles.FLOOR, out=space[2]).exp_()
    sum_q_N = weight_NV.sum(-1)
    if "teacher_entropy" in block.columns:
        known_NV = teacher_NV.clamp_min(tiles.FLOOR) if masked else teacher_NV
        result["teacher_entropy"] = _entropy(weight_NV.mul_(known_NV), sum_q_N)
    student_NV = torch.sub(student_NV, student_NV.amax(-1, keepdim=True), out=space[0])
    result["student_logprob"] = _gather(student_NV, token_N)
    result["teacher_logprob"] = _gather(teacher_NV, token_N) - sum_q_N.log()
    if block.top:
        weights = [
            student_NV.gather(1, student_ids_NK).exp_(),
            teacher_NV.gather(1, teacher_ids_NK).exp_(),
            teacher_NV.gather(1, student_ids_NK).exp_(),
        ]
    for name, logits_NV in (("student_end", student_NV), ("teacher_end", teacher_NV)):
        if name in block.columns and block.ends_M is not None:
            result[name] = logits_NV.index_select(1, block.ends_M).exp_().sum(-1)
    if "forward_kl" in block.columns:
        beyond_N = _beyond_floor(student_NV, teacher_NV)
    if masked:
        _floor_where_both_are_low(student_NV, teacher_NV)
    weight_NV = torch.exp(student_NV.clamp_min_(tiles.FLOOR), out=space[2])
    sum_p_N = weight_NV.sum(-1)
    result["student_logprob"] -= sum_p_N.log()
    result["log_ratio"] = result["student_logprob"] - result["teacher_logprob"]
    for name, sum_N in (("student_end", sum_p_N), ("teacher_end", sum_q_N)):
        if name in result:
            result[name] = (result[name] / sum_N).clamp_max_(1)
    if block.top:
        probs = (
            weight_NK / sum_N.unsqueeze(1)
            for weight_NK, sum_N in zip(weights, (sum_p_N, sum_q_N, sum_q_N), strict=True)
        )
        ids = student_ids_NK, teacher_ids_NK
        result |= likeliest.columns(block.agreement, block.alternatives, *ids, *probs)
    if "teacher_rank" in result:
        result["teacher_rank"].masked_fill_(result["teacher_logprob"].isnan(), 0)
    shift_N1 = (sum_p_N.log() - sum_q_N.log()).unsqueeze(1)
    excess_NV = teacher_NV.sub_(student_NV).add_(shift_N1)  # log q - log p
    if "student_entropy" in block.columns:
        result["student_entropy"] = _entropy(student_NV.mul_(weight_NV), sum_p_N)
    # p·(expm1(log q/p) - log q/p) sums to the divergence because p and q sum to one; unlike
    # p·log p/q its terms are never negative, so nothing cancels where p and q nearly agree.
    terms_NV = torch.expm1(excess_NV, out=space[0]).sub_(excess_NV).mul_(weight_NV)
    result["loss"] = terms_NV.sum(-1).div_(sum_p_N).clamp_min_(0)
    if "forward_kl" in block.columns:
        terms_NV = _forward(excess_NV, space[0]).mul_(weight_NV)
        forward_N = terms_NV.sum(-1).div_(sum_p_N).add_(beyond_N.div_(sum_q_N))
        result["forward_kl"] = forward_N.clamp_min_(0)
    if "jsd" in block.columns:
        terms_NV = _jensen_shannon(excess_NV, space[0]).mul_(weight_NV)
        result["jsd"] = terms_NV.sum(-1).div_(sum_p_N).clamp_(0, math.log(2))
    if with_gradient:
        excess_NV.add_(result["loss"].unsqueeze(1))
        descent_NV, scale = _descent(excess_NV, weight_NV, sum_p_N, slope, space[0])
        norm_N: Tensor = torch.linalg.vector_norm(descent_NV, dim=-1)
        result["grad_norm"] = norm_N.mul_(scale).div_(sum_p_N)
    if excluded:
        for name in {"loss", "grad_norm"} & result.keys():
            result[name].masked_fill_(infinite_N, math.inf)
    if with_gradient and take is not None:
        descent_NV.mul_((-scale / sum_p_N).unsqueeze(1))
        _clear(descent_NV, ~result["loss"].isfinite())
        take(descent_NV)
    return result


def _beyond_floor(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """What FLOOR takes from Σ q·log(q/p), times the sum of the teacher's weights (N,)."""
    lost_NV = (tiles.FLOOR - student_NV).clamp_min_(0)
    # exp() of the teacher's may be 0 where q is not, and both 0 where neither counts.
    absent_NV = lost_NV == math.inf
    lost_NV.mul_(teacher_NV.exp()).masked_fill_(absent_NV, math.inf)
    return lost_NV.masked_fill_(absent_NV & (teacher_NV == -math.inf), 0.0).sum(-1)


def _forward(excess_NV: Tensor, out_NV: Tensor) -> Tensor:
    """(1 + E)·d - E, E = expm1(d): q·log(q/p) - q + p, over p; never negative."""
    # Far below, the terms are 1 and would cancel.
    excess_NV = excess_NV.clamp_min(-87.0)
    torch.expm1(excess_NV, out=out_NV)
    return torch.addcmul(excess_NV - out_NV, out_NV, excess_NV, out=out_NV)


def _jensen_shannon(excess_NV: Tensor, out_NV: Tensor) -> Tensor:
    """½·(E·d/2 - (2 + E)·log cosh(d/2)): what a token adds to the divergence, over p."""
    # Below, what is added is log(2)/2 but for 1e-21.
    half_NV = excess_NV.clamp_min(-50.0).mul_(0.5)
    cosh_NV = half_NV.sinh().square_().log1p_().mul_(0.5)
    torch.expm1(half_NV * 2, out=out_NV)
    half_NV.mul_(out_NV)
    return out_NV.add_(2).mul_(cosh_NV).neg_().add_(half_NV).mul_(0.5)


def _floor_where_both_are_low(student_NV: Tensor, teacher_NV: Tensor) -> None:
    """Of tokens that both models mask with some -1e30, exp(FLOOR) · 1e30 nats would remain."""
    low_NV = (student_NV < tiles.FLOOR) & (teacher_NV < tiles.FLOOR) & teacher_NV.isfinite()
    teacher_NV.masked_fill_(low_NV, tiles.FLOOR)


def _gather(values_NV: Tensor, token_N: Tensor) -> Tensor:
    return values_NV.gather(1, token_N.unsqueeze(1)).squeeze(1)


def _entropy(terms_NV: Tensor, sum_N: Tensor) -> Tensor:
    """Entropy of exp(x) / sum from the terms x·exp(x)."""
    return (sum_N.log() - terms_NV.sum(-1) / sum_N).clamp_min_(0)


def _descent(
    centred_NV: Tensor, weight_NV: Tensor, sum_N: Tensor, slope: Tensor | float, out_NV: Tensor
) -> tuple[Tensor, float]:
    """The gradient but for a factor of -scale / sum, and scale; overwrites `out`.

    It is p·c·slope, with p = weight / sum and c = log q - log p + loss, and the sign turned.
    """
    torch.mul(centred_NV, weight_NV, out=out_NV)
    # Σ p·c is zero. Taking off what rounding left of it keeps the norm right where p is all but
    # certain and the gradient far smaller than the loss.
    rest_N = out_NV.sum(-1) / sum_N
    out_NV.addcmul_(weight_NV, rest_N.unsqueeze(1), value=-1)
    if isinstance(slope, Tensor):
        return out_NV.mul_(slope), 1.0
    return out_NV, slope


def _clear(values_NV: Tensor, where_N: Tensor) -> None:
    """Set rows to 0."""
    if values_NV.device.type != "cpu":
        # Asking which rows would make the host wait.
        values_NV.masked_fill_(where_N.unsqueeze(1), 0.0)
        return
    for row in where_N.nonzero().flatten().tolist():
        values_NV[row] = 0.0


def _without_excluded(student_NV: Tensor, teacher_NV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with -inf replaced by a low number that adds nothing, and which rows are infinite.

    A row's loss is infinite where the teacher excludes what the student does not.
    """
    outside_NV = teacher_NV == -math.inf
    both_NV = outside_NV & (student_NV == -math.inf)
    infinite_N = (outside_NV & ~both_NV).any(-1)
    low_N1 = student_NV.amax(-1, keepdim=True) - tiles.EXCLUDED
    student_NV = torch.where(both_NV, low_N1, student_NV)
    low_N1 = teacher_NV.amax(-1, keepdim=True) - tiles.EXCLUDED
    return student_NV, torch.where(outside_NV, low_N1, teacher_NV), infinite_N
