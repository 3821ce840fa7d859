"""The content of slime's dumps, in both layouts of train dumps.

Since August 2026 (681b3ad) a train dump is one file a rollout, with a dict for each sample. Before,
every rank wrote a file with the columns of its own samples: ranks of tensor parallelism write the
same samples, those of earlier pipeline stages write no log-probabilities, and those of context
parallelism a part of each text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rocktok.errors import LogError
from rocktok.importers.torch_files import load_pt

NO_DUMP = "it is no dump of slime"

#: Column of a rank's train dump → key of a sample.
_COLUMNS = {
    "tokens": "tokens", "response_lengths": "response_lengths", "loss_masks": "loss_masks",
    "log_probs": "log_probs", "rollout_log_probs": "rollout_log_probs",
    "teacher_log_probs": "teacher_log_probs", "entropy": "entropy", "truncated": "truncated",
    "local_raw_reward": "local_raw_reward", "sample_indices": "sample_index",
}  # fmt: skip
_NEEDED = ("tokens", "response_lengths")


@dataclass(frozen=True)
class Content:
    """A file.

    Attributes:
        rollout: id of the rollout.
        samples: a dict for each.
        rank: that wrote it, if each has its own file; else None.
    """

    rollout: int
    samples: list[dict[str, Any]]
    rank: int | None = None

    @property
    def is_train(self) -> bool:
        """Whether it is a train dump."""
        return "log_probs" in self.samples[0] or "response_lengths" in self.samples[0]


def content_of(path: Path) -> Content:
    """A dump of either kind and layout. Raises `LogError` for another file."""
    content = load_pt(path)
    head = content if isinstance(content, dict) else {}
    number, columns = head.get("rollout_id"), head.get("rollout_data")
    samples = _transposed(path, columns) if isinstance(columns, dict) else head.get("samples")
    if not isinstance(samples, list) or not samples or not isinstance(samples[0], dict):
        raise LogError(f"{path}: has no samples; {NO_DUMP}")
    if not isinstance(number, int):
        raise LogError(f"{path}: has no rollout_id; {NO_DUMP}")
    rank = head.get("rank") if isinstance(columns, dict) else None
    if isinstance(columns, dict) and not isinstance(rank, int):
        raise LogError(f"{path}: has no rank; {NO_DUMP}")
    return Content(number, samples, rank)


def _transposed(path: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    missing = [name for name in _NEEDED if not _is_column(columns.get(name))]
    if missing:
        raise LogError(f"{path}: its rollout_data has no {', '.join(missing)}; {NO_DUMP}")
    length = len(columns["response_lengths"])
    given = {name: columns[name] for name in _COLUMNS if _is_column(columns.get(name))}
    for name, values in given.items():
        if len(values) != length:
            raise LogError(
                f"{path}: {name} has {len(values)} values for {length} samples; {NO_DUMP}"
            )
    return [
        {_COLUMNS[name]: values[number] for name, values in given.items()}
        for number in range(length)
    ]


def _is_column(values: Any) -> bool:
    return isinstance(values, list | tuple) or getattr(values, "ndim", 0) >= 1


def of_ranks(contents: Mapping[Path, Content]) -> list[dict[str, Any]]:
    """The samples of a rollout, each once, out of the files of its ranks, or of its one file.

    Raises `LogError` for two files of one rank, and for parts of texts.
    """
    by_rank: dict[int | None, Path] = {}
    for path, content in contents.items():
        if (other := by_rank.setdefault(content.rank, path)) != path:
            raise LogError(
                f"{path}: is of rollout {content.rollout} and rank {content.rank}, and so is "
                f"{other}: files of two runs; import each run by itself"
            )
    if None in by_rank:
        return [sample for content in contents.values() for sample in content.samples]
    # Of pipeline stages the last alone computes log-probabilities.
    last = [rank for rank, path in by_rank.items() if "log_probs" in contents[path].samples[0]]
    samples: list[dict[str, Any]] = []
    seen: set[tuple[Any, ...]] = set()
    for rank in sorted(last or by_rank, key=lambda one: one or 0):
        path = by_rank[rank]
        whose = tuple(
            (sample.get("sample_index"), _ids(f"{path}: sample {number}", sample))
            for number, sample in enumerate(contents[path].samples)
        )
        for number, sample in enumerate(contents[path].samples):
            _check_whole(f"{path}: sample {number}", sample)
        if whose not in seen:
            samples += contents[path].samples
        seen.add(whose)
    if all(isinstance(sample.get("sample_index"), int) for sample in samples):
        samples.sort(key=lambda sample: int(sample["sample_index"]))
    return samples


def _check_whole(where: str, sample: Mapping[str, Any]) -> None:
    for key in ("log_probs", "teacher_log_probs"):
        values = sample.get(key)
        if _is_column(values) and len(values) < sample["response_lengths"]:  # type: ignore[arg-type]
            raise LogError(
                f"{where}: {key} has {len(values)} values for {int(sample['response_lengths'])} "  # type: ignore[arg-type]
                "tokens: the part of one rank under context parallelism; dump with a slime of "
                "August 2026 or newer, which puts the parts together"
            )


def places(
    train_path: Path,
    train: list[dict[str, Any]],
    rollout_path: Path,
    rollout: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The sample of the rollout dump for each sample of the train dump.

    By `rollout_position`, else by token ids and index.

    Raises `LogError` for a sample whose tokens the rollout dump does not have.
    """
    ids = [_ids(f"{rollout_path}: sample {n}", sample) for n, sample in enumerate(rollout)]
    by_ids: dict[bytes, list[int]] = {}
    for at, tokens in enumerate(ids):
        by_ids.setdefault(tokens, []).append(at)
    found = []
    for number, sample in enumerate(train):
        where = f"{train_path}: sample {number}"
        place: Any = sample.get("rollout_position")
        own = _ids(where, sample)
        if place is None:
            same = by_ids.get(own, [])
            index = sample.get("sample_index")
            place = next((p for p in same if rollout[p].get("index") == index), None)
            place = same[0] if place is None and same else place
        elif not isinstance(place, int) or not 0 <= place < len(rollout):
            raise LogError(f"{where} is not in {rollout_path}: of two runs")
        if place is None or ids[place] != own:
            raise LogError(
                f"{where} has other tokens than {rollout_path}: these are files of two runs"
            )
        found.append(rollout[place])
    return found


def _ids(where: str, sample: Any) -> bytes:
    """The token ids of a sample. Raises `LogError`."""
    if not isinstance(sample, dict):
        raise LogError(f"{where}: is no dict; {NO_DUMP}")
    try:
        return np.asarray(sample["tokens"], dtype=np.int64).tobytes()
    except (KeyError, TypeError, ValueError):
        raise LogError(f"{where}: has no tokens, or others than numbers; {NO_DUMP}") from None
