"""Which values the columns of the format can have.

Shape suffixes: N rows, K values of a row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

import rocktok.schema as schema
from rocktok._types import Array

#: By how much rounding may take a divergence below 0, or a share out of [0, 1].
SLACK = 1e-4
#: By how much rounding to float16 may take the sum of probabilities above 1.
_HALF_SLACK = 2.0**-10


class Bound(NamedTuple):
    """A value below `low`, or above `high`, is wrong: `below` and `above` say how."""

    low: float
    high: float
    below: str
    above: str = ""


_NOT_NEGATIVE = Bound(0, math.inf, "is negative")
_SHARE = Bound(-SLACK, 1 + SLACK, "is negative: it is a share", "is above 1: it is a share")
_PROBABILITY = Bound(0, 1, "is negative: it is a probability", "is above 1: it is a probability")
_SHARES = ("overlap", "student_mass", "teacher_mass", "teachability", "student_end", "teacher_end")
_RANK = Bound(1, math.inf, "is not a rank: the likeliest token has rank 1")

_ALWAYS = {
    **dict.fromkeys(("step", "position", "rollout", "num_tokens"), _NOT_NEGATIVE),
    **dict.fromkeys(_SHARES, _SHARE),
    **dict.fromkeys(("student_probs", "teacher_probs"), _PROBABILITY),
}

#: Divergences whose exact values are never negative.
_EXACT = {
    "loss": Bound(
        schema.EXACT_LOSS_FLOOR,
        math.inf,
        "is below −0.0001: an exact reverse KL is never negative; if the losses are not exact, "
        'state in run.json how they were computed: {"loss": {"exactness": "sampled"}}, topk or '
        "truncated",
    ),
    "forward_kl": Bound(-SLACK, math.inf, "is below −0.0001: a forward KL is never negative"),
    "jsd": Bound(
        -SLACK,
        math.log(2) + SLACK,
        "is below −0.0001: a Jensen–Shannon divergence is never negative",
        "is above log 2, the largest Jensen–Shannon divergence",
    ),
}


def bounds_of(name: str, exactness: str, vocab_size: int | None) -> tuple[Bound, ...]:
    """The bounds of a column's values in a log of such losses; those told first come first."""
    if name in _EXACT:
        return (_EXACT[name],) if exactness == "exact" else ()
    if name in _ALWAYS:
        return (_ALWAYS[name],)
    if name == "teacher_rank":
        size = math.inf if vocab_size is None else vocab_size
        return (_RANK._replace(high=size, above=f"is above the vocabulary of {vocab_size}"),)
    if name not in ("token_id", "student_ids", "teacher_ids"):
        return ()
    padding = "; padding is never recorded" if name == "token_id" else ": it is not a token id"
    most = schema.MAX_VOCABULARY
    above = f"is not a token id: these are below {most:,}"
    bounds = [Bound(0, most - 1, f"is negative{padding}", above)]
    if vocab_size is not None:
        outside = f"is outside the vocabulary of {vocab_size} (run.json)"
        bounds.insert(0, Bound(0, vocab_size - 1, bounds[0].below, outside))
    return tuple(bounds)


def wrong_lists(name: str, values_NK: Array) -> tuple[Array, str] | None:
    """Rows whose list breaks a rule of its whole, and how; None where none does.

    `values_NK`: the ids, or the probabilities, of each row, in range already.
    """
    if name.endswith("_ids"):
        sorted_NK = np.sort(values_NK, axis=1)
        bad_N = np.any(sorted_NK[:, 1:] == sorted_NK[:, :-1], axis=1)
        return (bad_N, "names a token twice") if bad_N.any() else None
    bad_N = np.any(values_NK[:, 1:] > values_NK[:, :-1], axis=1)
    if bad_N.any():
        return bad_N, "ascends; the likeliest token comes first"
    bad_N = values_NK.sum(axis=1, dtype=np.float64) > 1 + _HALF_SLACK
    return (bad_N, "sums to more than 1") if bad_N.any() else None
