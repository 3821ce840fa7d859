"""The numbers behind each figure, as plain lists: what is drawn, and what report.json keeps.

Each function takes the result of one analysis, or a `ReportResult` that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rocktok.analyses.attribute.result import AttributeResult
from rocktok.analyses.detect.result import DetectResult
from rocktok.analyses.stability.result import StabilityResult
from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.report.clusters import Clusters
from rocktok.report.result import ReportResult

Row = dict[str, Any]

#: Types that are drawn as points beside the rocks; the band is of all.
POINTS = 2_000

#: Occurrences from which the mean loss of a type is drawn against another.
ENOUGH = 20

#: Bins of the frequency, and types from which a bin has a band.
_BINS, _TYPES_OF_A_BIN = 14, 5

GROUPS = ("rocks", "high_kl", "random", "control", "loss_control")


class AbsentError(Exception):
    """The result does not hold what a figure shows; the message says why.

    `remedy`: what would help, where nothing else says so.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


def series(name: str, result: Any) -> Row:
    """The numbers of one figure. Raises `AbsentError` where the result does not hold them."""
    make, kind, attribute = _SERIES[name]
    if isinstance(result, ReportResult):
        part = result if attribute is None else getattr(result, attribute)
    else:
        part = result
    if part is None:
        raise AbsentError(f"{name}: the log does not have what it shows")
    if not isinstance(part, kind):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise AbsentError(f"{name}: is drawn from {wanted}, not from {type(part).__name__}")
    return make(part)


def _funnel(result: ReportResult | DetectResult) -> Row:
    if isinstance(result, DetectResult):
        names = {"token_id": "token_id", "frequency": "frequency", "loss_last": "mean_loss"}
        types = {ours: [row[theirs] for row in result.tokens] for ours, theirs in names.items()}
        rocks = {row["token_id"] for row in result.rocks}
        texts = {row["token_id"]: row["token"] for row in result.tokens}
        ranked = [row["token_id"] for row in result.rocks]
    else:
        types, ranked = result.types, list(result.rocks)
        rocks, texts = set(ranked), result.token_texts
    order = _drawn(types["token_id"], rocks)
    points = [
        {"token_id": types["token_id"][i], "frequency": types["frequency"][i],
         "mean_loss": types["loss_last"][i], "is_rock": types["token_id"][i] in rocks}
        for i in order
    ]  # fmt: skip
    labels = [{"token_id": v, "token": texts[v]} for v in ranked[:8]]
    band = _band(types["frequency"], types["loss_last"])
    return {"points": points, "band": band, "labels": labels, "types": len(types["token_id"])}


def _drawn(token_ids: Sequence[int], rocks: set[int]) -> list[int]:
    """Places of all rocks, and of an even choice of the others."""
    others = [i for i, v in enumerate(token_ids) if v not in rocks]
    if len(others) > POINTS:
        places = np.linspace(0, len(others) - 1, POINTS).round().astype(int)
        others = [others[at] for at in places.tolist()]
    return others + [i for i, v in enumerate(token_ids) if v in rocks]


def _band(frequencies: Sequence[int], losses: Sequence[float]) -> list[Row]:
    """Median and 10th to 90th percentile of the types' losses, by bins of log frequency."""
    frequency_T, loss_T = np.array(frequencies, dtype=float), np.array(losses, dtype=float)
    if not len(frequency_T):
        return []
    edges = np.geomspace(1, frequency_T.max() * 1.0001 + 1, _BINS + 1)
    bin_T = np.clip(np.searchsorted(edges, frequency_T, side="right") - 1, 0, _BINS - 1)
    rows = []
    for at in range(_BINS):
        held = loss_T[bin_T == at]
        if len(held) >= _TYPES_OF_A_BIN:
            low, median, high = np.quantile(held, (0.1, 0.5, 0.9))
            rows.append(
                {"frequency_low": float(edges[at]), "frequency_high": float(edges[at + 1]),
                 "types": len(held), "p10": float(low), "median": float(median),
                 "p90": float(high)}
            )  # fmt: skip
    return rows


