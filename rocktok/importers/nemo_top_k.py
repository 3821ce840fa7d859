"""NeMo-RL's top-k statistics: bounds of the loss, and whether they are of distributions at all.

Array suffixes: N tokens; K likeliest ones; S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.errors import LogError
from rocktok.importers.bounds import reverse_kl_bounds
from rocktok.importers.source import MOST_LOGPROB

NOT_THEIRS = "it is no diagnostic of NeMo-RL's on-policy distillation"
#: Largest rounding of a logit in bfloat16, as a share of it.
_BFLOAT16 = 2.0**-8


def top_k_bounds(
    get: Callable[[str, Any], Array], path: Path, counted_N: Array, floor: float | None
) -> tuple[Array, Array | None]:
    """As `reverse_kl_bounds`. Raises `LogError` for what are no distributions.

    `counted_N`: positions of samples that the loss counts; of others anything may stand there.
    """
    columns = []
    for who in ("student", "teacher"):
        ids_NK = get(f"{who}_topk_token_ids", np.int64)
        logit_NK = get(f"{who}_topk_logits", np.float64)
        total_N = get(f"{who}_V_logsumexp", np.float64)
        if not (ids_NK.ndim == 2 and ids_NK.shape == logit_NK.shape and
                len(ids_NK) == len(total_N) == len(counted_N)):  # fmt: skip
            raise LogError(
                f"{path}: {who}: ids of shape {ids_NK.shape}, logits of {logit_NK.shape}, "
                f"{len(total_N)} logsumexp for {len(counted_N)} tokens; {NOT_THEIRS}"
            )
        columns += [ids_NK, logit_NK - total_N[:, None]]
        _check_top_k(f"{path}: the {who}'s", ids_NK, logit_NK, total_N, counted_N)
    with np.errstate(invalid="ignore", over="ignore"):  # of samples that do not count
        return reverse_kl_bounds(columns[0], columns[1], columns[2], columns[3], floor)


def _check_top_k(
    where: str, ids_NK: Array, logit_NK: Array, total_N: Array, counted_N: Array
) -> None:
    """Raise `LogError` for likeliest tokens that are no part of a distribution."""
    here_NK = (ids_NK >= 0) & counted_N[:, None]
    ordered_NK = np.sort(ids_NK, axis=1)
    same_NK = (np.diff(ordered_NK, axis=1) == 0) & (ordered_NK[:, 1:] >= 0)
    twice_N: Array = np.any(same_NK, axis=1)
    logprob_NK = np.where(here_NK, logit_NK - total_N[:, None], -np.inf)
    broken_N: Array = np.any(here_NK & ~np.isfinite(logit_NK - total_N[:, None]), axis=1)
    # Each logit may be off by its rounding to bfloat16, and all of a row in one direction.
    largest_N = np.abs(np.where(here_NK, logit_NK, 0.0)).max(axis=1, initial=0.0)
    most_N = MOST_LOGPROB + _BFLOAT16 * np.where(np.isfinite(largest_N), largest_N, 0.0)
    mass_N = np.logaddexp.reduce(np.where(broken_N[:, None], -np.inf, logprob_NK), axis=1)
    unlike = "logits and V_logsumexp are not of one softmax"
    for wrong_N, what in (
        (broken_N, f"a log-probability is no finite number: {unlike}"),
        (twice_N & counted_N, f"an id is listed twice; {NOT_THEIRS}"),
        (np.asarray(mass_N) > most_N, f"its likeliest tokens have a probability above 1: {unlike}"),
    ):
        if wrong_N.any():
            raise LogError(f"{where} top-k statistics: token {int(np.argmax(wrong_N))}: {what}")
