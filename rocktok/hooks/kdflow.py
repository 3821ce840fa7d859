"""Record on-policy distillation of KDFlow: an algorithm of its registry, `rocktok_vanilla_kd`.

::

    # in the place of `python -m kdflow.cli.train_kd_on_policy`, with ROCKTOK_LOG set
    import ray
    from kdflow.arguments import init_args
    from kdflow.cli.train_kd_on_policy import train

    ray.init(runtime_env={"worker_process_setup_hook": "rocktok.hooks.kdflow.register"})
    train(init_args("on_policy_kd"))  # with --kd_algorithm rocktok_vanilla_kd

It trains as `vanilla_kd` does.
"""

from __future__ import annotations

import contextlib
from functools import wraps
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError
from rocktok.hooks.background import describe
from rocktok.hooks.calls import check_call, imported
from rocktok.hooks.environment import Settings, settings
from rocktok.hooks.possible_columns import fit_columns
from rocktok.hooks.scored_texts import ScoredText, record_texts, text_of
from rocktok.hooks.terminals import special_ids, terminal_ids
from rocktok.hooks.vocabulary import vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocktok.hooks.recorder import Recorder

__all__ = ["NAME", "register"]

SUPPORTED = "KDFlow 0.1.2"
BASE = "vanilla_kd"
#: Name of the algorithm that records.
NAME = "rocktok_vanilla_kd"

_CALLS = {
    "__init__": ("self", "strategy", "student_model", "teacher_lm_head", "kwargs"),
    "training_step": ("self", "micro_batch"),
}


def register() -> None:
    """Add `rocktok_vanilla_kd` to KDFlow's algorithms, in this process.

    Raises:
        HookError: KDFlow is missing or not as it is known, or the environment's settings are wrong.
    """
    algorithms = imported("kdflow.algorithms", SUPPORTED)
    if NAME in algorithms.ALGO_DICT:
        return
    wanted = settings()
    base = algorithms.ALGO_DICT.get(BASE)
    if base is None:
        raise HookError(f"KDFlow has no algorithm {BASE}; use {SUPPORTED}")
    for name, parameters in _CALLS.items():
        check_call(base, name, parameters, "KDFlow", SUPPORTED)
    algorithms.register_algorithm(NAME)(_recorded(base, wanted))


def _recorded(base: Any, wanted: Settings) -> Any:
    """A subclass of KDFlow's algorithm that records."""

    class RecordedKD(base):  # type: ignore[misc]
        """KDFlow's `vanilla_kd`, with its losses recorded."""

        def __init__(self, strategy: Any, student_model: Any, teacher_lm_head: Any, **kwargs: Any):
            super().__init__(strategy, student_model, teacher_lm_head, **kwargs)
            self._recording = StepRecording(self, wanted)
            loss_fn: Any = self.loss_fn
            self.loss_fn: Any = self._recording.observed(loss_fn)

        def training_step(self, micro_batch: Any) -> Any:
            with self._recording.micro_batch(micro_batch):
                return super().training_step(micro_batch)

    return RecordedKD


