"""Saved responses of inference servers: both models' log-probabilities over the same token ids.

A line of the student's file and the line of the same number in the teacher's are one text. Each is
scored as a whole, from the first token on; where the completion begins the student's line tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.errors import LogError, UsageError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.importers.bounds import reverse_kl_bounds
from rocktok.importers.json_lines import json_lines
from rocktok.importers.source import (
    MOST_LOGPROB,
    Options,
    Part,
    Rollout,
    Source,
    check_ids,
    check_logprobs,
    parts_of,
    run_of,
    sampled_loss,
)
from rocktok.importers.words import files_of, laid_out, steps_for
from rocktok.words import counted

#: Names of its files in a folder.
PATTERNS = ("*.jsonl",)

_STEP_ROWS = 1 << 32
#: No text is as long.
MAX_TOKENS = 1 << 31
#: Likeliest tokens of one position: id → log-probability.
Likeliest = dict[int, float]


@dataclass(frozen=True)
class Scored:
    """What a response says of a text.

    Attributes:
        where: file and line, for messages.
        token_T: (T,) ids, without a gap.
        logprob_T: (T,) nats; NaN at the text's very first token, which nothing predicts.
        first: place of token_T[0] in the text.
        start: place where the completion begins; None: the response does not tell.
        likeliest: of each token, or None where the server gave the realised token alone.
        prompt: ids of the prompt, or None.
        facts: columns of sequences/.
    """

    where: str
    token_T: Array
    logprob_T: Array
    first: int = 0
    start: int | None = None
    likeliest: list[Likeliest] | None = None
    prompt: list[int] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


#: (where, response, whether it is the student's) → what it says.
Parse = Callable[[str, dict[str, Any], bool], Scored]


def read_pairs(paths: tuple[Path, ...], options: Options, parse: Parse) -> Source:
    """A log of files of responses: the student's, and the teacher's of `teacher_files`.

    Raises `UsageError` without as many teacher's files, `LogError` for responses that are not
    of the same texts.
    """
    files = files_of(paths, *PATTERNS)
    if len(options.teacher_files) != len(files):
        raise UsageError(
            f"teacher_files has {counted(len(options.teacher_files), 'file')} for "
            f"{counted(len(files), 'file')} of the student; give the teacher's responses to the "
            "same texts, one file for each",
            "teacher_files",
        )
    teachers = files_of(options.teacher_files)
    steps = steps_for(files, options.steps)
    order = np.argsort(steps).tolist()
    notes: list[str] = []
    first = next(_pairs(files[order[0]], teachers[order[0]], parse, []), None)
    if first is None:
        raise LogError(f"{files[order[0]]}: is empty; give saved responses, one per line")
    top_k = first[1].likeliest is not None and first[2].likeliest is not None

    def parts() -> Iterator[Part]:
        for number in order:
            base = 0 if options.table == "fixed" else steps[number] * _STEP_ROWS
            pairs = enumerate(_pairs(files[number], teachers[number], parse, notes))
            rollouts = (_rollout(*pair, base + index, top_k) for index, pair in pairs)
            yield from parts_of(str(files[number]), steps[number], rollouts)

    columns = (*(("log_ratio",) if top_k else ()), "student_logprob", "teacher_logprob")
    run = run_of(options, "topk" if top_k else "sampled")
    return Source(run, columns, parts, options.table, notes=notes)


def _pairs(
    student: Path, teacher: Path, parse: Parse, notes: list[str]
) -> Iterator[tuple[str, Scored, Scored]]:
    own, others = json_lines(student, notes), json_lines(teacher, notes)
    for mine, theirs in zip_longest(own, others):
        if mine is None or theirs is None:
            where, path = (theirs[0], student) if mine is None else (mine[0], teacher)
            if notes:
                # One was cut: what is whole in both is taken.
                return
            raise LogError(
                f"{where}: has no counterpart in {path}; give the same texts in one order"
            )
        with laid_out(mine[0]):
            own_text = parse(mine[0], mine[1], True)
        with laid_out(theirs[0]):
            other_text = parse(theirs[0], theirs[1], False)
        yield mine[0], own_text, other_text


def _rollout(
    where: str, student: Scored, teacher: Scored, sequence_id: int, top_k: bool
) -> Rollout:
    start = student.start if student.start is not None else teacher.start
    if start is None:
        raise LogError(
            f"{where}: does not tell where the completion begins; add num_prompt_tokens, the "
            "number of tokens before it, to the line"
        )
    token_T, logprob_T, likely = _completion(student, start, "student")
    other_T, logq_T, likely_q = _completion(teacher, start, "teacher")
    if len(other_T) != len(token_T) or (other_T != token_T).any():
        apart = int(np.argmax(other_T[: len(token_T)] != token_T[: len(other_T)]))
        said = f"{len(token_T)} tokens, the teacher's {len(other_T)}"
        if len(other_T) == len(token_T):
            said = f"token {token_T[apart]} at place {apart}, the teacher's {other_T[apart]}"
        raise LogError(
            f"{where}: the student's completion has {said}: ids of another tokenizer, or another "
            "text; score the same token ids with both"
        )
    if not len(token_T):
        raise LogError(f"{where}: has no completion; leave the line out")
    ratio_T = sampled_loss(logprob_T, logq_T, where)
    statistics = {"student_logprob": logprob_T, "teacher_logprob": logq_T}
    if top_k:
        if likely is None or likely_q is None:
            raise LogError(
                f"{where}: has no likeliest tokens, lines before it have; score all alike"
            )
        with laid_out(where):
            loss_T = _bounds(likely, likely_q)
        if not np.isfinite(loss_T).all():
            place = start + int(np.argmin(np.isfinite(loss_T)))
            raise LogError(
                f"{teacher.where}: place {place}: the teacher gives a token that the student lists "
                "no probability, so that the loss has no end; score without masks or a top-p"
            )
        statistics |= {"loss": loss_T, "log_ratio": ratio_T}
    else:
        statistics |= {"loss": ratio_T}
    facts = dict(student.facts)
    prompt = student.prompt or teacher.prompt
    name = f"sequence-{sequence_id}"
    if prompt is not None and len(prompt) >= start > 0:
        facts["prompt_token_ids"] = prompt[:start]
        name = prompt_identity(prompt[:start])
    name = str(facts.pop("prompt_id", name))
    length = len(token_T)
    return Rollout(sequence_id, name, token_T, np.arange(length), statistics, length, facts)


def _completion(
    scored: Scored, start: int, who: str
) -> tuple[Array, Array, list[Likeliest] | None]:
    """What a response says of the completion's tokens."""
    where = scored.where
    null = np.flatnonzero(np.isnan(scored.logprob_T)) + scored.first
    if (wrong := null[null != 0]).size:
        raise LogError(
            f"{where}: the {who}'s log-probability of place {int(wrong[0])} is null; only that of "
            "a text's first token may be"
        )
    begin = start - scored.first
    if begin < 0 or begin >= len(scored.token_T):
        raise LogError(
            f"{where}: the {who}'s response has places {scored.first} to "
            f"{scored.first + len(scored.token_T) - 1}, the completion begins at {start}; score "
            "the prompt with the completion, and say where that begins (num_prompt_tokens) if the "
            "student's was scored, too"
        )
    if start == 0:
        raise LogError(f"{where}: has no prompt, so that nothing predicts its first token")
    likely = None if scored.likeliest is None else scored.likeliest[begin:]
    for place, one in enumerate(likely or (), start):
        wrong_p = next((p for p in one.values() if not p <= MOST_LOGPROB), None)
        if wrong_p is not None:
            raise LogError(
                f"{where}: place {place}: the {who} has a likely token with the log-probability "
                f"{wrong_p}; it must be 0 or less"
            )
    check_logprobs(scored.logprob_T[begin:], who, where)
    return scored.token_T[begin:], scored.logprob_T[begin:], likely


