"""The recorder: takes the rows of each step in the training process and gets them into a log.

It knows no trainer and imports no torch: `rocktok.hooks.trl.attach` drives it for TRL, your own
training loop can do the same.
"""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any

import rocktok.schema as schema
from rocktok.errors import HookError
from rocktok.hooks import words
from rocktok.hooks.arguments import alternatives_of, check_columns, check_counts
from rocktok.hooks.background import Background
from rocktok.hooks.fixed_set import FixedSet, Inherited
from rocktok.hooks.gradient_request import gradient_request
from rocktok.hooks.live_weights import LIVE, LiveSearch, in_force
from rocktok.hooks.recording import Recording, alone
from rocktok.hooks.signals import TerminationHandler
from rocktok.hooks.sketching import Sketching
from rocktok.hooks.start import start_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rocktok.hooks.gradient_request import GradientTypes
    from rocktok.hooks.live_weights import LiveWeights
    from rocktok.hooks.token_weights import TokenWeights
    from rocktok.log.manifest import WeightsInForce


#: Seconds that a SIGTERM, a checkpoint and the end of training wait for the writer thread.
#: Schedulers commonly kill 30 s after SIGTERM.
SIGTERM_WAIT = 15.0
SAVE_WAIT = 60.0
CLOSE_WAIT = 300.0


