"""`intervene`: a student's answers as it is, and with tokens banned or replaced."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok._version import __version__
from rocktok.errors import UsageError
from rocktok.files import local_path, write_output, writes_into
from rocktok.outcomes import About, NeverFired, encode_outcomes
from rocktok.replay.checks import expanded, usable_device
from rocktok.replay.intervene.arms import BAN, IN_CONTEXT, Plan
from rocktok.replay.intervene.backend import Decoding
from rocktok.replay.intervene.candidates import (
    Candidates,
    Occurrences,
    load_candidates,
    load_occurrences,
)
from rocktok.replay.intervene.checkers import Checker
from rocktok.replay.intervene.checkers import checker as checker_of
from rocktok.replay.intervene.loading import Models, models_of
from rocktok.replay.intervene.options import Options
from rocktok.replay.intervene.plans import make_plans
from rocktok.replay.intervene.problems import Problem, digest, load_problems
from rocktok.replay.intervene.prompts import encode_prompts
from rocktok.replay.intervene.result import ArmRow, Intervened, Skipped
from rocktok.replay.intervene.rows import arm_columns, baseline_columns, joined
from rocktok.replay.intervene.trial import Acted, Baseline, Case, Trial
from rocktok.replay.intervene.work import Work, working

if TYPE_CHECKING:
    from rocktok._types import Array

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Job:
    """What is asked for, checked, before weights are loaded."""

    output: Path
    models: Models
    teacher: str | None
    problems: tuple[Problem, ...]
    prompts: list[Array]
    benchmark: str
    candidates: Candidates
    occurrences: Occurrences | None
    occurrences_file: str | None
    options: Options
    checker: Checker
    dtype: str
    device: str
    force: bool

    @property
    def decoding(self) -> Decoding:
        """How completions are written."""
        options, ends = self.options, self.models.terminal_ids
        return Decoding(options.max_new_tokens, options.temperature, ends)

    @property
    def cases(self) -> list[Case]:
        """Completions of each arm, in the order of the rows."""
        return [
            Case(place, seed, rollout)
            for place in range(len(self.problems))
            for seed in self.options.seeds
            for rollout in range(self.options.rollouts)
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a stopped run to go on: all that text and scores depend on."""
        contexts = None if self.occurrences is None else _digest_of(self.occurrences)
        return {
            "models": list(self.models.names),
            "weights": self.models.weights,
            "problems": digest(self.problems),
            "rocks": list(self.candidates.rocks),
            "controls": [asdict(one) for one in self.candidates.controls],
            "occurrences": contexts,
            "options": asdict(self.options),
            "dtype": self.dtype,
            "device": self.device.partition(":")[0],
            "rocktok": __version__,
        }

    def about(self, never: Sequence[NeverFired], tokens: set[int]) -> About:
        """The metadata of the outcomes."""
        options, names = self.options, self.models.names
        temperature = "greedy" if self.decoding.greedy else options.temperature
        return {
            "benchmark": self.benchmark,
            "models": {"student": names[0], "teacher": self.teacher},
            "tokenizer": self.models.vocab.identity,
            "decoding": {
                "temperature": temperature,
                "max_new_tokens": options.max_new_tokens,
                "rollouts": options.rollouts,
                "seeds": list(options.seeds),
                "chat": options.chat,
                "replace_at": options.replace_at,
            },
            "candidates": {**self.candidates.provenance, "occurrences": self.occurrences_file},
            "never_fired": list(never),
            "token_texts": {str(v): self.models.vocab.text(v) for v in sorted(tokens)},
            "rocktok": __version__,
        }