def _coverage(result: StabilityResult) -> Row:
    rows = [
        {
            "k": row["k"],
            "coverage": row["coverage"],
            "chance": row["chance"],
            "halves": row["halves"]["jaccard"],
            "halves_least": row["halves"]["jaccard_least"],
            "halves_most": row["halves"]["jaccard_most"],
            "nested": row["nested"][-1]["jaccard"] if row["nested"] else None,
        }
        for row in result.cutoffs
    ]
    nested = result.cutoffs[0]["nested"]
    return {
        "cutoffs": rows,
        "recommended": result.recommended,
        "nested_prompts": nested[-1]["prompts"] if nested else None,
        "prompts": result.log["prompts"],
    }


def _density(result: ReportResult) -> Row:
    if not result.density["sequences"] or not result.rocks:
        raise AbsentError("density: no rocks")
    return {**result.density, "medians": {k: v["median"] for k, v in result.detect.density.items()
                                          if isinstance(v, Mapping)}}  # fmt: skip


def _ccr(result: DetectResult) -> Row:
    keep = ("token_id", "token", "rock_score", "ccr", "ccr_low", "ccr_high")
    rows = [
        {**{name: row[name] for name in keep},
         "retained_share": row["retained"] / row["persistent"] if row["persistent"] else None}
        for row in result.rocks
        if row["ccr"] is not None
    ]  # fmt: skip
    if not rows:
        raise AbsentError("ccr: no type has a context-consistent rock rate")
    return {"points": rows, "persistence": result.params["persistence"]}


def _sensitivity(result: ReportResult) -> Row:
    if result.sensitivity is None:
        raise AbsentError("sensitivity: no contexts were judged")
    if not any(cell["rocks"] for cell in result.sensitivity):
        raise AbsentError("sensitivity: no rocks under any setting")
    params = result.detect.params
    return {"cells": list(result.sensitivity),
            "in_use": {"gamma": params["gamma"], "eta": params["eta"],
                       "rocks": len(result.rocks),
                       "top_k": None if params["tau_r"] else params["top_k"]}}  # fmt: skip


def _shares(result: AttributeResult) -> Row:
    at = [row for row in result.groups if row["step"] == result.log["step"] and row["types"]]
    names = ("position_share", "loss_share", "grad_share")
    ends = ("", "_low", "_high")
    rows = [
        {"group": row["group"], "types": row["types"],
         **{f"{name}{end}": row.get(f"{name}{end}") for name in names for end in ends}}
        for row in at
    ]  # fmt: skip
    return {"step": result.log["step"], "groups": rows}


def _by_group(result: AttributeResult, rows: Sequence[Row], measure: str) -> list[Row]:
    values = {row["token_id"]: row[measure] for row in rows}
    found = []
    for group in GROUPS[:4]:
        ids = result.members.get(group) or ()
        held = [{"token_id": v, "value": values[v]} for v in ids if _finite(values.get(v))]
        if held:
            median = float(np.median([one["value"] for one in held]))
            found.append({"group": group, "types": held, "median": median})
    return found


def _gradient_norm(result: AttributeResult) -> Row:
    if result.geometry is None:
        groups = _by_group(result, result.tokens, "mean_grad_norm")
        return {"measure": "mean_grad_norm", "step": result.log["step"], "groups": groups}
    groups = _by_group(result, result.geometry["tokens"], "mean_norm")
    return {"measure": "mean_norm", "step": result.geometry["step"], "groups": groups}


def _gradient_cosine(result: AttributeResult) -> Row:
    if result.geometry is None:
        raise AbsentError("gradient_cosine: the log has no gradient sums")
    groups = _by_group(result, result.geometry["tokens"], "split_cos_global")
    if not groups:
        raise AbsentError("gradient_cosine: no type of a group has gradient sums")
    return {"measure": "split_cos_global", "step": result.geometry["step"], "groups": groups}


def _early_late(result: ReportResult) -> Row:
    types, rocks = result.types, set(result.rocks)
    known = zip(types["token_id"], types["frequency"], types["loss_first"], types["loss_last"],
                strict=True)  # fmt: skip
    held = [(v, n, a, b) for v, n, a, b in known
            if a is not None and n >= ENOUGH and a > 0 and b > 0]  # fmt: skip
    if not held:
        enough = result.log["pre"] is not None
        raise AbsentError(
            f"early_late: no type with loss stands {ENOUGH} times at two steps",
            "record more sequences" if enough else None,
        )
    order = _drawn([v for v, *_ in held], rocks)
    points = [
        {"token_id": held[i][0], "frequency": held[i][1], "loss_first": held[i][2],
         "loss_last": held[i][3], "is_rock": held[i][0] in rocks}
        for i in order
    ]  # fmt: skip
    return {"pre": result.log["pre"], "post": result.log["post"], "points": points,
            "types": len(held)}  # fmt: skip


