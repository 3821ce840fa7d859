"""Reads each token's loss off the full logits that a trainer's loss function is given.

Array suffixes: B rows of a batch; K scored columns; N scored positions; V vocabulary; H hidden.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.hooks.arguments import END_COLUMNS
from rocktok.hooks.statistics import token_statistics
from rocktok.hooks.trl.head_inputs import HeadInputs
from rocktok.hooks.trl.scoring import IDS_KEY, Capturing, Scoring, host

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.rollouts import Rollout

#: Columns that are gradients with respect to raw logits, or to what makes them.
_GRADIENTS = ("grad_norm", "head_grad_norm")

#: The divergence of these β, by the column that is it: β = 0 forward, 1 reverse.
DIVERGENCES = {1.0: "loss", 0.0: "forward_kl", 0.5: "jsd"}

_HEADS: ContextVar[HeadInputs | None] = ContextVar("rocktok_head_inputs", default=None)


@dataclass(frozen=True)
class Scored:
    """The scored positions of one call, and both models' logits where they predicted each token.

    Attributes:
        student_logits, teacher_logits: (B, K, V).
        token_ids: (B, K) targets; any number where none is scored.
        mask: (B, K) whether a position is scored.
        positions: (B, K) index of each token in its completion, on the host.
        temperature: by which the loss divides the logits.
        divided: by which they are divided already.
    """

    student_logits: torch.Tensor
    teacher_logits: torch.Tensor
    token_ids: torch.Tensor
    mask: torch.Tensor
    positions: Any
    temperature: float = 1.0
    divided: float = 1.0

    def masked_by_both(self) -> bool:
        """Whether there are ids that both models exclude."""
        student, teacher = self.student_logits[self.mask], self.teacher_logits[self.mask]
        return bool((student.isneginf() & teacher.isneginf()).any())


class LogitsCapture(Capturing):
    """What captures of full logits share."""

    def __init__(self, trainer: Any, recorder: Recorder) -> None:
        super().__init__(trainer, recorder)
        self._texts: dict[int, Rollout] = {}
        self._recorded: tuple[int, set[int]] = (-1, set())

    @contextmanager
    def scoring(self, batch: Scoring) -> Iterator[None]:
        """As `Capturing.scoring`; hidden states are kept where something is made of them."""
        wanted = "head_grad_norm" in self._recorder.columns or batch.projections is not None
        heads: Any = nullcontext()
        if wanted and batch.record:
            heads = HeadInputs(*self.models())
        with heads as kept:
            token = _HEADS.set(kept)
            try:
                with super().scoring(batch):
                    yield
            finally:
                _HEADS.reset(token)

    def models(self) -> tuple[Any, Any]:
        """Student and teacher, unwrapped."""
        unwrap = self._trainer.accelerator.unwrap_model
        return unwrap(self._trainer.model), unwrap(self._trainer.teacher_model)

    def columns(
        self, scoring: Scoring, scored: Scored, also: Collection[str] = ()
    ) -> dict[str, Any]:
        """All columns of a call's rows, in host memory; `also`: statistics beside the recorded."""
        ids_B = scoring.inputs.get(IDS_KEY)
        if ids_B is None:
            raise RuntimeError("the batch carries no sequence ids")
        mask_BK = scored.mask
        place_N = mask_BK.nonzero(as_tuple=True)
        row_N, column_N = (host(index) for index in place_N)
        sequence_N = host(ids_B)[row_N]
        token_N = host(scored.token_ids[mask_BK]).astype(np.int32)
        position_N = scored.positions[row_N, column_N].astype(np.int32)
        statistics = self._statistics(scoring, scored, sequence_N, token_N, also)
        if scoring.projections is not None:
            heads = _HEADS.get()
            if heads is None:
                raise RuntimeError("hidden states were not kept")
            hidden_BKH = heads.teacher(mask_BK.shape[1])
            self.sketch(scoring.projections, hidden_BKH, sequence_N, place_N, position_N)
        return {
            "sequence_id": sequence_N,
            "position": position_N,
            "token_id": token_N,
            **statistics,
        }

    def _statistics(
        self,
        scoring: Scoring,
        scored: Scored,
        sequence_N: Any,
        token_N: Any,
        also: Collection[str],
    ) -> dict[str, Any]:
        recorder, fixed = self._recorder, scoring.table == "fixed"
        wanted = ("loss", *recorder.columns, *also)
        sink = None
        if scoring.gradients is not None:
            sink = scoring.gradients.batch(sequence_N, token_N)
        heads = _HEADS.get()
        hidden = None
        if "head_grad_norm" in wanted and heads is not None:
            hidden = heads.student(scored.mask.shape[1])
        ends = any(name in wanted for name in END_COLUMNS)
        with torch.no_grad():
            found = token_statistics(
                token_ids=scored.token_ids,
                student_logits=scored.student_logits.detach(),
                teacher_logits=scored.teacher_logits.detach(),
                student_hidden=hidden,
                temperature=scored.temperature / scored.divided,
                mask=scored.mask,
                columns=wanted,
                terminal_ids=recorder.terminal_ids if ends else (),
                alternatives=recorder.likeliest if fixed else 0,
                gradients=sink,
            )
        columns = {name: host(values) for name, values in found.items()}
        for name in _GRADIENTS:
            if name in columns and scored.divided != 1:
                # With respect to the logits as the head gives them.
                columns[name] = columns[name] / np.float32(scored.divided)
        return columns

    def record(self, scoring: Scoring, columns: dict[str, Any], also: Collection[str] = ()) -> None:
        """Record the rows of a call, without those that the step has had already.

        A trainer may score a batch several times between two updates, with the same student.
        """
        extra = set(also) - {"loss", *self._recorder.columns}
        columns = {name: values for name, values in columns.items() if name not in extra}
        rollouts: list[Rollout] = []
        if scoring.table == "rollout":
            columns = self._without_repeated(scoring.step, columns)
            rollouts = self._unlisted(np.unique(columns["sequence_id"]).tolist())
        self._recorder.record(scoring.step, columns, table=scoring.table, rollouts=rollouts)

    def _unlisted(self, ids: list[int]) -> list[Rollout]:
        """The texts that the log does not list yet.

        One that was kept at an earlier step, before any of its rows were recorded, is listed.
        """
        kept = {rollout.sequence_id for rollout in self._recorder.fixed.kept}
        found = [self._texts.pop(i) for i in ids if i in self._texts]
        return [rollout for rollout in found if rollout.sequence_id not in kept]

    def _without_repeated(self, step: int, columns: dict[str, Any]) -> dict[str, Any]:
        if self._recorded[0] != step:
            self._recorded = step, set()
        done = self._recorded[1]
        id_N = columns["sequence_id"]
        new_N = ~np.isin(id_N, list(done))
        done.update(np.unique(id_N).tolist())
        return columns if new_N.all() else {name: v[new_N] for name, v in columns.items()}

    def weights_of(self, scoring: Scoring, token_ids: Any, mask: Any) -> Any | None:
        """Weights of the rows in the trained loss, on the host; None: all are 1."""
        if self.weighted is None or scoring.table != "rollout":
            return None
        weight_BK = self.weighted.weights_of(token_ids, mask)
        return None if weight_BK is None else host(weight_BK[mask])