def facts_of(line: dict[str, Any], finish: Any = None) -> dict[str, Any]:
    """Columns of sequences/ that a line has beside the response."""
    facts = {key: line[key] for key in ("prompt_id", "domain", "rollout", "correct") if key in line}
    return facts | ({"finish_reason": finish} if finish in ("stop", "length") else {})


def prompt_tokens_of(line: dict[str, Any], where: str) -> int | None:
    """`num_prompt_tokens` of a line, which users add. Raises `LogError` for what is no number."""
    number = line.get("num_prompt_tokens")
    return None if number is None else token_count(number, where, "num_prompt_tokens")


def token_count(number: Any, where: str, key: str) -> int:
    """A number of tokens. Raises `LogError` for what is none."""
    if type(number) is int and 0 <= number < MAX_TOKENS:
        return number
    raise LogError(f"{where}: {key} is {number!r}; it must be a number of tokens")


def choice_of(line: dict[str, Any], where: str) -> dict[str, Any]:
    """The one choice of an OpenAI-style response. Raises `LogError` for several."""
    choices = line.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        many = len(choices) if isinstance(choices, list) else "no"
        raise LogError(f"{where}: has {many} choices; save one response per text and line")
    found: dict[str, Any] = choices[0]
    return found


def floats(values: list[Any], where: str) -> Array:
    """Numbers; null is NaN. Raises `LogError` for anything else."""
    for value in values:
        number(value, where)
    return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)


def number(value: Any, where: str) -> float | None:
    """A log-probability, or null. Raises `LogError` for anything else."""
    if value is None or type(value) is float or (type(value) is int and abs(value) < MAX_TOKENS):
        return value
    raise LogError(f"{where}: the log-probability {value!r} is no number that it can be")


def ints(values: Any, where: str, key: str) -> Array:
    """Token ids. Raises `LogError` for anything else."""
    if not isinstance(values, list):
        raise LogError(f"{where}: {key} is no list of token ids")
    check_ids(values, f"{where}: {key}")
    return np.asarray(values, dtype=np.int64)


def _bounds(student: list[Likeliest], teacher: list[Likeliest]) -> Array:
    (ids_p, logp), (ids_q, logq) = _matrix(student), _matrix(teacher)
    return reverse_kl_bounds(ids_p, logp, ids_q, logq)[0]


def _matrix(likeliest: list[Likeliest]) -> tuple[Array, Array]:
    width = max((len(one) for one in likeliest), default=0) or 1
    ids_NK = np.full((len(likeliest), width), -1, dtype=np.int64)
    logprob_NK = np.full((len(likeliest), width), -np.inf)
    for row, one in enumerate(likeliest):
        ids_NK[row, : len(one)] = list(one)
        logprob_NK[row, : len(one)] = list(one.values())
    return ids_NK, logprob_NK
