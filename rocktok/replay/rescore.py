"""Scores kept text with saved checkpoints, teacher-forced, into the `fixed/` table of a log.

At most two models are loaded at a time: the teacher, and one student.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import rocktok.schema as schema
from rocktok.errors import LogError, UsageError
from rocktok.files import place
from rocktok.hooks.arguments import END_COLUMNS
from rocktok.hooks.contexts import (
    MOST_POSITIONS,
    Projections,
    describe_contexts,
    mean_projection,
)
from rocktok.hooks.terminals import special_ids, terminal_ids
from rocktok.log import Log, LogWriter
from rocktok.log.resume import only_writer
from rocktok.replay.checks import (
    alternatives_asked,
    check_ends,
    check_model,
    check_student,
    columns_asked,
    expanded,
    shared_ids,
    usable_device,
    vocab_of,
)
from rocktok.replay.models import (
    declared_ends,
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
    steps_of,
)
from rocktok.replay.resume_state import Standing, standing
from rocktok.replay.rows import Missing, write_sequences
from rocktok.replay.scoring import (
    Outside,
    Scorer,
    Wanted,
    batches,
    most_tokens,
    score,
    scorer,
    sketch,
)
from rocktok.replay.texts import Texts, load_texts

#: A shard that takes longer is published as far as it is, in seconds.
SHARD_SECONDS = 600.0

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

    `weights`: model → its fingerprint. `shared`: number of ids that all models have. `facts`: what
    run.json says of the tokens.
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
    columns: tuple[str, ...]
    alternatives: int
    contexts: bool
    facts: dict[str, Any]

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
            "columns": list(self.columns),
            "alternatives": self.alternatives,
            "contexts": self.contexts,
            "terminal_ids": self.facts["terminal_ids"],
        }

    def wanted(self, columns: tuple[str, ...]) -> Wanted:
        """What is recorded, of the columns that the log has."""
        ends = any(name in columns for name in END_COLUMNS)
        return Wanted(columns, self.terminal_ids if ends else (), self.alternatives)

    @property
    def terminal_ids(self) -> list[int]:
        """Of all models, among the ids that all have."""
        found = {number for ids in self.facts["terminal_ids"].values() for number in ids}
        return sorted(number for number in found if number < self.shared)

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
    columns: str | Iterable[str] = "default",
    alternatives: int = schema.ALTERNATIVES,
    contexts: bool = True,
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
        columns: statistics beside the loss, as of `rocktok.hooks.Recorder`: a preset or names.
        alternatives: likeliest tokens of each model to record at each position (0: none).
        contexts: whether the teacher's hidden states are sketched, at the first step. Takes 1 KiB a
            position of memory while that is scored, and is left out above 1 GiB.

    Raises:
        UsageError: no step, or one twice; options out of range.
        LogError: text or checkpoints lack something, tokens differ, `output` holds another run or
            is being written by another process.
    """
    students, teacher = tuple(map(expanded, students)), expanded(teacher)
    step_numbers = steps_of(students, steps)
    for name, value in (("batch_tokens", batch_tokens), ("shard_rows", shard_rows),
                        ("sequences", 1 if sequences is None else sequences)):  # fmt: skip
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be 1 or more", parameter=name)
    names = columns_asked(columns)
    if alternatives < 0:
        message = f"alternatives is {alternatives}; it must be 0 or more"
        raise UsageError(message, parameter="alternatives")
    device = usable_device(device)
    by_step = dict(sorted(zip(step_numbers, students, strict=True)))
    configs = {name: load_config(name) for name in (*by_step.values(), teacher)}
    texts = load_texts(text.name if isinstance(text, Log) else os.fspath(text), sequences)
    for name, config in configs.items():
        check_model(name, config, texts)
    tokenizers = {name: load_tokenizer(name) for name in configs}
    vocab, without = vocab_of(texts, tokenizers)
    notes = tuple(f"{name}: brings no tokenizer; its tokens are taken on trust" for name in without)
    widths = {name: int(config.vocab_size) for name, config in configs.items()}
    shared = shared_ids(widths, vocab, without)
    weights = {name: fingerprint(name) for name in configs}
    ends = {name: terminal_ids(tokenizers[name], *declared_ends(name)) for name in configs}
    students_end = sorted({number for name in by_step.values() for number in ends[name]})
    with_tokens = [tokenizer for tokenizer in tokenizers.values() if tokenizer is not None]
    facts = {
        "terminal_ids": {"student": students_end, "teacher": ends[teacher]},
        **({"special_ids": special_ids(with_tokens[0])} if with_tokens else {}),
    }
    job = _Job(
        output, texts, by_step, teacher, weights, dtype, device, batch_tokens, shard_rows, shared,
        names, alternatives_asked(alternatives, shared), contexts, facts
    )  # fmt: skip
    check_ends(names, job.terminal_ids)
    stands = standing(output, job.identity)
    todo = tuple(step for step in by_step if step not in stands.steps)
    recorded, kept, kept_rows = stands.columns, stands.steps, stands.rows
    outside, problems = Outside(), list[str]()
    if todo or stands.unmarked:
        recorded = _write(job, stands, todo, vocab, outside, problems, progress)
    if outside.positions:
        notes += (
            f"heads are of unlike width, and compared over the {shared:,} ids that all have; the "
            f"others took {outside.total / outside.positions:.2g} of the wider model's probability "
            f"in the mean, {outside.largest:.2g} at most",
        )
    notes += tuple(problems)
    lacking = [name for name in names if recorded is not None and name not in recorded]
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        said = f"{' and '.join(lacking)} {verb} left out: the output head is not a plain one"
        notes += (said,)
    notes = (*texts.notes, *notes)
    return Rescored(todo, kept, len(texts), texts.rows, kept_rows, notes)