def intervene(
    student: str,
    problems: str | os.PathLike[str],
    rocks: str | os.PathLike[str] | Sequence[int],
    output: str | os.PathLike[str],
    *,
    teacher: str | None = None,
    checker: str = "exact",
    modes: Sequence[str] = (BAN,),
    controls: str | os.PathLike[str] | None = None,
    placebo: bool = True,
    occurrences: str | os.PathLike[str] | None = None,
    min_similarity: float | None = None,
    replace_at: str = "first",
    top: int | None = None,
    benchmark: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    rollouts: int = 1,
    seeds: Sequence[int] = (0,),
    baselines: int = 1,
    chat: bool = False,
    device: str | None = None,
    dtype: str = "auto",
    batch_tokens: int = 16_384,
    force: bool = False,
    progress: Progress | None = None,
) -> Intervened:
    """Solve problems with a student as it is, and with one token banned or replaced at a time.

    Writes one row per arm, problem, seed and rollout, for `rocktok.pillars`. An arm's completion
    is the baseline's up to the place where it first acts, and is generated from there on; arms that
    act nowhere are listed in the metadata and have no rows. Where a run was stopped, it goes on.

    Args:
        student: Hugging Face checkpoint with its tokenizer: a directory or a name.
        problems: JSONL file; each line has `id`, `prompt` and `answer`.
        rocks: JSON file of `rocktok.detect`, or token ids.
        output: Parquet file to write.
        teacher: its checkpoint, for mode `replace` and for the losses behind each place.
        checker: whether a completion is right: `exact`, `boxed`, `regex:PATTERN`,
            `module:function`. A function with a parameter `truncated` is told whether the
            completion was cut at `max_new_tokens`.
        modes: `ban`: a token is never written. `ban-in-context`: only where the tokens before it
            match those before its recurring occurrences. `replace`: where the student writes it,
            the teacher's likeliest token stands in its place.
        controls: JSON file of `rocktok.controls`; None: types of the file of `rocks`.
        placebo: whether each rock is accompanied by a random type that stands in as many of the
            baseline's completions.
        occurrences: file of `rocktok occurrences`, for `ban-in-context`.
        min_similarity: share of the tokens before a place that must agree, for `ban-in-context`;
            None: from the file.
        replace_at: `first`: replace at the first occurrence where the teacher prefers another
            token; `all`: at every such occurrence.
        top: number of rocks, the first of the file; None: all.
        benchmark: name of the problems; None: that of their file.
        max_new_tokens: tokens of a completion at most.
        temperature: of the draws; 0: greedy decoding.
        rollouts, seeds: completions of a problem are drawn for each seed and rollout.
        baselines: completions without intervention, each drawn anew; arms share the first one's
            draws.
        chat: whether prompts that are texts are put into the chat template, as a user's message.
        dtype: of the weights: auto, float32, bfloat16, float16.
        batch_tokens: tokens in a batch, completions counted at their longest.
        force: whether an existing output is replaced.

    Raises:
        UsageError: options out of range or contradictory, or `output` exists.
        LogError: a file or a model lacks something or is of another vocabulary, or the parts beside
            `output` are of another run.
        RocktokError: the checker fails.
    """
    options = Options(
        tuple(modes), placebo, replace_at, max_new_tokens, temperature, rollouts, tuple(seeds),
        baselines, chat, min_similarity, batch_tokens
    )  # fmt: skip
    options.check_inputs(teacher=teacher is not None, occurrences=occurrences is not None)
    is_right = checker_of(checker)
    target = local_path(output)
    if target.exists() and not force and not writes_into(target):
        raise UsageError(f"{target}: exists already; give --force to replace it")
    asked = load_problems(problems)
    device = usable_device(device)
    names = expanded(student), None if teacher is None else expanded(teacher)
    models = models_of(*names)
    vocab = models.vocab.identity
    candidates = load_candidates(
        rocks, controls, size=models.shared, top=top, vocab=vocab, student=names[0]
    )
    found = None
    if occurrences is not None and IN_CONTEXT in options.modes:
        wanted = [*candidates.rocks, *(one.token_id for one in candidates.controls)]
        found = load_occurrences(
            occurrences, wanted, min_similarity=min_similarity, vocab=vocab, student=names[0]
        )
    longest = None if models.longest is None else max(0, models.longest - max_new_tokens)
    prompts = encode_prompts(
        asked, models.tokenizer, chat=chat, size=models.shared, longest=longest
    )
    job = _Job(
        target, models, names[1], asked, prompts, benchmark or Path(problems).stem, candidates,
        found, None if occurrences is None else os.fspath(occurrences), options, is_right, dtype,
        device, force
    )  # fmt: skip
    with working(target, job.identity) as work:
        done = _run(job, work, progress)
        work.remove()
    return done


