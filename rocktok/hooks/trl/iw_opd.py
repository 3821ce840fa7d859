"""IW-OPD with a teacher in this process: its loss is of sampled tokens, what is recorded is exact.

Array suffixes: B rows; L tokens of a row; K scored columns; V vocabulary.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import HookError
from rocktok.hooks.trl.checks import calls, has, no_overrides, signature_of
from rocktok.hooks.trl.gkd import COMPUTE, GKD, LOSS
from rocktok.hooks.trl.labelled import IGNORED, LabelledCapture, positions
from rocktok.hooks.trl.logits import Scored
from rocktok.hooks.trl.scoring import SCORING, Scoring, host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.trl.family import Part
    from rocktok.hooks.trl.weighted_iw_opd import WeightedIWOPD

SAMPLED = "_compute_iw_opd_loss"
TOP_1 = "_compute_local_sparse_top_1_divergence_loss"
TEACHER = "_get_teacher_logits"
_LOCAL = ("self", "student_logits", "teacher_logits", "completion_tokens", "labels",
          "num_items_in_batch")  # fmt: skip
KNOWN = {
    SAMPLED: ("self", "student_logits", "completion_tokens", "labels", "teacher_actual_logprobs",
              "rollout_logprobs", "num_items_in_batch"),
    TOP_1: _LOCAL,
    TEACHER: ("self", "inputs"),
    "compute_loss": COMPUTE,
}  # fmt: skip

#: The teacher's logits (B, L, V) of the batch whose loss is computed.
_TEACHER: ContextVar[list[torch.Tensor]] = ContextVar("rocktok_teacher_logits")


class IWOPDCapture(LabelledCapture):
    """Wraps the three losses that the trainer may use, and its teacher's forward pass."""

    def teacher_logits(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_get_teacher_logits(inputs)`."""

        def get_teacher_logits(inputs: Any) -> Any:
            result = original(inputs)
            if SCORING.get() is not None:
                _TEACHER.set([result])
            return result

        return get_teacher_logits

    def loss_of(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """What makes the wrapper of one of the two losses of sampled tokens."""

        def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
            signature = signature_of(type(self._trainer), name, KNOWN[name])

            def loss(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                scoring = SCORING.get()
                if scoring is None:
                    return result
                with self.observing(scoring) as call:
                    if scoring.record:
                        bound = signature.bind(None, *args, **kwargs)
                        bound.apply_defaults()
                        mask_BK = bound.arguments["labels"] != IGNORED
                        call.rows = int(mask_BK.sum())
                        self._observe_sampled(scoring, name, bound.arguments, mask_BK, result)
                return result

            return loss

        return wrapper

    def _observe_sampled(
        self,
        scoring: Scoring,
        name: str,
        arguments: Mapping[str, Any],
        mask_BK: torch.Tensor,
        result: Any,
    ) -> None:
        width = mask_BK.shape[1]
        teacher_BKV = arguments.get("teacher_logits")
        if teacher_BKV is None:
            # The logits at a position are of the token after it.
            teacher_BKV = _TEACHER.get()[0][:, -width - 1 : -1]
        scored = Scored(
            student_logits=arguments["student_logits"],
            teacher_logits=teacher_BKV,
            token_ids=arguments["completion_tokens"],
            mask=mask_BK,
            positions=positions(scoring.inputs, width),
            temperature=float(self._trainer.temperature),
        )
        also = ("student_logprob", "teacher_logprob") if name == SAMPLED else ()
        columns = self.columns(scoring, scored, also)
        if name == SAMPLED:
            rows = len(columns["loss"])
            items = arguments["num_items_in_batch"]
            denominator = max(rows, 1) if items is None else float(items)
            theirs = float(result.detach()) * denominator
            rollout_BK = arguments["rollout_logprobs"]
            rollout_N = None if rollout_BK is None else host(rollout_BK[mask_BK])
            weight_N = self.weights_of(scoring, arguments["completion_tokens"], mask_BK)
            ours = weighted_sum(host(mask_BK), columns, rollout_N, self._trainer, weight_N)
            self.compare(scoring, ours, theirs, rows)
        self.record(scoring, columns, also)


def weighted_sum(
    mask_BK: Any,
    columns: Mapping[str, Any],
    rollout_N: Any | None,
    trainer: Any,
    weight_N: Any | None = None,
) -> float:
    """Σ of IW-OPD's loss over the scored tokens of a batch, from the log-probabilities of each.

    A token's loss is −log p(x)·w·a with a = log q(x) − log p′(x), p′ the student that sampled it,
    and w = 1 + γ·(1 − Σ|a| before it ÷ Σ|a| of its text): arXiv 2606.22600.

    Args:
        mask_BK: which tokens are scored. columns: of these, in row-major order.
        rollout_N: log p′(x) of these; None: p′ is p.
        weight_N: token weights of these; None: all are 1.
    """
    student_N = columns["student_logprob"].astype(np.float64)
    sampled_N = student_N if rollout_N is None else rollout_N.astype(np.float64)
    gap_BK = np.zeros(mask_BK.shape)
    gap_BK[mask_BK] = columns["teacher_logprob"] - sampled_N
    size_BK = np.abs(gap_BK)
    before_BK = np.cumsum(size_BK, axis=1) - size_BK
    all_B1 = np.maximum(size_BK.sum(axis=1, keepdims=True), float(trainer.iw_opd_epsilon))
    weight_BK = 1 + float(trainer.iw_opd_gamma) * (1 - before_BK / all_B1)
    term_N = -student_N * (weight_BK * gap_BK)[mask_BK]
    return float((term_N if weight_N is None else weight_N * term_N).sum())


class IWOPD(GKD):
    """`trl.experimental.iw_opd.IWOPDTrainer` with a local teacher."""

    known = ("student_logits", "teacher_logits", "labels", "beta", "temperature", "reduction",
             "top_k", "add_tail", "num_items_in_batch")  # fmt: skip

    @property
    def kind(self) -> Any:
        """TRL's own class."""
        from trl.experimental.iw_opd import IWOPDTrainer

        return IWOPDTrainer

    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` for another version than is known, and for a teacher on a server."""
        self._check("attach")

    def _check(self, where: str) -> None:
        if self.trainer.use_teacher_server:
            raise HookError(
                f"{where}: {self.name} has use_teacher_server=True, so that its teacher's "
                "distributions are not in this process; use a local teacher_model, or "
                "ServerDistillationTrainer"
            )
        self.signature(where)
        for name, known in KNOWN.items():
            signature_of(self.kind, name, known, where=where)
        for name in (SAMPLED, TOP_1, LOSS, TEACHER):
            calls(self.kind.compute_loss, name, where=where)
        used = ("teacher_model", "beta", "temperature", "lmbda", "generation_config",
                "_buffered_on_policy_flags", "_buffer_step", "iw_opd_gamma")  # fmt: skip
        has(self.trainer, *used, where=where)

    @property
    def loss_temperature(self) -> float:
        """That at which it samples, too."""
        return float(self.trainer.temperature)

    @property
    def trains_reverse_kl(self) -> bool:
        """Only with another objective than its own, over the whole vocabulary."""
        trainer = self.trainer
        plain = trainer.distillation_objective != "iw_opd" and trainer.loss_top_k == 0
        return plain and self.beta == 1

    def about(self) -> dict[str, Any]:
        """Which loss it trains."""
        trainer = self.trainer
        return {
            "lmbda": float(trainer.lmbda),
            "distillation_objective": trainer.distillation_objective,
            "iw_opd_gamma": float(trainer.iw_opd_gamma),
            "loss_top_k": int(trainer.loss_top_k),
        }

    def on_policy(self) -> bool:
        """Whether the student wrote the slice of the buffer whose loss is computed."""
        trainer = self.trainer
        flags = trainer._buffered_on_policy_flags or []
        at = (trainer._buffer_step - 1) % trainer.args.gradient_accumulation_steps
        return at < len(flags) and bool(flags[at])

    def capture(self, recorder: Recorder) -> IWOPDCapture:
        """What reads its losses."""
        return IWOPDCapture(
            self.trainer,
            recorder,
            self.signature(),
            on_policy=self.on_policy,
            end_ids=self.end_ids,
            only_on_policy=float(self.trainer.lmbda) > 0,
        )

    def parts(self, capture: Any) -> tuple[Part, ...]:
        """The three losses, the teacher's pass, and which batch they are of."""
        return (
            (self.trainer, LOSS, capture.loss),
            (self.trainer, SAMPLED, capture.loss_of(SAMPLED)),
            (self.trainer, TOP_1, capture.loss_of(TOP_1)),
            (self.trainer, TEACHER, capture.teacher_logits),
            (self.trainer, "compute_loss", capture.compute_loss),
        )

    def weighted(self, weights_at: Callable[[int], Any]) -> WeightedIWOPD:
        """Its loss with weights."""
        from rocktok.hooks.trl.weighted_iw_opd import WeightedIWOPD

        where = "attach_weights"
        self._check(where)
        no_overrides(self.trainer, self.kind, ("compute_loss", LOSS, SAMPLED, TOP_1))
        bound = {name: inspect.signature(getattr(self.trainer, name)) for name in (SAMPLED, TOP_1)}
        return WeightedIWOPD(
            self.trainer,
            weights_at,
            jsd=self.signature(where),
            sampled=bound[SAMPLED],
            top_1=bound[TOP_1],
        )

    def weighted_parts(self, weighted: Any) -> tuple[Part, ...]:
        """The three losses."""
        return (
            (self.trainer, LOSS, weighted.loss),
            (self.trainer, SAMPLED, weighted.sampled_loss),
            (self.trainer, TOP_1, weighted.top_1_loss),
        )