def _delta_kl(result: StagnationResult) -> Row:
    groups = []
    for group in GROUPS:
        held = [
            {"token_id": row["token_id"], "value": row["delta_kl"]}
            for row in result.tokens
            if group in row["groups"] and _finite(row["delta_kl"])
        ]
        if held:
            median = float(np.median([one["value"] for one in held]))
            groups.append({"group": group, "types": held, "median": median})
    if not groups:
        raise AbsentError(
            "delta_kl: no type stands often enough in both halves of the prompts",
            "record more prompts",
        )
    return {"first": result.log["steps"][0], "last": result.log["steps"][-1],
            "table": result.log["table"], "groups": groups,
            "chosen": result.log["descriptive"] is None}  # fmt: skip


def _stagnation(result: StagnationResult) -> Row:
    corpus = [
        {"step": row["step"], "loss": row["loss"], "low": row["loss_low"], "high": row["loss_high"]}
        for row in result.corpus["curve"]
    ]
    lines: list[Row] = [{"group": "all positions", "types": None, "curve": corpus}]
    for group in result.groups:
        curve = [
            {"step": row["step"], "loss": row.get("loss"), "low": row.get("loss_low"),
             "high": row.get("loss_high")}
            for row in result.curves
            if row["group"] == group["group"]
        ]  # fmt: skip
        if group["types_at_both_ends"]:
            lines.append({"group": group["group"], "types": group["types"], "curve": curve})
    return {"table": result.log["table"], "text": result.log["text"], "lines": lines,
            "chosen": result.log["descriptive"] is None}  # fmt: skip


def _clusters(result: ReportResult | DetectResult) -> Row:
    if isinstance(result, ReportResult):
        found, names, of = result.detect, result.cluster_names, result.clusters
    else:
        rules = Clusters()
        found, names = result, rules.names
        of = {row["token_id"]: rules.of(row["token"]) for row in result.rocks}
    if not found.rocks:
        raise AbsentError("clusters: no rocks")
    total = found.totals["positions"]
    rows = []
    for name in names:
        held = [row for row in found.rocks if of[row["token_id"]] == name]
        rows.append(
            {"cluster": name, "rocks": len(held),
             "position_share": sum(row["frequency"] for row in held) / total,
             "loss_share": sum(row["loss_share"] or 0.0 for row in held),
             "examples": [row["token"] for row in held[:3]]}
        )  # fmt: skip
    return {"clusters": rows}


def _position(result: ReportResult) -> Row:
    return {"bins": list(result.positions), "pre": result.log["pre"], "post": result.log["post"]}


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


_SERIES: dict[str, tuple[Callable[[Any], Row], Any, str | None]] = {
    "funnel": (_funnel, (ReportResult, DetectResult), None),
    "coverage": (_coverage, StabilityResult, "stability"),
    "density": (_density, ReportResult, None),
    "ccr": (_ccr, DetectResult, "detect"),
    "sensitivity": (_sensitivity, ReportResult, None),
    "shares": (_shares, AttributeResult, "attribute"),
    "gradient_norm": (_gradient_norm, AttributeResult, "attribute"),
    "gradient_cosine": (_gradient_cosine, AttributeResult, "attribute"),
    "early_late": (_early_late, ReportResult, None),
    "delta_kl": (_delta_kl, StagnationResult, "stagnation"),
    "stagnation": (_stagnation, StagnationResult, "stagnation"),
    "clusters": (_clusters, (ReportResult, DetectResult), None),
    "position": (_position, ReportResult, None),
}

#: Names of all figures, in the order in which they are shown.
NAMES = tuple(_SERIES)

#: Those that need no more than the result of one analysis.
OF_ONE_ANALYSIS = frozenset(name for name, (_, _, part) in _SERIES.items() if part is not None)