def _run(job: _Job, work: Work, progress: Progress | None) -> Intervened:
    """Baselines, then arm after arm; then the table."""
    backend = job.models.backend(
        job.prompts, job.decoding, job.dtype, job.device, job.options.batch_tokens
    )
    cases, tell = job.cases, _Told(progress)
    trial = Trial(
        backend, job.decoding, job.prompts, cases, [p.id for p in job.problems],
        _is_correct(job), job.teacher is not None, job.options.batch_tokens,
        job.options.replace_at == "all", work, tell.add,
    )  # fmt: skip
    notes = [*job.models.notes, *job.candidates.notes]
    repeats = job.options.baselines
    if job.decoding.greedy and repeats > 1:
        notes.append(
            f"greedy decoding writes the same text each time: one baseline stands for {repeats}"
        )
        repeats = 1
    tell.begin(len(cases) * repeats)
    baselines = [trial.baseline(number) for number in range(repeats)]
    plans = make_plans(
        trial, baselines[0], job.candidates, job.options, job.models, job.occurrences, notes
    )
    places = [trial.first_places(plan, baselines[0]) for plan in plans]
    tell.begin(sum(int((first_N >= 0).sum()) for first_N in places))
    done: list[tuple[Plan, Acted]] = []
    never: list[NeverFired] = []
    for plan, first_N in zip(plans, places, strict=True):
        if (first_N >= 0).any():
            done.append((plan, trial.arm(plan, baselines[0], first_N)))
        else:
            never.append(_never_fired(plan))
    if never:
        notes.append(
            f"{len(never):,} of {len(plans):,} arms would act in no completion of the baseline, "
            "which they are therefore equal to; they have no rows"
        )
    if cut := int(baselines[0].truncated_N.sum()):
        notes.append(
            f"{cut:,} of {len(cases):,} completions of the baseline were cut at "
            f"--max-new-tokens {job.decoding.max_new_tokens}, before they ended; the checker saw "
            "what there was of them"
        )
    ids = [problem.id for problem in job.problems]
    parts = [
        *(baseline_columns(n, one, ids, cases) for n, one in enumerate(baselines)),
        *(arm_columns(plan, acted, ids, cases) for plan, acted in done),
    ]
    tokens = {plan.candidate.token_id for plan in plans} | set(job.candidates.rocks)
    data = encode_outcomes(joined(parts), job.about(never, tokens))
    write_output(job.output, data, force=job.force)
    return _result(job, baselines, done, never, notes)


def _is_correct(job: _Job) -> Callable[[int, Array], bool]:
    """(place of a problem, completion) → whether it is answered; special tokens are no text."""
    ends = set(job.models.terminal_ids)

    def is_correct(place: int, text_T: Array) -> bool:
        ids = [v for v in text_T.tolist() if v not in ends]
        text = job.models.tokenizer.decode(ids, skip_special_tokens=True)
        return job.checker(text, job.problems[place], job.decoding.truncated(text_T))

    return is_correct


def _never_fired(plan: Plan) -> NeverFired:
    one = plan.candidate
    return {"arm": plan.name, "token_id": one.token_id, "mode": plan.mode, "group": one.group,
            "control_of": one.control_of}  # fmt: skip


def _result(
    job: _Job,
    baselines: Sequence[Baseline],
    done: Sequence[tuple[Plan, Acted]],
    never: Sequence[NeverFired],
    notes: Sequence[str],
) -> Intervened:
    base_N = baselines[0].correct_N
    rows = [
        ArmRow(
            plan.name,
            plan.candidate.token_id,
            job.models.vocab.text(plan.candidate.token_id),
            plan.mode,
            plan.candidate.group,
            plan.candidate.control_of,
            int((acted.first_N >= 0).sum()),
            int((acted.correct_N & ~base_N).sum()),
            int((~acted.correct_N & base_N).sum()),
            int(acted.truncated_N.sum()),
            float(acted.correct_N.mean()),
            float(acted.correct_N.mean() - base_N.mean()),
        )
        for plan, acted in done
    ]
    return Intervened(
        os.fspath(job.output),
        len(job.problems),
        len(base_N),
        tuple(float(one.correct_N.mean()) for one in baselines),
        tuple(int(one.truncated_N.sum()) for one in baselines),
        tuple(rows),
        tuple(
            Skipped(row["arm"], row["token_id"], row["mode"], row["group"], row.get("control_of"))
            for row in never
        ),
        tuple(notes),
    )


def _digest_of(occurrences: Occurrences) -> str:
    """The same for the same windows and similarity."""
    digest_ = hashlib.blake2b(digest_size=16)
    digest_.update(f"{occurrences.min_similarity!r}\0{occurrences.width}".encode())
    for part in (occurrences.retained, occurrences.persistent):
        for token_id, left_WK in sorted(part.items()):
            digest_.update(f"\0{token_id}\0".encode())
            digest_.update(np.ascontiguousarray(left_WK).data)
    return digest_.hexdigest()


class _Told:
    """Tells how many completions of a pass are done."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._total, self._done = progress, 0, 0

    def begin(self, total: int) -> None:
        self._total, self._done = total, 0

    def add(self, completions: int) -> None:
        self._done += completions
        if self._progress is not None:
            self._progress(self._done, self._total)
