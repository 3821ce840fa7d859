"""slime's dumps (`--dump-details`): rollouts as sampled, and what training computed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.errors import DamagedError, LogError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.importers.source import (
    Options,
    Part,
    Rollout,
    Source,
    correct_of,
    parts_of,
    run_of,
    same_length,
    sampled_loss,
)
from rocktok.importers.torch_files import load_pt
from rocktok.importers.words import counted, files_of, laid_out, last_number

_STEP_ROWS = 1 << 32
_FINISH = {"completed": "stop", "truncated": "length"}
#: Statuses of samples that are no whole answers of the student.
_BROKEN = ("aborted", "failed", "pending")


@dataclass
class _Dump:
    """The files of one rollout id."""

    step: int
    rollout: Path | None = None
    train: Path | None = None

    @property
    def name(self) -> Path:
        path = self.train or self.rollout
        assert path is not None
        return path


def read(paths: tuple[Path, ...], options: Options) -> Source:
    """A log of rollout dumps, of train dumps, or of both by rollout id.

    Raises `LogError` for files that are none, of two runs, or without the teacher.
    """
    files = [path for path in files_of(paths, "**/*.pt") if "eval" not in path.stem.split("_")]
    if not files:
        raise LogError(f"{paths[0]}: holds evaluation dumps alone; give those of training")
    notes: list[str] = []
    dumps, loaded = _dumps(files)
    with_train = dumps[0].train is not None
    if with_train and len(dumps) > 1 and dumps[-1].train is None:
        last = dumps.pop()
        notes.append(
            f"{last.name}: rollout {last.step} has no train dump, as in a run that was killed, and "
            "is left out"
        )
    mixed = [dump for dump in dumps if (dump.train is not None) != with_train]
    if mixed:
        lacking = mixed[0] if with_train else dumps[0]
        raise LogError(
            f"{lacking.name}: rollout {lacking.step} has no train dump, others have; give all of "
            "them, or none"
        )
    with_entropy = with_train and _has(loaded, dumps[0], "entropy")
    whose = "trainer" if with_train else "inference engine"
    notes.append(f"the student's log-probabilities are the {whose}'s")
    columns = ["student_logprob", "teacher_logprob", *(["student_entropy"] if with_entropy else [])]

    left_out = [0]

    def parts() -> Iterator[Part]:
        for number, dump in enumerate(dumps):
            try:
                train, rollout = (
                    None if path is None else (loaded.pop(path, None) or _samples(path))
                    for path in (dump.train, dump.rollout)
                )
            except DamagedError as error:
                if number == 0 or number < len(dumps) - 1:
                    raise
                notes.append(f"the last file is left out, as of a run that was killed: {error}")
                break
            samples = _joined(dump, train, rollout)
            rollouts = _rollouts(dump, samples, with_entropy, left_out)
            yield from parts_of(str(dump.name), dump.step, rollouts)
        if left_out[0]:
            notes.append(
                f"{counted(left_out[0], 'sample')} left out: aborted, failed, removed, or masked "
                "as a whole"
            )

    extra = {"student_logprob_by": whose}
    return Source(run_of(options, "sampled"), tuple(columns), parts, extra=extra, notes=notes)


def _dumps(files: list[Path]) -> tuple[list[_Dump], dict[Path, Any]]:
    """Files by rollout id, ascending, and the content of those that had to be read for it."""
    by_step: dict[int, _Dump] = {}
    loaded: dict[Path, Any] = {}
    folders: dict[Path, tuple[bool, Callable[[Path], int | None] | None]] = {}
    # Ascending, so that what is read first is not the last file of a run that was killed.
    for path in sorted(files, key=lambda one: (last_number(one) or 0, str(one))):
        if path.parent not in folders:
            loaded[path] = _samples(path)
            folders[path.parent] = _folder(path, *loaded[path])
        is_train, number_in = folders[path.parent]
        number = None if number_in is None else number_in(path)
        if number is None:
            loaded[path] = loaded.get(path) or _samples(path)
            number = loaded[path][0]
        dump = by_step.setdefault(number, _Dump(number))
        kind = "train" if is_train else "rollout"
        if (other := getattr(dump, kind)) is not None:
            raise LogError(
                f"{path}: is of rollout {number}, and so is {other}: files of two runs; import "
                "each run by itself"
            )
        setattr(dump, kind, path)
    return [by_step[step] for step in sorted(by_step)], loaded


def _folder(
    path: Path, number: int, samples: list[dict[str, Any]]
) -> tuple[bool, Callable[[Path], int | None] | None]:
    """Whether a folder holds train dumps, and what reads the rollout id from its files' names.

    The names are the user's. Train dumps end with the rank.
    """
    is_train = "log_probs" in samples[0] or "response_lengths" in samples[0]
    readers = (_before_rank, last_number) if is_train else (last_number, _before_rank)
    return is_train, next((read for read in readers if read(path) == number), None)


def _before_rank(path: Path) -> int | None:
    """The number in a name before that of its rank: 12 of `12_0.pt`."""
    head, _, rank = path.stem.rpartition("_")
    return last_number(Path(head)) if rank.isdigit() and head else None


def _samples(path: Path) -> tuple[int, list[dict[str, Any]]]:
    content = load_pt(path)
    samples = content.get("samples") if isinstance(content, dict) else None
    number = content.get("rollout_id") if isinstance(content, dict) else None
    if not isinstance(samples, list) or not samples or not isinstance(samples[0], dict):
        raise LogError(f"{path}: has no samples; it is no dump of slime")
    if not isinstance(number, int):
        raise LogError(f"{path}: has no rollout_id; it is no dump of slime")
    return number, samples


def _has(loaded: dict[Path, Any], dump: _Dump, key: str) -> bool:
    assert dump.train is not None
    if dump.train not in loaded:
        loaded[dump.train] = _samples(dump.train)
    return loaded[dump.train][1][0].get(key) is not None


def _joined(
    dump: _Dump,
    train: tuple[int, list[dict[str, Any]]] | None,
    rollout: tuple[int, list[dict[str, Any]]] | None,
) -> list[dict[str, Any]]:
    """Samples of a rollout id, what training says of each over what sampling does."""
    for content, path in ((train, dump.train), (rollout, dump.rollout)):
        if content is not None and content[0] != dump.step:
            raise LogError(f"{path}: is of rollout {content[0]}, its name says {dump.step}")
    if train is None:
        assert rollout is not None
        return rollout[1]
    if rollout is None:
        return train[1]
    joined = []
    for number, sample in enumerate(train[1]):
        place = sample.get("rollout_position", number)
        if not isinstance(place, int) or not 0 <= place < len(rollout[1]):
            raise LogError(f"{dump.train}: sample {number} is not in {dump.rollout}: of two runs")
        other = rollout[1][place]
        ids = sample.get("tokens")
        where = f"{dump.train}: sample {number}"
        if ids is not None and not np.array_equal(
            _ints(ids, where, "tokens"), _ints(other.get("tokens", ()), where, "tokens")
        ):
            raise LogError(
                f"{dump.train}: sample {number} has other tokens than {dump.rollout}: these are "
                "files of two runs"
            )
        # Of training the ids and log-probabilities; of sampling what else there is.
        if not isinstance(other, dict):
            raise LogError(f"{dump.rollout}: sample {place} is no dict; it is no dump of slime")
        joined.append({**other, **{k: v for k, v in sample.items() if v is not None}})
    return joined


def _rollouts(
    dump: _Dump, samples: list[dict[str, Any]], with_entropy: bool, left_out: list[int]
) -> Iterator[Rollout]:
    for number, sample in enumerate(samples):
        where = f"{dump.name}: sample {number}"
        if not isinstance(sample, dict):
            raise LogError(f"{where}: is no dict; it is no dump of slime")
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
    mask_T = np.ones(length, bool) if mask is None else _ints(mask, where, "loss_mask").astype(bool)
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

    reward: Any = sample.get("reward", sample.get("rewards"))
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
        }.get(key, "it is no dump of slime")
        raise LogError(f"{where}: has no {key}; {hint}")
    return value


def _ints(values: Any, where: str, key: str) -> Array:
    """(T,) int64. Raises `LogError` for what is no list or tensor of integers."""
    array = _array(values, where, key)
    if array.dtype.kind not in "biu":
        raise LogError(f"{where}: {key} holds more than integers; it is no dump of slime")
    return array.astype(np.int64)


def _floats(values: Any, where: str, key: str) -> Array:
    """(T,) float64, NaN for None. Raises `LogError` for what is no list or tensor of numbers."""
    array = _array(values, where, key)
    if array.dtype.kind not in "biuf":
        raise LogError(f"{where}: {key} holds more than numbers; it is no dump of slime")
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
        raise LogError(f"{where}: {key} is no list of numbers; it is no dump of slime")
    return array
