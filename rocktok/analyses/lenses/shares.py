"""From the sums of a lens to what is said of it: shares, ratios, Jaccard, persistence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np

from rocktok.analyses.lenses.cells import HARD, KINDS, OF_TYPE, ROCK, LensSums
from rocktok.analyses.lenses.result import ClassRow, LensRow, PersistenceRow
from rocktok.stats.bootstrap import holm
from rocktok.stats.intervals import FEW_PROMPTS, Estimate, ends

#: Share of logs without any such lens in which some lens may be told to single out the rocks.
ALPHA = 0.05

#: Standard deviations of the overlap by chance beyond which it is left out of its mean.
_REACH = 12


def expected_jaccard(positions: int, one: int, other: int) -> float | None:
    """Mean Jaccard of a set with a random one, drawn without replacement from all positions.

    None where both are empty.

    >>> expected_jaccard(4, 2, 2)  # overlaps 0, 1, 2 with weights 1, 4, 1
    0.38888888888888884
    """
    # Not the distribution of scipy.stats: its import takes longer than most logs do.
    from scipy.special import gammaln

    if one + other == 0:
        return None
    mean = one * other / positions
    spread = math.sqrt(mean) + 1
    low = max(0, one + other - positions, math.floor(mean - _REACH * spread))
    high = min(one, other, math.ceil(mean + _REACH * spread))
    overlap = np.arange(low, high + 1)
    # What is left of hypergeometric probabilities without the factors that all of them share.
    log = -sum(
        gammaln(1 + count)
        for count in (
            overlap, one - overlap, other - overlap, positions - one - other + overlap
        )
    )  # fmt: skip
    weight = np.exp(log - log.max())
    return float((weight * overlap / (one + other - overlap)).sum() / weight.sum())


def lens_rows(found: list[LensSums], *, rocks: bool, gradient: bool) -> list[LensRow]:
    """What is said of each lens, and of all of them together.

    Args:
        found: sums of each over all rows.
        rocks: whether there are rock occurrences.
        gradient: whether the gradient's norm was summed.
    """
    rows = [_lens_row(sums, rocks=rocks, gradient=gradient) for sums in found]
    ranked = [row for row in rows if row["jaccard_top10"] is not None]
    adjusted = holm([1.0 if row["p_value"] is None else row["p_value"] for row in ranked])
    for row, p in zip(ranked, adjusted, strict=True):
        if row["p_value"] is not None:
            row["p_holm"] = p
            row["singles_out"] = row["singles_out"] and p <= ALPHA
    return rows


def _lens_row(sums: LensSums, *, rocks: bool, gradient: bool) -> LensRow:
    lens = sums.lens
    classes = [
        _class_row(sums, at, name, rocks=rocks, gradient=gradient)
        for at, name in enumerate(lens.classes)
    ]
    moved = [] if sums.moved_C is None else [
        _persistence_row(sums, at, name) for at, name in enumerate(lens.classes)
    ]  # fmt: skip
    ranks = lens.score is not None
    row: dict[str, Any] = {
        "name": lens.name,
        "source": lens.source,
        "ranked_by": lens.ranked_by,
        "top_share": _value(sums.count(top=True) / sums.count()) if ranks else None,
        **_comparison(sums, known=ranks and rocks),
        "classes": classes,
        "persistence": moved,
    }
    return cast(LensRow, row)


def _comparison(sums: LensSums, *, known: bool) -> dict[str, Any]:
    """The rock occurrences against the top 10%; all None where either is not `known`."""
    ratios = ("over_chance", "over_hard", "over_type", "over_shuffled")
    if not known:
        others_share = ("hard_share", "type_share", "shuffled_share")
        ends_of = ("rocks_share", "jaccard_top10", *ratios)
        return {
            **dict.fromkeys((*others_share, *ends_of)),
            **{f"{name}_{end}": None for name in ends_of for end in ("low", "high")},
            **dict.fromkeys(("jaccard_chance", "p_value", "p_holm", "singles_out")),
            FEW_PROMPTS: False,
        }
    among = {kind: _among(sums, [kind]) for kind in (ROCK, HARD, OF_TYPE)}
    rocks, everywhere = among[ROCK], _among(sums, range(KINDS))
    overlap, top, rock = (
        sums.count(top=True, kinds=[ROCK]), sums.count(top=True), sums.count(kinds=[ROCK])
    )  # fmt: skip
    jaccard = overlap / _plus(top, rock, overlap)
    dealt = _Among(sums.dealt(top=True) / sums.dealt(), sums.dealt())
    others = dict(zip(ratios, (everywhere, among[HARD], among[OF_TYPE], dealt), strict=True))
    row = {
        **_with_ends("rocks_share", rocks.inside, most=1.0),
        "hard_share": _value(among[HARD].inside),
        "type_share": _value(among[OF_TYPE].inside),
        "shuffled_share": _value(dealt.inside),
        **_with_ends("jaccard_top10", jaccard, most=1.0),
        "jaccard_chance": expected_jaccard(
            *(int(number.value) for number in (sums.count(), top, rock))
        ),
    }
    few = [jaccard, rocks.inside]
    for name, other in others.items():
        ratio = rocks.inside / other.inside
        few.append(ratio)
        row |= _with_ends(name, ratio)
    tests = [rocks.above(other) for other in others.values()]
    done = [test for test in tests if test is not None]
    # One that is not above decides, whatever is known of the others.
    least = [test for test in done if not test.above] or (done if done == tests else [])
    row["p_value"] = max((test.p_value for test in least), default=None)
    row["p_holm"] = None
    row["singles_out"] = all(test.above for test in least) if least else None
    row[FEW_PROMPTS] = any(bool(estimate.few_prompts) for estimate in few)
    return row


@dataclass(frozen=True)
class _Test:
    """Whether one share is above another by the interval of their difference, and its p-value."""

    above: bool
    p_value: float


@dataclass(frozen=True)
class _Among:
    """Share of some positions that are in the top 10%, and their number."""

    inside: Estimate
    number: Estimate

    def above(self, other: Self) -> _Test | None:
        """Whether more of these than of others are inside; None: too few prompts hold either.

        No position adds more to a share than any other, so it has no tail that few prompts could
        carry: what counts is how many hold the positions, not how many hold those inside.
        """
        gap = self.inside - other.inside
        prompts = np.minimum(self.number.prompts, other.number.prompts)
        gap = replace(gap, prompts=np.asarray(prompts))
        low, _ = ends(gap.interval(positive=False))
        return None if low is None else _Test(low > 0, _p_value(gap))


def _p_value(gap: Estimate) -> float:
    """Two-sided, of a difference that is 0: Student's t with the effective prompts less 1."""
    from scipy.special import stdtr

    prompts = float(gap.prompts)
    variance = float((gap.effect**2).mean()) * prompts / (prompts - 1)
    if variance == 0:
        return 0.0 if gap.value else 1.0
    return float(2 * stdtr(prompts - 1, -abs(float(gap.value)) / math.sqrt(variance)))


