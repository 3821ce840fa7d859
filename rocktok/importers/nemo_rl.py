"""NeMo-RL's diagnostics of distillation: token statistics, top-k statistics, train_data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.errors import DamagedError, LogError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.importers.json_lines import json_lines, need
from rocktok.importers.nemo_top_k import NOT_THEIRS, top_k_bounds
from rocktok.importers.source import (
    Options,
    Part,
    Rollout,
    Source,
    check_ids,
    check_mask,
    correct_of,
    parts_of,
    run_of,
    same_length,
    sampled_loss,
)
from rocktok.importers.torch_files import load_pt
from rocktok.importers.words import files_of, laid_out, last_number
from rocktok.words import counted

#: Names of its files in a folder.
PATTERNS = ("opd_t*stats*step*.pt", "train_data_step*.jsonl")

_STEP_ROWS = 1 << 32
_STEP = re.compile(r"step_?(\d+)")
_TOKENS = ("token_sample_index", "token_sequence_position", "token_ids")
_LOGPROBS = ("student_prev_logprobs", "teacher_logprobs")
_TOP_K = ("student_topk_token_ids", "teacher_topk_token_ids", "student_topk_logits",
          "teacher_topk_logits", "student_V_logsumexp", "teacher_V_logsumexp")  # fmt: skip


@dataclass
class _Tally:
    """What the notes at the end say: sums of both bounds, and samples left out."""

    rows: int = 0
    lower: float = 0.0
    upper: float = 0.0
    without: int = 0
    left_out: int = 0


def read(paths: tuple[Path, ...], options: Options) -> Source:
    """A log of token statistics, of top-k statistics (with the former beside them), or train_data.

    A file of step N was written before its optimizer step: its rows have step N − 1.

    Raises `LogError` for other files, and for those of two runs.
    """
    files = files_of(paths, *PATTERNS)
    if files[0].suffix == ".jsonl":
        return _train_data(files, options)
    notes: list[str] = []
    groups = _by_step(files)
    steps = sorted(groups)
    first = _load(groups[steps[0]], steps[0])
    top_k, with_logprobs = _is_top_k(first), _has_logprobs(first)
    if not top_k and not with_logprobs:
        raise LogError(f"{files[0]}: has no {' and no '.join(_LOGPROBS)}; {NOT_THEIRS}")
    columns: tuple[str, ...] = ("log_ratio",) if top_k and with_logprobs else ()
    columns += ("student_logprob", "teacher_logprob") if with_logprobs else ()
    extra: dict[str, Any] = {}
    if any(content.get("topk_tokens_subsampled") for _, content in first):
        extra["subsampled"] = True
        notes.append(
            "the top-k statistics are of a sample of the tokens: shares, windows and counts of the "
            "log are of that sample"
        )
    tally = _Tally()
    held_first = [first]

    def parts() -> Iterator[Part]:
        for step in steps:
            try:
                held = held_first.pop() if held_first else _load(groups[step], step)
            except DamagedError as error:
                if step != steps[-1]:
                    raise
                notes.append(f"the last file is left out, as of a run that was killed: {error}")
                break
            if _is_top_k(held) != top_k or _has_logprobs(held) != with_logprobs:
                raise LogError(
                    f"{held[0][0]}: step {step} has other statistics than step {steps[0]}; give "
                    "token and top-k statistics of all steps, or leave one kind out"
                )
            with laid_out(held[0][0]):
                rollouts = list(_rollouts(step, held, top_k, with_logprobs, options, tally))
            yield from parts_of(str(held[0][0]), step - 1, iter(rollouts))
        if tally.left_out:
            notes.append(
                f"{counted(tally.left_out, 'sample')} left out: the loss does not count them "
                "(sample_loss_mask)"
            )
        if options.min_teacher_logprob is not None and top_k:
            notes.append(_said(tally, options.min_teacher_logprob))

    run = run_of(options, "topk" if top_k else "sampled")
    return Source(run, columns, parts, extra=extra, notes=notes)


def _said(tally: _Tally, floor: float) -> str:
    if not tally.rows:
        return (
            f"the teacher gives a token less than e^{floor:g} at every position, so that "
            "min_teacher_logprob holds nowhere: there is no upper bound"
        )
    without = f"; {counted(tally.without, 'position')} below it left out" if tally.without else ""
    lower, upper = tally.lower / tally.rows, tally.upper / tally.rows
    return (
        f"the mean loss is between {lower:.4g} and {upper:.4g} nats, "
        f"if the teacher gives no token less than e^{floor:g}{without}; rounding of the bfloat16 "
        "logits comes on top"
    )


_Content = list[tuple[Path, dict[str, Any]]]


def _by_step(files: list[Path]) -> dict[int, list[Path]]:
    """Step in the name → its files."""
    groups: dict[int, list[Path]] = {}
    for path in sorted(files):
        step = _step_in(path)
        if step is None:
            raise LogError(f"{path}: has no step in its name, as opd_token_stats_step12.pt has")
        groups.setdefault(step, []).append(path)
    return groups


def _load(paths: list[Path], step: int) -> _Content:
    """The files of a step. Raises `LogError` for other files, and for two of one kind."""
    held: _Content = []
    for path in paths:
        content = load_pt(path)
        if not isinstance(content, dict) or not isinstance(content.get("step"), int):
            raise LogError(f"{path}: has no step; {NOT_THEIRS}")
        if content["step"] != step:
            raise LogError(f"{path}: is of step {content['step']}, its name says {step}")
        if content.get("payload_type") == "opd_topk_offline_inputs":
            raise LogError(
                f"{path}: holds inputs for a later replay, without losses; import it by itself as "
                "nemo-rl-inputs"
            )
        missing = [key for key in _TOKENS if key not in content]
        if missing:
            raise LogError(f"{path}: has no {', '.join(missing)}; {NOT_THEIRS}")
        if step < 1:
            raise LogError(f"{path}: is of step {step}; NeMo-RL counts from 1")
        for other, earlier in held:
            if ("student_topk_token_ids" in earlier) == ("student_topk_token_ids" in content):
                raise LogError(
                    f"{path}: is of step {step}, and so is {other}: files of two runs; import each "
                    "run by itself"
                )
        held.append((path, content))
    return held


def _step_in(path: Path) -> int | None:
    found = _STEP.search(path.stem)
    return int(found[1]) if found else last_number(path)


def _is_top_k(held: _Content) -> bool:
    return any(all(key in content for key in _TOP_K) for _, content in held)


def _has_logprobs(held: _Content) -> bool:
    return any(all(key in content for key in _LOGPROBS) for _, content in held)


def _rollouts(
    step: int,
    held: _Content,
    top_k: bool,
    with_logprobs: bool,
    options: Options,
    tally: _Tally,
) -> Iterator[Rollout]:
    """Samples of one step that training counts, with their tokens."""
    tokens = next((one for one in held if all(k in one[1] for k in _LOGPROBS)), None)
    likeliest = next((one for one in held if all(k in one[1] for k in _TOP_K)), None)
    path, content = likeliest or tokens or held[0]
    get = _reader(path, content)
    sample_N, place_N, token_N = (get(key, np.int64) for key in _TOKENS)
    mask_S = get("sample_loss_mask", np.float64) if "sample_loss_mask" in content else None
    statistics: dict[str, Array] = {}
    if with_logprobs:
        assert tokens is not None
        student_N, teacher_N = _logprobs(tokens, path, sample_N, place_N, token_N)
        bad_N = np.zeros(len(token_N), bool) if mask_S is None else mask_S[sample_N] <= 0
        # Of samples that the loss leaves out, anything may stand there.
        student_N, teacher_N = (np.where(bad_N, -1.0, v) for v in (student_N, teacher_N))
        ratio_N = sampled_loss(student_N, teacher_N, str(tokens[0]))
        statistics |= {"student_logprob": student_N, "teacher_logprob": teacher_N}
        statistics |= {"log_ratio": ratio_N} if top_k else {"loss": ratio_N}
    if top_k:
        counted_N = np.ones(len(token_N), bool) if mask_S is None else mask_S[sample_N] > 0
        lower_N, upper_N = top_k_bounds(get, path, counted_N, options.min_teacher_logprob)
        statistics["loss"] = lower_N
        if upper_N is not None:
            given_N = np.isfinite(upper_N) & counted_N
            tally.without += int(np.count_nonzero(~given_N & counted_N))
            tally.rows += int(np.count_nonzero(given_N))
            tally.lower += float(lower_N[given_N].sum())
            tally.upper += float(upper_N[given_N].sum())
    yield from _cut(step, path, content, sample_N, place_N, token_N, statistics, mask_S, tally)


def _cut(
    step: int,
    path: Path,
    content: dict[str, Any],
    sample_N: Array,
    place_N: Array,
    token_N: Array,
    statistics: dict[str, Array],
    mask_S: Array | None,
    tally: _Tally,
) -> Iterator[Rollout]:
    order = np.lexsort((place_N, sample_N))
    sample_N = sample_N[order]
    for sample in np.unique(sample_N).tolist():
        begin, end = np.searchsorted(sample_N, [sample, sample + 1])
        rows = order[begin:end]
        if mask_S is not None and mask_S[sample] <= 0:
            tally.left_out += 1
            continue
        place_T = place_N[rows]
        length = int(_of(content, "input_length", sample, place_T[-1] + 1))
        scored = int(_of(content, "num_response_tokens", sample, len(rows)))
        # The completion begins with the first token that the loss counts.
        position_T = place_T - place_T[0]
        if scored != len(rows) and "token_response_position" in content:
            # Of a sample of the tokens the first may be any; these places count scored tokens.
            position_T = np.asarray(content["token_response_position"].numpy())[rows]
        total = max(length - int(place_T[0]), int(position_T[-1]) + 1)
        yield Rollout(
            (step - 1) * _STEP_ROWS + sample,
            _prompt(step, content, sample),
            token_N[rows],
            position_T.astype(np.int64),
            {name: values[rows] for name, values in statistics.items()},
            total,
            _facts(content, sample),
        )


def _of(content: dict[str, Any], key: str, sample: int, default: Any) -> Any:
    values = content.get(key)
    return default if values is None else values[sample]


def _prompt(step: int, content: dict[str, Any], sample: int) -> str:
    """The prompt's identity: of its dataset, else of the group within the step."""
    source = _of(content, "source_dataset_idx", sample, None)
    if source is not None:
        return f"dataset-{int(source)}"
    group = _of(content, "prompt_group_index", sample, sample)
    return f"step-{step}-prompt-{int(group)}"


