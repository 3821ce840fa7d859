"""`AsyncDistillationTrainer`: rows of several texts one after another, its teachers on servers.

Array suffixes: L tokens of a packed row; N scored positions; V vocabulary; T a teacher's likeliest
tokens.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.hooks.rollouts import Rollout, prompt_identity
from rocktok.hooks.trl.checks import calls, has, signature_of
from rocktok.hooks.trl.family import Family
from rocktok.hooks.trl.scoring import SCORING, Capturing, Scoring, host
from rocktok.hooks.trl.served import Student, served_columns, student_of
from rocktok.hooks.trl.sparse import COLUMNS, Served

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Collection, Mapping

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.trl.family import Part

LOSS = "_chunked_jsd_loss"
COMPUTE = "_compute_loss"
_KNOWN = (
    "hidden_valid",
    "lm_head_weight",
    "lm_head_bias",
    "logit_scale",
    "final_logit_softcapping",
    "target_ids",
    "teacher_target_logps",
    "valid_candidate_mask",
    "beta",
    "temperature",
    "add_tail_bucket",
    "teacher_id_idx",
    "num_teachers",
    "chunk_size",
)
#: Positions that are projected to the vocabulary at once.
_ROWS = 256


class AsyncCapture(Capturing):
    """Wraps `_compute_loss`, which has the batch, and the loss function of its module."""

    def __init__(self, trainer: Any, recorder: Recorder, signature: inspect.Signature) -> None:
        super().__init__(trainer, recorder)
        self._signature = signature

    def compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_compute_loss(unwrapped_model, inputs)`."""

        def compute_loss(unwrapped_model: Any, inputs: Any) -> Any:
            step = self._trainer.state.global_step
            mine = SCORING.get() is None and self._trainer.model.training
            if not (mine and self._recorder.wants(step)):
                return original(unwrapped_model, inputs)
            batch = Scoring("rollout", step, inputs)
            with self.scoring(batch):
                result = original(unwrapped_model, inputs)
                if batch.calls == 0:
                    # No token of this batch was scored by a teacher.
                    batch.calls = 1
            return result

        return compute_loss

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around the module's `_chunked_jsd_loss`."""

        def chunked_jsd_loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            scoring = SCORING.get()
            if scoring is None:
                return result
            with self.observing(scoring) as call:
                arguments = self._signature.bind(*args, **kwargs).arguments
                call.rows = len(arguments["hidden_valid"])
                self._observe(scoring, arguments, result)
            return result

        return chunked_jsd_loss

    def _observe(self, scoring: Scoring, arguments: Mapping[str, Any], result: Any) -> None:
        packed = {
            name: scoring.inputs[name][scoring.inputs["attention_mask"] != 0]
            for name in ("input_ids", "completion_mask", "position_ids", "teacher_id_idx")
            if name in scoring.inputs
        }
        wide = {
            name: scoring.inputs[name][scoring.inputs["attention_mask"] != 0]
            for name in ("teacher_topk_ids", "teacher_topk_logprobs")
        }
        token_L, likeliest_LT = packed["input_ids"], wide["teacher_topk_ids"]
        beta = float(arguments["beta"])
        signal_L = likeliest_LT != -1
        if beta != 0:
            first_L = signal_L[:, :1] if beta != 1 else torch.zeros_like(signal_L[:, :1])
            realised_LT = signal_L & (likeliest_LT == token_L[:, None])
            signal_L = torch.cat([first_L, realised_LT], dim=1)
        scored_L = (packed["completion_mask"] != 0) & signal_L.any(dim=1)
        scored_L[0] = False
        served = _served(token_L[scored_L], *(values[scored_L] for values in wide.values()))
        if len(served.token) != len(arguments["hidden_valid"]):
            raise RuntimeError("which tokens were scored is not as it is known")
        rollouts, text_L, place_L = self._rollouts(scoring.step, packed)
        columns = served_columns(
            self,
            scoring,
            {
                "sequence_id": np.array([r.sequence_id for r in rollouts])[text_L][host(scored_L)],
                "position": place_L[host(scored_L)].astype(np.int32),
                "token_id": host(served.token).astype(np.int32),
            },
            served,
            self._student(arguments, served),
            beta,
            bool(arguments["add_tail_bucket"]),
            float(result[0].detach()),
        )
        known = set(columns["sequence_id"].tolist())
        rollouts = [rollout for rollout in rollouts if rollout.sequence_id in known]
        self._recorder.record(scoring.step, columns, table=scoring.table, rollouts=rollouts)

    def _student(self, arguments: Mapping[str, Any], served: Served) -> Student:
        """The student's distributions at the scored positions, some positions at a time."""
        parts = []
        weight, bias = arguments["lm_head_weight"].detach(), arguments["lm_head_bias"]
        with torch.no_grad():
            for start in range(0, max(1, len(served.token)), _ROWS):
                here = slice(start, start + _ROWS)
                logit_NV = arguments["hidden_valid"].detach()[here].float() @ weight.float().T
                if bias is not None:
                    logit_NV = logit_NV + bias.detach().float()
                logit_NV = logit_NV * arguments["logit_scale"]
                cap = arguments["final_logit_softcapping"]
                if cap is not None:
                    logit_NV = cap * torch.tanh(logit_NV / cap)
                logprob_NV = (logit_NV / arguments["temperature"]).log_softmax(-1)
                parts.append(student_of(logprob_NV, served.rows(here)))
        return Student(
            *(torch.cat([getattr(p, n) for p in parts]) for n in ("token", "likeliest", "entropy"))
        )

    def _rollouts(
        self, step: int, packed: Mapping[str, torch.Tensor]
    ) -> tuple[list[Rollout], Any, Any]:
        """Texts of a packed row; which text each token is of, and its index in the completion."""
        token_L, scored_L, place_L = (
            host(packed[name]) for name in ("input_ids", "completion_mask", "position_ids")
        )
        text_L = np.cumsum(place_L == 0) - 1
        ids = self._recorder.new_sequence_ids(int(text_L[-1]) + 1).tolist()
        rollouts, position_L = [], np.full(len(token_L), -1, np.int64)
        # With several teachers: of each token, which one scored its text.
        teacher_L = host(packed["teacher_id_idx"]) if "teacher_id_idx" in packed else None
        ends = set(self._trainer.eos_token_ids)
        for number, sequence_id in enumerate(ids):
            here = np.flatnonzero(text_L == number)
            trained = np.flatnonzero(scored_L[here])
            first = int(trained[0]) if len(trained) else len(here)
            position_L[here[first:]] = np.arange(len(here) - first)
            prompt, completion = (
                token_L[part].astype(np.int32) for part in (here[:first], here[first:])
            )
            ended = completion.size > 0 and int(completion[-1]) in ends
            rollouts.append(
                Rollout(
                    sequence_id=sequence_id,
                    step=step,
                    prompt_id=prompt_identity(prompt),
                    prompt_token_ids=prompt,
                    completion_token_ids=completion,
                    loss_mask=(scored_L[here[first:]] != 0).astype(np.int8),
                    finish_reason="stop" if ended else "length",
                    domain=None
                    if teacher_L is None
                    else str(self._trainer._teacher_ids[int(teacher_L[here[0]])]),
                )
            )
        return rollouts, text_L, position_L


