"""A few numbers of each recorded step, for the dashboard that the trainer reports to.

They join the trainer's own metrics, and go where these go (TensorBoard, W&B, trackio, …) when it
logs next: no call of `trainer.log` of our own, which would empty its averages too early. Rank 0
alone gives numbers, of its own rows: the ranks exchange nothing for them.

Of rollouts, the mean over the recorded steps since the last report:

- `rocktok/loss`: mean reverse KL a token, nats.
- `rocktok/top10_loss_share`: share of the loss on the ten token types that have the most of it.
- `rocktok/student_end`, `rocktok/teacher_end`: mean probability of the run's terminal ids where a
  text ends; only where these columns are recorded.

Of kept text, the last scoring:

- `rocktok/fixed_loss`: mean reverse KL a token, nats.
- `rocktok/loss_slope`: how the mean loss changed over the last third of the scorings of this
  attempt, as a share of it: `saturation` of `rocktok check`. From three scorings on.

Array suffixes: N rows; V token ids; T scorings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import HookError
from rocktok.hooks.arguments import END_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rocktok.hooks.background import StepRows
    from rocktok.hooks.recorder import Recorder

#: Begins the names of what is reported.
PREFIX = "rocktok/"

#: Token types whose share of the loss is reported together.
TOP = 10


class Reporting:
    """Puts numbers of finished steps among a trainer's metrics; `Recording.observer`.

    Raises `HookError` for a trainer that does not average metrics as TRL's do.
    """

    def __init__(self, trainer: Any, recorder: Recorder) -> None:
        self._trainer, self._recorder = trainer, recorder
        self._fixed: dict[int, float] = {}
        if not hasattr(getattr(trainer, "_metrics", {}).get("train"), "setdefault"):
            raise HookError(
                f"attach: report=True needs the metrics that {type(trainer).__name__} of this TRL "
                "does not have; use trl 1.16, or leave report out"
            )

    def __call__(self, rows: StepRows) -> None:
        """Take the numbers of one step of one table."""
        if self._recorder.rank != 0 or not rows.rows:
            return
        metrics = self._trainer._metrics["train"]
        if rows.table == "rollout":
            for name, value in rollout_numbers(_whole(rows), self._recorder.terminal_ids).items():
                metrics.setdefault(PREFIX + name, []).append(value)
        elif rows.table == "fixed":
            # Training that starts over comes to steps again.
            self._fixed = {step: mean for step, mean in self._fixed.items() if step < rows.step}
            self._fixed[rows.step] = float(_whole(rows)["loss"].mean(dtype=np.float64))
            for name, value in fixed_numbers(self._fixed).items():
                metrics[PREFIX + name] = [value]


def _whole(rows: StepRows) -> dict[str, NDArray[Any]]:
    """The batches of a step as one; what `rollout_numbers` reads of them."""
    names = [n for n in ("token_id", "loss", *END_COLUMNS) if n in rows.batches[0]]
    return {name: np.concatenate([batch[name] for batch in rows.batches]) for name in names}


def rollout_numbers(
    rows: Mapping[str, NDArray[Any]], terminal_ids: tuple[int, ...] = ()
) -> dict[str, float]:
    """Name → number, of the rows of a step's own text; a number that they do not have is absent."""
    token_N, loss_N = rows["token_id"], rows["loss"].astype(np.float64)
    numbers = {"loss": float(loss_N.mean())}
    loss_V = np.bincount(token_N, weights=loss_N)
    if (total := float(loss_V.sum())) > 0:
        numbers[f"top{TOP}_loss_share"] = float(np.sort(loss_V)[-TOP:].sum()) / total
    end_N = np.isin(token_N, terminal_ids)
    for name in END_COLUMNS:
        if name in rows and end_N.any():
            numbers[name] = float(rows[name][end_N].mean(dtype=np.float64))
    return numbers


def fixed_numbers(loss_by_step: Mapping[int, float]) -> dict[str, float]:
    """Name → number, of mean losses of the kept text by step, ascending, one or more."""
    steps, means = list(loss_by_step), list(loss_by_step.values())
    numbers = {"fixed_loss": means[-1]}
    last = max(2, -(-len(steps) // 3))
    if len(steps) > 2:
        step_T, loss_T = np.array(steps[-last:], np.float64), np.array(means[-last:])
        away_T = step_T - step_T.mean()
        slope = float(away_T @ loss_T / (away_T @ away_T))
        if loss_T.mean() > 0:
            numbers["loss_slope"] = slope * (steps[-1] - steps[-last]) / float(loss_T.mean())
    return numbers