def _facts(content: dict[str, Any], sample: int) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if content.get("generation_index") is not None:
        facts["rollout"] = int(content["generation_index"][sample])
    if isinstance(content.get("task_name"), list):
        facts["domain"] = str(content["task_name"][sample])
    reward = _of(content, "reward", sample, None)
    return facts | correct_of(None if reward is None else float(reward))


def _logprobs(
    tokens: tuple[Path, dict[str, Any]], path: Path, sample_N: Array, place_N: Array, token_N: Array
) -> tuple[Array, Array]:
    """Both models' log-probabilities at some tokens. Raises `LogError` where ids differ."""
    get = _reader(*tokens)
    own_M, own_place_M, own_token_M = (get(key, np.int64) for key in _TOKENS)
    width = int(max(own_place_M.max(initial=0), place_N.max(initial=0))) + 1
    key_M, key_N = own_M * width + own_place_M, sample_N * width + place_N
    order = np.argsort(key_M)
    at_N = np.searchsorted(key_M, key_N, sorter=order)
    at_N = order[np.minimum(at_N, len(order) - 1)]
    if (key_M[at_N] != key_N).any() or (own_token_M[at_N] != token_N).any():
        raise LogError(f"{path}: has other tokens than {tokens[0]}: these are files of two runs")
    student_M, teacher_M = (get(key, np.float64) for key in _LOGPROBS)
    return student_M[at_N], teacher_M[at_N]