def _served(token_N: torch.Tensor, likeliest_NT: torch.Tensor, logprob_NT: torch.Tensor) -> Served:
    """What a server said; the realised token is one of its list, wherever it stands there."""
    realised_NT = (likeliest_NT == token_N[:, None]) & (likeliest_NT != -1)
    out = torch.full_like(logprob_NT, -torch.inf)
    logprob_N = torch.where(realised_NT, logprob_NT, out).amax(dim=1)
    return Served(token_N, logprob_N, likeliest_NT, logprob_NT)


class AsyncServed(Family):
    """`trl.experimental.async_distillation.AsyncDistillationTrainer`."""

    exactness = "topk"
    columns = COLUMNS
    reads_heads = True

    @property
    def kind(self) -> Any:
        """TRL's own class."""
        from trl.experimental.async_distillation import AsyncDistillationTrainer

        return AsyncDistillationTrainer

    @property
    def module(self) -> Any:
        """TRL's module of the trainer, whose global its loss function is."""
        return sys.modules[self.kind.__module__]

    def why_inexact(self) -> str:
        """What is known of the teacher."""
        return "its teachers are on servers, which give the likeliest tokens alone"

    def why_no_kept_text(self) -> str | None:
        """Its worker, in another process, is what asks the teachers."""
        return f"{self.name} has its texts scored by a process of their own, as they are written"

    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` for another version than is known."""
        signature_of(self.module, LOSS, _KNOWN)
        signature_of(self.kind, COMPUTE, ("self", "unwrapped_model", "inputs"))
        calls(self.kind._compute_loss, LOSS)
        has(self.trainer, "eos_token_ids", "accelerator", "_teacher_ids")

    def names_domains(self, columns: Collection[str]) -> bool:
        """With several teachers a text's domain is its teacher's name."""
        return len(self.trainer._teacher_ids) > 1

    @property
    def beta(self) -> float:
        """The trainer's own setting."""
        return float(self.trainer.args.beta)

    @property
    def trains_reverse_kl(self) -> bool:
        """What is trained is over fewer terms than what is recorded."""
        return False

    @property
    def loss_temperature(self) -> float:
        """Of the teacher and of the student in the loss; sampling has its own."""
        return float(self.trainer.args.teacher_temperature)

    def about(self) -> dict[str, Any]:
        """How many of the teacher's likeliest tokens are known."""
        return {"teacher_top_k": int(self.trainer.args.teacher_top_k)}

    def capture(self, recorder: Recorder) -> AsyncCapture:
        """What reads its losses."""
        return AsyncCapture(self.trainer, recorder, signature_of(self.module, LOSS, _KNOWN))

    def parts(self, capture: AsyncCapture) -> tuple[Part, ...]:
        """The loss function, and which batch it is of."""
        return ((self.module, LOSS, capture.loss), (self.trainer, COMPUTE, capture.compute_loss))

    def why_not_weighted(self) -> str | None:
        """Its losses are reduced before they are given back."""
        return (
            f"the losses of {self.name} are over what its servers say, and come back as one "
            "number; use trl.DistillationTrainer with a teacher_model"
        )
