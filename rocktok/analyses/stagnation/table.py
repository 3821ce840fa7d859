"""`stagnation` as tables for people, CSV or Parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from rocktok.analyses.stagnation.result import AdjustedComparison, StagnationResult
from rocktok.stats.adjusted import DEPENDS, INCONCLUSIVE, NOT_COMPARABLE, SAME
from rocktok.stats.group_names import CONTROL, LETTERS, LOSS_CONTROL, NAMES, ROCKS, legend
from rocktok.stats.intervals import FEW_PROMPTS, WHY_NONE
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import left_out
from rocktok.tables.text import Field, count, number, p_value, percent, render_table, token

Row = Mapping[str, Any]

_GROUPS = (
    Field("group", text=True),
    Field("types"),
    Field("pre"),
    Field("post"),
    Field("ratio"),
    Field("95%"),
    Field("ΔKL"),
    Field("still"),
)
_TESTS = (
    Field("rocks against", text=True),
    Field("types"),
    Field("ratio"),
    Field("90%"),
    Field("95%"),
)
_MEDIANS = (
    Field("rocks less", text=True),
    Field("difference"),
    Field("rank-bis."),
    Field("p Holm"),
    Field("naive"),
)
_ADJUSTED = (
    Field("rocks"),
    Field("supported"),
    Field("ratio"),
    Field("95%"),
    Field("p Holm"),
    Field("comparable"),
)
_BALANCE = (
    Field("balance (SMD)", text=True),
    Field("pairs"),
    Field("log₁₀ n"),
    Field("log₁₀ loss"),
    Field("position"),
)
_TOKENS = (
    Field("token", text=True),
    Field("freq"),
    Field("pre"),
    Field("post"),
    Field("ratio"),
    Field("95%"),
    Field("ΔKL"),
    Field("slope"),
    Field("", text=True),
)
_STILL = {True: "yes", False: "no", None: "–"}

#: Types in the table; the other forms have all.
_SHOWN = 30


def render(result: StagnationResult) -> str:
    """Answer, groups, tests, balance, tokens, provenance."""
    log = result.log
    steps = log["steps"]
    change, verdict = answer(result)
    parts = [
        verdict or change,
        change if verdict else "Intervals are over prompts; one log is one training run.",
        "",
        "Mean loss of a group's types, each counting the same (nats)",
        render_table(_GROUPS, [_corpus(result.corpus), *map(_group, result.groups)]).rstrip("\n"),
        "ratio: post over pre, 1: no learning",
        "still: whether its 90% interval lies within a factor of 1.1 of 1",
        "",
        *_adjusted(result.adjusted),
        *_tests(result.tests),
        *_balance(result.members),
    ]
    if result.tokens:
        parts += [
            f"Tokens, largest loss at step {steps[0]} first",
            render_table(_TOKENS, map(_token, result.tokens[:_SHOWN])).rstrip("\n"),
            legend(NAMES),
        ]
    if any(row["interval"] == "linearised" for row in result.tokens[:_SHOWN]):
        parts.append("~ interval by linearised variance, not by the bootstrap")
    if any(row.get(FEW_PROMPTS) for row in (*result.groups, *result.tokens[:_SHOWN])):
        parts.append(WHY_NONE)
    if len(result.tokens) > _SHOWN:
        more = len(result.tokens) - _SHOWN
        parts.append(f"{count(more)} more, and all curves: --format json")
    parts += [
        "",
        _chosen(result),
        f"{log['table']}/, {len(steps)} steps, {steps[0]} to {steps[-1]}: {log['text']}; "
        f"{log['passes']} passes",
        "one log is one training run",
        *left_out(log),
        log["path"],
    ]
    return "\n".join(parts) + "\n"


def answer(result: StagnationResult) -> tuple[str, str]:
    """(how far losses went; whether they fell less than those of other types, or "")."""
    rocks = next(row for row in result.groups if row["group"] == ROCKS.name)
    if "skipped" in rocks or rocks["stagnation"] is None:
        why = rocks.get("skipped") or "too few prompts hold the types with the most loss"
        return f"Whether rocks learn cannot be told: {why}.", ""
    (pre, *_, post), chosen_here = result.log["steps"], result.log["descriptive"] is None
    whose = "the types with the most loss" if chosen_here else "the rocks"
    change = (
        f"the types with the most loss at step {pre} keep {_left(rocks)} of it at step {post}, on "
        "prompts that did not choose them"
        if chosen_here
        else f"the rocks keep {_left(rocks)} of their loss at step {pre} at step {post}"
    )
    change += f"; all positions keep {_left(result.corpus)}."
    verdict = "" if result.adjusted is None else _verdict(result.adjusted, whose)
    return change[0].upper() + change[1:], verdict[:1].upper() + verdict[1:]


def _left(row: Row) -> str:
    """Share of the first loss that is left, with its interval."""
    low, high = row["stagnation_low"], row["stagnation_high"]
    between = "" if low is None or high is None else f" ({percent(low, 0)} to {percent(high, 0)})"
    return f"{percent(row['stagnation'], 0)}{between}"


def _verdict(adjusted: AdjustedComparison, whose: str) -> str:
    like, verdict = "other types of like first loss and frequency", adjusted["verdict"]
    if verdict == NOT_COMPARABLE:
        return (
            f"{whose} are not comparable with other types: {adjusted['supported']} of "
            f"{adjusted['measured']} have five others of like first loss (theirs "
            f"{number(adjusted['loss_pre_rocks'])} nats, others "
            f"{number(adjusted['loss_pre_others'])})."
        )
    if verdict in (DEPENDS, INCONCLUSIVE):
        how = "depends on the cutoff for rocks" if verdict == DEPENDS else "is open"
        return f"whether {whose} improve less or more than {like} {how}."
    if verdict == SAME:
        return f"given the first loss as measured, {whose} improve as much as {like}."
    return f"given the first loss as measured, {whose} {verdict} than {like}."


def _chosen(result: StagnationResult) -> str:
    log = result.log
    at, chosen_on = log["selected_at"], log["chosen_on"].removesuffix(" of the prompts")
    where = f"groups chosen at step {at} on {chosen_on}"
    if at == "rocks given":
        controls = " and control" if result.members["control_source"] == "given" else ""
        step = log["steps"][0 if result.params["select_at"] == "first" else -1]
        where = f"rocks{controls} given, others chosen at step {step}"
    line = f"{where}, measured on {log['measured_on']}"
    return line if log["descriptive"] is None else f"{line}\n{log['descriptive']}"


def _between(row: Row, name: str, level: str = "") -> str:
    low, high = row.get(f"{name}_low{level}"), row.get(f"{name}_high{level}")
    return "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _change(row: Row) -> Sequence[str]:
    return (
        *(number(row[name]) for name in ("loss_pre", "loss_post", "stagnation")),
        _between(row, "stagnation"),
        _signed(row["delta_kl"]),
    )


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _corpus(row: Row) -> Sequence[str]:
    return ("all positions", "", *_change(row), "")


def _group(row: Row) -> Sequence[str]:
    if "skipped" in row:
        return (row["group"], str(row["types"]), "–", "–", "–", "–", "–", "–")
    types = str(row["types_at_both_ends"])
    return (row["group"], types, *_change(row), _STILL[row["does_not_learn"]])


def _adjusted(row: Row | None) -> list[str]:
    """The verdict, and what it rests on at each cutoff."""
    if row is None:
        return []
    above = (
        f"Rocks against other types of like first loss and frequency: {row['verdict']}",
        f"first loss of rocks {number(row['loss_pre_rocks'])}, of others "
        f"{number(row['loss_pre_others'])}; supported: 5 others are near it",
    )
    cells = (
        (
            str(each["rocks"]),
            f"{each['supported']}/{each['measured']}",
            _factor(each["difference"]),
            f"{_factor(each['low'])} to {_factor(each['high'])}",
            p_value(each["p_holm"]) if each["p_holm"] is not None else "–",
            "yes" if each["comparable"] else "no",
        )
        for each in row["cutoffs"]
    )
    return [*above, render_table(_ADJUSTED, cells)]


def _factor(log: float | None) -> str:
    return "–" if log is None else f"{math.exp(log):.2f}"


def _tests(rows: Sequence[Row]) -> list[str]:
    tested = [row for row in rows if "skipped" not in row]
    skipped = [f"{row['second']}: skipped: {row['skipped']}" for row in rows if "skipped" in row]
    lines = ["Ratio of rocks over that of others (matched groups: of their rocks alone)"]
    if not tested:
        return [*lines, *skipped, ""]
    cells = (
        (
            row["second"],
            f"{row['types_first']}/{row['types_second']}",
            number(row["ratio"]),
            _between(row, "ratio", "90"),
            _between(row, "ratio"),
        )
        for row in tested
    )
    medians = (
        (
            row["second"],
            _signed(row["difference_of_medians"]),
            f"{row['rank_biserial']:.2f}",
            p_value(row["p_holm"]),
            p_value(row["p_types_naive"]),
        )
        for row in tested
    )
    lines.append(render_table(_TESTS, cells).rstrip("\n"))
    heading = "Medians of the types' ratios, and rank-biserial correlation"
    return [*lines, *skipped, "", heading, render_table(_MEDIANS, medians)]


def _balance(members: Row) -> list[str]:
    cells = []
    for name in (CONTROL.name, LOSS_CONTROL.name):
        rows = [row for row in members["balance"] if row["control"] == name]
        pairs = rows[0]["pairs"]
        for when in ("before", "after"):
            values = ("–" if r[f"smd_{when}"] is None else f"{r[f'smd_{when}']:+.2f}" for r in rows)
            cells.append((f"{name}, {when}", str(pairs) if when == "after" else "", *values))
    alone = members["rocks_without_control"].items()
    left = ", ".join(f"{len(ids)} ({name})" for name, ids in alone)
    table = render_table(_BALANCE, cells).rstrip("\n")
    return [table, f"rocks without a type like them: {left}", ""]


def _token(row: Row) -> Sequence[str]:
    return (
        token(row["token"]),
        count(row["frequency_pre"]),
        *_change(row),
        "–" if row["slope"] is None else f"{row['slope']:+.2f}",
        "~" if row["interval"] == "linearised" else "".join(LETTERS[n] for n in row["groups"]),
    )


class _StepColumns(TypedDict):
    token_id: int
    token: str
    groups: list[str]
    frequency_pre: int
    frequency_post: int
    loss_pre: float | None
    loss_post: float | None
    stagnation: float | None
    stagnation_low: float | None
    stagnation_high: float | None
    delta_kl: float | None
    delta_kl_low: float | None
    delta_kl_high: float | None
    slope: float | None
    slope_low: float | None
    slope_high: float | None
    interval: str | None
    few_prompts_carry_it: bool
    step: int
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    table: str
    descriptive: str | None


def encode(result: StagnationResult, form: Form) -> bytes:
    """One row per type and step, with what holds for the type, and for all, beside it."""
    steps = result.log["steps"]
    rows = []
    for row in result.tokens:
        same = {k: v for k, v in row.items() if not k.startswith("curve")}
        same |= {name: result.log[name] for name in ("table", "descriptive")}
        curve = zip(steps, row["curve"], row["curve_low"], row["curve_high"], strict=True)
        for step, loss, low, high in curve:
            rows.append({**same, "step": step, "loss": loss, "loss_low": low, "loss_high": high})
    return encode_table(rows, kinds_of(_StepColumns), form, result.about("tokens"))
