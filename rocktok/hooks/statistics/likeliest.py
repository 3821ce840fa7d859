"""The likeliest tokens of a model, the rank of one, and how two models' likeliest agree.

Ties go to the smaller token id everywhere: bfloat16 logits tie often.

Shape suffixes: N rows (scored positions), V vocabulary, K likeliest tokens, C chunks of a row,
L columns of a chunk, M keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = (1 << 32) - 1


def ids(logits_NV: Tensor, count: int) -> Tensor:
    """(N, K) int64 ids of the `count` largest of float32 logits (N, V), largest first.

    They lie in the K chunks of largest maximum; of two chunks of equal maximum in the earlier one.
    """
    vocabulary = logits_NV.shape[1]
    # As many columns in K chunks as there are chunks, about.
    width = 1 << max(0, (vocabulary // max(1, count)).bit_length() // 2)
    whole = vocabulary // width * width
    highest_NC = logits_NV[:, :whole].reshape(-1, whole // width, width).amax(-1)
    if whole < vocabulary:
        rest_N1 = logits_NV[:, whole:].amax(-1, keepdim=True)
        highest_NC = torch.cat([highest_NC, rest_N1], 1)
    return ids_within(logits_NV, highest_NC, width, count)


def ids_within(logits_NV: Tensor, highest_NC: Tensor, width: int, count: int) -> Tensor:
    """As `ids`, for rows whose chunks of `width` columns have these maxima (N, C)."""
    vocabulary = logits_NV.shape[1]
    device = logits_NV.device
    chunks = highest_NC.shape[1]
    chunk_NK = _largest(highest_NC, torch.arange(chunks, device=device), min(count, chunks))
    column_NKL = chunk_NK.unsqueeze(2) * width + torch.arange(width, device=device)
    # The last chunk may be short: what would lie past the row's end is told by its column.
    column_NM = column_NKL.flatten(1)
    value_NM = logits_NV.gather(1, column_NM.clamp_max(vocabulary - 1))
    return _largest(value_NM, column_NM, count, vocabulary)


def ranks(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """(N,) int32 rank of a token among its row's logits (N, V); 1 is the largest."""
    token_N1 = token_N.unsqueeze(1)
    own_N1 = logits_NV.gather(1, token_N1)
    above_N = (logits_NV > own_N1).sum(-1, dtype=torch.int32)
    earlier_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) < token_N1
    return above_N + (earlier_NV & (logits_NV == own_N1)).sum(-1, dtype=torch.int32) + 1


def columns(
    agreement: int,
    count: int,
    student_ids_NK: Tensor,
    teacher_ids_NK: Tensor,
    student_prob_NK: Tensor,
    teacher_prob_NK: Tensor,
    teacher_prob_of_student_NK: Tensor,
) -> dict[str, Tensor]:
    """What both models' likeliest tokens have in common, (N,), and the likeliest themselves.

    Args:
        agreement: how many of each overlap, masses and teachability are about; 0: they are not
            given.
        count: how many alternatives to give.
        student_ids_NK: the student's likeliest tokens.
        teacher_ids_NK: the teacher's.
        student_prob_NK: p of the student's likeliest tokens.
        teacher_prob_NK: q of the teacher's.
        teacher_prob_of_student_NK: q of the student's.
    """
    result = alternatives(count, student_ids_NK, teacher_ids_NK, student_prob_NK, teacher_prob_NK)
    if not agreement:
        return result
    student_prob_NK, teacher_prob_NK = (
        student_prob_NK[:, :agreement],
        teacher_prob_NK[:, :agreement],
    )
    same_NKK = student_ids_NK[:, :agreement].unsqueeze(2) == teacher_ids_NK[
        :, :agreement
    ].unsqueeze(1)
    shares = {
        "overlap": same_NKK.sum((1, 2)).to(torch.float32) / agreement,
        "student_mass": (student_prob_NK * same_NKK.any(2)).sum(-1),
        "teacher_mass": (teacher_prob_NK * same_NKK.any(1)).sum(-1),
        "teachability": teacher_prob_of_student_NK[:, :agreement].sum(-1),
    }
    # A row without one of the distributions has NaN here, as in every other column.
    nothing_N = 0 * (student_prob_NK.sum(-1) + teacher_prob_NK.sum(-1))
    return result | {name: share_N.clamp_max_(1) + nothing_N for name, share_N in shares.items()}


def alternatives(
    count: int,
    student_ids_NK: Tensor,
    teacher_ids_NK: Tensor,
    student_prob_NK: Tensor,
    teacher_prob_NK: Tensor,
) -> dict[str, Tensor]:
    """The first `count` of the likeliest tokens, as `token_statistics` gives them."""
    if not count:
        return {}
    return {
        "student_ids": student_ids_NK[:, :count].to(torch.int32),
        "student_probs": student_prob_NK[:, :count].contiguous(),
        "teacher_ids": teacher_ids_NK[:, :count].to(torch.int32),
        "teacher_probs": teacher_prob_NK[:, :count].contiguous(),
    }


def _largest(value_NM: Tensor, id_NM: Tensor, count: int, vocabulary: int | None = None) -> Tensor:
    """(N, K) those ids, (N, M) or (M,), whose values are largest; none from `vocabulary` on."""
    # -0.0 equals 0.0, but its bits do not: adding 0.0 makes them.
    bits_NM = (value_NM + 0.0).view(torch.int32)
    order_NM = bits_NM ^ ((bits_NM >> 31) & 0x7FFFFFFF)
    key_NM = (order_NM.to(torch.int64) << 32) | (_LOW - id_NM)
    if vocabulary is not None:
        key_NM.masked_fill_(id_NM >= vocabulary, torch.iinfo(torch.int64).min)
    return _LOW - (key_NM.topk(count, dim=1).values & _LOW)
