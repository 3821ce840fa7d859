"""What all captures of TRL's trainers have in common: the batch that is being scored, what is
recorded of it, and the comparison with the trainer's own loss.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.hooks.background import describe
from rocktok.hooks.projecting import project_hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    from rocktok.hooks.contexts import Projections
    from rocktok.hooks.gradients import GradientSums
    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.rollouts import Rollout
    from rocktok.hooks.trl.weighted_loss import Weighted

#: Row-aligned sequence ids in the trainer's batches.
IDS_KEY = "rocktok_sequence_ids"

#: How far the recorded sum may be from the trainer's loss × denominator.
RELATIVE_TOLERANCE = 1e-4
NATS_PER_TOKEN_TOLERANCE = 1e-6


@dataclass
class Scoring:
    """A batch whose losses are to be recorded, while the trainer computes its loss."""

    table: str
    step: int
    inputs: Mapping[str, Any]
    record: bool = True
    gradients: GradientSums | None = None
    projections: Projections | None = None
    calls: int = 0


@dataclass
class Call:
    """One call of a loss function, and how many rows it has as far as that is known."""

    rows: int = 0


#: Set only while the attached trainer computes its loss: other trainers pass through.
SCORING: ContextVar[Scoring | None] = ContextVar("rocktok_scoring", default=None)


class Capturing:
    """Reads the losses of one trainer; what the trainer computes is left as it is.

    Attributes:
        weighted: weighs the losses that the trainer trains on, where weights are attached.
    """

    #: How often the trainer calls its loss function for a batch.
    calls = 1

    def __init__(self, trainer: Any, recorder: Recorder) -> None:
        self._trainer = trainer
        self._recorder = recorder
        self._candidates: list[Rollout] = []
        self.weighted: Weighted | None = None

    @property
    def recorder(self) -> Recorder:
        """What takes the rows."""
        return self._recorder

    def take_candidates(self) -> list[Rollout]:
        """New texts for the fixed set since the last call."""
        taken, self._candidates = self._candidates, []
        return taken

    @contextmanager
    def scoring(self, batch: Scoring) -> Iterator[None]:
        """Record the losses that are computed inside the `with` block."""
        token = SCORING.set(batch)
        try:
            yield
        finally:
            SCORING.reset(token)
        if batch.record and batch.calls != self.calls:
            reason = f"the trainer called its loss function {batch.calls} times for a batch"
            self._recorder.drop(batch.step, reason, table=batch.table)

    @contextmanager
    def observing(self, scoring: Scoring) -> Iterator[Call]:
        """Around what records one call of the loss function. What goes wrong drops the step."""
        scoring.calls += 1
        call = Call()
        try:
            yield call
        except Exception as error:
            self._recorder.drop(scoring.step, describe(error), table=scoring.table, rows=call.rows)

    def sketch(
        self,
        projections: Projections,
        hidden_BKH: torch.Tensor,
        sequence_N: NDArray[np.int64],
        place_N: tuple[torch.Tensor, ...],
        position_N: NDArray[np.int32],
    ) -> None:
        """Keep the projections of what enters the teacher's head at some (row, column) places."""
        try:
            projected_NK = project_hidden(hidden_BKH, place_N)
            projections.add(sequence_N, position_N, projected_NK)
        except Exception as error:
            projections.fault = projections.fault or describe(error)
            self._recorder.trouble(
                "contexts", f"contexts could not be computed ({describe(error)})"
            )

    def compare(
        self,
        scoring: Scoring,
        recorded: float,
        trained: float,
        rows: int,
        excused: Callable[[], bool] | None = None,
    ) -> None:
        """Hold the recorded losses against what the trainer itself computed.

        Args:
            recorded, trained: sums over the rows of a call, nats.
            excused: whether both models exclude ids, so that the trainer's sum may be no number.
        """
        if not math.isfinite(trained) and excused is not None and excused():
            # For such an id TRL computes 0·(−inf − −inf), which is no number.
            self._recorder.trouble(
                "masked",
                "the trainer's own loss is not finite, since both models mask token ids with "
                "−inf; the recorded losses count such ids as 0",
            )
            return
        tolerance = RELATIVE_TOLERANCE * abs(trained) + NATS_PER_TOKEN_TOLERANCE * rows
        if not abs(recorded - trained) <= tolerance:
            self._recorder.mismatch(
                scoring.step,
                f"{self._recorder.log_dir}: the recorded losses differ from the trained ones: at "
                "step "
                f"{scoring.step} ({scoring.table}, {rows} tokens) they sum to {recorded:.9g} nats, "
                f"the trainer's own loss to {trained:.9g}. The log counts such calls, and "
                "`rocktok info` shows their number; do not trust this log until the cause is known",
            )


def host(tensor: torch.Tensor) -> Any:
    """The tensor as a NumPy array in host memory."""
    return tensor.detach().cpu().numpy()


def total(loss_N: Any) -> float:
    """Σ of the rows, in float64."""
    return float(np.sum(loss_N, dtype=np.float64))
