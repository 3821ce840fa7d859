"""Takes the losses of verl's actor in one worker, step by step.

Of the workers that share a text (sequence, tensor and pipeline parallelism) the one that verl
itself collects results from writes; its rank in the log is its data-parallel rank.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.errors import HookError
from rocktok.hooks.background import describe
from rocktok.hooks.possible_columns import fit_columns
from rocktok.hooks.scored_texts import ScoredText, record_texts
from rocktok.hooks.topk import TOPK_COLUMNS, topk_statistics
from rocktok.hooks.verl.describe import describe_run, fingerprint, steps_taken, tokenizer_of
from rocktok.hooks.vocabulary import vocabulary
from rocktok.schema import TOP_K

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rocktok.hooks.environment import Settings
    from rocktok.hooks.recorder import Recorder

#: Before the names of what is added to the outputs of verl's top-k loss.
_PREFIX = "rocktok_"


class ActorRecording:
    """What one process of verl records: nothing, unless it trains an actor by distillation.

    Args:
        wanted: the settings of the environment.
        response_part: verl's function that cuts the responses out of packed values, (B, R).
        setting: verl's function that reads a setting of a batch.
        parts: verl's module of the top-k loss, whose functions split packed values over ranks.
    """

    def __init__(
        self,
        wanted: Settings,
        *,
        response_part: Callable[..., Any],
        setting: Callable[..., Any],
        parts: Any,
    ) -> None:
        self._wanted = wanted
        self._response_part, self._setting, self._parts = response_part, setting, parts
        self._recorder: Recorder | None = None
        self._exactness: str | None = None
        self._columns: tuple[str, ...] = ()
        self._step = 0
        #: Whether the losses that are computed now belong to a step that is recorded.
        self._active = False

    # --- steps -----------------------------------------------------------------------------------

    @contextmanager
    def step(self, engine: Any, data: Any, loss_function: Any) -> Iterator[None]:
        """Record the optimizer step that is taken inside the `with` block, if it is to be.

        Raises `HookError` before the first step if its losses cannot be recorded.
        """
        config = getattr(loss_function, "keywords", {}).get("distillation_config")
        if config is None:
            yield  # a critic, or an actor without a teacher
            return
        if self._exactness is None:
            self._start(engine, data, loss_function.keywords)
        self._active = self._step % self._wanted.every == 0
        try:
            yield
        finally:
            recorded, self._active = self._active, False
        if recorded and self._recorder is not None:
            self._recorder.finish_step(self._step)
            # Ray ends workers without a word: what is finished must not wait.
            self._recorder.flush()
        self._step += 1

    def _start(self, engine: Any, data: Any, loss: Mapping[str, Any]) -> None:
        config = loss["distillation_config"].distillation_loss
        exactness = "topk" if config.loss_settings.use_topk else "sampled"
        if exactness == "topk":
            self._check_logits(data, loss["config"])
        resume = self._wanted.resume_step
        self._step = steps_taken(engine) if resume is None else resume
        recorder = self._wanted.recorder()
        self._columns = self._possible(recorder, exactness, data, config)
        self._exactness = exactness
        if not engine.is_mp_src_rank_with_outputs():
            return
        recorder.columns = self._columns
        size, group = engine.get_data_parallel_size(), engine.get_data_parallel_group()
        temperature = self._setting(data, "temperature", 1.0)
        recorder.start(
            rank=engine.get_data_parallel_rank(),
            world_size=size,
            resume_step=self._step,
            run=describe_run(engine, loss, exactness, temperature),
            vocab=self._vocabulary(recorder, engine),
            fingerprint=fingerprint(engine),
            all_gather=lambda value: _gathered(value, size, group),
        )
        self._recorder = recorder

    def _check_logits(self, data: Any, actor: Any) -> None:
        """Raise `HookError` where nobody sees the student's logits whole."""
        if actor.strategy == "megatron":
            raise HookError(
                "verl's Megatron workers split the logits over ranks, and its top-k loss cannot be "
                "recorded there; use an estimator (loss_mode k1, k3, …) or the fsdp strategy"
            )
        if self._setting(data, "use_fused_kernels", False):
            raise HookError(
                "verl's fused kernels show no logits, and its top-k loss cannot be recorded; set "
                "use_fused_kernels=False, or use an estimator (loss_mode k1, k3, …)"
            )

    def _possible(
        self, recorder: Recorder, exactness: str, data: Any, config: Any
    ) -> tuple[str, ...]:
        if exactness == "sampled":
            possible = ["log_ratio", "student_logprob", "teacher_logprob"]
            if self._setting(data, "calculate_entropy", False):
                possible.append("student_entropy")
            why = "verl's estimators have the sampled tokens' log-probabilities only"
        else:
            possible = list(TOPK_COLUMNS if config.topk >= TOP_K else TOPK_COLUMNS[:2])
            if self._setting(data, "distillation_only", False):
                # verl leaves the sampled tokens' log-probabilities out then.
                possible.remove("student_logprob")
            why = "verl's top-k loss has the teacher's likeliest tokens only"
        return fit_columns(recorder, recorder.columns, possible, why)

    def _vocabulary(self, recorder: Recorder, engine: Any) -> list[tuple[int, str, bytes]] | None:
        try:
            return list(vocabulary(tokenizer_of(engine)))
        except Exception as error:
            what = f"the tokenizer's vocabulary cannot be read: {describe(error)}"
            recorder.trouble("vocabulary", f"{what}; tokens of this log will print as ids")
            return None

    # --- what is seen ----------------------------------------------------------------------------

    def of_logits(
        self, student_logits: Any, teacher_logprobs: Any, teacher_ids: Any
    ) -> dict[str, Any]:
        """What is to be added to the outputs of the top-k loss, (1, columns) each.

        All ranks that share a text add the same names, as verl gathers each from all of them; what
        fails is NaN, which drops the step.
        """
        if not self._active:
            return {}
        names = ("loss", *(name for name in self._columns if name != "student_logprob"))
        try:
            logprobs, ids = (self._part(each) for each in (teacher_logprobs, teacher_ids))
            found = topk_statistics(
                student_logits=student_logits.detach().flatten(0, 1),
                teacher_ids=ids.flatten(0, 1),
                teacher_logprobs=logprobs.flatten(0, 1),
                columns=names[1:],
            )
        except Exception as error:
            self._drop(describe(error))
            nothing = torch.full(student_logits.shape[:2], torch.nan, device=student_logits.device)
            found = dict.fromkeys(names, nothing)
        return {_PREFIX + name: found[name].view(student_logits.shape[:2]) for name in names}

    def _part(self, packed: Any) -> Any:
        """(1, columns, K) of this rank, from values that all ranks have whole."""
        values = packed.values().unsqueeze(0)
        if self._parts.get_ulysses_sequence_parallel_world_size() > 1:
            values = self._parts.slice_input_tensor(values, dim=1)
        return values

    def observe(self, model_output: Mapping[str, Any], data: Any) -> None:
        """Record the losses of a micro-batch. Never raises."""
        if not self._active or self._recorder is None:
            return
        rows = 0
        try:
            texts = _texts(data)
            rows = sum(int(text.scored.sum()) for text in texts)
            record_texts(
                self._recorder,
                self._step,
                texts,
                self._statistics(model_output, data, texts),
                self._recorder.terminal_ids,
            )
        except Exception as error:
            self._drop(describe(error), rows)

    def _drop(self, reason: str, rows: int = 0) -> None:
        if self._recorder is not None:
            self._recorder.drop(self._step, reason, rows=rows)

    def _statistics(
        self, model_output: Mapping[str, Any], data: Any, texts: list[ScoredText]
    ) -> dict[str, Any]:
        """Columns of the scored tokens, in their order."""

        def of(values: Any) -> Any:
            padded_BR = self._response_part(values, data).detach().float().cpu().numpy()
            rows = zip(padded_BR, texts, strict=True)
            return np.concatenate([row_R[: len(t.scored)][t.scored] for row_R, t in rows])

        if self._exactness == "topk":
            found = {name: of(model_output[_PREFIX + name])
                     for name in ("loss", *self._columns) if name != "student_logprob"}  # fmt: skip
            if "student_logprob" in self._columns:
                found["student_logprob"] = of(model_output["log_probs"])
            return found
        teacher = data["teacher_logprobs"]
        found = {"student_logprob": of(model_output["log_probs"]),
                 "teacher_logprob": of(_without_last(teacher))}  # fmt: skip
        found["loss"] = found["log_ratio"] = found["student_logprob"] - found["teacher_logprob"]
        if "student_entropy" in self._columns:
            found["student_entropy"] = of(model_output["entropy"])
        return {name: found[name] for name in ("loss", *self._columns)}


