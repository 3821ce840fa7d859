"""The statistics of rows by one Triton kernel: each model's logits are read twice and never copied.

One program takes one row. Its first sweep finds both models' largest logits and, relative to them,
the sums that give log-probabilities and entropies; its second sums what is relative to those: the
loss and the gradient's norm. Everything is accumulated in float32.

Why nothing cancels, for norms and losses however small. With w the student's weight exp(logit -
largest), W = Σ w, and d = log q - log p:

- The loss is Σ w·(expm1(d) - d) / W. Its terms are never negative. An error η in both log-sum-exps,
  some 1e-7, enters as η² / 2, as p and q both sum to one.
- The gradient is w·(x - m) / W, where x is d counted from its value at the student's largest logit
  and m = Σ w·x / W, from the first sweep: that takes the place of the loss, which is not known yet,
  and cancels nothing. At the largest logit itself, where w = 1, x is exactly 0 and the gradient
  exactly -m / W: it is right even where p is all but certain and every other term negligible.
- m is off by ε·Σ w·|x| / W, ε some 3e-7. By |m| ≤ ‖w·(x - m)‖ =: G (the term just named) and
  Cauchy-Schwarz, Σ w·|x| / W ≤ G·(1 + √V / W), so that the norm is off by at most
  ε·√(Σ w²)·(1 + √V / W) ≤ ε·(1 + √V) of itself: 1.2e-4 with 151,936 tokens. A soft
  cap's slopes multiply the terms after that, and the bound is that of the norm without them.

The sums for the forward KL and the Jensen-Shannon divergence are of terms in d that are never
negative either, as `compiled_terms` has them. The likeliest tokens come from a second, short
kernel, which looks only into blocks whose largest logit, noted in the first sweep, says that it
must.

On top comes only the rounding of the logits themselves, 6e-8 of each, against the spread of d.

Shape suffixes: N rows (scored positions), V vocabulary, C sums of a row.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rocktok.errors import RocktokWarning
from rocktok.hooks.statistics import likeliest, tiles

# Columns that the kernel computes only when asked.
_DIVERGENCES = frozenset(("forward_kl", "jsd"))
_given_up = False


class KernelError(Exception):
    """Triton is installed, and could not build or start the kernel."""


def usable(*models: tiles.Model) -> bool:
    """Whether the kernel can take these models' logits: on one accelerator, with Triton there."""
    return (
        not _given_up
        and all(_reachable(model) for model in models)
        and len({model.device for model in models}) == 1
        and importlib.util.find_spec("triton") is not None
    )


def _reachable(model: tiles.Model) -> bool:
    """Projected logits always are; those that are given, where a row's lie side by side."""
    strided = model.logits is not None and model.logits.stride(-1) != 1
    return model.device.type == "cuda" and not strided


def give_up(error: KernelError) -> None:
    """Leave the kernel alone from now on, and say so: the tiles give the same, more slowly."""
    global _given_up
    _given_up = True
    warnings.warn(
        f"token statistics go on without their Triton kernel, more slowly: {error}",
        RocktokWarning,
        stacklevel=2,
    )


def tile(
    block: tiles.Block, positions: tiles.Positions, token_N: Tensor, start: int, stop: int
) -> list[dict[str, Tensor]]:
    """The columns of rows start:stop; one of projected logits, which are gone when this returns.

    Unlike the tiles, it needs no second look at rows with excluded tokens: `block.excluded` has no
    say. Where a row holds NaN and is infinite too, it is NaN.

    Raises:
        KernelError: if Triton cannot build or start the kernel.
    """
    count = stop - start
    token_N = token_N[start:stop]
    kernel = _kernel()
    sums_CN = torch.empty(len(kernel.SUMS), count, device=token_N.device)
    top = _Top.empty(block.top, count, block.student.vocabulary, token_N.device)
    if count:
        student = _rows(block.student, positions, start, stop)
        teacher = _rows(block.teacher, positions, start, stop)
        _launch(block, student, teacher, token_N, sums_CN, top)
    sums = dict(zip(kernel.SUMS, sums_CN, strict=True))
    # What a soft cap changes about the slope is in the sum.
    columns = _columns(sums, block.student.logit_scale / block.temperature)
    result = {name: values for name, values in columns.items() if name in block.columns}
    if block.top:
        result |= top.columns(block, sums["student_sum"], sums["teacher_sum"])
    return [result]


