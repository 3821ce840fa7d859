"""What an importer gives: options in, whole sequences out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import rocktok.schema as schema
from rocktok._types import Array
from rocktok.errors import LogError
from rocktok.words import counted

#: Rows that are handed to the writer at once.
PART_ROWS = 1 << 18
#: A log-probability may be this much above 0, by rounding.
MOST_LOGPROB = 1e-3


@dataclass(frozen=True)
class Options:
    """What the user says of files that do not say it themselves; see `import_log`."""

    student: str | None = None
    teacher: str | None = None
    vocab_size: int | None = None
    tokenizer: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    exactness: str | None = None
    steps: tuple[int, ...] | None = None
    table: str = "rollout"
    teacher_files: tuple[Path, ...] = ()
    min_teacher_logprob: float | None = None
    append_eos: bool | None = None
    max_completion_length: int | None = None


@dataclass(frozen=True)
class Part:
    """Whole sequences of one step.

    Attributes:
        name: the file they come from, for messages.
        step: optimizer steps.
        sequences: columns of sequences/, without `step`.
        rows: columns of rollout/ or fixed/, without `step`.
    """

    name: str
    step: int
    sequences: Mapping[str, Any]
    rows: Mapping[str, Any]


@dataclass
class Source:
    """A log to be.

    Attributes:
        run: for run.json: models, size of the vocabulary, `loss`.
        columns: optional statistics that every part has.
        parts: called once, gives the sequences by ascending step.
        table: where the rows go.
        extra: further facts for `extra` in run.json.
        notes: what a reader of any result must know; may grow while parts are read.
    """

    run: dict[str, Any]
    columns: tuple[str, ...]
    parts: Callable[[], Iterator[Part]]
    table: str = "rollout"
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Text:
    """One completion for `rescore`.

    Attributes:
        step: of its generation.
        prompt_id: identity of the prompt.
        prompt, completion: token ids.
        facts: further columns.
    """

    step: int
    prompt_id: str
    prompt: list[int]
    completion: list[int]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class TextSource:
    """A file of sequences to be.

    Attributes:
        texts: called once.
        extra: further columns → type: "bool", "string" or "floats" (a list, one per token).
        notes: as of `Source`.
        summary: called at the end; one sentence on how exact the ids are.
    """

    texts: Callable[[], Iterator[Text]]
    extra: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    summary: Callable[[], str] = lambda: "Token ids are the trainer's own."


@dataclass(frozen=True)
class Rollout:
    """One sequence with the statistics of its tokens.

    Attributes:
        sequence_id, prompt_id: identities.
        token_T: (T,) ids of the scored tokens.
        position_T: (T,) their places among the completion's tokens.
        statistics: `loss` and optional columns → (T,) values.
        num_tokens: of the completion, scored or not.
        facts: optional columns of sequences/.
    """

    sequence_id: int
    prompt_id: str
    token_T: Array
    position_T: Array
    statistics: Mapping[str, Array]
    num_tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)


def parts_of(name: str, step: int, rollouts: Iterator[Rollout]) -> Iterator[Part]:
    """Sequences of one step, in parts of about `PART_ROWS` rows."""
    check_step(step, name)
    held: list[Rollout] = []
    rows = 0
    for rollout in rollouts:
        held.append(rollout)
        rows += len(rollout.token_T)
        if rows >= PART_ROWS:
            yield _part(name, step, held)
            held, rows = [], 0
    if held:
        yield _part(name, step, held)


def _part(name: str, step: int, rollouts: list[Rollout]) -> Part:
    length_S = [len(rollout.token_T) for rollout in rollouts]
    ids = np.array([rollout.sequence_id for rollout in rollouts], dtype=np.int64)
    facts = [key for key in rollouts[0].facts if all(key in r.facts for r in rollouts)]
    names = rollouts[0].statistics
    return Part(
        name,
        step,
        {
            "sequence_id": ids,
            "num_tokens": [rollout.num_tokens for rollout in rollouts],
            "prompt_id": [rollout.prompt_id for rollout in rollouts],
            **{key: [rollout.facts[key] for rollout in rollouts] for key in facts},
        },
        {
            "sequence_id": np.repeat(ids, length_S),
            "position": np.concatenate([rollout.position_T for rollout in rollouts]),
            "token_id": np.concatenate([rollout.token_T for rollout in rollouts]),
            **{
                key: np.concatenate([rollout.statistics[key] for rollout in rollouts])
                for key in names
            },
        },
    )


def sampled_loss(student_T: Array, teacher_T: Array, where: str) -> Array:
    """log p − log q of the tokens, one-sample estimates of the reverse KL, in nats.

    Raises `LogError` for a log-probability that is none.
    """
    check_logprobs(student_T, "student", where)
    check_logprobs(teacher_T, "teacher", where)
    return np.asarray(student_T, np.float64) - np.asarray(teacher_T, np.float64)


def check_logprobs(logprob_T: Array, who: str, where: str) -> None:
    """Raise `LogError` for a log-probability of tokens (T,) that is none."""
    bad_T = ~np.isfinite(logprob_T) | (logprob_T > MOST_LOGPROB)
    if bad_T.any():
        at = int(np.argmax(bad_T))
        raise LogError(
            f"{where}: token {at}: the {who}'s log-probability is {logprob_T[at]}; it must be "
            "a finite number, 0 or less"
        )


def check_mask(mask: Iterable[Any], where: str) -> None:
    """Raise `LogError` for a value of a mask that is neither true nor false, 0 nor 1."""
    for value in mask:
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise LogError(
                f"{where}: the mask has {value!r}; it must be of true and false, or 0 and 1"
            )


def same_length(where: str, columns: Mapping[str, Any]) -> int:
    """The length that columns of one sequence share. Raises `LogError`."""
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} has {counted(n, 'value')}" for key, n in lengths.items())
        raise LogError(f"{where}: {said}; they must be equally long")
    return next(iter(lengths.values()))


def check_step(step: int, where: str) -> None:
    """Raise `LogError` for a step that none can be."""
    if not 0 <= step < 1 << 31:
        raise LogError(f"{where}: step {step}; it must be 0 or more, and below {1 << 31}")


def check_ids(ids: Iterable[Any], where: str) -> None:
    """Raise `LogError` for a token id that is none."""
    for token in ids:
        if type(token) is not int or not 0 <= token < schema.MAX_VOCABULARY:
            raise LogError(f"{where}: {token!r} is no token id; it must be a number from 0 on")


def stretches(mask_T: Array, where: str) -> list[tuple[int, int]]:
    """Where runs of scored tokens begin and end. Raises `LogError` if the first token is one."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask_T, [False])).astype(np.int8)))
    if len(edges) and edges[0] == 0:
        raise LogError(f"{where}: its first token is scored, which nothing predicts")
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def correct_of(reward: Any) -> dict[str, bool]:
    """`correct` of a reward that is 0 or 1; nothing of any other."""
    if isinstance(reward, bool | int | float) and reward in (0, 1):
        return {"correct": bool(reward)}
    return {}


def loss_of(exactness: str, **more: Any) -> dict[str, Any]:
    """`loss` in run.json of an import."""
    return {"divergence": "reverse_kl", "trained": False, "exactness": exactness, **more}


def run_of(options: Options, exactness: str, **known: Any) -> dict[str, Any]:
    """run.json of an import: what the user says goes before what is `known` from the files."""
    said = {
        "student": options.student,
        "teacher": options.teacher,
        "vocab_size": options.vocab_size,
    }
    run = {key: value for key, value in {**known}.items() if value is not None}
    run |= {key: value for key, value in said.items() if value is not None}
    return {**run, "loss": loss_of(exactness)}