class Recorder(Recording):
    """Records per-token losses of on-policy distillation into a log.

    With TRL, these two lines are all::

        recorder = Recorder("runs/mine/log", every=10)
        with rocktok.hooks.trl.attach(trainer, recorder):
            trainer.train()

    In a training loop of your own, call `start`, then for each step `record` and `finish_step`,
    and `close` at the end. After `start` only `close` raises; it and `sync` wait. An error drops
    whole steps, which the log counts, and warns once.

    Not usable in a forked child, and not picklable: each process makes its own.

    Args:
        log_dir: the log's directory or address; one run, all ranks, all attempts.
        every: optimizer steps between records of the rollouts.
        fixed_sequences: number of prompts whose text is kept and scored again (0: none).
        fixed_every: optimizer steps between these scorings; default: 10 × `every`.
        columns: statistics beside the loss: a preset, "default", "lenses" (what `rocktok lenses`
            reads) or "all", or names from `rocktok.schema.OPTIONAL_STATISTICS`.
        alternatives: number of likeliest tokens of each model to record at each position of the
            kept texts, with their probabilities (0: none).
        contexts: whether to sketch the teacher's hidden state at each position of the kept texts,
            once, for `--similarity hidden`. Takes 1 KiB of host memory per position while they are
            scored, and is left out above 1 GiB.
        fixed_rollouts: number of texts to keep per prompt.
        fixed_at_start: whether to generate these texts when training begins, and score them before
            its first step; else they are the first rollouts of training. None: if the trainer
            can generate without side effects.
        gradient_types: token types whose gradient vectors are summed exactly whenever the kept
            texts are scored: ids, or a JSON file of `rocktok detect` (its rocks). Takes 8 bytes ×
            vocabulary for each type, on the device and in the log, at each step.
        gradient_sketch: instead, the number of dimensions of signed hash sketches of every type's
            sum.
        gradient_seed: random seed of the sketch, and of the halves of the prompts.
        queue_steps: maximum number of steps that wait for the disk; a further step is dropped.
        sync_on_save: whether the trainer waits, before it saves a checkpoint, until the rows of
            all finished steps are on disk (a minute at most): a run that is killed after the
            checkpoint and resumes from it then has no gap in its log.
        student, teacher: names for run.json, if the trainer's names are not specific enough.
        extra: further content of run.json.
        live_weights: rocks to look for while training goes on, and to weight from then on.
        supersede: start at step 0 over a finished run in the same directory; its rows are then
            read only with `--attempt`.
        quiet: print nothing on stderr when recording starts and ends; warnings remain.

    Raises:
        HookError: an argument is out of range.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        every: int = 10,
        fixed_sequences: int = 256,
        fixed_every: int | None = None,
        columns: str | Iterable[str] = "default",
        *,
        alternatives: int = schema.ALTERNATIVES,
        contexts: bool = True,
        fixed_rollouts: int = 1,
        fixed_at_start: bool | None = None,
        gradient_types: GradientTypes | None = None,
        gradient_sketch: int | None = None,
        gradient_seed: int = 0,
        queue_steps: int = 8,
        sync_on_save: bool = True,
        student: str | None = None,
        teacher: str | None = None,
        extra: Mapping[str, Any] | None = None,
        live_weights: LiveWeights | None = None,
        supersede: bool = False,
        quiet: bool = False,
    ) -> None:
        super().__init__(log_dir, every, quiet)
        self.fixed_sequences = fixed_sequences
        self.fixed_every = 10 * every if fixed_every is None else fixed_every
        self.columns = check_columns(columns)
        self.columns_by_preset = isinstance(columns, str)
        self.alternatives, self.contexts = alternatives, contexts
        self.fixed_rollouts = fixed_rollouts
        self.fixed_at_start = fixed_at_start
        self.queue_steps, self.sync_on_save = queue_steps, sync_on_save
        self.student, self.teacher, self.extra = student, teacher, dict(extra or {})
        self.supersede = supersede
        self.live_weights = live_weights
        self.weights: TokenWeights | None = None
        self.search: LiveSearch | None = None
        if live_weights is not None and fixed_sequences == 0:
            raise HookError(
                "Recorder: live_weights are found on kept text; fixed_sequences must not be 0"
            )
        if live_weights is not None and live_weights.wants_contexts and not contexts:
            raise HookError(
                "Recorder: live_weights compare contexts by hidden states, which contexts=False "
                "does not record; leave one of them out"
            )
        check_counts(1, every=every, fixed_every=self.fixed_every, queue_steps=queue_steps)
        check_counts(1, fixed_rollouts=fixed_rollouts)
        check_counts(0, fixed_sequences=fixed_sequences, alternatives=alternatives)
        self.gradients = gradient_request(
            gradient_types, gradient_sketch, gradient_seed, fixed_sequences
        )
        self.vocab_size: int | None = None
        #: Tokens of a completion at most, where the run says so.
        self.most_tokens: int | None = None
        self._signals: TerminationHandler | None = None

    def __reduce__(self) -> Any:
        raise TypeError("a Recorder cannot be pickled or copied: each process makes its own")

    # --- from start to end ---------------------------------------------------------------------

    def start(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        resume_step: int = 0,
        run: Mapping[str, Any] | None = None,
        vocab: Iterable[tuple[int, str, bytes]] | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        all_gather: Callable[[Any], Sequence[Any]] = alone,
        with_domain: bool = False,
        last_step: int | None = None,
        at_start: bool = False,
        why_later: str | None = None,
    ) -> None:
        """Begin an attempt. Every rank calls this at the same time.

        Args:
            rank, world_size: of this process.
            resume_step: optimizer steps that the student has taken already.
            run: for run.json (vocab_size, loss, terminal_ids, sampling, …).
            vocab: (token_id, text, bytes) rows; only rank 0's are used.
            fingerprint: settings of the models, by name: all attempts must have the same.
            all_gather: exchanges a picklable object between all ranks, in rank order.
            with_domain: whether sequences have a `domain`.
            last_step: step at which training ends, if that is known.
            at_start: whether kept text is generated now; `why_later`: why it is not.

        Raises:
            HookError: on every rank, if the log cannot be written, holds another run or a finished
                one, or what is asked for cannot be had of this vocabulary, or without terminal
                ids.
        """
        if self.running:
            raise HookError("this recorder is already running; close it first")
        self.rank, self.world_size, self._process = rank, world_size, os.getpid()
        self.vocab_size = (run or {}).get("vocab_size")
        self.most_tokens = (run or {}).get("max_completion_length")
        if self.gradients is not None and self.vocab_size is not None:
            self.gradients.check_vocabulary(self.vocab_size)
        self.likeliest = alternatives_of(self.alternatives, self.vocab_size)
        self._with_domain, self._all_gather = with_domain, all_gather
        self._pending.exact = ((run or {}).get("loss") or {}).get("exactness", "exact") == "exact"
        begun = start_attempt(
            self.log_dir,
            columns=self.columns,
            rank=rank,
            world_size=world_size,
            resume_step=resume_step,
            run=self._describe(run or {}),
            vocab=vocab,
            fingerprint=fingerprint or {},
            supersede=self.supersede,
            all_gather=all_gather,
        )
        writer, self.terminal_ids = begun.writer, begun.terminal_ids
        self.attempt, self._counter, self.finished_steps = writer.attempt, 0, 0
        self._pending.clear()
        self._background = Background(writer, self.queue_steps)
        inherited = begun.inherited if self.fixed_sequences else Inherited()
        self.fixed = FixedSet(
            self.fixed_sequences, self.fixed_every, inherited, self.fixed_rollouts
        )
        self.sketching = Sketching(self.fixed, world_size, self.contexts)
        if self.fixed.kept:
            self.store_fixed()
            self.flush()
        self._begin_weights(resume_step, begun.weights)
        self._signals = TerminationHandler(self._flush_before_death)
        self._signals.install()
        atexit.register(self.close, final=False)
        self.say(words.beginning(self, resume_step, last_step, at_start, why_later))

    def _describe(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says."""
        named = {"student": self.student, "teacher": self.teacher}
        sketched = self.contexts and self.fixed_sequences > 0
        weights = None if self.weights is None else self.weights.facts()
        if self.live_weights is not None:
            weights = {"select": LIVE, "weight": self.live_weights.weight,
                       "step": self.live_weights.step}  # fmt: skip
        return {
            **{key: value for key, value in run.items() if sketched or key != "contexts"},
            **({} if weights is None else {"weights": weights}),
            **{key: value for key, value in named.items() if value is not None},
            "every": self.every,
            "fixed_every": self.fixed_every,
            "fixed_sequences": self.fixed_sequences,
            "fixed_rollouts": self.fixed_rollouts,
            "extra": {**run.get("extra", {}), **self.extra},
        }

    def close(self, final: bool = True) -> None:
        """Publish all finished steps and stop; with `final` this rank is marked as done.

        Waits for the disk, though not for ever: after five minutes what is left is given up with
        a warning. Does nothing on a recorder that is not running.
        """
        if not self.running or self._background is None:
            return
        background = self._background
        if self.search is not None:
            self.search.close()
        atexit.unregister(self.close)
        for (table, step), pending in self._pending.items():
            if pending.rows:
                background.drop(table, step, pending.rows, "recording ended within the step")
        if self.fixed.kept:
            self._store(background)
        ended = background.close(final, CLOSE_WAIT)
        # Only now: a SIGTERM that comes while this waits must wait too.
        self._background = None
        self._report(background)
        self._pending.clear()
        if self._signals is not None:
            self._signals.remove()
        if ended:
            self._conclude(background, final)
        else:
            self._warn("close", words.hung(str(self.log_dir), CLOSE_WAIT))

    def _conclude(self, background: Background, final: bool) -> None:
        manifest, log = background.manifest, str(self.log_dir)
        if not background.is_saved:
            self._warn("unsaved", words.unsaved(log, manifest))
        self.say(words.ending(log, manifest, ranks=self.world_size, final=final))

    # --- weights of the trained loss -------------------------------------------------------------

    def _begin_weights(self, step: int, found: WeightsInForce | None) -> None:
        self.search = None
        if self.live_weights is not None:
            self.search = LiveSearch(
                self.live_weights, self.log_dir, rank=self.rank, inherited=found
            )
            if found is not None:
                self._note_weights(found)
                self.say(words.weights_again(found))
        elif self.weights is not None:
            self._note_weights(in_force(self.weights, step))
            self.say(words.weights_given(self.weights))

    def weights_at(self, step: int) -> TokenWeights | None:
        """Weights of target tokens in the loss that the student of `step` steps is trained on."""
        if self.search is not None:
            return self.search.at(step)
        return self.weights

    def search_after(self, step: int) -> None:
        """Look for live weights, if it is time, now that the kept text has been scored."""
        background, first = self._background, self.fixed.complete_step
        if self.search is not None and background is not None and first is not None:
            self.search.scored(step, first, background.flush)

    def advance_search(self, step: int) -> None:
        """Go on with the search for live weights, between two steps of training.

        Every rank calls this at the same time, after each step, with the number of steps taken.
        """
        if self.search is None or self._background is None:
            return
        begun, answer = self.search.advance(step, self._all_gather)
        if begun is not None:
            self._note_weights(begun)
            self.flush()
            self.say(words.weights_found(begun))
        elif answer is not None and answer.fault is not None:
            self.trouble("live", f"live weights: rocks could not be looked for: {answer.fault}")

    def _note_weights(self, weights: WeightsInForce) -> None:
        if self.rank == 0 and self._background is not None:
            self._background.note_weights(weights)

    def flush(self) -> None:
        """Ask for all finished steps to be published (at a checkpoint, say); does not wait."""
        if self.running and self._background is not None:
            self._background.flush()
            self._report(self._background)

    def sync(self) -> None:
        """Wait until all finished steps have been published, or a minute has passed.

        For a checkpoint that is about to be saved: a run that resumes from it finds their rows.
        What the disk refuses is dropped, counted and warned of, as ever.
        """
        if self.running and self._background is not None:
            if not self._background.settle(SAVE_WAIT):
                self._warn("save", words.unsynced(str(self.log_dir), SAVE_WAIT))
            self._report(self._background)

    def _flush_before_death(self) -> None:
        if self._background is not None:
            self._background.settle(SIGTERM_WAIT)