@dataclass(frozen=True)
class _Top:
    """Each model's likeliest tokens, (2, N, K): the student's, then the teacher's."""

    highest_ND: Tensor  # (N, 2, D), each block's largest logit
    ids: Tensor
    logits: Tensor  # of the model itself
    other_logits: Tensor  # of the other model

    @classmethod
    def empty(cls, top: int, count: int, vocabulary: int, device: torch.device) -> _Top:
        blocks = vocabulary // _kernel().BLOCK + 1 if top else 0
        shape = 2, count, top
        return cls(
            torch.empty(count, 2, blocks, device=device),
            torch.empty(shape, dtype=torch.int64, device=device),
            torch.empty(shape, device=device),
            torch.empty(shape, device=device),
        )

    def columns(
        self, block: tiles.Block, student_sum_N: Tensor, teacher_sum_N: Tensor
    ) -> dict[str, Tensor]:
        """What is wanted of the likeliest tokens."""
        student_NK, teacher_NK = self.logits
        of_student_NK = self.other_logits[0]
        student_high_N1, teacher_high_N1 = student_NK[:, :1], teacher_NK[:, :1]
        probs = (
            (student_NK - student_high_N1).exp() / student_sum_N.unsqueeze(1),
            (teacher_NK - teacher_high_N1).exp() / teacher_sum_N.unsqueeze(1),
            (of_student_NK - teacher_high_N1).exp() / teacher_sum_N.unsqueeze(1),
        )
        ids = self.ids[0], self.ids[1]
        return likeliest.columns(block.agreement, block.alternatives, *ids, *probs)


def _columns(sums: dict[str, Tensor], slope: float) -> dict[str, Tensor]:
    """Columns of (N,) from the sums of each row."""
    total_p, total_q = sums["student_sum"], sums["teacher_sum"]
    student_logprob = sums["student_token"] - total_p.log()
    teacher_logprob = sums["teacher_token"] - total_q.log()
    loss = sums["divergence"] / total_p
    norm = sums["gradient"].sqrt() * slope / total_p
    finite_N = total_p.isfinite() & total_q.isfinite()
    infinite = finite_N & ~sums["drift"].isfinite()
    # 0 where the teacher has no distribution.
    rank = (sums["likelier"] + 1).masked_fill_(~total_q.isfinite(), 0)
    return {
        "loss": loss.masked_fill_(infinite, math.inf),
        "log_ratio": student_logprob - teacher_logprob,
        "student_logprob": student_logprob,
        "teacher_logprob": teacher_logprob,
        "student_entropy": _entropy(sums["student_moment"], total_p),
        "teacher_entropy": _entropy(sums["teacher_moment"], total_q),
        "grad_norm": norm.masked_fill_(infinite, math.inf),
        "forward_kl": sums["forward"] / total_p + sums["lost"] / total_q,
        "jsd": (sums["between"] / total_p).clamp_max_(math.log(2)),
        "teacher_rank": rank.to(torch.int32),
        "student_end": (sums["student_end"] / total_p).clamp_max_(1),
        "teacher_end": (sums["teacher_end"] / total_q).clamp_max_(1),
    }


def _entropy(moment: Tensor, total: Tensor) -> Tensor:
    return (total.log() - moment / total).clamp_min_(0)


def _rows(
    model: tiles.Model, positions: tiles.Positions, start: int, stop: int
) -> tuple[Tensor, Tensor, bool]:
    """Logits, in whichever element each row of start:stop begins (N,), and if those are aligned."""
    if model.logits is None:
        logits_NV = model.project(positions, start, stop)
        strides: tuple[int, ...] = (model.vocabulary,)
        begin_N = torch.arange(stop - start, device=logits_NV.device) * model.vocabulary
        return logits_NV, begin_N, _aligned(strides)
    strides = model.logits.stride()[:-1]
    index = (index_N[start:stop] for index_N in positions.index)
    parts = [index_N * stride for index_N, stride in zip(index, strides, strict=True)]
    return model.logits, torch.stack(parts).sum(0), _aligned(strides)