def _reader(path: Path, content: dict[str, Any]) -> Callable[[str, Any], Array]:
    """Reads a tensor of the file as an array."""

    def get(key: str, kind: Any) -> Array:
        value: Any = content.get(key)
        if not hasattr(value, "numpy"):
            raise LogError(f"{path}: {key} is no tensor; {NOT_THEIRS}")
        value = value.float() if kind == np.float64 else value
        return np.asarray(value.numpy(), dtype=kind)

    return get


# -- train_data_step*.jsonl ------------------------------------------------------------------


def _train_data(files: list[Path], options: Options) -> Source:
    """Older files: the teacher's log-probability is the student's plus the advantage."""
    notes: list[str] = []
    files = sorted(files, key=lambda path: _step_in(path) or 0)
    numbers = [_step_in(path) for path in files]
    for path, number in zip(files, numbers, strict=True):
        if path.suffix != ".jsonl" or number is None:
            raise LogError(f"{path}: is no train_data_step*.jsonl; give files of one kind")
        if numbers.count(number) > 1:
            raise LogError(
                f"{path}: is of step {number}, and so is another file: files of two runs; import "
                "each run by itself"
            )

    # Some versions count from 0.
    first = 0 if 0 in numbers else 1

    def parts() -> Iterator[Part]:
        for path, number in zip(files, numbers, strict=True):
            step = (number or 0) - first
            rollouts = (
                found
                for index, (where, line) in enumerate(json_lines(path, notes))
                if (found := _laid_out(where, line, step * _STEP_ROWS + index)) is not None
            )
            yield from parts_of(str(path), step, rollouts)

    columns = ("student_logprob", "teacher_logprob")
    return Source(run_of(options, "sampled"), columns, parts, notes=notes)


