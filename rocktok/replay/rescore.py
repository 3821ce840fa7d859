"""Scores kept text with saved checkpoints, teacher-forced, into the `fixed/` table of a log.

At most two models are loaded at a time: the teacher, and one student.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rocktok.errors import LogError, UsageError
from rocktok.files import local_path, place
from rocktok.hooks.vocabulary import vocabulary
from rocktok.log import Log, LogWriter
from rocktok.log.resume import only_writer
from rocktok.replay.models import (
    check_device,
    check_tokens,
    check_widths,
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
    steps_of,
    token_texts,
)
from rocktok.replay.resume_state import Standing, standing
from rocktok.replay.scoring import NORMS, Outside, Scorer, batches, most_tokens, score, scorer
from rocktok.replay.texts import Texts, load_texts

#: A shard that takes longer is published as far as it is, in seconds.
SHARD_SECONDS = 600.0
#: Sequences written to sequences/ at once.
_SEQUENCE_ROWS = 100_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Rescored:
    """What was done.

    Attributes:
        steps: scored now, wholly or the rest of them.
        kept: steps that stood already.
        sequences, rows: of the text, at each step.
        kept_rows: rows that stood already, of all steps.
    """

    steps: tuple[int, ...]
    kept: tuple[int, ...]
    sequences: int
    rows: int
    kept_rows: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """What is asked for, checked; `students` in the order of their steps.

    `weights`: model → its fingerprint. `shared`: number of ids that all models have.
    """

    output: str
    texts: Texts
    students: dict[int, str]
    teacher: str
    weights: dict[str, str | None]
    dtype: str
    device: str
    batch_tokens: int
    shard_rows: int
    shared: int

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a stopped run to go on."""
        return {
            "text": self.texts.digest,
            "students": {str(step): name for step, name in self.students.items()},
            "teacher": self.teacher,
            "weights": self.weights,
            "dtype": self.dtype,
            "temperature": self.texts.temperature,
        }

    def load(self, name: str) -> Scorer:
        """A model, ready to score."""
        model = load_model(name, self.dtype, self.device)
        made = scorer(name, model, self.texts, self.device)
        if made.vocabulary < self.shared:
            raise LogError(
                f"{name}: has {made.vocabulary:,} logits, its config.json says more; give what "
                "save_pretrained writes"
            )
        return replace(made, shared=self.shared)


def rescore(
    text: str | os.PathLike[str] | Log,
    students: tuple[str, ...],
    teacher: str,
    output: str,
    *,
    steps: tuple[int, ...] | None = None,
    sequences: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    batch_tokens: int = 16_384,
    shard_rows: int = 1 << 20,
    progress: Progress | None = None,
) -> Rescored:
    """Score text with each student against the teacher, one student at a time.

    Where a run was stopped, it goes on: what stands in a published shard is not scored again.

    Args:
        text: a log, or a Parquet file of sequences (see `load_texts`).
        students, teacher: Hugging Face checkpoints, local paths or names.
        steps: of the students; None: from their names.
        sequences: how many of the texts; None: all.
        dtype: of the weights: auto, float32, bfloat16, float16. Heads are applied in float32.
        batch_tokens: padded tokens in a batch.
        shard_rows: positions after which a shard is published. One is also published after ten
            minutes, and at the end of each step.

    Raises:
        UsageError: no step, or one twice; options out of range.
        LogError: text or checkpoints lack something, tokens differ, `output` holds another run or
            is being written by another process.
    """
    students, teacher = tuple(map(_expanded, students)), _expanded(teacher)
    step_numbers = steps_of(students, steps)
    for name, value in (("batch_tokens", batch_tokens), ("shard_rows", shard_rows),
                        ("sequences", 1 if sequences is None else sequences)):  # fmt: skip
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be 1 or more", parameter=name)
    device = _device(device)
    by_step = dict(sorted(zip(step_numbers, students, strict=True)))
    configs = {name: load_config(name) for name in (*by_step.values(), teacher)}
    texts = load_texts(text.name if isinstance(text, Log) else os.fspath(text), sequences)
    for name, config in configs.items():
        _check_model(name, config, texts)
    vocab, without = _vocab(texts, tuple(configs))
    notes = tuple(f"{name}: brings no tokenizer; its tokens are taken on trust" for name in without)
    widths = {name: int(config.vocab_size) for name, config in configs.items()}
    shared = _shared(widths, vocab, without)
    weights = {name: fingerprint(name) for name in configs}
    job = _Job(
        output, texts, by_step, teacher, weights, dtype, device, batch_tokens, shard_rows, shared
    )
    stands = standing(output, job.identity)
    todo = tuple(step for step in by_step if step not in stands.steps)
    columns, kept, kept_rows = stands.columns, stands.steps, stands.rows
    outside = Outside()
    if todo or stands.unmarked:
        columns = _write(job, stands, todo, vocab, outside, progress)
    if outside.positions:
        notes += (
            f"heads are of unlike width, and compared over the {shared:,} ids that all have; the "
            f"others took {outside.total / outside.positions:.2g} of the wider model's probability "
            f"in the mean, {outside.largest:.2g} at most",
        )
    if columns is not None and not set(NORMS) <= set(columns):
        notes += (f"{' and '.join(NORMS)} are left out: the output head is not a plain one",)
    notes = (*texts.notes, *notes)
    return Rescored(todo, kept, len(texts), texts.rows, kept_rows, notes)


