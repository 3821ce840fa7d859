"""Record on-policy distillation of tinker-cookbook: `tinker_cookbook.distillation.train_on_policy`.

::

    import asyncio
    from tinker_cookbook.distillation import train_on_policy
    from rocktok.hooks.tinker import record

    with record("runs/mine/log", every=1):
        asyncio.run(train_on_policy.main(config))

The service answers with the log-probabilities of the sampled tokens, so losses are `sampled`.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import HookError
from rocktok.hooks.background import describe
from rocktok.hooks.calls import check_call, imported, version_of
from rocktok.hooks.possible_columns import fit_columns
from rocktok.hooks.recorder import Recorder
from rocktok.hooks.scored_texts import ScoredText, record_texts, text_of
from rocktok.hooks.terminals import special_ids, terminal_ids
from rocktok.hooks.vocabulary import vocabulary

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["record"]

SUPPORTED = "tinker-cookbook 0.6.1"
MODULE = "tinker_cookbook.distillation.train_on_policy"
PENALTY = "incorporate_kl_penalty"
STEP = "do_train_step_and_get_sampling_client"

_CALLS = {
    PENALTY: (
        "data_D",
        "teacher_clients_D",
        "dataset_indices_D",
        "kl_penalty_coef",
        "kl_discount_factor",
    ),
    STEP: (
        "config",
        "i_batch",
        "training_client",
        "checkpoint_mgr",
        "service_client",
        "tokenizer",
        "env_group_builders_P",
        "trajectory_groups_P",
        "dataset_indices_P",
        "teacher_clients",
        "store",
    ),
}
#: Statistics beside the loss that can be had.
COLUMNS = ("log_ratio", "student_logprob", "teacher_logprob")

#: The step whose data are prepared, while that is so.
_STEP: ContextVar[int | None] = ContextVar("rocktok_tinker_step", default=None)


@contextlib.contextmanager
def record(
    log_dir: str | os.PathLike[str],
    every: int = 10,
    columns: str | Iterable[str] = "default",
    *,
    student: str | None = None,
    teacher: str | None = None,
    supersede: bool = False,
    quiet: bool = False,
) -> Iterator[Recorder]:
    """Record the rollouts of trainings that run inside the `with` block.

    The function that asks the teacher is wrapped in tinker-cookbook's module, and put back at the
    end of the block. It is given clients that keep the teacher's answers; no question is added.

    Args:
        log_dir: the log's directory or address; one run, all attempts.
        every: training iterations between records.
        columns: statistics beside the loss: `log_ratio`, `student_logprob`, `teacher_logprob`, or a
            preset, which is cut to these.
        student, teacher: names for run.json, if tinker-cookbook's names are not specific enough.
        supersede: start at step 0 over a finished run in the same directory.
        quiet: print nothing on stderr when recording starts and ends; warnings remain.

    Raises:
        HookError: this version of tinker-cookbook is not known, or an argument is out of range; on
            the first step, if the log cannot be written or holds another run.
    """
    recorder = Recorder(
        log_dir,
        every=every,
        fixed_sequences=0,
        columns=columns,
        student=student,
        teacher=teacher,
        supersede=supersede,
        quiet=quiet,
    )
    module, version = imported(MODULE, SUPPORTED), version_of("tinker-cookbook")
    for name, parameters in _CALLS.items():
        check_call(module, name, parameters, version, SUPPORTED)
    why = "the service answers with the sampled tokens' log-probabilities only"
    recorder.columns = fit_columns(recorder, recorder.columns, COLUMNS, why)
    recording = _Recording(recorder)
    originals = {name: getattr(module, name) for name in _CALLS}
    setattr(module, STEP, recording.step(originals[STEP]))
    setattr(module, PENALTY, recording.penalty(originals[PENALTY]))
    try:
        yield recorder
    except BaseException:
        recorder.close(final=False)
        raise
    else:
        recorder.close(final=True)
        recorder.warn_if_nothing("the recorder's `with` block ended")
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


class _Recording:
    """Wraps the two functions; what they compute is left as it is."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._domains: list[str] | None = None

    def step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around an iteration of training, which has its number."""

        @wraps(original)
        async def train_step(config: Any, i_batch: int, *args: Any, **kwargs: Any) -> Any:
            # A training iteration takes `num_substeps` optimizer steps.
            step = i_batch * config.num_substeps
            if not self._recorder.running:
                self._start(config, step, _argument(original, "tokenizer", args, kwargs))
            wanted = self._recorder.running and i_batch % self._recorder.every == 0
            if not wanted:
                return await original(config, i_batch, *args, **kwargs)
            token = _STEP.set(step)
            try:
                return await original(config, i_batch, *args, **kwargs)
            finally:
                _STEP.reset(token)
                self._recorder.finish_step(step)

        return train_step

    def penalty(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around the function that asks the teacher."""

        @wraps(original)
        async def incorporate_kl_penalty(
            data_D: Any,
            teacher_clients_D: Any,
            dataset_indices_D: Any,
            kl_penalty_coef: float,
            kl_discount_factor: float,
        ) -> Any:
            rest = dataset_indices_D, kl_penalty_coef, kl_discount_factor
            step = _STEP.get()
            if step is None:
                return await original(data_D, teacher_clients_D, *rest)
            clients = [_ListeningClient(client) for client in teacher_clients_D]
            result = await original(data_D, clients, *rest)
            self._record(step, data_D, clients, dataset_indices_D)
            return result

        return incorporate_kl_penalty

    def _record(
        self,
        step: int,
        data: Sequence[Any],
        clients: Sequence[_ListeningClient],
        indices: Sequence[int],
    ) -> None:
        """Record the sampled tokens of a batch. Never raises."""
        rows = 0
        try:
            found = [
                _datum(datum, client, self._domain(index))
                for datum, client, index in zip(data, clients, indices, strict=True)
            ]
            texts = [text for text, _, _ in found]
            rows = sum(int(text.scored.sum()) for text in texts)
            student_N, teacher_N = (
                np.concatenate([np.empty(0, np.float32), *(each[i] for each in found)])
                for i in (1, 2)
            )
            ratio_N = student_N - teacher_N
            columns = {"log_ratio": ratio_N, "student_logprob": student_N,
                       "teacher_logprob": teacher_N}  # fmt: skip
            wanted = {name: columns[name] for name in self._recorder.columns}
            record_texts(self._recorder, step, texts, {"loss": ratio_N, **wanted},
                         self._recorder.terminal_ids)  # fmt: skip
        except Exception as error:
            self._recorder.drop(step, describe(error), rows=rows)

    def _domain(self, index: int) -> str | None:
        return None if self._domains is None else self._domains[index]

    def _start(self, config: Any, step: int, tokenizer: Any) -> None:
        """Begin an attempt. Raises `HookError` if the log refuses it."""
        datasets = list(config.dataset_configs)
        self._domains = [f"dataset {i}" for i in range(len(datasets))] if datasets[1:] else None
        try:
            rows = list(vocabulary(tokenizer))
        except Exception as error:
            rows = []
            what = f"the tokenizer's vocabulary cannot be read: {describe(error)}"
            self._recorder.trouble("vocabulary", f"{what}; tokens of this log will print as ids")
        teachers = [str(each.teacher_config.base_model) for each in datasets]
        self._recorder.start(
            resume_step=step,
            run={
                "student": str(config.model_name),
                "teacher": ", ".join(dict.fromkeys(teachers)),
                **({"vocab_size": rows[-1][0] + 1} if rows else {}),
                "loss": {
                    "divergence": "reverse_kl",
                    "trained": True,
                    "exactness": "sampled",
                    "student_temperature": float(config.temperature),
                    "teacher_temperature": 1.0,
                },
                "sampling": {"temperature": float(config.temperature)},
                "terminal_ids": {"student": terminal_ids(tokenizer)},
                "special_ids": special_ids(tokenizer),
                "max_completion_length": int(config.max_tokens),
                "extra": {
                    "trainer": "tinker-cookbook",
                    "tinker-cookbook": version_of("tinker-cookbook").rpartition(" ")[2],
                    "kl_penalty_coef": float(config.kl_penalty_coef),
                    "kl_discount_factor": float(config.kl_discount_factor),
                },
            },
            vocab=rows or None,
            with_domain=self._domains is not None,
        )


