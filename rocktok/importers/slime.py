"""slime's dumps (`--dump-details`): rollouts as sampled, and what training computed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.errors import DamagedError, LogError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.importers.slime_dumps import NO_DUMP, Content, content_of, of_ranks, places
from rocktok.importers.source import (
    Options,
    Part,
    Rollout,
    Source,
    check_mask,
    correct_of,
    parts_of,
    run_of,
    same_length,
    sampled_loss,
)
from rocktok.importers.words import files_of, laid_out, last_number
from rocktok.words import counted

#: Names of its files in a folder.
PATTERNS = ("**/*.pt",)

_STEP_ROWS = 1 << 32
_FINISH = {"completed": "stop", "truncated": "length"}
#: Statuses of samples that are no whole answers of the student.
_BROKEN = ("aborted", "failed", "pending")


@dataclass
class _Dump:
    """The files of one rollout id."""

    step: int
    rollout: list[Path] = field(default_factory=list)
    #: One, or one of each rank.
    train: list[Path] = field(default_factory=list)

    @property
    def name(self) -> Path:
        return (self.train or self.rollout)[0]


def read(paths: tuple[Path, ...], options: Options) -> Source:
    """A log of rollout dumps, of train dumps, or of both by rollout id.

    Raises `LogError` for files that are none, of two runs, or without the teacher.
    """
    files = [path for path in files_of(paths, *PATTERNS) if "eval" not in path.stem.split("_")]
    if not files:
        raise LogError(f"{paths[0]}: holds evaluation dumps alone; give those of training")
    notes: list[str] = []
    dumps, loaded = _dumps(files)
    with_train = bool(dumps[0].train)
    _check_train(dumps, notes)
    with_entropy, whose = False, "inference engine"
    if with_train:
        samples = _train(dumps[0], loaded)
        with_entropy = samples[0].get("entropy") is not None
        whose = "trainer" if samples[0].get("log_probs") is not None else whose
    notes.append(f"the student's log-probabilities are the {whose}'s")
    columns = ["student_logprob", "teacher_logprob", *(["student_entropy"] if with_entropy else [])]

    left_out = [0]

    def parts() -> Iterator[Part]:
        for number, dump in enumerate(dumps):
            try:
                samples = _joined(dump, loaded)
            except DamagedError as error:
                if number == 0 or number < len(dumps) - 1:
                    raise
                notes.append(f"the last file is left out, as of a run that was killed: {error}")
                break
            rollouts = _rollouts(dump, samples, with_entropy, left_out)
            yield from parts_of(str(dump.name), dump.step, rollouts)
        if left_out[0]:
            notes.append(
                f"{counted(left_out[0], 'sample')} left out: aborted, failed, removed, or masked "
                "as a whole"
            )

    extra = {"student_logprob_by": whose}
    return Source(run_of(options, "sampled"), tuple(columns), parts, extra=extra, notes=notes)


def _check_train(dumps: list[_Dump], notes: list[str]) -> None:
    """Drop the last rollout where its train dumps are not all there.

    Raises `LogError` where those of an earlier rollout are not.
    """
    ranks = len(dumps[0].train)
    if len(dumps) > 1 and len(dumps[-1].train) < ranks:
        last = dumps.pop()
        has = (
            f"train dumps of {len(last.train)} of {ranks} ranks" if last.train else "no train dump"
        )
        notes.append(
            f"{last.name}: rollout {last.step} has {has}, as in a run that was killed, and is left "
            "out"
        )
    for dump in dumps:
        if bool(dump.train) != bool(ranks):
            lacking = dump if ranks else dumps[0]
            raise LogError(
                f"{lacking.name}: rollout {lacking.step} has no train dump, others have; give all "
                "of them, or none"
            )
        if len(dump.train) != ranks:
            raise LogError(
                f"{dump.name}: rollout {dump.step} has train dumps of "
                f"{counted(len(dump.train), 'rank')}, rollout {dumps[0].step} of {ranks}; give "
                "those of all ranks"
            )


def _dumps(files: list[Path]) -> tuple[list[_Dump], dict[Path, Content]]:
    """Files by rollout id, ascending, and the content of those that had to be read for it."""
    by_step: dict[int, _Dump] = {}
    loaded: dict[Path, Content] = {}
    folders: dict[Path, _Folder] = {}
    # Ascending, so that what is read first is not the last file of a run that was killed.
    for path in sorted(files, key=lambda one: (last_number(one) or 0, str(one))):
        if path.parent not in folders:
            loaded[path] = content_of(path)
            folders[path.parent] = _folder(path, loaded[path])
        folder = folders[path.parent]
        number = None if folder.number_in is None else folder.number_in(path)
        if number is None:
            loaded[path] = loaded.get(path) or content_of(path)
            number = loaded[path].rollout
        dump = by_step.setdefault(number, _Dump(number))
        of_kind = dump.train if folder.is_train else dump.rollout
        # Each rank has a file of its own; two of one rank are found when they are read.
        if of_kind and not (folder.by_rank and of_kind[0].parent == path.parent):
            raise LogError(
                f"{path}: is of rollout {number}, and so is {of_kind[0]}: files of two runs; "
                "import each run by itself"
            )
        of_kind.append(path)
    return [by_step[step] for step in sorted(by_step)], loaded


@dataclass(frozen=True)
class _Folder:
    """What the files of a folder are, by the first; names are the user's.

    Attributes:
        is_train: whether these are train dumps.
        by_rank: whether each rank wrote a file.
        number_in: reads the rollout id from a name; None: no name tells it.
    """

    is_train: bool
    by_rank: bool
    number_in: Callable[[Path], int | None] | None


def _folder(path: Path, content: Content) -> _Folder:
    is_train = content.is_train
    # Names of train dumps end with the rank.
    readers = (_before_rank, last_number) if is_train else (last_number, _before_rank)
    reader = next((read for read in readers if read(path) == content.rollout), None)
    return _Folder(is_train, content.rank is not None, reader)


def _before_rank(path: Path) -> int | None:
    """The number in a name before that of its rank: 12 of `12_0.pt`."""
    head, _, rank = path.stem.rpartition("_")
    return last_number(Path(head)) if rank.isdigit() and head else None


def _content(path: Path, dump: _Dump, loaded: dict[Path, Content]) -> Content:
    content = loaded.pop(path, None) or content_of(path)
    if content.rollout != dump.step:
        raise LogError(f"{path}: is of rollout {content.rollout}, its name says {dump.step}")
    return content


def _train(dump: _Dump, loaded: dict[Path, Content]) -> list[dict[str, Any]]:
    """What training says of each sample of a rollout. Its files' content stays in `loaded`."""
    contents = {path: _content(path, dump, loaded) for path in dump.train}
    samples = of_ranks(contents)
    loaded |= contents
    return samples


