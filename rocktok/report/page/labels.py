"""What columns of a log are called on a page."""

from __future__ import annotations

_LABELS = {
    "student_logprob": "log p, student",
    "teacher_logprob": "log q, teacher",
    "student_entropy": "entropy, student",
    "teacher_entropy": "entropy, teacher",
    "grad_norm": "gradient norm",
    "head_grad_norm": "gradient norm, head",
    "forward_kl": "forward KL",
    "jsd": "JSD",
    "overlap": "overlap of likeliest",
    "student_mass": "shared mass, student",
    "teacher_mass": "shared mass, teacher",
    "teacher_rank": "rank, teacher",
    "student_end": "end mass, student",
    "teacher_end": "end mass, teacher",
}


def column_label(name: str) -> str:
    """The label of a column; its name, where that says it."""
    return _LABELS.get(name, name.replace("_", " "))