class _ListeningClient:
    """A teacher's client that keeps the log-probabilities it answers with."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.logprobs: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def compute_logprobs(self, *args: Any, **kwargs: Any) -> Any:
        """As the client's, with an answer that is kept."""
        return _ListeningAnswer(self._client.compute_logprobs(*args, **kwargs), self)

    def keep(self, logprobs: Any) -> Any:
        """Keep an answer, and give it on."""
        self.logprobs = logprobs
        return logprobs


class _ListeningAnswer:
    """An answer that comes later."""

    def __init__(self, answer: Any, client: _ListeningClient) -> None:
        self._answer, self._client = answer, client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    async def coroutine(self) -> Any:
        """The answer, once it is there."""
        return self._client.keep(await self._answer.coroutine())

    def __await__(self) -> Any:
        return self.coroutine().__await__()


def _datum(datum: Any, client: _ListeningClient, domain: str | None) -> tuple[ScoredText, Any, Any]:
    """A text, and the student's and the teacher's log-probabilities of its sampled tokens."""
    inputs = datum.loss_fn_inputs
    target_T, logprob_T, mask_T = (
        np.asarray(inputs[name].to_torch()) for name in ("target_tokens", "logprobs", "mask")
    )
    # The input's first token is no target; each target is the next input.
    first = int(datum.model_input.to_ints()[0])
    scored_T = mask_T != 0
    if client.logprobs is None:
        raise HookError("the teacher was not asked for its log-probabilities")
    teacher_T = np.array(client.logprobs[1:], dtype=np.float32)
    if len(teacher_T) != len(target_T):
        raise HookError(
            f"the teacher gave {len(teacher_T)} log-probabilities for {len(target_T)} tokens"
        )
    text = text_of(np.concatenate([[first], target_T]), np.concatenate([[0], mask_T]), domain)
    return text, logprob_T[scored_T].astype(np.float32), teacher_T[scored_T]


def _argument(function: Any, name: str, args: Any, kwargs: Any) -> Any:
    """What a function is called with, after its first two parameters."""
    return kwargs[name] if name in kwargs else args[_CALLS[STEP].index(name) - 2]
