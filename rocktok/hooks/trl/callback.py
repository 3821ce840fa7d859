"""When things happen: the callback that starts attempts, ends steps and scores the fixed set."""

from __future__ import annotations

import time
from functools import wraps
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from rocktok.hooks import words
from rocktok.hooks.background import describe
from rocktok.hooks.trl.agreement import differences
from rocktok.hooks.trl.describe import describe_run, fingerprint
from rocktok.hooks.trl.fixed import score_fixed
from rocktok.hooks.trl.limits import refuse_zero_3
from rocktok.hooks.trl.texts import generate_texts
from rocktok.hooks.trl.weighting_callback import warn_if_unweighted
from rocktok.hooks.vocabulary import vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.trl.family import Family
    from rocktok.hooks.trl.scoring import Capturing
    from rocktok.hooks.trl.weighted_loss import Weighted
    from rocktok.hooks.trl.wrapping import Wrapping


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """After the start nothing that goes wrong here may reach the training loop."""

    @wraps(method)
    def guarded(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._recorder.running:
            return
        try:
            method(self, args, state, control, **kwargs)
        except Exception as error:
            self._recorder.trouble(method.__name__, f"{method.__name__}: {describe(error)}")

    return guarded


class RecordingCallback(TrainerCallback):  # type: ignore[misc]
    """Drives a recorder through `Trainer.train`: one attempt for each call."""

    def __init__(
        self,
        family: Family,
        recorder: Recorder,
        capture: Capturing,
        wrapping: Wrapping,
        weighted: Weighted | None = None,
    ) -> None:
        self._family, self._trainer = family, family.trainer
        self._recorder = recorder
        self._capture = capture
        self._wrapping = wrapping
        self._weighted = weighted
        self._began = 0
        self._collected_from = 0.0
        self._resumed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start an attempt. Raises `HookError`, on all ranks, if the log refuses it."""
        # Left running when training starts over inside `train` (auto_find_batch_size).
        self._recorder.close(final=False)
        self._capture.take_candidates()
        refuse_zero_3(self._family)
        columns = getattr(self._trainer.train_dataset, "column_names", None) or []
        at_start, why_later = self._recorder.fixed_at_start, None
        if at_start is None and self._recorder.fixed_sequences:
            why_later = self._family.why_not_unasked()
            at_start = why_later is None
        run = describe_run(self._family)
        self._recorder.start(
            rank=self._trainer.accelerator.process_index,
            world_size=self._trainer.accelerator.num_processes,
            resume_step=state.global_step,
            run=run,
            vocab=self._vocabulary(),
            fingerprint=fingerprint(self._family),
            all_gather=all_gather,
            with_domain=self._family.names_domains(columns),
            last_step=state.max_steps,
            at_start=bool(at_start),
            why_later=why_later,
        )
        for line in differences(run):
            self._recorder.say(line)
        self._wrapping.wrap()
        self._began = state.global_step
        if self._weighted is not None:
            self._weighted.calls = 0
        kept = self._recorder.fixed.kept
        self._collected_from = 0.0 if kept else float(state.epoch or 0)
        self._resumed = state.global_step > 0
        if at_start and self._recorder.fixed.collecting:
            self._keep_now(args, state, control)

    @_guarded
    def _keep_now(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Generate the kept text, and score it, before the first step."""
        recorder, step, began = self._recorder, state.global_step, time.monotonic()
        texts, failure = generate_texts(self._trainer, recorder, step, all_gather)
        if failure is not None:
            what = f"kept text could not be generated before training ({failure})"
            recorder.trouble("start", f"{what}; it is kept during training")
            return
        for rank, offered in enumerate(texts):
            self._accept(offered, rank)
        generated = time.monotonic()
        self._complete(step)
        self._score_if_due(step)
        tokens = sum(len(rollout.completion_token_ids) for rollout in recorder.fixed.kept)
        recorder.say(
            f"kept {len(recorder.fixed.kept):,} texts, {tokens:,} tokens: generated in "
            f"{generated - began:.1f} s, scored in {time.monotonic() - generated:.1f} s"
        )

    def _accept(self, offered: list[Any], rank: int) -> None:
        taken = self._recorder.fixed.accept(offered)
        if rank == self._recorder.rank:
            self._recorder.keep(taken)

    def _vocabulary(self) -> list[tuple[int, str, bytes]] | None:
        try:
            return list(vocabulary(self._family.tokenizer))
        except Exception as error:
            what = f"the tokenizer's vocabulary cannot be read: {describe(error)}"
            self._recorder.trouble("vocabulary", f"{what}; tokens of this log will print as ids")
            return None

    @_guarded
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a resume: the rows of this very step are void, so score it again."""
        if self._resumed:
            self._resumed = False
            self._score_if_due(state.global_step)

    @_guarded
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand over the step's rollouts, collect texts, score the fixed set when it is due."""
        recorder = self._recorder
        # The rollouts were scored by the student before this step.
        step = state.global_step - 1
        if recorder.fixed.collecting:
            self._collect(state)
        if recorder.wants(step):
            recorder.finish_step(step)
        last = control.should_training_stop or state.global_step >= state.max_steps
        self._score_if_due(state.global_step, last=last)
        if not last:
            recorder.advance_search(state.global_step)
        if control.should_save:
            self._save()

    @_guarded
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the last step, if an evaluation or a checkpoint was what ended training."""
        self._score_if_due(state.global_step, last=control.should_training_stop)
        if control.should_save:
            self._save()

    @_guarded
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Early stopping is decided here, and the best weights may be loaded soon."""
        self._score_if_due(state.global_step, last=control.should_training_stop)
        if args.save_strategy == "best":
            # Whether this is the best model yet is decided after this call.
            self._save()

    @_guarded
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a checkpoint that nobody announced; otherwise nothing is left to do."""
        self._save()

    def _save(self) -> None:
        """What belongs to a checkpoint goes to disk, too: before it, so that no kill in between
        leaves a checkpoint from which a run resumes with a gap in its log.
        """
        if self._recorder.fixed.collecting:
            self._recorder.store_fixed()
        if self._recorder.sync_on_save:
            self._recorder.sync()
        else:
            self._recorder.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the attempt."""
        self._score_at_end(args, state, control)
        self._recorder.close(final=True)
        self._wrapping.unwrap()
        if self._weighted is not None:
            warn_if_unweighted(self._weighted.calls, state.global_step - self._began)

    @_guarded
    def _score_at_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._score_if_due(state.global_step, last=True)

    def _collect(self, state: Any) -> None:
        """Agree with the other ranks on which texts to keep."""
        recorder = self._recorder
        fixed, step = recorder.fixed, state.global_step
        mine = fixed.candidates(self._capture.take_candidates())
        for rank, offered in enumerate(all_gather(mine)):
            self._accept(offered, rank)
        epochs = self._collected_from + fixed.rollouts
        an_epoch = state.epoch is not None and state.epoch >= epochs
        if fixed.is_full or (an_epoch and fixed.kept):
            self._complete(step)

    def _complete(self, step: int) -> None:
        fixed = self._recorder.fixed
        fixed.complete(step)
        self._recorder.store_fixed()
        if fixed.prompts < fixed.limit:
            self._recorder.say(words.fewer_prompts(fixed.prompts, fixed.limit))
        self._recorder.say(words.kept_text(self._recorder))

    def _score_if_due(self, step: int, last: bool = False) -> None:
        fixed = self._recorder.fixed
        if last and fixed.collecting and fixed.kept:
            self._complete(step)
        if fixed.is_due(step, last=last):
            fixed.scored(step)
            score_fixed(self._family, self._recorder, self._capture, step)
            self._recorder.search_after(step)


def all_gather(value: Any) -> list[Any]:
    """Every rank's object, in rank order."""
    from accelerate.utils import gather_object

    return list(gather_object([value]))
