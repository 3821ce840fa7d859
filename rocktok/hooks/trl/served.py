"""Trainers whose teacher is on a server: a few log-probabilities of each token are at hand.

Array suffixes: B rows; K columns of completions; N scored positions; V vocabulary; T likeliest
tokens of the teacher.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.hooks.trl.capture import GenerationCapture
from rocktok.hooks.trl.checks import GENERATE, calls, has, signature_of
from rocktok.hooks.trl.distillation import Distillation, refuse_images
from rocktok.hooks.trl.scoring import IDS_KEY, SCORING, Scoring, host
from rocktok.hooks.trl.sparse import COLUMNS, Served, sparse_columns

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.trl.family import Part
    from rocktok.hooks.trl.scoring import Capturing

ASK = "_get_teacher_token_logprobs_from_server"
SPARSE = "_compute_server_sparse_top_1_divergence_loss"
FORWARD = "_compute_server_forward_kl_loss"
_RESULT = ("self", "teacher_result", "student_log_probs")
KNOWN = {
    "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    ASK: ("self", "inputs", "aligned_prompt_length"),
    SPARSE: (*_RESULT, "completion_tokens", "labels"),
    FORWARD: (*_RESULT, "labels"),
    GENERATE: ("self", "inputs"),
}
IGNORED = -100

#: Column of a batch's rows at which the teacher's answers begin.
_START: ContextVar[list[int] | None] = ContextVar("rocktok_served_start", default=None)


class ServedCapture(GenerationCapture):
    """Wraps the two losses of a `ServerDistillationTrainer`, and what asks its server."""

    def __init__(
        self, trainer: Any, recorder: Recorder, signatures: Mapping[str, inspect.Signature]
    ) -> None:
        super().__init__(trainer, recorder)
        self._signatures = signatures

    def compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `compute_loss(model, inputs, …)`."""

        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            step = self._trainer.state.global_step
            mine = SCORING.get() is None and self._trainer.model.training
            if not (mine and self._recorder.wants(step)):
                return original(model, inputs, *args, **kwargs)
            with self.scoring(Scoring("rollout", step, inputs)):
                return original(model, inputs, *args, **kwargs)

        return compute_loss

    def ask(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around what asks the server: where its answers begin is known there."""

        def ask(inputs: Any, aligned_prompt_length: int) -> Any:
            result = original(inputs, aligned_prompt_length)
            _START.set([aligned_prompt_length])
            return result

        return ask

    def loss_of(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """What makes the wrapper of one of the two losses."""

        def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
            def loss(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                scoring = SCORING.get()
                if scoring is None:
                    return result
                with self.observing(scoring) as call:
                    if scoring.record:
                        # The signature is that of the class: bound methods have no `self`.
                        bound = self._signatures[name].bind(None, *args, **kwargs)
                        arguments = bound.arguments
                        mask_BK = arguments["labels"] != IGNORED
                        call.rows = int(mask_BK.sum())
                        self._observe(scoring, arguments, mask_BK, result)
                return result

            return loss

        return wrapper

    def _observe(
        self,
        scoring: Scoring,
        arguments: Mapping[str, Any],
        mask_BK: torch.Tensor,
        result: Any,
    ) -> None:
        begun, ids_B = _START.get(), scoring.inputs.get(IDS_KEY)
        if begun is None or ids_B is None:
            raise RuntimeError("the batch carries no sequence ids, or no server was asked")
        offset = begun[0] - scoring.inputs["prompt_ids"].shape[1]
        row_N, column_N = (host(index) for index in mask_BK.nonzero(as_tuple=True))
        told = arguments["teacher_result"]
        served = Served(
            token=arguments["labels"][mask_BK],
            logprob=told["actual_logprobs"][mask_BK],
            likeliest=told["topk_token_ids"][mask_BK],
            logprobs=told["topk_logprobs"][mask_BK],
        )
        keys = {
            "sequence_id": host(ids_B)[row_N],
            "position": (column_N + offset).astype(np.int32),
            "token_id": host(served.token).astype(np.int32),
        }
        with torch.no_grad():
            student = student_of(arguments["student_log_probs"].detach()[mask_BK], served)
        beta, tail = float(self._trainer.beta), bool(self._trainer.loss_add_tail)
        # The served losses are means over the batch's tokens.
        theirs = float(result.detach()) * max(len(row_N), 1)
        columns = served_columns(self, scoring, keys, served, student, beta, tail, theirs)
        rollouts = self.new_rollouts(scoring, columns["sequence_id"])
        self._recorder.record(scoring.step, columns, table=scoring.table, rollouts=rollouts)


@dataclass(frozen=True)
class Student:
    """What is needed of the student's distributions at N positions.

    Attributes:
        token: (N,) log-probability of the realised token.
        likeliest: (N, T) that of the teacher's likeliest.
        entropy: (N,).
    """

    token: torch.Tensor
    likeliest: torch.Tensor
    entropy: torch.Tensor


def student_of(logprob_NV: torch.Tensor, served: Served) -> Student:
    """That, of log-probabilities over the vocabulary."""
    logprob_NV = logprob_NV.float()
    probability_NV = logprob_NV.exp()
    return Student(
        logprob_NV.gather(1, served.token[:, None])[:, 0],
        logprob_NV.gather(1, served.likeliest.clamp(min=0)),
        torch.special.entr(probability_NV).sum(1),
    )


def served_columns(
    capture: Capturing,
    scoring: Scoring,
    keys: Mapping[str, Any],
    served: Served,
    student: Student,
    beta: float,
    tail: bool,
    theirs: float,
) -> dict[str, Any]:
    """The columns of a call's rows, compared with what the trainer computed from them.

    Args:
        keys: sequence, position and token of the N rows.
        beta, tail: of the trained loss, and whether it has a tail. theirs: its sum over the rows.
    """
    support = served.support(student.likeliest, student.token)
    part = served.support_of(beta, support)
    part = part.with_tail() if tail else part.renormalized()
    capture.compare(scoring, float(part.divergence(beta).sum()), theirs, len(served.token))
    recorder = capture.recorder
    found = sparse_columns(served, support, student.entropy)
    columns = {**keys, **{name: host(values) for name, values in found.items()}}
    columns = {n: v for n, v in columns.items() if n not in COLUMNS - set(recorder.columns)}
    known_N = host(served.logprob.isfinite())
    if not known_N.all():
        recorder.trouble(
            "unserved",
            "the server gave no log-probability for some tokens; they have no rows",
        )
    return {name: values[known_N] for name, values in columns.items()}


class ServedFamily(Distillation):
    """`trl.experimental.server_distillation.ServerDistillationTrainer`."""

    exactness = "topk"
    columns = COLUMNS
    reads_heads = False

    @property
    def kind(self) -> Any:
        """TRL's own class."""
        from trl.experimental.server_distillation import ServerDistillationTrainer

        return ServerDistillationTrainer

    def why_inexact(self) -> str:
        """What is known of the teacher."""
        return "its teacher is on a server, which gives the likeliest tokens alone"

    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` for another version than is known."""
        for name, known in KNOWN.items():
            signature_of(self.kind, name, known)
        for name in (ASK, SPARSE, FORWARD):
            calls(self.kind.compute_loss, name)
        has(self.trainer, "beta", "loss_add_tail", "temperature", "eos_token_ids", "teacher_client")
        refuse_images(self.trainer, recorder)

    @property
    def trains_reverse_kl(self) -> bool:
        """What is trained is over fewer terms than what is recorded."""
        return False

    def about(self) -> dict[str, Any]:
        """How many of the teacher's likeliest tokens are known."""
        return {"teacher_top_k": int(self.trainer.loss_top_k)}

    def capture(self, recorder: Recorder) -> Any:
        """What reads its losses."""
        signatures = {
            name: signature_of(self.kind, name, KNOWN[name]) for name in (SPARSE, FORWARD)
        }
        return ServedCapture(self.trainer, recorder, signatures)

    def parts(self, capture: Any) -> tuple[Part, ...]:
        """What is generated, what is asked of the server, and the losses."""
        return (
            (self.trainer, GENERATE, capture.generate),
            (self.trainer, "compute_loss", capture.compute_loss),
            (self.trainer, ASK, capture.ask),
            (self.trainer, SPARSE, capture.loss_of(SPARSE)),
            (self.trainer, FORWARD, capture.loss_of(FORWARD)),
        )

    def why_not_weighted(self) -> str | None:
        """Its losses are reduced before they are given back."""
        return (
            f"the losses of {self.name} are over what its server says, and come back as one "
            "number; use trl.DistillationTrainer with a teacher_model"
        )

    def weighted(self, weights_at: Callable[[int], Any]) -> Any:
        """Refused."""
        from rocktok.hooks.trl.family import Family

        return Family.weighted(self, weights_at)

    def forward(self, scoring: Scoring) -> None:
        """Its server is asked, as in training."""
        self.trainer.compute_loss(self.trainer.model_wrapped, scoring.inputs)
