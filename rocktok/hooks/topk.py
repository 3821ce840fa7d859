"""Statistics of positions at which the teacher gave the probabilities of its likeliest tokens only.

Shape suffixes: N positions, V vocabulary, K likeliest tokens of the teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rocktok.hooks.statistics.likeliest import ids as likeliest_ids
from rocktok.schema import TOP_K

if TYPE_CHECKING:
    from collections.abc import Collection

#: Beside `loss`; the last three need the teacher's TOP_K likeliest tokens.
TOPK_COLUMNS = ("student_logprob", "student_entropy", "overlap", "student_mass", "teacher_mass")
#: Positions of which log-probabilities are held at once.
_ROWS = 512
#: More than float32 log-probabilities can be off in their sum: added to what the teacher leaves for
#: the tokens that it did not give, so that the bound stays one.
_ROUNDING = 1e-6


@torch.no_grad()
def topk_statistics(
    *,
    student_logits: Tensor,
    teacher_ids: Tensor,
    teacher_logprobs: Tensor,
    token_ids: Tensor | None = None,
    columns: Collection[str] = (),
) -> dict[str, Tensor]:
    """A lower bound of the reverse KL, and what else a teacher's likeliest tokens tell.

    With p the student's distribution, q the teacher's, T the tokens that the teacher gave, and
    P = Σ_T p, Q = Σ_T q:

    - `loss`: Σ_{u ∈ T} p·log(p/q) + (1 - P)·log((1 - P)/(1 - Q)), never above the reverse KL, as
      the tokens outside of T are taken for one; always there
    - `student_logprob`: log p of `token_ids`
    - `student_entropy`: -Σ p·log p, over the whole vocabulary
    - `overlap`, `student_mass`, `teacher_mass`: as in `token_statistics`, of the k = min(16, V)
      likeliest tokens of both; they need K ≥ k

    Args:
        student_logits: (N, V), at the temperature of the loss.
        teacher_ids: (N, K) integers, no token twice.
        teacher_logprobs: (N, K) log q, normalized over the whole vocabulary; -inf: not given.
        token_ids: (N,) integers, the token generated at each position.
        columns: names from `TOPK_COLUMNS`.

    Returns:
        Columns, each (N,) float32. 1 - Q is taken 1e-6 larger, as it may be by rounding: the bound
        is lower for it, by less than (1 - P)·log(1 + 1e-6 / (1 - Q)).

    Raises:
        ValueError: a column needs `token_ids`, or more tokens of the teacher.

    Source: the bound is the log-sum inequality; the columns are defined in docs/definitions.md.
    """
    count, vocabulary = student_logits.shape
    wanted = [name for name in ("loss", *TOPK_COLUMNS) if name == "loss" or name in columns]
    top = min(TOP_K, vocabulary)
    if set(wanted) & set(TOPK_COLUMNS[2:]) and teacher_ids.shape[1] < top:
        raise ValueError(
            f"overlap and masses need the teacher's {top} likeliest tokens; it gave "
            f"{teacher_ids.shape[1]}"
        )
    if "student_logprob" in wanted and token_ids is None:
        raise ValueError("student_logprob needs token_ids")
    parts = []
    for start in range(0, max(1, count), _ROWS):
        rows = slice(start, start + _ROWS)
        tokens = None if token_ids is None else token_ids[rows]
        teacher = teacher_ids[rows].long(), teacher_logprobs[rows].float()
        parts.append(_tile(student_logits[rows], *teacher, tokens, wanted, top))
    return {name: torch.cat([part[name] for part in parts]) for name in wanted}


def _tile(
    logits_NV: Tensor,
    ids_NK: Tensor,
    log_q_NK: Tensor,
    token_N: Tensor | None,
    wanted: Collection[str],
    top: int,
) -> dict[str, Tensor]:
    log_p_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    log_p_NK = log_p_NV.gather(1, ids_NK)
    p_NK = log_p_NK.exp()
    result = {"loss": _bound(p_NK, log_p_NK, log_q_NK)}
    if "student_logprob" in wanted and token_N is not None:
        result["student_logprob"] = log_p_NV.gather(1, token_N.long()[:, None]).squeeze(1)
    if "student_entropy" in wanted:
        result["student_entropy"] = torch.special.entr(log_p_NV.exp()).sum(-1)
    if set(wanted) & set(TOPK_COLUMNS[2:]):
        best_NM = _likeliest(ids_NK, log_q_NK)[:, :top]
        ids_NM = ids_NK.gather(1, best_NM)
        student_NM = likeliest_ids(log_p_NV, top)
        both_NM = (ids_NM[:, :, None] == student_NM[:, None, :]).any(-1)
        result["overlap"] = both_NM.float().mean(-1)
        result["student_mass"] = (p_NK.gather(1, best_NM) * both_NM).sum(-1)
        result["teacher_mass"] = (log_q_NK.gather(1, best_NM).exp() * both_NM).sum(-1)
    return result


def _likeliest(ids_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """Places of the teacher's tokens, likeliest first; of equal ones the smaller id."""
    by_id_NK = ids_NK.argsort(dim=1)
    by_q_NK = log_q_NK.gather(1, by_id_NK).argsort(dim=1, descending=True, stable=True)
    return by_id_NK.gather(1, by_q_NK)


def _bound(p_NK: Tensor, log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    # Trainers fill up with -inf where the teacher gave fewer tokens: these are not given.
    p_NK = p_NK.masked_fill(log_q_NK.isneginf(), 0)
    terms_NK = torch.where(p_NK > 0, p_NK * (log_p_NK - log_q_NK), 0.0)
    rest_p_N = (1 - p_NK.double().sum(-1)).clamp_min(0)
    rest_q_N = (1 - log_q_NK.double().exp().sum(-1)).clamp_min(0) + _ROUNDING
    rest_N: Tensor = torch.special.xlogy(rest_p_N, rest_p_N / rest_q_N)
    return (terms_NK.double().sum(-1) + rest_N).float()