def _without_last(packed: Any) -> Any:
    """Values of each position, without the axis of the one token that the teacher was asked for."""
    return packed.values().squeeze(-1) if packed.is_nested else packed.squeeze(-1)


def _texts(data: Any) -> list[ScoredText]:
    """Prompt and response of each row."""
    prompts, responses, masks = (data[n] for n in ("prompts", "responses", "response_mask"))
    if prompts.is_nested:
        rows = zip(prompts.unbind(), responses.unbind(), masks.unbind(), strict=True)
        return [_text(*row) for row in rows]
    there, width = data["attention_mask"] != 0, prompts.shape[1]
    if masks.is_nested:
        masks = masks.to_padded_tensor(0)
    return [
        _text(prompt[here[:width]], response[here[width:]], mask[here[width:]])
        for prompt, response, mask, here in zip(prompts, responses, masks, there, strict=True)
    ]


def _text(prompt: Any, response: Any, mask: Any) -> ScoredText:
    prompt_ids, ids = (part.cpu().numpy().astype(np.int32) for part in (prompt, response))
    return ScoredText(prompt_ids, ids, mask.cpu().numpy() != 0)


def _gathered(value: Any, size: int, group: Any) -> list[Any]:
    """Every data-parallel rank's object, in rank order."""
    if size == 1:
        return [value]
    result: list[Any] = [None] * size
    torch.distributed.all_gather_object(result, value, group=group)
    return result
