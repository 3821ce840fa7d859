"""slime's dumps (`--dump-details`): rollouts as sampled, and what training computed of them."""

from __future__ import annotations

from collections.abc import Iterator
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
from rocktok.importers.words import counted, files_of, last_number

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
                return
            samples = _joined(dump, train, rollout)
            rollouts = _rollouts(dump, samples, with_entropy, notes)
            yield from parts_of(str(dump.name), dump.step, rollouts)

    extra = {"student_logprob_by": whose}
    return Source(run_of(options, "sampled"), tuple(columns), parts, extra=extra, notes=notes)


def _dumps(files: list[Path]) -> tuple[list[_Dump], dict[Path, Any]]:
    """Files by rollout id, ascending, and the content of the first ones, which was read."""
    by_step: dict[int, _Dump] = {}
    loaded: dict[Path, Any] = {}
    train_folders: dict[Path, bool] = {}
    for path in sorted(files, key=lambda p: (last_number(p) is None, last_number(p) or 0)):
        number = last_number(_without_rank(path))
        if path.parent not in train_folders or number is None:
            loaded[path] = _samples(path)
            train_folders.setdefault(path.parent, _is_train(loaded[path][1]))
            number = loaded[path][0]
        dump = by_step.setdefault(number, _Dump(number))
        kind = "train" if train_folders[path.parent] else "rollout"
        if (other := getattr(dump, kind)) is not None:
            raise LogError(
                f"{path}: is of rollout {number}, and so is {other}: files of two runs; import "
                "each run by itself"
            )
        setattr(dump, kind, path)
    return [by_step[step] for step in sorted(by_step)], loaded


def _without_rank(path: Path) -> Path:
    """`12_0.pt` of a train dump is rollout 12 of rank 0."""
    stem = path.stem
    head, _, tail = stem.rpartition("_")
    return (
        path.with_name(f"{head}.pt")
        if tail.isdigit() and last_number(Path(head)) is not None
        else path
    )


def _samples(path: Path) -> tuple[int, list[dict[str, Any]]]:
    content = load_pt(path)
    samples = content.get("samples") if isinstance(content, dict) else None
    number = content.get("rollout_id") if isinstance(content, dict) else None
    if not isinstance(samples, list) or not samples or not isinstance(samples[0], dict):
        raise LogError(f"{path}: has no samples; it is no dump of slime")
    if not isinstance(number, int):
        raise LogError(f"{path}: has no rollout_id; it is no dump of slime")
    return number, samples


def _is_train(samples: list[dict[str, Any]]) -> bool:
    return "log_probs" in samples[0] or "response_lengths" in samples[0]


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
        if ids is not None and _ints(ids).tolist() != _ints(other.get("tokens", ())).tolist():
            raise LogError(
                f"{dump.train}: sample {number} has other tokens than {dump.rollout}: these are "
                "files of two runs"
            )
        # Of training the ids and log-probabilities; of sampling what else there is.
        joined.append({**other, **{k: v for k, v in sample.items() if v is not None}})
    return joined


def _rollouts(
    dump: _Dump, samples: list[dict[str, Any]], with_entropy: bool, notes: list[str]
) -> Iterator[Rollout]:
    broken = 0
    for number, sample in enumerate(samples):
        where = f"{dump.name}: sample {number}"
        if sample.get("status") in _BROKEN or sample.get("remove_sample") is True:
            broken += 1
            continue
        rollout = _rollout(where, dump.step, number, sample, with_entropy)
        if rollout is None:
            broken += 1
        else:
            yield rollout
    if broken:
        notes.append(
            f"{dump.name}: {counted(broken, 'sample')} left out: aborted, failed, removed, or "
            "masked as a whole"
        )


def _rollout(
    where: str, step: int, number: int, sample: dict[str, Any], with_entropy: bool
) -> Rollout | None:
    token_T = _ints(_needed(sample, "tokens", where))
    length = sample.get("response_lengths", sample.get("response_length"))
    length = int(length) if length is not None else -1
    if not 0 <= length <= len(token_T):
        raise LogError(f"{where}: response_length is {length}, of {len(token_T)} tokens")
    student = "log_probs" if sample.get("log_probs") is not None else "rollout_log_probs"
    values = {
        student: _floats(_needed(sample, student, where)),
        "teacher_log_probs": _floats(_needed(sample, "teacher_log_probs", where)),
    }
    if with_entropy:
        values["entropy"] = _floats(_needed(sample, "entropy", where))
    mask = sample.get("loss_masks", sample.get("loss_mask"))
    mask_T = np.ones(length, bool) if mask is None else _ints(mask).astype(bool)
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
            **correct_of(reward.item() if hasattr(reward, "item") else reward),
        },
    )


def _finish(sample: dict[str, Any]) -> dict[str, str]:
    if sample.get("status") in _FINISH:
        return {"finish_reason": _FINISH[sample["status"]]}
    cut = sample.get("truncated")
    return {} if cut is None else {"finish_reason": "length" if int(cut) else "stop"}


def _needed(sample: dict[str, Any], key: str, where: str) -> Any:
    value = sample.get(key)
    if value is None:
        hint = {
            "teacher_log_probs": "distill with on-policy distillation switched on",
            "rollout_log_probs": "let the engine return them, or give the train dumps",
        }.get(key, "it is no dump of slime")
        raise LogError(f"{where}: has no {key}; {hint}")
    return value


def _ints(values: Any) -> Array:
    return np.asarray(values.numpy() if hasattr(values, "numpy") else list(values), dtype=np.int64)


def _floats(values: Any) -> Array:
    array = values.float().numpy() if hasattr(values, "numpy") else np.array(
        [np.nan if value is None else value for value in values], dtype=np.float64
    )  # fmt: skip
    return np.asarray(array, dtype=np.float64)