def _write(
    job: _Job,
    stands: Standing,
    todo: tuple[int, ...],
    vocab: list[tuple[int, str, bytes]] | None,
    outside: Outside,
    progress: Progress | None,
) -> tuple[str, ...]:
    """Score what is missing; returns the columns that the log has."""
    loaded: list[Scorer] = []
    if todo:
        # Before anything is written; the first student tells which columns can be had.
        loaded = [job.load(job.teacher), job.load(job.students[todo[0]])]
    columns = stands.columns or loaded[-1].columns
    where = place(job.output)
    with where.asking(), only_writer(where):
        if standing(job.output, job.identity).state != stands.state:
            raise LogError(f"{job.output}: another process has just written to it; start again")
        with _writer(job, stands, columns, loaded, vocab) as writer:
            _write_sequences(writer, job.texts, stands)
            tell = _Told(progress, job.texts.rows * len(todo))
            for step in todo:
                student = loaded.pop() if len(loaded) > 1 else job.load(job.students[step])
                _check_student(student, columns)
                todo_S = ~np.isin(job.texts.sequence_S, stands.at(step))
                _score_step(job, writer, step, (student, loaded[0]), columns, todo_S, outside, tell)
                # The next one takes its place: models hold cycles, which only this collects.
                del student
                gc.collect()
    return columns


def _score_step(
    job: _Job,
    writer: LogWriter,
    step: int,
    models: tuple[Scorer, Scorer],
    columns: tuple[str, ...],
    todo_S: Any,
    outside: Outside,
    tell: _Told,
) -> None:
    """Score a step but for the sequences that stand, in whole shards."""
    texts, published = job.texts, time.monotonic()
    most = most_tokens(job.batch_tokens, *models)
    for batch_B, ends in batches(texts, most, job.shard_rows):
        tell(int(texts.completions.length_S[batch_B].sum()))
        left_B = batch_B[todo_S[batch_B]]
        if len(left_B):
            rows = score(texts, left_B, *models, columns, outside)
            writer.write({"step": step, **rows}, table="fixed")
        if ends or time.monotonic() - published >= SHARD_SECONDS:
            writer.flush(whole=True)
            published = time.monotonic()
    writer.finish_step(step, "fixed")
    writer.flush()


