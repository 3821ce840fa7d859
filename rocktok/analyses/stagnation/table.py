"""`stagnation` as tables for people, CSV or Parquet."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.stats.group_names import CONTROL, LETTERS, LOSS_CONTROL, NAMES, ROCKS, legend
from rocktok.stats.intervals import FEW_PROMPTS, WHY_NONE
from rocktok.stats.verdicts import DEPENDS, INCONCLUSIVE, NOT_COMPARABLE, SAME, AdjustedComparison
from rocktok.tables.adjusted import adjusted_table
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import contexts_of_rocks, left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import (
    Field,
    count,
    counted,
    number,
    p_value,
    percent,
    render_table,
    token,
)

Row = Mapping[str, Any]

_GROUPS = (
    Field("group", text=True),
    Field("types"),
    Field("pre"),
    Field("post"),
    Field("ratio"),
    Field("95%"),
    Field("ΔKL"),
    Field("flat"),
)
_TESTS = (
    Field("against", text=True),
    Field("types"),
    Field("ratio"),
    Field("95%"),
)
_MEDIANS = (
    Field("minus", text=True),
    Field("difference"),
    Field("rank-bis."),
    Field("p Holm"),
    Field("naive"),
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
    Field("", text=True, dim=True),
)
_FLAT = {True: "yes", False: "no", None: "–"}


def opening(result: StagnationResult) -> list[str]:
    """Whether rocks improve less than other types, and by how much losses changed."""
    change, verdict = answer(result)
    if verdict:
        return [verdict, change]
    return [change, "Intervals are over prompts; one log is one training run."]


def render(result: StagnationResult, view: View | None = None) -> str:
    """Answer, groups, tests, balance, tokens, provenance."""
    view = view or View.plain()
    log = result.log
    steps = log["steps"]
    groups = [_corpus(result.corpus), *(_group(row) for row in result.groups if row["types"])]
    parts = [
        *view.answer(opening(result)),
        "",
        view.heading("Mean loss by group, in nats, each type with equal weight"),
        render_table(_GROUPS, groups, view).rstrip("\n"),
        view.aside("ratio: loss at post over loss at pre; 1 means no learning"),
        view.aside("flat: the 90% interval of the ratio lies within a factor of 1.1 of 1"),
        "",
        *adjusted_table(
            result.adjusted,
            view,
            what="Rocks" if log["first"] == ROCKS.name else "Types with the most loss",
            types="types",
            loss=f"loss at step {log['pre']}",
        ),
        *_tests(result.tests, view),
        *_balance(result.members, log["first"], view),
        *_tokens(result, view),
    ]
    provenance = [
        _chosen(result),
        f"changes from step {log['pre']} to {log['post']}",
        f"{log['table']}/, {len(steps)} steps: {log['text']}; {counted(log['passes'], 'pass')}",
        *contexts_of_rocks(log),
        "one log is one training run",
        *left_out(log),
        log["path"],
    ]
    parts += map(view.aside, provenance)
    return "\n".join(parts) + "\n"


def _tokens(result: StagnationResult, view: View) -> list[str]:
    """The types with the largest losses."""
    if not result.tokens:
        return []
    params = result.params
    rows = view.first(result.tokens, params["top"], everything=params["all_types"])
    lines = [
        view.heading(f"Tokens by loss at step {result.log['pre']}"),
        render_table(_TOKENS, map(_token, rows), view).rstrip("\n"),
        *view.more(len(result.tokens) - len(rows), "--all", "types, and those with less loss"),
        view.aside(legend(NAMES)),
    ]
    if any(row["interval"] == "linearised" for row in rows):
        lines.append(view.aside("~ interval from the linearised variance, not from the bootstrap"))
    if any(row.get(FEW_PROMPTS) for row in (*result.groups, *rows)):
        lines.append(view.aside(WHY_NONE))
    return [*lines, ""]


def answer(result: StagnationResult) -> tuple[str, str]:
    """(change of the losses; verdict against other types, or "")."""
    log = result.log
    first = next(row for row in result.groups if row["group"] == log["first"])
    if "skipped" in first or first["stagnation"] is None:
        why = first.get("skipped") or "too few prompts contain the types with the most loss"
        return f"It is unknown whether {_whose(log['first'])} learn: {why}.", ""
    pre, post, at = log["pre"], log["post"], log["selected_at"][-1]
    if log["first"] != ROCKS.name:
        of = "that loss" if at == pre else f"their loss at step {pre}"
        change = f"the types with the most loss at step {at} have {_left(first)} of {of}"
    else:
        change = f"the rocks have {_left(first)} of their loss at step {pre}"
    change = f"at step {post} {change}"
    if log["descriptive"] is None:
        change += ", on held-out prompts"
    change += f"; all positions have {_left(result.corpus)}."
    verdict = "" if result.adjusted is None else _verdict(result.adjusted, pre)
    return change[0].upper() + change[1:], verdict[:1].upper() + verdict[1:]


def _whose(first: str) -> str:
    return "the rocks" if first == ROCKS.name else "the types with the most loss"


def _left(row: Row) -> str:
    """Loss at post as a share of that at pre, with its interval."""
    low, high = row["stagnation_low"], row["stagnation_high"]
    between = "" if low is None or high is None else f" ({percent(low, 0)} to {percent(high, 0)})"
    return f"{percent(row['stagnation'], 0)}{between}"


def _verdict(adjusted: AdjustedComparison, pre: int) -> str:
    whose, verdict = _whose(adjusted["first"]), adjusted["verdict"]
    like = "other types of similar loss and frequency"
    if verdict == NOT_COMPARABLE:
        return (
            f"{whose} are not comparable with other types: {adjusted['supported']} of "
            f"{adjusted['measured']} have five other types of similar loss at step {pre} (theirs "
            f"{number(adjusted['loss_first'])} nats, others {number(adjusted['loss_second'])})."
        )
    if verdict in (DEPENDS, INCONCLUSIVE):
        how = "depends on the cutoff" if verdict == DEPENDS else "is undecided"
        return f"whether {whose} improve less or more than {like} {how}."
    if verdict == SAME:
        return f"given the measured loss at step {pre}, {whose} improve as much as {like}."
    return f"given the measured loss at step {pre}, {whose} {verdict} than {like}."


def _chosen(result: StagnationResult) -> str:
    log = result.log
    at, chosen_on = log["selected_at"], log["chosen_on"].removesuffix(" of the prompts")
    if isinstance(at, str):
        controls = " and control" if result.members["control_source"] == "given" else ""
        step = log["steps"][0 if result.params["select_at"] == "first" else -1]
        where = f"rocks{controls} given, others chosen at step {step}"
    elif log["first"] == ROCKS.name:
        where = f"rocks chosen at steps {at[0]} and {at[1]} on {chosen_on}"
    else:
        where = f"groups chosen at step {at[0]} on {chosen_on}"
    lines = [f"{where}, measured on {log['measured_on']}"]
    for said in (log["no_rocks"], log["descriptive"]):
        lines += [] if said is None else textwrap.wrap(said, 80)
    return "\n".join(lines)


def _between(row: Row, name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
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
    return (row["group"], types, *_change(row), _FLAT[row["does_not_learn"]])


def _tests(rows: Sequence[Row], view: View) -> list[str]:
    tested = [row for row in rows if "skipped" not in row]
    skipped = [f"{row['second']}: skipped: {row['skipped']}" for row in rows if "skipped" in row]
    lines = [
        view.heading(
            f"Ratio of {rows[0]['first']} over that of others (matched groups: pairs only)"
        )
    ]
    if not tested:
        return [*lines, *skipped, ""]
    cells = (
        (
            row["second"],
            f"{row['types_first']}/{row['types_second']}",
            number(row["ratio"]),
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
    lines.append(render_table(_TESTS, cells, view).rstrip("\n"))
    heading = view.heading("Medians of the types' ratios, and rank-biserial correlation")
    return [*lines, *skipped, "", heading, render_table(_MEDIANS, medians, view)]


def _balance(members: Row, first: str, view: View) -> list[str]:
    cells = []
    for name in (CONTROL.name, LOSS_CONTROL.name):
        rows = [row for row in members["balance"] if row["control"] == name]
        pairs = rows[0]["pairs"]
        for when in ("before", "after"):
            values = ("–" if r[f"smd_{when}"] is None else f"{r[f'smd_{when}']:+.2f}" for r in rows)
            cells.append((f"{name}, {when}", str(pairs) if when == "after" else "", *values))
    alone = members["without_control"].items()
    left = ", ".join(f"{len(ids)} ({name})" for name, ids in alone)
    table = render_table(_BALANCE, cells, view).rstrip("\n")
    return [table, f"{first} without a match: {left}", ""]


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
