"""The statistics of rows on the CPU by compiled loops, which read each logit a few times.

PyTorch's own operations, in `operations`, read and write each block of rows some thirty times, and
twice that for all columns. These loops give the same, all columns in less time than those take for
the default ones; and they need no second look at rows with excluded tokens.

Shape suffixes: N rows (scored positions), V vocabulary, K likeliest tokens, S statistics of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rocktok.hooks.statistics import likeliest, tiles

# Buffers (N, V) that `statistics` is given.
COPIES = 3
# Columns that cost a longer second sweep.
_DIVERGENCES = frozenset(("forward_kl", "jsd"))


def usable(*models: tiles.Model) -> bool:
    """Whether all logits are on the CPU."""
    return all(model.device.type == "cpu" for model in models)


def statistics(
    block: tiles.Block,
    student_NV: Tensor,
    teacher_NV: Tensor,
    token_N: Tensor,
    space: Tensor,
    take: Callable[[Tensor], None] | None,
) -> dict[str, Tensor]:
    """Columns of (N,) from raw logits (N, V), which may lie in the first two buffers.

    `take` is given the gradients (N, V), in the third buffer; rows whose loss is not finite are 0.
    """
    from rocktok.hooks.statistics import compiled_kernel

    count = len(token_N)
    slope = 1.0
    slope_NV = torch.empty(count, 0)
    if "grad_norm" in block.columns:
        given = block.student.slope(student_NV, block.temperature)
        if isinstance(given, Tensor):
            slope_NV = given
        else:
            slope = given
    student_NV = block.student.final_logits(student_NV, block.temperature, space[0]).contiguous()
    teacher_NV = block.teacher.final_logits(teacher_NV, block.temperature, space[1]).contiguous()
    statistic_NS = torch.empty(count, len(compiled_kernel.STATISTICS))
    shape = count, max(1, block.top)
    ids = [torch.empty(shape, dtype=torch.int64) for _ in range(2)]
    probs = [torch.empty(shape) for _ in range(3)]
    gradient_NV = torch.empty(count, 0) if take is None else space[2]
    ends_M = torch.empty(0, dtype=torch.int64) if block.ends_M is None else block.ends_M
    arrays = [*ids, *probs, gradient_NV]
    compiled_kernel.rows(
        *_arrays(student_NV, teacher_NV, slope_NV),
        slope,
        *_arrays(token_N, ends_M),
        bool(_DIVERGENCES & block.columns),
        max(1, block.agreement),
        *_arrays(statistic_NS, *arrays),
    )
    if take is not None:
        take(gradient_NV)
    columns = dict(zip(compiled_kernel.STATISTICS, statistic_NS.unbind(1), strict=True))
    result = {name: values for name, values in columns.items() if name in block.columns}
    if "teacher_rank" in result:
        result["teacher_rank"] = result["teacher_rank"].to(torch.int32)
    return result | likeliest.alternatives(block.alternatives, *ids, *probs[:2])


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.numpy() for tensor in tensors)
