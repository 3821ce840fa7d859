"""The texts of a batch of ms-swift, and the statistics of its scored positions.

Shape suffixes: B rows of a batch, S columns, V vocabulary, K likeliest tokens of the teacher, N
scored positions in row-major order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rocktok.hooks.scored_texts import ScoredText, text_of
from rocktok.hooks.statistics import token_statistics
from rocktok.hooks.topk import topk_statistics
from rocktok.schema import TOP_K as TOP_K

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: What ms-swift puts in the place of a label that has no loss.
IGNORED = -100
#: Positions whose logits are copied at once.
_ROWS = 512


def texts_of(inputs: Mapping[str, Any], packed: bool) -> list[ScoredText]:
    """Every text of a batch, in order.

    Args:
        inputs: `input_ids`, `labels` (B, S), -100 without a loss, not shifted; `attention_mask`
            where there is padding; where texts are `packed` into one row, `cu_seq_lens_q` or
            positions that begin again.
    """
    ids_BS, label_BS = (_host(inputs[name]) for name in ("input_ids", "labels"))
    if packed:
        bounds = _bounds(inputs, ids_BS.shape[1])
        return [text_of(ids_BS[0, a:b], label_BS[0, a:b] != IGNORED)
                for a, b in pairwise(bounds) if b > a]  # fmt: skip
    mask = inputs.get("attention_mask")
    # Masks of other shapes are about attention, not about padding.
    there_BS = _host(mask) != 0 if mask is not None and mask.dim() == 2 else ids_BS == ids_BS
    return [
        text_of(ids_S[there_S], label_S[there_S] != IGNORED)
        for ids_S, label_S, there_S in zip(ids_BS, label_BS, there_BS, strict=True)
    ]


def _bounds(inputs: Mapping[str, Any], length: int) -> list[int]:
    """Where the texts of a packed row begin, and where the last one ends."""
    ends = inputs.get("cu_seq_lens_q")
    if ends is not None:
        return [int(end) for end in ends]
    for name in ("text_position_ids", "position_ids"):
        positions = inputs.get(name)
        if positions is not None:
            # With several axes (images) the first is that of the text.
            row_S = _host(positions).reshape(-1, length)[0]
            return [*np.flatnonzero(row_S == 0).tolist(), length]
    raise RuntimeError("a packed batch does not say where its texts begin")


def exact_statistics(
    student_BSV: Tensor,
    teacher_BSV: Tensor,
    student_mask_BS: Tensor,
    teacher_mask_BS: Tensor,
    token_N: Tensor,
    *,
    temperature: float,
    columns: Sequence[str],
    terminal_ids: Sequence[int],
) -> dict[str, Tensor]:
    """`token_statistics` of the positions that the masks select, each N of them.

    The models may have read other prompts, and their shapes differ then. Vocabularies of unlike
    width are made alike as ms-swift does: the narrower has the wider's logits where it ends.
    """
    where = [mask.nonzero(as_tuple=True) for mask in (student_mask_BS, teacher_mask_BS)]

    def tile(rows: slice) -> dict[str, Tensor]:
        student_NV, teacher_NV = _aligned(
            *(logits[row_N[rows], column_N[rows]].detach()
              for logits, (row_N, column_N) in zip((student_BSV, teacher_BSV), where, strict=True))
        )  # fmt: skip
        return token_statistics(
            token_ids=token_N[rows],
            student_logits=student_NV,
            teacher_logits=teacher_NV,
            temperature=temperature,
            columns=("loss", *columns),
            terminal_ids=terminal_ids,
        )

    return _tiled(tile, len(token_N))


def _aligned(student_NV: Tensor, teacher_NV: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = student_NV.shape[1], teacher_NV.shape[1]
    if student < teacher:
        rest_NV = teacher_NV[:, student:].to(student_NV.dtype)
        return torch.cat([student_NV, rest_NV], 1), teacher_NV
    if teacher < student:
        rest_NV = student_NV[:, teacher:].to(teacher_NV.dtype)
        return student_NV, torch.cat([teacher_NV, rest_NV], 1)
    return student_NV, teacher_NV


def topk_rows(
    student_BSV: Tensor,
    teacher_ids_BSK: Tensor,
    teacher_logprobs_BSK: Tensor,
    student_mask_BS: Tensor,
    teacher_mask_BS: Tensor,
    token_N: Tensor,
    *,
    temperature: float,
    columns: Sequence[str],
) -> dict[str, Tensor]:
    """What a teacher's likeliest tokens tell of the positions that the masks select.

    At temperature 1 `loss` is the lower bound of `topk_statistics`. At others the teacher's
    probabilities are not known, and it is what ms-swift trains with beta = 1: the reverse KL of
    both models' distributions over these tokens alone, each made to sum to one.
    """
    where = student_mask_BS.nonzero(as_tuple=True)
    ids_NK, log_q_NK = teacher_ids_BSK[teacher_mask_BS], teacher_logprobs_BSK[teacher_mask_BS]

    def tile(rows: slice) -> dict[str, Tensor]:
        logits_NV = student_BSV[where[0][rows], where[1][rows]].detach().float() / temperature
        found = topk_statistics(
            student_logits=logits_NV,
            teacher_ids=ids_NK[rows],
            teacher_logprobs=log_q_NK[rows],
            token_ids=token_N[rows],
            columns=columns,
        )
        if temperature != 1:
            kept_NK = logits_NV.gather(1, ids_NK[rows].long())
            found["loss"] = _renormalized(kept_NK, log_q_NK[rows].float() / temperature)
        return found

    return _tiled(tile, len(token_N))


def _renormalized(student_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    log_p_NK, log_q_NK = student_NK.log_softmax(-1), teacher_NK.log_softmax(-1)
    p_NK = log_p_NK.exp()
    return torch.where(p_NK > 0, p_NK * (log_p_NK - log_q_NK), 0.0).sum(-1)


def uncovered(teacher_logprobs_BSK: Tensor, mask_BS: Tensor) -> Tensor:
    """(N,) whether the teacher gave nothing at a position that the mask selects."""
    return teacher_logprobs_BSK[mask_BS].isinf().all(-1)


def _tiled(tile: Any, count: int) -> dict[str, Tensor]:
    parts = [tile(rows) for rows in _slices(count)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, max(1, count), _ROWS):
        yield slice(start, min(start + _ROWS, count))


def _host(values: Any) -> Any:
    return values.detach().cpu().numpy()
