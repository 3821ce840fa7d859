"""The lenses in plain Python, from the definitions: loops over dictionaries, numbers in float64.

A quantity is rounded to float32 where the definition says so: as it is compared with a quantile.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd

Row = dict[str, Any]


def f32(value: float) -> float:
    return float(np.float32(value))


def quantile(values: list[float], q: float) -> float:
    """The smallest value with at least a share q at or below it."""
    if not values:
        return math.nan
    ascending = sorted(values)
    return ascending[max(1, math.ceil(round(q * len(ascending), 9))) - 1]


def sequences(frame: pd.DataFrame) -> list[list[Row]]:
    by_id: dict[int, list[Row]] = defaultdict(list)
    for row in frame.to_dict("records"):
        by_id[row["sequence_id"]].append(row)
    return [by_id[key] for key in sorted(by_id)]


def measure(frame: pd.DataFrame, correct: dict[int, bool | None]) -> list[Row]:
    """Rows in order, each with every quantity."""
    rows = []
    for text in sequences(frame):
        length = text[-1]["position"] + 1
        gaps = [row["teacher_logprob"] - row["student_logprob"] for row in text]
        total = sum(abs(gap) for gap in gaps)
        surprise = {
            who: f32(-sum(row[f"{who}_logprob"] for row in text) / len(text))
            for who in ("student", "teacher")
        }
        before = 0.0
        for at, row in enumerate(text):
            near = [
                gaps[k]
                for k in range(at + 1, len(text))
                if text[k]["position"] - row["position"] <= 16
            ]
            rows.append(
                row
                | {
                    "relative": row["position"] / length,
                    "earliness": f32(1 - row["position"] / length),
                    "tip_weight": f32(row["student_entropy"] * row["jsd"]),
                    "teacher_surprise": f32(row["teacher_entropy"] - row["teacher_logprob"]),
                    "excess": f32(row["student_entropy"] - row["teacher_entropy"]),
                    "entropy_gap": f32(abs(row["teacher_entropy"] - row["student_entropy"])),
                    "iw_weight": f32(1 + (1 - (before / total if total else 0.0))),
                    "future_gap": f32(-sum(near) / len(near)) if near else 0.0,
                    "apart": f32(1 - row["overlap"]),
                    "end_gap": f32(abs(row["teacher_end"] - row["student_end"])),
                    "correct": correct.get(row["sequence_id"]),
                    "surprise": surprise,
                }
            )
            before += abs(gaps[at])
    return rows


def classify(rows: list[Row]) -> dict[str, list[str]]:
    """Lens → class of each row."""

    def cut(name: str, q: float) -> float:
        return quantile([row[name] for row in rows], q)

    def perplexity(right: bool, who: str) -> float:
        values = {r["sequence_id"]: r["surprise"][who] for r in rows if r["correct"] is right}
        return quantile(list(values.values()), 0.5)

    h, d, hq = cut("student_entropy", 0.5), cut("loss", 0.5), cut("teacher_entropy", 0.5)
    hq_most, q_least = cut("teacher_entropy", 0.8), cut("teacher_logprob", 0.2)
    teacher, student = perplexity(False, "teacher"), perplexity(True, "student")
    gap, weight, hard = cut("entropy_gap", 0.8), cut("tip_weight", 0.5), cut("loss", 0.8)
    future, fork, apart = cut("future_gap", 0.5), cut("student_entropy", 0.8), cut("apart", 0.8)
    able = cut("teachability", 0.5)
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        sure = "uncertain" if row["student_entropy"] >= h else "sure"
        found["tip"].append(f"{sure}_{'diverging' if row['loss'] >= d else 'agreeing'}")
        found["tip_weight"].append("kept" if row["tip_weight"] >= weight else "skipped")
        off = "off_distribution" if row["teacher_logprob"] <= q_least else "branch"
        found["teacher"].append(off if row["teacher_entropy"] >= hq_most else "rest")
        who = (row["student_entropy"] >= h, row["teacher_entropy"] >= hq)
        found["sead"].append({(True, True): "both_uncertain", (True, False): "student_uncertain",
                              (False, True): "teacher_uncertain",
                              (False, False): "both_sure"}[who])  # fmt: skip
        surer = "student_surer" if row["excess"] < 0 else "teacher_surer"
        found["entropy_gap"].append(surer if row["entropy_gap"] >= gap else "alike")
        if row["correct"] is None:
            found["scope"].append("unknown")
        elif row["correct"]:
            unsure = row["surprise"]["student"] >= student
            found["scope"].append(f"correct_student_{'unsure' if unsure else 'sure'}")
        else:
            certain = row["surprise"]["teacher"] <= teacher
            found["scope"].append(f"incorrect_teacher_{'sure' if certain else 'unsure'}")
        quarter = ("first", "second", "third", "last")[int(4 * row["relative"])]
        found["position"].append(f"{quarter}_quarter")
        found["iw_opd"].append("before_half" if row["iw_weight"] > 1.5 else "after_half")
        far = "diverging" if row["future_gap"] >= future else "surface"
        found["near_future"].append(far if row["loss"] >= hard else "low_loss")
        found["forking"].append("forking" if row["student_entropy"] >= fork else "rest")
        found["overlap"].append("apart" if row["apart"] >= apart else "rest")
        reach = "teachable" if row["teachability"] >= able else "out_of_reach"
        found["teachability"].append(reach if row["loss"] >= d else "agreeing")
        more = row["teacher_end"] - row["student_end"]
        ends = "teacher_ends" if f32(more) >= f32(0.1) else "rest"
        found["ending"].append("student_ends" if f32(more) <= f32(-0.1) else ends)
    return dict(found)


def top(rows: list[Row]) -> dict[str, list[bool]]:
    """Lens → whether each row is in its top 10%; lenses without a score are left out."""
    low, high = (
        {name: quantile([row[name] for row in rows], q)
         for name in ("student_entropy", "loss", "teachability")}
        for q in (0.05, 0.95)
    )  # fmt: skip

    def scaled(row: Row, name: str) -> float:
        share = (row[name] - low[name]) / (high[name] - low[name])
        return min(1.0, max(0.0, share))

    scores = {
        "tip": [
            f32(scaled(r, "student_entropy") + scaled(r, "loss")
                - scaled(r, "student_entropy") * scaled(r, "loss"))
            for r in rows
        ],
        "teachability": [f32(scaled(r, "loss") * scaled(r, "teachability")) for r in rows],
        **{
            lens: [row[name] for row in rows]
            for lens, name in {
                "tip_weight": "tip_weight", "teacher": "teacher_surprise", "sead": "excess",
                "entropy_gap": "entropy_gap", "position": "earliness", "iw_opd": "iw_weight",
                "near_future": "future_gap", "forking": "student_entropy", "overlap": "apart",
                "ending": "end_gap",
            }.items()
        },
    }  # fmt: skip
    found = {}
    for lens, values in scores.items():
        least = quantile(values, 0.9)
        found[lens] = [value >= least for value in values]
    return found


def shares(
    rows: list[Row], classes: list[str], chosen: list[bool] | None, quantity: str | None
) -> dict[str, float]:
    """Class → share of the chosen rows, or of a quantity over them."""
    total: dict[str, float] = defaultdict(float)
    for at, row in enumerate(rows):
        if chosen is None or chosen[at]:
            total[classes[at]] += 1.0 if quantity is None else row[quantity]
    whole = sum(total.values())
    return {name: value / whole for name, value in total.items()}


def jaccard(one: list[bool], other: list[bool]) -> float:
    both = sum(a and b for a, b in zip(one, other, strict=True))
    return both / sum(a or b for a, b in zip(one, other, strict=True))