class _Told:
    """Tells how many rows are done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, rows: int) -> None:
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, self._total)


# -- checks ----------------------------------------------------------------------------------


def _expanded(name: str) -> str:
    """A checkpoint's name; `~` is the user's home."""
    return str(local_path(name)) if name.startswith("~") else name


def _device(device: str | None) -> str:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


def _check_model(name: str, config: Any, texts: Texts) -> None:
    """Raise `LogError` where, by its configuration, a model cannot score the texts."""
    size = int(config.vocab_size)
    prompt_S = texts.prompts.length_S
    if not prompt_S.all():
        sequence = texts.sequence_S[int(np.argmin(prompt_S))]
        raise LogError(
            f"{texts.name}: sequence {sequence} has no prompt; its first token needs one: leave "
            "the sequence out"
        )
    for part in (texts.prompts, texts.completions):
        bad_T = (part.value_T < 0) | (part.value_T >= size)
        if bad_T.any():
            at = int(np.argmax(bad_T))
            row = int(np.searchsorted(part.start_S, at, side="right")) - 1
            raise LogError(
                f"{texts.name}: sequence {texts.sequence_S[row]} has token {part.value_T[at]}, "
                f"{name} has {size:,} logits; give text and models of one tokenizer"
            )
    most, longest = getattr(config, "max_position_embeddings", None), int(texts.length_S.max())
    if isinstance(most, int) and longest > most > 0:
        sequence = texts.sequence_S[int(np.argmax(texts.length_S))]
        raise LogError(
            f"{texts.name}: sequence {sequence} has {longest:,} tokens, {name} takes {most:,}; "
            "leave the sequence out"
        )


def _check_student(student: Scorer, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in student.columns]
    if missing:
        raise LogError(
            f"{student.name}: has no plain output head, as the students before it; the log records "
            f"{', '.join(missing)}: score this one into another -o"
        )


def _vocab(
    texts: Texts, models: tuple[str, ...]
) -> tuple[list[tuple[int, str, bytes]] | None, tuple[str, ...]]:
    """The tokens, the same in the text and in all models that bring a tokenizer; the others."""
    first = None if texts.vocab is None else (texts.name, texts.vocab)
    tokens, without = None, []
    for name in models:
        tokenizer = load_tokenizer(name)
        if tokenizer is None:
            without.append(name)
            continue
        mine = name, token_texts(tokenizer)
        if first is not None:
            check_tokens(first, mine)
        first = first or mine
        tokens = tokens or list(vocabulary(tokenizer))
    return tokens, tuple(without)


def _shared(
    widths: dict[str, int], vocab: list[tuple[int, str, bytes]] | None, without: tuple[str, ...]
) -> int:
    """Number of ids that all models have: all, or those of tokens where heads are padded.

    Raises `LogError` for heads of unlike width where a model brings no tokenizer, or where a token
    lies beyond the narrowest.
    """
    narrow, wide = (which(widths.items(), key=lambda one: one[1]) for which in (min, max))
    if narrow[1] == wide[1]:
        return narrow[1]
    if without or vocab is None:
        check_widths(narrow, wide)
    beyond = [token_id for token_id, *_ in vocab or () if token_id >= narrow[1]]
    if beyond:
        raise LogError(
            f"{narrow[0]} has {narrow[1]:,} logits, {wide[0]} has {wide[1]:,}, and token "
            f"{beyond[0]} is one of the others; give models of one tokenizer"
        )
    return narrow[1]


# -- writing ---------------------------------------------------------------------------------


def _writer(
    job: _Job,
    stands: Standing,
    columns: tuple[str, ...],
    loaded: list[Scorer],
    vocab: list[tuple[int, str, bytes]] | None,
) -> LogWriter:
    """A new log's writer, or one that goes on with the attempt that stands."""
    manifest = stands.manifest
    if manifest is not None:
        return LogWriter(
            job.output,
            columns=columns,
            vocab=vocab,
            attempt=manifest.attempt,
            run_id=manifest.run_id,
            manifest=manifest,
        )
    loss = {"divergence": "reverse_kl", "trained": False, "exactness": "exact"}
    both = ("student_temperature", "teacher_temperature")
    run = {
        "student": list(job.students.values())[-1],
        "teacher": job.teacher,
        "vocab_size": job.shared,
        "loss": {**loss, **dict.fromkeys(both, job.texts.temperature)},
        "extra": {"rescore": job.identity, "text": job.texts.name},
    }
    return LogWriter(job.output, columns=columns, run=run, vocab=vocab)


def _write_sequences(writer: LogWriter, texts: Texts, stands: Standing) -> None:
    """The sequences/ that do not stand yet, in parts."""
    missing_S = np.flatnonzero(~np.isin(texts.sequence_S, stands.listed))
    left = texts if len(missing_S) == len(texts) else texts.take(missing_S)
    for first in range(0, len(left), _SEQUENCE_ROWS):
        last = min(first + _SEQUENCE_ROWS, len(left))
        facts = left.facts.slice(first, last - first).combine_chunks()
        writer.write(
            {
                **{name: facts[name].combine_chunks() for name in facts.column_names},
                "sequence_id": left.sequence_S[first:last],
                "num_tokens": left.completions.length_S[first:last],
                "prompt_id": left.prompt_id_S[first:last],
                "prompt_token_ids": left.prompts.to_lists(first, last),
            },
            table="sequences",
        )
        writer.flush()