def _write(
    job: _Job,
    stands: Standing,
    todo: tuple[int, ...],
    vocab: list[tuple[int, str, bytes]] | None,
    outside: Outside,
    problems: list[str],
    progress: Progress | None,
) -> tuple[str, ...]:
    """Score what is missing; returns the columns that the log has. `problems`: for notes."""
    loaded: list[Scorer] = []
    if todo:
        # Before anything is written; the first student tells which columns can be had.
        loaded = [job.load(job.teacher), job.load(job.students[todo[0]])]
    columns = stands.columns
    if columns is None:
        columns = loaded[-1].columns(job.columns)
    projections = _projections(job, stands, loaded, problems)
    where = place(job.output)
    with where.asking(), only_writer(where):
        if standing(job.output, job.identity).state != stands.state:
            raise LogError(f"{job.output}: another process has just written to it; start again")
        with _writer(job, stands, columns, loaded, vocab) as writer:
            write_sequences(writer, job.texts, stands)
            tell = _Told(progress, job.texts.rows * len(todo))
            for step in todo:
                student = loaded.pop() if len(loaded) > 1 else job.load(job.students[step])
                check_student(student, columns)
                models, wanted = (student, loaded[0]), job.wanted(columns)
                _score_step(job, writer, step, models, wanted, stands, projections, outside, tell)
                projections = None
                # The next one takes its place: models hold cycles, which only this collects.
                del student, models
                gc.collect()
    return columns


def _projections(
    job: _Job, stands: Standing, loaded: list[Scorer], problems: list[str]
) -> Projections | None:
    """What takes projections at the first step that is scored; None where none are needed."""
    known = stands.sketched
    if not job.contexts or not loaded or known >= set(job.texts.sequence_S.tolist()):
        return None
    if loaded[0].head is None:
        problems.append(
            "contexts are left out: what enters the teacher's output head is not known, as the "
            "head is not a plain one"
        )
        return None
    if job.texts.rows > MOST_POSITIONS:
        problems.append(
            f"contexts are left out: the text has {job.texts.rows:,} positions, and more than "
            f"{MOST_POSITIONS:,} would take more than 1 GiB of memory; score fewer sequences"
        )
        return None
    return Projections(known)


def _score_step(
    job: _Job,
    writer: LogWriter,
    step: int,
    models: tuple[Scorer, Scorer],
    wanted: Wanted,
    stands: Standing,
    projections: Projections | None,
    outside: Outside,
    tell: _Told,
) -> None:
    """Score a step but for the sequences that stand, in whole shards; then its contexts."""
    texts, published = job.texts, time.monotonic()
    missing = Missing(texts.sequence_S, stands, step, wanted.alternatives > 0)
    most = most_tokens(job.batch_tokens, *models)
    for batch_B, ends in batches(texts, most, job.shard_rows):
        tell(int(texts.completions.length_S[batch_B].sum()))
        left_B = batch_B[missing.any_S[batch_B]]
        if len(left_B):
            rows, beside = score(texts, left_B, *models, wanted, outside, projections)
            missing.write(writer, "fixed", rows)
            missing.write(writer, "alternatives", beside)
        rest_B = batch_B[~missing.any_S[batch_B]]
        if projections is not None and len(rest_B):
            sketch(texts, rest_B, models[1], projections)
        if ends or time.monotonic() - published >= SHARD_SECONDS:
            writer.flush(whole=True)
            published = time.monotonic()
    if projections is not None:
        rows = projections.rows(mean_projection([projections.sums()]))
        writer.write({"step": step, **rows}, table="contexts")
    if projections is not None or step in stands.contexts:
        writer.finish_step(step, "contexts")
    if wanted.alternatives:
        writer.finish_step(step, "alternatives")
    # Last: by it the step is known to be done.
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
        **job.facts,
        "extra": {"rescore": job.identity, "text": job.texts.name},
    }
    if job.contexts:
        hidden_size = getattr(loaded[0].model.config.get_text_config(), "hidden_size", None)
        run["contexts"] = describe_contexts(hidden_size)
    return LogWriter(job.output, columns=columns, run=run, vocab=vocab)
