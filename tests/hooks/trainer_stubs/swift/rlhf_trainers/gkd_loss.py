"""Stand-in for ms-swift 4.6.0's GKD loss: its signatures, shifts and padding, for float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class TeacherOutput:
    full_logits: Any = None
    topk_logprobs: Any = None
    topk_indices: Any = None
    labels: Any = None


def _align_vocab(student_logits: Any, teacher_logits: Any) -> Any:
    student, teacher = student_logits.shape[-1], teacher_logits.shape[-1]
    more = teacher_logits[..., student:], student_logits[..., teacher:]
    return torch.cat([student_logits, more[0]], -1), torch.cat([teacher_logits, more[1]], -1)


def extract_active(student_logits: Any, teacher_output: Any, labels: Any) -> Any:
    mask, teacher_mask = labels != -100, teacher_output.labels != -100
    student = student_logits[mask]
    if teacher_output.full_logits is not None:
        return student, TeacherOutput(full_logits=teacher_output.full_logits[teacher_mask])
    logprobs = teacher_output.topk_logprobs[teacher_mask]
    there = ~logprobs.isinf().all(-1)
    indices = teacher_output.topk_indices[teacher_mask][there]
    return student[there], TeacherOutput(None, logprobs[there], indices)


def gkd_loss(
    student_logits: Any,
    teacher_output: Any,
    labels: Any,
    beta: float,
    temperature: float,
    gather_fn: Any = None,
    log_softmax_fn: Any = None,
    kl_div_fn: Any = None,
    chunk_size: int = 512,
) -> Any:
    student, teacher = extract_active(student_logits, teacher_output, labels)
    if teacher.full_logits is None:
        p, q = student.gather(-1, teacher.topk_indices), teacher.topk_logprobs
    else:
        p, q = _align_vocab(student, teacher.full_logits)
    log_p, log_q = (torch.log_softmax(z / temperature, -1) for z in (p, q))
    assert beta in (0, 1)
    one, other = (log_p, log_q) if beta == 1 else (log_q, log_p)
    return (one.exp() * (one - other)).sum(), len(student)
