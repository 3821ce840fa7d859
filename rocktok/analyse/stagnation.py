"""Do rocks learn: losses over training, of types and of groups, fairly chosen and compared.

Groups are chosen at the first step on one half of the prompts and measured on the other: a type
that was chosen for its late loss has one, learn as it may. Source: arXiv 2605.09253, section 3;
the choice, the matching, the bootstrap and the equivalence tests are ours.

Array suffixes: B replicates; T types; C covariates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rocktok.analyse.bootstrap import MIN_PROMPTS, REPLICATES, holm, interval
from rocktok.analyse.contrasts import MIN_TYPES, contrast, ratio
from rocktok.analyse.course import Course
from rocktok.analyse.groups import CALIPER, TypeFacts
from rocktok.analyse.matching import balance, match
from rocktok.analyse.traceable import Result
from rocktok.errors import UsageError
from rocktok.hashing import hash_rows

Array = npt.NDArray[Any]
Row = dict[str, Any]

NAMES = ("rocks", "high_kl", "random", "control", "loss_control")

#: Matched on these, within calipers; `control` on all, `loss_control` on all but the frequency.
COVARIATES = ("log10 frequency", "log10 mean loss", "mean position")

#: Largest difference of mean positions, in standard deviations over the types.
POSITION_CALIPER = 0.2

#: Ratios within a factor of this count as the same.
MARGIN = 1.1

DESCRIPTIVE = "descriptive: conditioned on the outcome"
GIVEN = "rocks given: descriptive, unless they were chosen on other prompts"


@dataclass(frozen=True)
class StagnationParams:
    """Options of `stagnation`. `first`, `last`: steps; None: of those complete, the outermost.

    `top`: types by loss, beside those of the groups, that are drawn again; `all_types`: the others,
    too, with linearised intervals.
    """

    table: str = "auto"
    first: int | None = None
    last: int | None = None
    select_at: str = "first"
    top_k: int = 100
    group_size: int | None = None
    top: int = 100
    all_types: bool = False
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"top_k": 1, "top": 0, "replicates": 100}
        if self.group_size is not None:
            least["group_size"] = 1
        for name, floor in least.items():
            value = getattr(self, name)
            if value < floor:
                raise UsageError(f"{name} is {value}; it must be {floor} or more", parameter=name)
        if self.select_at not in ("first", "last"):
            message = f"select_at is {self.select_at!r}; it must be first or last"
            raise UsageError(message, parameter="select_at")


@dataclass(frozen=True)
class StagnationResult(Result):
    """Losses over the steps of a log.

    Attributes:
        log: identity of the log, table, steps, passes, and on what prompts all was measured.
        params: every option.
        corpus: mean loss of all positions: steps, stagnation, ΔKL, intervals.
        tokens: one mapping per type, with its curve (None where it is absent) and the kind of its
            intervals: "bootstrap", "linearised" or None.
        groups: one mapping per group.
        curves: one mapping per step and group.
        members: token ids of each group, pairs of rocks and controls, balance of the matching.
        tests: rocks against each other group.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.stagnation/1"

    log: Row
    params: Row
    corpus: Row
    tokens: tuple[Row, ...]
    groups: tuple[Row, ...]
    curves: tuple[Row, ...]
    members: Row
    tests: tuple[Row, ...]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> Any:
        """The tokens as a pandas DataFrame, a list in each cell of a curve."""
        import pandas as pd

        frame = pd.DataFrame(list(self.tokens))
        frame["groups"] = [",".join(row["groups"]) for row in self.tokens]
        return frame

    def shown(self) -> tuple[str, Any]:
        """The groups."""
        return "", self.groups


@dataclass(frozen=True)
class Chosen:
    """Groups, pairs of `control` and `loss_control`, rocks left alone, and the balance.

    `common`, `others`: how many types stand often enough, and how many of these are no rocks.
    """

    members: dict[str, tuple[int, ...]]
    pairs: dict[str, tuple[tuple[int, int], ...]]
    unmatched: dict[str, tuple[int, ...]]
    balance: tuple[Row, ...]
    common: int
    others: int

    def of(self, token_id: int) -> list[str]:
        """Groups that hold a type."""
        return [name for name, ids in self.members.items() if token_id in ids]


