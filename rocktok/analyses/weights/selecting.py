"""Which types are selected: an order of all types, and how far down it the budget reaches.

Array suffix: T types, ascending by id.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.weighting import Budget

#: Occurrences from which a type's mean is looked at: fewer put chance at the head of an order.
MIN_OCCURRENCES = 5

#: A share this close below the budget has reached it: sums were rounded in another order.
_SLACK = 1e-9


@dataclass(frozen=True)
class Types:
    """All types of a log at the later step: ids, occurrences, and sums of the loss in nats."""

    token_T: Array
    count_T: Array
    loss_T: Array

    def shares(self, token_ids: Array) -> tuple[Array, Array]:
        """Share of the loss and of the positions of each of some types; 0 of one not seen."""
        at = np.minimum(np.searchsorted(self.token_T, token_ids), len(self.token_T) - 1)
        here = self.token_T[at] == token_ids
        loss, count = float(self.loss_T.sum()), int(self.count_T.sum())
        loss_shares = np.where(here, self.loss_T[at], 0.0) / (loss or 1.0)
        return loss_shares, np.where(here, self.count_T[at], 0) / max(count, 1)

    def budget(self, token_ids: Array) -> Budget:
        """What some types carry together."""
        loss_shares, token_shares = self.shares(token_ids)
        return Budget(float(loss_shares.sum()), float(token_shares.sum()))

    def means(self, sum_T: Array) -> Array:
        """(T,) mean by occurrence; NaN for types with fewer than `MIN_OCCURRENCES`."""
        mean_T: Array = np.where(self.count_T >= MIN_OCCURRENCES, sum_T / self.count_T, np.nan)
        return mean_T

    def by_score(self, score_T: Array) -> Array:
        """Ids, the largest score first; ties by occurrences, then by id. NaN is left out."""
        order = np.lexsort((self.token_T, -self.count_T, -score_T))
        ids: Array = self.token_T[order[np.isfinite(score_T[order])]]
        return ids

    def at_random(self, seed: int) -> Array:
        """Ids in the order of a hash."""
        hash_T = hash_rows(seed, self.token_T)
        ids: Array = self.token_T[np.lexsort((self.token_T, hash_T))]
        return ids

    def until(self, order: Array, loss_share: float) -> Array:
        """The first ids of an order whose loss reaches a share, all where they do not."""
        reached = np.flatnonzero(np.cumsum(self.shares(order)[0]) >= loss_share - _SLACK)
        return order[: int(reached[0]) + 1] if len(reached) else order
