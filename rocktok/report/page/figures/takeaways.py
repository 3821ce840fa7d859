"""What the numbers of a figure come to, in one line: its title on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from rocktok.report.page.figures.points import ENOUGH
from rocktok.report.page.figures.robustness import counting_rocks
from rocktok.stats.group_names import ALL_POSITIONS, MEANINGS, ROCKS
from rocktok.tables.text import counted, number, percent

#: Numbers of a figure, as report.json has them.
Numbers = Mapping[str, Any]


def takeaway(name: str, numbers: Numbers) -> str | None:
    """One sentence on a figure; None where the numbers are too few for one."""
    said = _SAID.get(name)
    return None if said is None else said(numbers)


def _early_late(numbers: Numbers) -> str | None:
    """Levels, no change: rocks are chosen by both losses, so that nothing follows of learning."""
    rocks = [point for point in numbers["points"] if point["is_rock"]]
    if not rocks:
        return _improved(numbers)
    if min(len(rocks), len(numbers["points"]) - len(rocks)) < ENOUGH:
        return None
    pre, post = (number(median(r[loss] for r in rocks), 3) for loss in ("loss_pre", "loss_post"))
    return (
        f"Rocks are hard at both steps by choice: median {pre} nats at step {numbers['pre']}, "
        f"{post} at {numbers['post']}"
    )


def _improved(numbers: Numbers) -> str | None:
    points = numbers["points"]
    if len(points) < max(ENOUGH, numbers["types"]):
        return None
    lower = sum(point["loss_post"] < point["loss_pre"] for point in points)
    return (
        f"{lower:,} of {len(points):,} frequent types have a lower mean loss at step "
        f"{numbers['post']} than at {numbers['pre']}"
    )


def _funnel(numbers: Numbers) -> str | None:
    ratios = []
    for point in numbers["points"]:
        if not point["is_rock"]:
            continue
        n = point["frequency"]
        like = [b for b in numbers["band"] if b["frequency_low"] <= n < b["frequency_high"]]
        if like and like[0]["median"] > 0:
            ratios.append(point["mean_loss"] / like[0]["median"])
    if len(ratios) < ENOUGH:
        return None
    return f"The median rock has {number(median(ratios), 2)} times the loss of types as frequent"


def _ccr(numbers: Numbers) -> str | None:
    shares = [p["retained_share"] for p in numbers["points"] if p["retained_share"] is not None]
    if len(shares) < ENOUGH:
        return None
    most = sum(share > 0.5 for share in shares)
    return (
        f"Most hard occurrences of {most:,} of {counted(len(shares), 'rock')} are in contexts that "
        "recur"
    )


def _clusters(numbers: Numbers) -> str | None:
    rows = numbers["clusters"]
    total = sum(row["loss_share"] for row in rows)
    if not total:
        return None
    top = max(rows, key=lambda row: row["loss_share"])
    share = percent(top["loss_share"] / total, 0)
    return f"{share} of the rocks' loss lies on {top['cluster']}"


def _density(numbers: Numbers) -> str | None:
    middle = numbers["medians"].get("type")
    if middle is None:
        return None
    return f"In the median sequence {percent(middle)} of the positions are of a rock type"


def _position(numbers: Numbers) -> str | None:
    bins = [r for r in numbers["bins"] if r["positions"] >= 20 and r["loss_post"] is not None]
    rocks = [row for row in bins if row["group"] == ROCKS.name]
    few = any(r["group"] == ROCKS.name and r["positions"] for r in numbers["bins"]) and not rocks
    if few or not bins:
        return None
    worst = max(rocks or bins, key=lambda row: row["loss_post"])
    return (
        f"{'Rocks are' if rocks else 'Text is'} hardest between {percent(worst['low'], 0)} and "
        f"{percent(worst['high'], 0)} of a completion: {number(worst['loss_post'])} nats"
    )


def _stagnation(numbers: Numbers) -> str | None:
    if "pre" not in numbers:
        return None
    kept = {line["group"]: _share_kept(line.get("kept")) for line in numbers["lines"]}
    everything = kept.pop(ALL_POSITIONS.name, None)
    group = ROCKS.name if ROCKS.name in kept else next(iter(kept), None)
    ours = None if group is None else kept[group]
    if group is None or everything is None or ours is None:
        return None
    return (
        f"From step {numbers['pre']} to {numbers['post']}, {_named(group)} keep {ours} of their "
        f"loss, all positions {everything}"
    )


def _named(group: str) -> str:
    """A group within a sentence, where "high loss" would be none."""
    return ROCKS.name if group == ROCKS.name else MEANINGS[group]


def _share_kept(kept: Mapping[str, float | None] | None) -> str | None:
    if kept is None or kept["share"] is None:
        return None
    text = percent(kept["share"], 0)
    if kept["low"] is None or kept["high"] is None:
        return text
    return f"{text} ({percent(kept['low'], 0)} to {percent(kept['high'], 0)})"


def _medians(what: str, unit: str) -> Callable[[Numbers], str | None]:
    def said(numbers: Numbers) -> str | None:
        groups = [g for g in numbers["groups"] if len(g["types"]) >= ENOUGH]
        if not groups:
            return None
        first, *rest = groups
        text = f"{what}: {_signed(first['median'])}{unit} for {_named(first['group'])}"
        if rest:
            text += f", {_signed(rest[0]['median'])} for {_named(rest[0]['group'])}"
        return text

    return said


def _signed(value: float) -> str:
    return number(value).replace("-", "−")


def _shares(numbers: Numbers) -> str | None:
    row = next((r for r in numbers["groups"] if r["group"] == ROCKS.name), None)
    if row is None or row["grad_share"] is None or row["position_share"] is None:
        return None
    return (
        f"Rocks take {percent(row['grad_share'])} of the gradient norm at "
        f"{percent(row['position_share'])} of the positions"
    )


def _coverage(numbers: Numbers) -> str | None:
    best = numbers["recommended"]
    if best is None:
        return "Halves of the prompts agree on no list of first types"
    return (
        f"Halves of the prompts agree on the first {best['k']:,} types, which carry "
        f"{percent(best['coverage'])} of the loss"
    )


def _sensitivity(numbers: Numbers) -> str | None:
    rows = counting_rocks(numbers["cells"])
    shared = [cell["jaccard"] for cell in rows if cell["jaccard"] is not None]
    if len(shared) < ENOUGH:
        return None
    return (
        f"Over {len(shared)} settings there are {min(c['rocks'] for c in rows):,} to "
        f"{max(c['rocks'] for c in rows):,} rocks, with a Jaccard of {number(min(shared), 2)} or "
        "more"
    )


def _lenses(numbers: Numbers) -> str | None:
    if not numbers["lenses"]:
        return None
    told = [row["singles_out"] for row in numbers["lenses"]]
    if not any(one is not None for one in told):
        return None
    return (
        f"{sum(one is True for one in told)} of {len(told)} lenses rank rock "
        "occurrences higher than all that they are held against"
    )


def _pillars(numbers: Numbers) -> str | None:
    rows = [row for row in numbers["arms"] if row["group"] == "rock"] or numbers["arms"]
    changed = [row for row in rows if row["category"] in ("pillar", "stumbling")]
    what = "rocks" if rows[0]["group"] == "rock" else "tokens"
    if not changed:
        return f"Of {len(rows)} {what} none changes the accuracy beyond chance"
    down = sum(row["category"] == "pillar" for row in changed)
    up = len(changed) - down
    return f"Taking away one of {len(rows)} {what} costs accuracy for {down}, adds some for {up}"


_SAID: dict[str, Callable[[Numbers], str | None]] = {
    "early_late": _early_late,
    "funnel": _funnel,
    "ccr": _ccr,
    "clusters": _clusters,
    "density": _density,
    "position": _position,
    "stagnation": _stagnation,
    "delta_kl": _medians("Median change of the loss", " nats"),
    "shares": _shares,
    "gradient_norm": _medians("Median gradient norm", " nats/logit"),
    "gradient_cosine": _medians("Median cosine with the whole gradient", ""),
    "lenses": _lenses,
    "pillars": _pillars,
    "coverage": _coverage,
    "sensitivity": _sensitivity,
}
