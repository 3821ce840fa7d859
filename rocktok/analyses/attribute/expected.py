"""What gradient norm the losses of a type's positions let expect, were it another type.

A mean loss alone does not say it: norms grow less than losses do, so that a type with a few large
losses has a smaller mean norm than one whose losses are all alike. Ours.

Array suffixes: N rows; V token ids; K bins of losses.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from rocktok._types import Array
from rocktok.stats.accumulator import Batch
from rocktok.stats.bootstrap import PromptBootstrap

#: A bin of losses is a quarter of an octave: exponent and two bits of the fraction of a float32.
_SHIFT = 21
_BINS = 1 << (31 - _SHIFT)

#: Rows of a bin that its mean is taken from.
MIN_ROWS = 20


class NormByLoss:
    """Mean gradient norm of positions of like loss; needs `grad_norm`.

    Args:
        left_out: token ids whose rows do not count.
    """

    needs = ("token_id", "loss", "grad_norm")

    def __init__(self, left_out: Array) -> None:
        self._out_V = np.zeros(int(left_out.max(initial=-1)) + 2, dtype=bool)
        self._out_V[left_out] = True
        self._sum_3K: Array = np.zeros((3, _BINS))

    def update(self, batch: Batch) -> None:
        """Add a batch of rows."""
        counted = ~self._out_V[np.minimum(batch["token_id"], len(self._out_V) - 1)]
        loss_N, norm_N = batch["loss"][counted], batch["grad_norm"][counted]
        loss_N = np.maximum(loss_N, 0).astype(np.float32)
        bin_N = loss_N.view(np.uint32) >> np.uint32(_SHIFT)
        for sum_K, weight_N in zip(self._sum_3K, (None, loss_N, norm_N), strict=True):
            sum_K += np.bincount(bin_N, weight_N, minlength=_BINS)

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self._sum_3K += other._sum_3K

    def curve(self) -> tuple[Array, Array]:
        """Mean loss and mean norm of each bin with enough rows, the smallest losses first."""
        count_K, loss_K, norm_K = self._sum_3K[:, self._sum_3K[0] >= MIN_ROWS]
        return loss_K / count_K, norm_K / count_K


class WithExpected:
    """Gives a bootstrap the column `expected_norm`: that of the curve at each row's loss."""

    def __init__(self, curve: tuple[Array, Array], bootstrap: PromptBootstrap) -> None:
        self.curve, self.bootstrap = curve, bootstrap
        self.needs = tuple(sorted({"loss", *bootstrap.needs} - {"expected_norm"}))

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        expected_N = np.interp(batch["loss"], *self.curve)
        self.bootstrap.update({**batch, "expected_norm": expected_N})

    def merge(self, other: Self) -> None:
        """Add another's."""
        self.bootstrap.merge(other.bootstrap)

    def close(self) -> None:
        """All rows of a task were seen."""
        self.bootstrap.close()