def _laid_out(where: str, line: dict[str, Any], sequence_id: int) -> Rollout | None:
    with laid_out(where):
        return _train_line(where, line, sequence_id)


def _train_line(where: str, line: dict[str, Any], sequence_id: int) -> Rollout | None:
    ids, mask = (need(line, name, where, list) for name in ("token_ids", "token_loss_mask"))
    check_ids(ids, where)
    check_mask(mask, where)
    token_T, mask_T = np.array(ids, dtype=np.int64), np.array(mask, dtype=bool)
    student_T = np.array(need(line, "prev_logprobs", where, list), dtype=np.float64)
    advantage_T = np.array(need(line, "advantages", where, list), dtype=np.float64)
    same_length(where, {"token_ids": token_T, "token_loss_mask": mask_T,
                        "prev_logprobs": student_T, "advantages": advantage_T})  # fmt: skip
    length = line.get("input_lengths")
    if isinstance(length, int) and 0 < length <= len(token_T):
        token_T, mask_T = token_T[:length], mask_T[:length]
        student_T, advantage_T = student_T[:length], advantage_T[:length]
    if not mask_T.any() or line.get("sample_loss_mask", 1) == 0:
        return None
    start = int(np.argmax(mask_T))
    scored = np.flatnonzero(mask_T)
    teacher_T = student_T[scored] + advantage_T[scored]
    return Rollout(
        sequence_id,
        prompt_identity(token_T[:start]),
        token_T[scored],
        scored - start,
        {
            "loss": sampled_loss(student_T[scored], teacher_T, where),
            "student_logprob": student_T[scored],
            "teacher_logprob": teacher_T,
        },
        len(token_T) - start,
        {"prompt_token_ids": token_T[:start].tolist(), **correct_of(line.get("rewards"))},
    )
