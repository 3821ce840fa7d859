"""Weights alone: wrapped while training runs, and put back after it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from rocktok.errors import RocktokWarning

if TYPE_CHECKING:
    from rocktok.hooks.trl.weighted_loss import Weighted
    from rocktok.hooks.trl.wrapping import Wrapping


class WeightingCallback(TrainerCallback):  # type: ignore[misc]
    """Puts the weighted loss in place for each `Trainer.train`."""

    def __init__(self, attachment: Any, weighted: Weighted, wrapping: Wrapping) -> None:
        self.attachment = attachment
        self._weighted, self._wrapping = weighted, wrapping
        self._began = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wrap the trainer's calls."""
        self._began, self._weighted.calls = state.global_step, 0
        self._wrapping.wrap()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore them; a training whose losses were not seen is warned of."""
        self._wrapping.unwrap()
        warn_if_unweighted(self._weighted.calls, state.global_step - self._began)


def warn_if_unweighted(calls: int, steps: int) -> None:
    """Warn if steps were trained, and none of their losses came by here."""
    if steps and not calls:
        warnings.warn(
            f"attach_weights: {steps} steps were trained, and no loss was weighted: the trainer "
            "computed its losses in another way than this TRL's own trainers do",
            RocktokWarning,
            stacklevel=2,
        )