class StepRecording:
    """Records one algorithm in one worker of KDFlow.

    Of the workers that share a text (ring attention) the first writes; its rank in the log is its
    data-parallel rank.
    """

    def __init__(self, algorithm: Any, wanted: Settings) -> None:
        self._algorithm, self._wanted = algorithm, wanted
        self._recorder: Recorder | None = None
        self._step = wanted.resume_step or 0
        self._started = False
        self._texts: list[ScoredText] | None = None
        self._tokens: Any = None
        self._calls = 0

    @contextlib.contextmanager
    def micro_batch(self, batch: Mapping[str, Any]) -> Any:
        """Record what the loss function is called with inside the `with` block."""
        strategy = self._algorithm.strategy
        # KDFlow counts a micro-batch when its gradients are computed, after this.
        last = (strategy.step + 1) % strategy.accumulated_gradient == 0
        wanted = self._step % self._wanted.every == 0
        if wanted:
            self._look_at(batch)
        yield
        if wanted:
            self._close_batch(last)
        self._step += last

    def _look_at(self, batch: Mapping[str, Any]) -> None:
        self._calls, self._texts = 0, None
        try:
            ids_BS, mask_BS = batch["stu_input_ids"], batch["stu_loss_mask"] != 0
            # The mask marks the positions that predict; what they predict comes next.
            self._tokens = ids_BS.roll(-1, 1)[mask_BS]
            target_BS = mask_BS.roll(1, 1)
            rows = zip(ids_BS, target_BS, batch["stu_attn_mask"] != 0, strict=True)
            self._texts = [
                text_of(ids_S[there_S].cpu().numpy(), target_S[there_S].cpu().numpy())
                for ids_S, target_S, there_S in rows
            ]
        except Exception as error:
            self._drop(f"the batch cannot be read: {describe(error)}")

    def _close_batch(self, last: bool) -> None:
        if self._texts is not None and self._calls != 1:
            self._drop(f"the loss function was called {self._calls} times for a batch")
        self._texts = None
        if last and self._recorder is not None:
            self._recorder.finish_step(self._step)
            # Ray ends workers without a word: what is finished must not wait.
            self._recorder.flush()

    def observed(self, original: Any) -> Any:
        """The loss function, whose calls are recorded."""

        @wraps(original, assigned=())
        def loss_fn(student_logits: Any, teacher_logits: Any, **kwargs: Any) -> Any:
            if self._texts is not None:
                if not self._started:
                    self._start(student_logits.shape[-1])
                self._record(student_logits, teacher_logits)
            return original(student_logits, teacher_logits, **kwargs)

        return loss_fn

    def _record(self, student_logits: Any, teacher_logits: Any) -> None:
        """Record the losses behind a call of the loss function. Never raises."""
        self._calls += 1
        recorder, texts = self._recorder, self._texts
        if recorder is None or texts is None:
            return
        try:
            from rocktok.hooks.statistics import token_statistics

            columns = token_statistics(
                token_ids=self._tokens,
                student_logits=student_logits,
                teacher_logits=teacher_logits,
                temperature=float(self._algorithm.args.kd.kd_temperature),
                columns=("loss", *recorder.columns),
                terminal_ids=recorder.terminal_ids,
            )
            record_texts(recorder, self._step, texts, columns, recorder.terminal_ids)
        except Exception as error:
            self._drop(describe(error), sum(int(text.scored.sum()) for text in texts))

    def _drop(self, reason: str, rows: int = 0) -> None:
        if self._recorder is not None:
            self._recorder.drop(self._step, reason, rows=rows)

    def _start(self, width: int) -> None:
        """Begin an attempt. Raises `HookError` if the log refuses it."""
        self._started = True
        algorithm, strategy = self._algorithm, self._algorithm.strategy
        if strategy.ring_attn_rank != 0:
            return
        recorder = self._wanted.recorder()
        possible = [name for name in recorder.columns if name != "head_grad_norm"]
        recorder.columns = fit_columns(
            recorder, recorder.columns, possible, "KDFlow's loss sees no hidden states"
        )
        size = max(1, strategy.world_size // strategy.sp_size)
        recorder.start(
            rank=strategy.get_rank() // strategy.sp_size,
            world_size=size,
            resume_step=self._step,
            run=_describe(algorithm, width),
            vocab=self._vocabulary(recorder),
            fingerprint={"vocab_width": width},
            all_gather=lambda value: _gathered(value, size, strategy),
        )
        self._recorder = recorder

    def _vocabulary(self, recorder: Recorder) -> list[tuple[int, str, bytes]] | None:
        try:
            tokenizer = self._algorithm.student.tokenizer
            width = recorder.vocab_size
            return [row for row in vocabulary(tokenizer) if width is None or row[0] < width]
        except Exception as error:
            what = f"the tokenizer's vocabulary cannot be read: {describe(error)}"
            recorder.trouble("vocabulary", f"{what}; tokens of this log will print as ids")
            return None


def _describe(algorithm: Any, width: int) -> dict[str, Any]:
    """What run.json says. `width`: of the logits that both models have."""
    args, tokenizer = algorithm.args, algorithm.student.tokenizer
    temperature = float(args.kd.kd_temperature)
    return {
        "student": str(args.model.student_name_or_path),
        "teacher": str(args.model.teacher_name_or_path),
        "vocab_size": width,
        "loss": {
            "divergence": "reverse_kl",
            "trained": args.kd.kd_loss_fn == "rkl" and args.kd.kd_ratio == 1,
            "exactness": "exact",
            "student_temperature": temperature,
            "teacher_temperature": temperature,
        },
        "sampling": {"temperature": args.rollout.temperature, "top_p": args.rollout.top_p},
        "terminal_ids": {"student": [n for n in terminal_ids(tokenizer) if n < width]},
        "special_ids": [n for n in special_ids(tokenizer) if n < width],
        "max_completion_length": args.rollout.generate_max_len,
        "extra": {"trainer": "KDFlow", "kd_loss_fn": args.kd.kd_loss_fn},
    }


def _gathered(value: Any, size: int, strategy: Any) -> list[Any]:
    """Every data-parallel rank's object, in rank order."""
    if size == 1:
        return [value]
    from torch import distributed

    result: list[Any] = [None] * size
    distributed.all_gather_object(result, value, group=strategy.sp_mesh["dp"].get_group())
    return result