def _aligned(strides: tuple[int, ...]) -> bool:
    return all(stride % _kernel("fused_terms").ALIGNMENT == 0 for stride in strides)


def _launch(
    block: tiles.Block,
    student: tuple[Tensor, Tensor, bool],
    teacher: tuple[Tensor, Tensor, bool],
    token_N: Tensor,
    sums_CN: Tensor,
    top: _Top,
) -> None:
    kernel = _kernel()
    (student_logits, student_begin_N, student_aligned) = student
    (teacher_logits, teacher_begin_N, teacher_aligned) = teacher
    student_shape, *student_factors = _shape(block.student, block.temperature)
    teacher_shape, *teacher_factors = _shape(block.teacher, block.temperature)
    vocabulary = block.student.vocabulary
    ends = 0 if block.ends_M is None else len(block.ends_M)
    # Triton starts kernels on the current device, whatever device their tensors are on. (-1, the
    # CPU in the interpreter, changes nothing.)
    with torch.cuda.device(sums_CN.get_device()):
        try:
            kernel.token_sums[(len(token_N),)](
                student_logits,
                teacher_logits,
                student_begin_N,
                teacher_begin_N,
                token_N,
                token_N if block.ends_M is None else block.ends_M,
                sums_CN,
                top.highest_ND,
                len(token_N),
                vocabulary,
                ends,
                *student_factors,
                *teacher_factors,
                STUDENT=student_shape,
                TEACHER=teacher_shape,
                STUDENT_ALIGNED=student_aligned,
                TEACHER_ALIGNED=teacher_aligned,
                RANK="teacher_rank" in block.columns,
                DIVERGENCES=bool(_DIVERGENCES & block.columns),
                TOP=block.top > 0,
                WIDTH=kernel.BLOCK,
                DEPTH=kernel.STAGES,
                num_warps=kernel.WARPS,
                # A product fused with a sum is rounded differently from the same product alone:
                # the largest logit would no longer be exactly 0 away from itself.
                enable_fp_fusion=False,
            )
            if not block.top:
                return
            models = (
                (student_logits, student_begin_N, student_shape, student_factors),
                (teacher_logits, teacher_begin_N, teacher_shape, teacher_factors),
            )
            for second in (0, 1):
                logits, begin_N, shape, factors = models[second]
                other_logits, other_begin_N, other_shape, other_factors = models[1 - second]
                _kernel("fused_likeliest").likeliest[(len(token_N),)](
                    logits,
                    other_logits,
                    begin_N,
                    other_begin_N,
                    top.highest_ND,
                    top.ids[second],
                    top.logits[second],
                    top.other_logits[second],
                    vocabulary,
                    block.top,
                    *factors,
                    *other_factors,
                    MODEL=shape,
                    OTHER=other_shape,
                    SECOND=second,
                    BLOCKS=1 << (top.highest_ND.shape[2] - 1).bit_length(),
                    WIDTH=kernel.BLOCK,
                    num_warps=kernel.WARPS,
                    enable_fp_fusion=False,
                )
        # Triton has no common error: a missing C compiler, an old driver and a card that lacks
        # bfloat16 all look different, and none may stop a training run.
        except Exception as error:
            raise KernelError(f"{type(error).__name__}: {error}") from error


def _shape(model: tiles.Model, temperature: float) -> tuple[int, float, float]:
    """How the model's logits come about, what the raw ones are multiplied by, and the cap."""
    terms = _kernel("fused_terms")
    if model.softcap is not None:
        return terms.CAPPED, model.logit_scale / model.softcap, model.softcap / temperature
    scale = model.logit_scale / temperature
    return (terms.RAW if scale == 1 else terms.SCALED), scale, 0.0


@cache
def _kernel(name: str = "fused_kernel") -> Any:
    """A module of kernels, imported when first needed, as it imports Triton."""
    try:
        return importlib.import_module(f"rocktok.hooks.statistics.{name}")
    except Exception as error:
        raise KernelError(f"{type(error).__name__}: {error}") from error