def _among(sums: LensSums, kinds: Iterable[int]) -> _Among:
    number = sums.count(kinds=kinds)
    return _Among(sums.count(top=True, kinds=kinds) / number, number)


def _plus(top: Estimate, rock: Estimate, both: Estimate) -> Estimate:
    """Size of the union, which no fewer prompts carry than the smaller of the two."""
    return Estimate(
        top.value + rock.value - both.value,
        top.effect + rock.effect - both.effect,
        np.minimum(top.prompts, rock.prompts),
    )


def _class_row(
    sums: LensSums, at: int, name: str, *, rocks: bool, gradient: bool
) -> ClassRow:  # fmt: skip
    shares = {"share": sums.count([at]) / sums.count()}
    shares["loss_share"] = sums.total("loss", [at]) / sums.total("loss")
    if gradient:
        shares["grad_share"] = sums.total("grad_norm", [at]) / sums.total("grad_norm")
    if rocks:
        shares["rocks_share"] = sums.count([at], kinds=[ROCK]) / sums.count(kinds=[ROCK])
    row: dict[str, Any] = {"name": name, "positions": int(sums.count([at]).value)}
    for share in ("share", "loss_share", "grad_share", "rocks_share"):
        if share in shares:
            row |= _with_ends(share, shares[share], most=1.0)
        else:
            row |= {share: None, f"{share}_low": None, f"{share}_high": None}
    row[FEW_PROMPTS] = any(bool(share.few_prompts) for share in shares.values())
    return cast(ClassRow, row)


def _persistence_row(sums: LensSums, at: int, name: str) -> PersistenceRow:
    everything = sums.moved(None, None)
    after = sums.moved(None, at) / everything
    stays = sums.moved(at, at) / sums.moved(at, None)
    row: dict[str, Any] = {
        "name": name,
        "pre": _value(sums.moved(at, None) / everything),
        "post": _value(after),
        **_with_ends("stays", stays, most=1.0),
        **_with_ends("ratio", stays / after),
    }
    return cast(PersistenceRow, row)


def _value(estimate: Estimate) -> float | None:
    value = float(estimate.value)
    return value if math.isfinite(value) else None


def _with_ends(name: str, estimate: Estimate, *, most: float = math.inf) -> dict[str, float | None]:
    low, high = ends(estimate.interval(most=most))
    return {name: _value(estimate), f"{name}_low": low, f"{name}_high": high}
