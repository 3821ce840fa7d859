"""The types to intervene on, and where, as the files of other commands say."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import LogError, UsageError
from rocktok.files import local_path
from rocktok.inputs import load_controls, load_detect, not_of_detect
from rocktok.replay.intervene.arms import CONTROL, FREQUENCY, Candidate
from rocktok.replay.intervene.rules import MISSING, Contexts
from rocktok.stats.groups import CALIPER
from rocktok.stats.matching import match

if TYPE_CHECKING:
    from rocktok._types import Array

#: A type in a file of `detect` that occurs less often is no control.
MIN_FREQUENCY = 20

_OCCURRENCES = "give what `rocktok occurrences LOG -o FILE.parquet` writes"


@dataclass(frozen=True)
class Candidates:
    """Rocks and their controls.

    Attributes:
        rocks: token ids, in the order of their file.
        controls: of these rocks.
        provenance: where they are from, for the output.
        notes: what a reader of the results must know.
    """

    rocks: tuple[int, ...]
    controls: tuple[Candidate, ...]
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()


def load_candidates(
    rocks: str | os.PathLike[str] | Sequence[int],
    controls: str | os.PathLike[str] | None = None,
    *,
    vocab: str | None = None,
    student: str = "the student",
    size: int | None = None,
    top: int | None = None,
) -> Candidates:
    """Rocks, and the types matched with them by loss and by frequency.

    Args:
        rocks: a JSON file of `rocktok detect`, or token ids.
        controls: a JSON file of `rocktok controls`; None: types of the file of `detect` that are no
            rocks, which it holds if it was written with `--all`.
        vocab: identity of the student's vocabulary; None: not known.
        student: its name, for messages.
        size: number of the student's token ids; None: not known.
        top: number of rocks, the first of the file; None: all.

    Raises:
        UsageError: `top` below 1, no ids, or one twice.
        LogError: a file cannot be read, is none of these, holds no rocks, or is of another
            vocabulary.
    """
    if top is not None and top < 1:
        raise UsageError(f"top is {top}; it must be 1 or more", parameter="top")
    notes: list[str] = []
    provenance: dict[str, Any] = {"rocks": None, "controls": None, "top": top}
    rows: list[dict[str, Any]] = []
    if isinstance(rocks, str | os.PathLike):
        content = load_detect(rocks)
        if not _check_vocab(rocks, content, vocab, student):
            notes.append(f"{rocks}: its vocabulary is unknown; ids are taken to be the student's")
        rows = _rows(rocks, content)
        ids = [row["token_id"] for row in rows if row["is_rock"]]
        if not ids:
            raise LogError(
                f"{rocks}: holds no rocks, so there is nothing to intervene on; give token ids, or "
                "a file of `rocktok detect --rule top-k`"
            )
        log = content.get("log")
        provenance |= {"rocks": os.fspath(rocks), "log": log if isinstance(log, dict) else None}
    else:
        ids = [int(v) for v in rocks]
        if not ids or len(set(ids)) < len(ids):
            why = "names no token" if not ids else "names a token twice"
            raise UsageError(f"rocks {why}; give ids such as 277,13", parameter="rocks")
        provenance["rocks"] = ids
    _check_ids("rocks", ids, size, student)
    kept = ids[:top]
    if controls is not None:
        found = _of_controls(controls, vocab, student, kept, notes)
        provenance["controls"] = os.fspath(controls)
    else:
        found = _of_detect(rows, kept, set(ids), notes, isinstance(rocks, str | os.PathLike))
    found = [one for one in found if one.token_id not in set(ids)]
    _check_ids("controls", [one.token_id for one in found], size, student)
    return Candidates(tuple(kept), tuple(found), provenance, tuple(notes))


def _rows(path: str | os.PathLike[str], content: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return [
            {
                "token_id": int(row["token_id"]),
                "is_rock": bool(row["is_rock"]),
                "frequency": float(row["frequency"]),
                "mean_loss": float(row["mean_loss"]),
            }
            for row in content["tokens"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise not_of_detect(path) from error


def _check_vocab(
    path: str | os.PathLike[str], content: Any, vocab: str | None, student: str
) -> bool:
    """Whether a result's token ids are known to be the student's.

    Raises `LogError` where they are known to be another vocabulary's.
    """
    log = content.get("log") if isinstance(content, dict) else None
    theirs = log.get("vocab") if isinstance(log, dict) else None
    if None not in (vocab, theirs) and vocab != theirs:
        raise LogError(
            f"{path}: its vocabulary differs from that of {student}, so ids have other texts; give "
            "a result of a log with the same tokenizer"
        )
    return None not in (vocab, theirs)


def _check_ids(what: str, ids: Iterable[int], size: int | None, student: str) -> None:
    for token_id in ids:
        if token_id < 0 or (size is not None and token_id >= size):
            have = "" if size is None else f"; {student} has ids from 0 to {size - 1:,}"
            raise LogError(f"{what}: {token_id} is no token id{have}")


def _of_controls(
    path: str | os.PathLike[str], vocab: str | None, student: str, rocks: Sequence[int],
    notes: list[str],
) -> list[Candidate]:  # fmt: skip
    """Pairs of a file of `rocktok controls`, of both kinds that it has."""
    found: list[Candidate] = []
    errors: list[LogError] = []
    _check_vocab(path, _json(path), vocab, student)
    for kind, group in (("loss", CONTROL), ("frequency", FREQUENCY)):
        try:
            pairs = load_controls(path, kind)[1]
        except LogError as error:
            errors.append(error)
            continue
        found += [Candidate(other, group, rock) for rock, other in pairs if rock in rocks]
    if len(errors) == 2:
        raise errors[0]
    if not found:
        notes.append(f"{path}: holds no controls of these rocks")
    return found


def _json(path: str | os.PathLike[str]) -> Any:
    """A file's content; None where it cannot be read, which is told by who loads it."""
    try:
        return json.loads(local_path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _of_detect(
    rows: Sequence[dict[str, Any]],
    rocks: Sequence[int],
    every_rock: set[int],
    notes: list[str],
    from_file: bool,
) -> list[Candidate]:
    """Types of a file of `detect` with a mean loss, or a frequency, like a rock's."""
    others = [row for row in rows if row["token_id"] not in every_rock
              and row["frequency"] >= MIN_FREQUENCY]  # fmt: skip
    if not others:
        how = "write it with `rocktok detect --all`, or give" if from_file else "give"
        notes.append(
            f"no types to match with the rocks are known: {how} --controls of `rocktok controls`"
        )
        return []
    by_id = {row["token_id"]: row for row in rows}
    ours = [by_id[v] for v in rocks if v in by_id]
    found = []
    for column, group in (("mean_loss", CONTROL), ("frequency", FREQUENCY)):
        with np.errstate(divide="ignore"):
            value_R1, value_A1 = (
                np.log10([[row[column]] for row in part]) for part in (ours, others)
            )
        pairs_P2, _ = match(value_R1, value_A1, np.array([CALIPER]))
        found += [
            Candidate(others[a]["token_id"], group, ours[r]["token_id"])
            for r, a in pairs_P2.tolist()
        ]
    return found


# -- contexts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Occurrences:
    """Left halves of windows by type, from a file of `rocktok occurrences`.

    Attributes:
        retained, persistent: token id → (W, K) int32, distinct rows: of retained occurrences, of
            all persistent ones.
        min_similarity: of the file, or as given.
        notes: what a reader of the results must know.
    """

    retained: dict[int, Array]
    persistent: dict[int, Array]
    min_similarity: float
    width: int
    notes: tuple[str, ...] = ()

    def contexts(self, candidate: Candidate) -> Contexts | None:
        """Where a type is banned: a control without retained occurrences at its persistent ones."""
        left_WK = self.retained.get(candidate.token_id)
        if left_WK is None and candidate.control_of is not None:
            left_WK = self.persistent.get(candidate.token_id)
        return None if left_WK is None else Contexts(left_WK, self.min_similarity)


def load_occurrences(
    path: str | os.PathLike[str],
    wanted: Iterable[int],
    *,
    min_similarity: float | None = None,
    vocab: str | None = None,
    student: str = "the student",
) -> Occurrences:
    """The windows of some types in a file of `rocktok occurrences`.

    `min_similarity`: None: that of the file, if its windows were compared by their tokens.

    Raises `LogError` for a file that cannot be read, is none, or is of another vocabulary.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = pa.array(sorted(set(wanted)), pa.int32())
    columns = ["token_id", "retained", "context_left"]
    try:
        with pq.ParquetFile(local_path(path)) as file:
            about = json.loads((file.schema_arrow.metadata or {})[b"rocktok"])
            if not str(about["schema"]).startswith("rocktok.occurrences/"):
                raise KeyError("schema")
            _check_vocab(path, about, vocab, student)
            parts = []
            for group in range(file.metadata.num_row_groups):
                rows = file.read_row_group(group, columns=columns)
                parts.append(rows.filter(pc.is_in(rows["token_id"].cast(pa.int32()), ids)))
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error}); {_OCCURRENCES}") from error
    except (KeyError, TypeError, ValueError, pa.ArrowException, IndexError) as error:
        raise LogError(
            f"{path}: is not a result of `rocktok occurrences`; {_OCCURRENCES}"
        ) from error
    parameters = about.get("parameters") or {}
    width = max(1, int(parameters.get("window") or 8))
    gamma, notes = _gamma(parameters, min_similarity)
    retained: dict[int, list[Array]] = {}
    persistent: dict[int, list[Array]] = {}
    for rows in parts:
        values = (rows[name].to_pylist() for name in columns)
        for token_id, kept, left in zip(*values, strict=True):
            left_K = _right_aligned(left or [], width)
            persistent.setdefault(token_id, []).append(left_K)
            if kept:
                retained.setdefault(token_id, []).append(left_K)
    return Occurrences(_distinct(retained), _distinct(persistent), gamma, width, notes)


def _distinct(rows_of_type: dict[int, list[Array]]) -> dict[int, Array]:
    """Token id → (W, K) distinct rows."""
    return {v: np.unique(np.stack(rows), axis=0) for v, rows in rows_of_type.items()}


def _right_aligned(left: Sequence[int | None], width: int) -> Array:
    """(K,) the last tokens of a list, `MISSING` before its first."""
    left_K = np.full(width, MISSING, dtype=np.int32)
    tokens = [MISSING if token is None else token for token in left][-width:]
    if tokens:
        left_K[width - len(tokens) :] = tokens
    return left_K


def _gamma(parameters: dict[str, Any], given: float | None) -> tuple[float, tuple[str, ...]]:
    """The minimum similarity of left halves, and what to note of it."""
    if given is not None:
        return given, ()
    kind, value = parameters.get("similarity"), parameters.get("min_similarity")
    if value is None:
        value = parameters.get("gamma")
    known = None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        known = float(value)
    if kind == "positional" and known is not None:
        return known, ()
    gamma = known if known is not None and kind in ("surprisal", "bag", "jaccard") else 0.5
    return gamma, (
        f"the occurrences were retained by similarity {kind or 'unknown'}; the ban matches the "
        f"tokens before a place offset by offset, at {gamma:g} (--min-similarity changes it)",
    )