def _joined(dump: _Dump, loaded: dict[Path, Content]) -> list[dict[str, Any]]:
    """Samples of a rollout id, what training says of each over what sampling does."""
    train = _train(dump, loaded)
    for path in dump.train:
        del loaded[path]
    rollout = [s for path in dump.rollout for s in _content(path, dump, loaded).samples]
    if not dump.train:
        return rollout
    if not dump.rollout:
        return train
    joined = []
    # Of training the ids and log-probabilities; of sampling what else there is.
    for sample, other in zip(
        train, places(dump.name, train, dump.rollout[0], rollout), strict=True
    ):
        joined.append({**other, **{k: v for k, v in sample.items() if v is not None}})
    return joined


def _rollouts(
    dump: _Dump, samples: list[dict[str, Any]], with_entropy: bool, left_out: list[int]
) -> Iterator[Rollout]:
    for number, sample in enumerate(samples):
        where = f"{dump.name}: sample {number}"
        if not isinstance(sample, dict):
            raise LogError(f"{where}: is no dict; {NO_DUMP}")
        with laid_out(where):
            broken = sample.get("status") in _BROKEN or sample.get("remove_sample") is True
            rollout = None if broken else _rollout(where, dump.step, number, sample, with_entropy)
        if rollout is None:
            left_out[0] += 1
        else:
            yield rollout


