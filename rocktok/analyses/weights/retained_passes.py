"""Retained occurrences of the selected types: their windows, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from rocktok._types import Array
from rocktok.analyses.occurrences.file_passes import OccurrencesFile
from rocktok.analyses.weights.rocks_passes import Rocks
from rocktok.errors import LogError
from rocktok.hashing import hash_rows
from rocktok.weighting import Window, WindowContexts

#: Distinct windows in a weights file, at most; of more, those with the smallest hashes.
MOST_WINDOWS = 50_000

#: Similarities under which a window of tokens alone says whether it matches.
_OF_TOKENS = ("surprisal", "bag", "jaccard", "positional")


def check_occurrences(file: OccurrencesFile, rocks: Rocks) -> None:
    """Raise `LogError` where the occurrences are of another log, or of other steps, than rocks."""
    log = file.about["log"]
    rocks.check_log(file.path, log)
    for key, words in (("table", "table"), ("pre", "earlier step"), ("post", "later step")):
        if log.get(key) != rocks.log[key]:
            raise LogError(
                f"{file.path}: its {words} is {log.get(key)}, that of the rocks of {rocks.name} is "
                f"{rocks.log[key]}; run `rocktok occurrences` with the options of `detect`"
            )


def other_options(file: OccurrencesFile, rocks: Rocks) -> list[str]:
    """A note where the occurrences were judged by other options than the rocks, else none."""
    theirs = file.about["parameters"]
    apart = [
        f"{name} {theirs[name]} (rocks: {value})"
        for name, value in rocks.params.items()
        # γ stands there as it was used, and here perhaps as auto; of two similarities that were
        # asked for only what they came to matters.
        if name in theirs
        and value != "auto"
        and name != "similarity_given"
        and theirs[name] != value
    ]
    if not apart:
        return []
    return [f"the occurrences were judged by other options: {', '.join(apart)}"]


def retained_windows(
    file: OccurrencesFile, token_ids: tuple[int, ...]
) -> tuple[WindowContexts, int]:
    """(distinct windows of the retained occurrences of some types, how many were left out).

    Raises `LogError` for occurrences that were compared by what a window of tokens does not hold.
    """
    parameters = file.about["parameters"]
    similarity, window = parameters.get("similarity"), parameters.get("window")
    if similarity not in _OF_TOKENS:
        raise LogError(
            f"{file.path}: its contexts were compared by similarity {similarity!r}, which tokens "
            "alone cannot match in training; run `rocktok occurrences` again with --similarity "
            "positional, or weight these occurrences where they stand: --format mask, with --log"
        )
    kept = np.zeros((0, 1 + 2 * window), dtype=np.int64)
    seen = 0
    columns = ["token_id", "retained", "context_left", "context_right"]
    for table in file.groups(columns):
        table = table.filter(pc.fill_null(table["retained"], False))
        table = table.filter(pc.is_in(table["token_id"], value_set=_ids(token_ids)))
        sides = [
            pc.list_flatten(table[name]).to_numpy().reshape(len(table), window)
            for name in ("context_left", "context_right")
        ]
        token_M = table["token_id"].to_numpy()
        rows = np.column_stack([token_M.reshape(-1, 1), *sides]).astype(np.int64)
        kept, left = _smallest(np.concatenate((kept, rows)))
        seen += left
    order = np.lexsort(kept.T[::-1])
    windows = tuple(
        Window(row[0], tuple(row[1 : 1 + window]), tuple(row[1 + window :]))
        for row in kept[order].tolist()
    )
    return WindowContexts(window, window, float(parameters["gamma"]), windows), seen


def _ids(token_ids: tuple[int, ...]) -> object:
    import pyarrow as pa

    return pa.array(sorted(token_ids), pa.int32())


def _smallest(rows_MK: Array) -> tuple[Array, int]:
    """(distinct rows, those with the smallest hashes of too many; how many others there are)."""
    distinct = np.unique(rows_MK, axis=0)
    if len(distinct) <= MOST_WINDOWS:
        return distinct, 0
    hash_M = hash_rows(0, *distinct.T)
    order = np.argsort(hash_M, kind="stable")[:MOST_WINDOWS]
    return distinct[order], len(distinct) - MOST_WINDOWS


@dataclass(frozen=True)
class Places:
    """Sequence and position (int64) of occurrences, in order."""

    sequence_M: Array
    position_M: Array


class RetainedPlaces:
    """Where the retained occurrences of some types stand, asked for in ascending sequences."""

    def __init__(self, file: OccurrencesFile, token_ids: tuple[int, ...]) -> None:
        self._parts = self._read(file, token_ids)
        self._waiting = Places(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._done = False

    @staticmethod
    def _read(file: OccurrencesFile, token_ids: tuple[int, ...]) -> Iterator[Places]:
        last = -(2**63)
        for table in file.groups(["sequence_id", "position", "token_id", "retained"]):
            keep = pc.and_(
                pc.fill_null(table["retained"], False),
                pc.is_in(table["token_id"], value_set=_ids(token_ids)),
            )
            sequence_M = table["sequence_id"].to_numpy()
            if len(sequence_M) and (sequence_M[0] < last or (np.diff(sequence_M) < 0).any()):
                raise LogError(
                    f"{file.path}: its rows are not in order; write it again with `rocktok "
                    "occurrences`"
                )
            last = int(sequence_M[-1]) if len(sequence_M) else last
            chosen = table.filter(keep)
            yield Places(
                chosen["sequence_id"].to_numpy(), chosen["position"].to_numpy().astype(np.int64)
            )

    def until(self, sequence: int) -> Places:
        """Those of sequences up to one that no earlier call gave."""
        parts = [self._waiting]
        while not self._done and not (
            len(parts[-1].sequence_M) and parts[-1].sequence_M[-1] > sequence
        ):
            part = next(self._parts, None)
            self._done = part is None
            parts += [] if part is None else [part]
        sequence_M, position_M = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("sequence_M", "position_M")
        )
        stop = int(np.searchsorted(sequence_M, sequence, "right"))
        self._waiting = Places(sequence_M[stop:], position_M[stop:])
        return Places(sequence_M[:stop], position_M[:stop])
