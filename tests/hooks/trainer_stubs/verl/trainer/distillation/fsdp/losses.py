"""Stand-in for verl's top-k loss, and for how it splits packed values over two ranks."""

from __future__ import annotations

from typing import Any

import torch

#: Ranks that share a text, and which of them this is.
PARTS, RANK = 1, 0


def get_ulysses_sequence_parallel_world_size(group: Any = None) -> int:
    return PARTS


def slice_input_tensor(x: Any, dim: int, padding: bool = True, group: Any = None) -> Any:
    missing = -x.shape[dim] % PARTS
    if missing:
        shape = list(x.shape)
        shape[dim] = missing
        x = torch.cat([x, torch.zeros(shape, dtype=x.dtype)], dim)
    return x.chunk(PARTS, dim)[RANK]


def compute_forward_kl_topk(
    student_logits: Any,
    teacher_topk_log_probs: Any,
    teacher_topk_ids: Any,
    config: Any,
    data_format: str,
) -> Any:
    log_q, ids = (each.values()[None] for each in (teacher_topk_log_probs, teacher_topk_ids))
    if get_ulysses_sequence_parallel_world_size() > 1:
        log_q, ids = (slice_input_tensor(each, 1) for each in (log_q, ids))
    log_p = torch.log_softmax(student_logits, -1).gather(-1, ids)
    return {
        "distillation_losses": (log_q.exp() * (log_q - log_p)).sum(-1),
        "student_mass": log_p.exp().sum(-1),
        "teacher_mass": log_q.exp().sum(-1),
    }