def choose(
    facts: TypeFacts,
    params: StagnationParams,
    half: int | None,
    given: Array | None = None,
    pairs: tuple[tuple[int, int], ...] | None = None,
) -> Chosen:
    """Rocks by Rock Score at the step of the facts, and who they are compared with.

    Args:
        facts: with positions.
        half: of the prompts whose numbers choose; None: both.
        given: token ids of the rocks; None: the `top_k` largest Rock Scores above 0 among types
            that stand often enough in both halves, and no more than a third of these.
        pairs: (rock, control) that are the group `control`, however they were matched; those of
            types that were not seen are left out.
    """
    assert facts.position_HT is not None
    sides = slice(None) if half is None else slice(half, half + 1)
    count_T, loss_T, place_T = (
        values[sides].sum(axis=0)
        for values in (facts.frequency_HT, facts.loss_HT, facts.position_HT)
    )
    common = np.flatnonzero(facts.common_T())
    if given is None:
        ranked = common[np.lexsort((facts.token_T[common], -count_T[common], -loss_T[common]))]
        most = min(params.top_k, max(1, len(common) // 3))
        rocks = np.sort(ranked[loss_T[ranked] > 0][:most])
    else:
        rocks = np.flatnonzero(np.isin(facts.token_T, given))
    able = np.setdiff1d(common, rocks)
    size = len(rocks) if params.group_size is None else params.group_size
    by_loss = able[np.lexsort((facts.token_T[able], -ratio(loss_T[able], count_T[able])))]
    by_hash = able[np.argsort(hash_rows(params.seed, facts.token_T[able]), kind="stable")]
    values_TC = _covariates(count_T, loss_T, place_T, common)
    members = {"rocks": rocks, "high_kl": by_loss[:size], "random": by_hash[:size]}
    matched, unmatched, balances = {}, {}, []
    for name, columns in (("control", [0, 1, 2]), ("loss_control", [1, 2])):
        others = able
        if name == "control" and pairs is not None:
            found, others = _given_pairs(facts.token_T, rocks, able, pairs)
        else:
            caliper_C = np.array([CALIPER, CALIPER, POSITION_CALIPER])[columns]
            ours_RC, others_AC = values_TC[rocks][:, columns], values_TC[others][:, columns]
            found, _ = match(ours_RC, others_AC, caliper_C)
        members[name] = others[found[:, 1]]
        ids = facts.token_T[rocks[found[:, 0]]].tolist(), facts.token_T[members[name]].tolist()
        matched[name] = tuple(zip(*ids, strict=True))
        alone = np.delete(rocks, found[:, 0])
        unmatched[name] = tuple(facts.token_T[alone].tolist())
        rows = balance(COVARIATES, values_TC[rocks], values_TC[others], found)
        balances += [{"control": name, **row} for row in rows]
    chosen = {name: tuple(np.sort(facts.token_T[at]).tolist()) for name, at in members.items()}
    return Chosen(chosen, matched, unmatched, tuple(balances), len(common), len(able))


def _given_pairs(
    token_T: Array, rocks: Array, able: Array, pairs: tuple[tuple[int, int], ...]
) -> tuple[Array, Array]:
    """(n, 2) places of the pairs among the rocks and among the others, and these others."""
    rock = {v: r for r, v in enumerate(token_T[rocks].tolist())}
    seen = {v: t for t, v in enumerate(token_T.tolist())}
    known = [(rock[a], seen[b]) for a, b in pairs if a in rock and b in seen]
    found_P2 = np.array(known, dtype=np.int64).reshape(-1, 2)
    others = np.union1d(able, found_P2[:, 1])
    found_P2[:, 1] = np.searchsorted(others, found_P2[:, 1])
    return found_P2, others


def _covariates(count_T: Array, loss_T: Array, place_T: Array, common: Array) -> Array:
    """(T, C) log₁₀ n, log₁₀ mean loss, and mean position in standard deviations over types."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_T, position_T = loss_T / count_T, place_T / count_T
        logs = np.log10(count_T), np.log10(mean_T)
    spread = float(np.std(position_T[common])) if len(common) else 0.0
    return np.stack([*logs, position_T / (spread or 1.0)], axis=1)


def change_rows(course: Course, ids: tuple[int, ...] | Array) -> list[Row]:
    """Of types: first and last loss, stagnation, ΔKL and slope, with 95% intervals, and the curve.

    Intervals are null below 20 prompts at either end, and where a twentieth of the replicates are
    undefined.
    """
    first, last = course.ends
    slope_T, slope_BT = course.slopes
    rows = []
    for t in first.places(ids):
        enough = bool(first.enough_T[t] and last.enough_T[t])
        before, after = first.mean_T[t], last.mean_T[t]
        before_B, after_B = first.mean_BT[:, t], last.mean_BT[:, t]
        measures = {
            "stagnation": (ratio(after[None], before[None])[0], ratio(after_B, before_B)),
            "delta_kl": (after - before, after_B - before_B),
            "slope": (slope_T[t], slope_BT[:, t]),
        }
        row: Row = {
            "token_id": int(first.types[t]),
            "frequency_first": int(first.count_T[t]),
            "frequency_last": int(last.count_T[t]),
            "loss_first": _known(before),
            "loss_last": _known(after),
        }
        for name, (value, drawn_B) in measures.items():
            row |= _with_interval(name, value, drawn_B, enough)
        known = any(row[f"{name}_low"] is not None for name in measures)
        row["interval"] = "bootstrap" if known else None
        curve = np.array([loss_T[t] for loss_T in course.loss_ST])
        ends = np.array([[side[t] for side in ends] for ends in course.ends_ST])
        row["curve"] = [_known(value) for value in curve]
        row["curve_low"] = [_known(value) for value in ends[:, 0]]
        row["curve_high"] = [_known(value) for value in ends[:, 1]]
        rows.append(row)
    return rows


def corpus_row(course: Course) -> Row:
    """Of all positions."""
    first, last = course.ends
    row: Row = {"loss_first": first.corpus, "loss_last": last.corpus, "curve": course.corpus_rows}
    whole = _left(last.corpus, first.corpus)
    enough = _enough(course, np.arange(len(first.types)))
    row |= _with_interval("stagnation", whole, ratio(last.corpus_B, first.corpus_B), enough)
    difference = np.array(last.corpus - first.corpus)
    return row | _with_interval("delta_kl", difference, last.corpus_B - first.corpus_B, enough)


def group_rows(course: Course) -> list[Row]:
    """Of each group, over the members seen at both ends, each counting the same."""
    rows = []
    for name, ids in course.groups.items():
        at = _both_ends(course, ids)
        row: Row = {"group": name, "types": len(ids), "types_at_both_ends": len(at)}
        if not len(at):
            why = "no type of it stands at both ends" if ids else "no type is in it"
            rows.append({**row, "skipped": why})
            continue
        (before, before_B), (after, after_B) = (end.group(at) for end in course.ends)
        row |= {"loss_first": before, "loss_last": after}
        change, change_B, enough = (
            _left(after, before),
            ratio(after_B, before_B),
            _enough(course, at),
        )
        row |= _with_interval("stagnation", change, change_B, enough)
        row |= _with_interval("delta_kl", np.array(after - before), after_B - before_B, enough)
        low, high, _ = interval(change_B, 0.9) if enough else (None, None, 0)
        row |= {"stagnation_low90": low, "stagnation_high90": high}
        row["does_not_learn"] = _within(low, high)
        rows.append(row)
    return rows


def tests(course: Course, chosen: Chosen) -> list[Row]:
    """Rocks against each other group: ratio of stagnations, and contrasts over types.

    `verdict` goes by the 90% interval of stagnation_rocks / stagnation_other: within a factor of
    1.1, "learns like"; else by the 95% interval "learns less", "learns more" or "inconclusive".
    """
    rows = []
    for other in NAMES[1:]:
        sides = _compared(course, chosen, other)
        with_ratio = _compared(course, chosen, other, losing=True)
        row: Row = {"first": "rocks", "second": other,
                    "types_first": len(sides[0]), "types_second": len(sides[1])}  # fmt: skip
        if min(len(at) for at in sides) < MIN_TYPES:
            few = f"{len(sides[0])} rocks against {len(sides[1])} types"
            row["skipped"] = f"{few}; at least {MIN_TYPES} of each are needed"
        elif not all(_enough(course, at) for at in sides):
            row["skipped"] = f"fewer than {MIN_PROMPTS} prompts hold any type of a group"
        elif min(len(at) for at in with_ratio) < MIN_TYPES:
            few = f"{len(with_ratio[0])} rocks against {len(with_ratio[1])} types"
            lost = "have a loss at the first step that can fall"
            row["skipped"] = f"{few} {lost}; at least {MIN_TYPES} of each are needed"
        else:
            row |= _test(course, sides, with_ratio)
        rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _test(course: Course, sides: list[Array], with_ratio: list[Array]) -> Row:
    """`sides`: types seen at both ends; `with_ratio`: those that have a stagnation each."""
    changes = []
    for at in sides:
        (before, before_B), (after, after_B) = (end.group(at) for end in course.ends)
        changes.append((_left(after, before), ratio(after_B, before_B)))
    (ours, ours_B), (theirs, theirs_B) = changes
    apart_B = ratio(ours_B, theirs_B)
    row = _with_interval("ratio", _left(ours, theirs), apart_B, True)
    low, high, _ = interval(apart_B, 0.9)
    row |= {"ratio_low90": low, "ratio_high90": high}
    row["verdict"] = _verdict(row)
    first, last = course.ends
    stagnation = ratio(last.mean_T, first.mean_T), ratio(last.mean_BT, first.mean_BT)
    delta = last.mean_T - first.mean_T, last.mean_BT - first.mean_BT
    by_ratio, by_delta = contrast(*stagnation, *with_ratio), contrast(*delta, *sides)
    for found in (by_ratio, by_delta):
        del found["types_first"], found["types_second"]
    return {**row, **by_ratio, "delta_kl": by_delta}


def _verdict(row: Row) -> str:
    if row["ratio_low"] is None:
        return "inconclusive"
    if _within(row["ratio_low90"], row["ratio_high90"]):
        return "learns like"
    if row["ratio_low"] > 1:
        return "learns less"
    return "learns more" if row["ratio_high"] < 1 else "inconclusive"


def _within(low: float | None, high: float | None) -> bool | None:
    if low is None or high is None:
        return None
    return low >= 1 / MARGIN and high <= MARGIN


def _enough(course: Course, at: Array) -> bool:
    """Whether some of the types stand in enough prompts for an interval, at both ends."""
    first, last = course.ends
    return bool((first.enough_T[at] & last.enough_T[at]).any())


def _compared(course: Course, chosen: Chosen, other: str, *, losing: bool = False) -> list[Array]:
    """Rocks, and the types of another group, that are seen at both ends; of pairs both or neither.

    `losing`: only those with a loss at the first step.
    """
    rocks, others = chosen.members["rocks"], chosen.members[other]
    if other in chosen.pairs:
        seen = set(course.ends[0].types[_both_ends(course, (*rocks, *others), losing)].tolist())
        kept = [pair for pair in chosen.pairs[other] if seen.issuperset(pair)]
        rocks, others = (tuple(pair[side] for pair in kept) for side in (0, 1))
    return [_both_ends(course, ids, losing) for ids in (rocks, others)]


def _both_ends(course: Course, ids: tuple[int, ...], losing: bool = False) -> Array:
    first, last = course.ends
    at = first.places(ids)
    at = at[np.isfinite(first.mean_T[at]) & np.isfinite(last.mean_T[at])]
    return at[first.mean_T[at] > 0] if losing else at


def _left(over: Array | float, under: Array | float) -> Array:
    """Quotient of two numbers; NaN where the second is not above 0."""
    return ratio(np.array(over), np.array(under))


def _with_interval(name: str, value: Array, values_B: Array, enough: bool) -> Row:
    low, high, _ = interval(values_B) if enough else (None, None, 0)
    return {name: _known(value), f"{name}_low": low, f"{name}_high": high}


def _known(value: Array | float) -> float | None:
    return float(value) if np.isfinite(value) else None