def _rollout(
    where: str, step: int, number: int, sample: dict[str, Any], with_entropy: bool
) -> Rollout | None:
    token_T = _ints(_needed(sample, "tokens", where), where, "tokens")
    length = sample.get("response_lengths", sample.get("response_length"))
    length = _whole(length)
    if length is None or not 0 <= length <= len(token_T):
        raise LogError(f"{where}: response_length is {length}, of {len(token_T)} tokens")
    student = "log_probs" if sample.get("log_probs") is not None else "rollout_log_probs"
    values = {
        key: _floats(_needed(sample, key, where), where, key)
        for key in (student, "teacher_log_probs", *(["entropy"] if with_entropy else []))
    }
    mask = sample.get("loss_masks", sample.get("loss_mask"))
    mask_T = np.ones(length, bool)
    if mask is not None:
        mask_T = _ints(mask, where, "loss_mask")
        check_mask(mask_T.tolist(), where)
        mask_T = mask_T.astype(bool)
    same_length(where, {"response": np.empty(length), "loss_mask": mask_T, **values})
    if not mask_T.any():
        return None
    kept = {name: array[mask_T] for name, array in values.items()}
    statistics = {
        "loss": sampled_loss(kept[student], kept["teacher_log_probs"], where),
        "student_logprob": kept[student],
        "teacher_logprob": kept["teacher_log_probs"],
        **({"student_entropy": kept["entropy"]} if with_entropy else {}),
    }
    prompt_T, answer_T = token_T[: len(token_T) - length], token_T[len(token_T) - length :]

    # `rewards` of train dumps are normalized: 0 is not a wrong answer.
    reward: Any = sample.get("reward", sample.get("local_raw_reward"))
    return Rollout(
        step * _STEP_ROWS + number,
        prompt_identity(prompt_T),
        answer_T[mask_T],
        np.flatnonzero(mask_T),
        statistics,
        length,
        {
            "prompt_token_ids": prompt_T.tolist(),
            **_finish(sample),
            **correct_of(reward.item() if getattr(reward, "ndim", 1) == 0 else reward),
        },
    )


def _finish(sample: dict[str, Any]) -> dict[str, str]:
    if sample.get("status") in _FINISH:
        return {"finish_reason": _FINISH[sample["status"]]}
    cut = sample.get("truncated")
    number = _whole(cut)
    return {} if number is None else {"finish_reason": "length" if number else "stop"}


def _whole(value: Any) -> int | None:
    """An integer, or a tensor of one; None for anything else."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    return int(value) if isinstance(value, int) else None


def _needed(sample: dict[str, Any], key: str, where: str) -> Any:
    value = sample.get(key)
    if value is None:
        hint = {
            "teacher_log_probs": "distill with on-policy distillation switched on",
            "rollout_log_probs": "let the engine return them, or give the train dumps",
        }.get(key, NO_DUMP)
        raise LogError(f"{where}: has no {key}; {hint}")
    return value


def _ints(values: Any, where: str, key: str) -> Array:
    """(T,) int64. Raises `LogError` for what is no list or tensor of integers."""
    array = _array(values, where, key)
    if array.dtype.kind not in "biu":
        raise LogError(f"{where}: {key} holds more than integers; {NO_DUMP}")
    return array.astype(np.int64)


def _floats(values: Any, where: str, key: str) -> Array:
    """(T,) float64, NaN for None. Raises `LogError` for what is no list or tensor of numbers."""
    array = _array(values, where, key)
    if array.dtype.kind not in "biuf":
        raise LogError(f"{where}: {key} holds more than numbers; {NO_DUMP}")
    return array.astype(np.float64)


def _array(values: Any, where: str, key: str) -> Array:
    if hasattr(values, "float"):
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    elif isinstance(values, list | tuple):
        values = [np.nan if value is None else value for value in values] or np.zeros(0, np.int64)
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.zeros((0, 0))
    if array.ndim != 1:
        raise LogError(f"{where}: {key} is no list of numbers; {NO_DUMP}")
    return array
