"""`detect` as a table for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rocktok.analyses.detect.result import DetectResult, DetectRow, PermutedRow
from rocktok.stats.intervals import FEW_PROMPTS, MIN_EFFECTIVE
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import left_out
from rocktok.tables.text import Field, count, counted, number, percent, render_table, token

_CONTEXT = (
    Field("rank"),
    Field("token", text=True),
    Field("freq"),
    Field("loss"),
    Field("share"),
    Field("persist"),
    Field("retain"),
    Field("CCR"),
    Field("R_ctx"),
    Field("", text=True),
)
_TESTED = (
    Field("token", text=True),
    Field("freq"),
    Field("loss"),
    Field("change"),
    Field("share"),
    Field("hard"),
    Field("retain"),
    Field("q"),
    Field("", text=True),
)
_LIFTS = (
    Field("rank"),
    Field("token", text=True),
    Field("CCR"),
    Field("R_ctx"),
    Field("persistence lift"),
    Field("context lift"),
    Field("", text=True),
)
_PLAIN = (
    Field("rank"),
    Field("token", text=True),
    Field("freq"),
    Field("prompts"),
    Field("loss"),
    Field("Rock Score"),
    Field("share"),
    Field("coverage"),
    Field("", text=True),
)

#: Marks of flags in the table, each explained below it.
_MARKS = {
    "low_power": ("*", "few persistent occurrences or prompts: low power"),
    "null_scarce": ("?", "too few positions far from it to draw a null: context not judged"),
    "sampled": ("~", "estimated from a sample of its persistent occurrences: ccr_low, ccr_high"),
    "shadowed": ("<", "beside a harder rock, and not hard without it"),
    "stretch": ("_", "no harder than what stands beside it"),
    "position_bound": ("|", "stands where few others do: type and place cannot be told apart"),
    "excluded": ("x", "left out of the ranking by the options"),
    "not_in_rollouts": ("o", "the late student no longer writes it"),
    "not_singled_out": ("=", "the token recurs, its loss does not single it out"),
    "lift_unknown": (
        "-",
        "a lift not known, or without an interval: its loss may single it out or not",
    ),
    FEW_PROMPTS: (".", f"fewer than {MIN_EFFECTIVE} effective prompts carry a lift: no interval"),
    "lifts_sampled": (
        "s",
        "context lift from 1,000 persistent and 1,000 other occurrences at most",
    ),
}


def render(result: DetectResult) -> str:
    """Summary, table, and what the marks mean."""
    parts = [*_summary(result), ""]
    if not result.tokens:
        parts.append("--all shows every type.")
        return "\n".join(parts) + "\n"
    context = result.log["pre"] is not None
    fields: Sequence[Field]
    cells: Callable[[DetectRow], Sequence[str]]
    fields, cells = (_CONTEXT, _context_cells) if context else (_PLAIN, _plain_cells)
    if context and result.params["rule"] == "tested":
        fields, cells = _TESTED, _tested_cells
    if result.permuted is not None:
        fields, cells = _LIFTS, _lift_cells
    parts.append(render_table(fields, (cells(row) for row in result.tokens)).rstrip("\n"))
    used = {flag for row in result.tokens for flag in row["flags"]}
    parts += [f"{mark}  {why}" for flag, (mark, why) in _MARKS.items() if flag in used]
    return "\n".join(parts) + "\n"


def _summary(result: DetectResult) -> list[str]:
    log, totals = result.log, result.totals
    lines = [
        _answer(result),
        f"{log['path']}: {log['table']}/, step "
        + (f"{log['pre']} to {log['post']}" if log["pre"] is not None else f"{log['post']}")
        + f": {count(totals['sequences'])} sequences, {count(totals['positions'])} positions, "
        f"{number(totals['loss'], 4)} nats; {log['passes']} passes",
    ]
    lines += left_out(log)
    if log["pre"] is None:
        return [*lines, f"Ranked by Rock Score alone: {log['no_context']}."]
    if totals["tested"] is not None:
        lines.append(
            f"{counted(totals['tested'], 'type')} tested of {count(totals['tests'])} that enough "
            f"prompts hold; {percent(totals['untested_loss_share'])} of the loss is in types that "
            "cannot be tested"
        )
    thresholds = result.thresholds
    second = thresholds["tau_post"] if thresholds["tau_change"] is None else None
    lines.append(
        f"persistent: loss ≥ {number(thresholds['tau_pre'])} nats at {log['pre']} and "
        + (
            f"≥ {number(second)} at {log['post']}"
            if second is not None
            else f"change < {number(thresholds['tau_change'])}"
        )
    )
    lines.append(
        f"occurrences: {count(totals['persistent'])} persistent (all types), "
        f"{count(totals['retained'])} retained (rocks)"
    )
    if not result.rocks:
        return lines
    density = result.density
    lines += [
        f"{name}: median {percent(share['median'])} of a sequence "
        f"(p10 {percent(share['p10'])}, p90 {percent(share['p90'])})"
        for share, name in (
            (density["type"], "rock types"),
            (density["retained"], "retained occurrences"),
        )
    ]
    if result.permuted is not None:
        lines.append(_permuted(result.permuted))
    return lines


def _answer(result: DetectResult) -> str:
    """What was found, and how sure it is."""
    rocks, totals = result.rocks, result.totals
    number_of = counted(len(rocks), "rock token")
    if result.params["rule"] == "tested" and result.log["pre"] is None:
        return "persistence cannot be told; the types with the largest loss are:"
    share = percent(sum(row["loss_share"] or 0.0 for row in rocks))
    positions = percent(sum(row["frequency"] for row in rocks) / totals["positions"])
    if result.params["rule"] != "tested":
        least = "by Rock Score" if result.log["pre"] is None else "by context Rock Score"
        if not rocks:
            return f"no rock tokens {least}"
        return f"{number_of} {least}: {share} of the loss, {positions} of the positions; untested"
    if not rocks:
        types = counted(totals["tested"] or 0, "type")
        return (
            f"no rock tokens: of {types} tested none is persistently hard in recurring contexts "
            "beyond chance"
        )
    how_sure = [f"FDR {100 * result.params['fdr']:g}%"]
    shadowed = sum("shadowed" in row["flags"] for row in rocks)
    stretches = sum("stretch" in row["flags"] for row in rocks)
    if shadowed:
        how_sure.append(f"{shadowed} of them beside a harder one")
    if stretches:
        how_sure.append(f"{stretches} in a stretch that is as hard")
    again = totals["replication"]
    if again is not None and again["share"] is not None:
        how_sure.append(f"{percent(again['share'])} replicate in the other half of the prompts")
    carry = "carries" if len(rocks) == 1 else "carry"
    return f"{number_of} {carry} {share} of the loss at {positions} of the positions " + (
        f"({'; '.join(how_sure)})"
    )


def _permuted(row: PermutedRow) -> str:
    least = "" if row["complete"] else "at least "
    return (
        f"labels permuted within types: {least}{counted(row['rocks_permuted'], 'rock token')}, "
        f"{row['reach_lowest']:,} at the lowest R_ctx"
    )


def _marks(row: DetectRow) -> str:
    return "".join(_MARKS[flag][0] for flag in row["flags"] if flag in _MARKS)


def _context_cells(row: DetectRow) -> Sequence[str]:
    return (
        str(row["rank"]),
        token(row["token"]),
        count(row["frequency"]),
        number(row["mean_loss"]),
        percent(row["loss_share"]),
        count(row["persistent"]),
        count(row["retained"]),
        "–" if row["ccr"] is None else f"{row['ccr']:.3f}",
        number(row["context_rock_score"]),
        _marks(row),
    )


def _tested_cells(row: DetectRow) -> Sequence[str]:
    pre, post, retained = row["mean_loss_pre"], row["mean_loss"], row["retained"]
    return (
        token(row["token"]),
        count(row["frequency"]),
        f"{number(pre)} → {number(post)}",
        "–" if not pre else f"{100 * (post / pre - 1):+.0f}%",
        percent(row["loss_share"]),
        number(row["hardness"]),
        "–" if retained is None or not row["persistent"] else percent(retained / row["persistent"]),
        number(row["q_value"], 1),
        _marks(row),
    )


def _lift_cells(row: DetectRow) -> Sequence[str]:
    return (
        str(row["rank"]),
        token(row["token"]),
        "–" if row["ccr"] is None else f"{row['ccr']:.3f}",
        number(row["context_rock_score"]),
        _with_interval(
            row["persistence_lift_measured"],
            row["persistence_lift_low"],
            row["persistence_lift_high"],
        ),
        _with_interval(row["context_lift"], row["context_lift_low"], row["context_lift_high"]),
        _marks(row),
    )


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None and low is not None and high is None:
        return f"≥ {number(low, 2)}"
    text = number(value)
    return text if low is None else f"{text} ({number(low, 2)}–{number(high, 2)})"


def _plain_cells(row: DetectRow) -> Sequence[str]:
    return (
        str(row["rank"]),
        token(row["token"]),
        count(row["frequency"]),
        count(row["prompts"]),
        number(row["mean_loss"]),
        number(row["rock_score"]),
        percent(row["loss_share"]),
        percent(row["coverage"]),
        _marks(row),
    )


def encode(result: DetectResult, form: Form) -> bytes:
    """All columns of `DetectResult.table`."""
    kinds = kinds_of(DetectRow, result.columns)
    return encode_table(result.tokens, kinds, form, result.about("tokens"))
