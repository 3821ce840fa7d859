"""`detect` as a table for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable

from rocktok.analyses.detect.instead import NAMED, InsteadRow, instead_text
from rocktok.analyses.detect.result import DetectResult, DetectRow, PermutedRow
from rocktok.stats.intervals import FEW_PROMPTS, MIN_EFFECTIVE
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import (
    Field,
    count,
    counted,
    lay_out,
    number,
    p_value,
    percent,
    times_as_much,
    token,
)

#: Marks of flags in the table, each explained below it.
_MARKS = {
    "low_power": ("*", "few persistent occurrences or prompts: low power"),
    "null_scarce": ("?", "too few positions away from the type for a null: contexts not judged"),
    "sampled": (
        "~",
        "estimated from a sample of its persistent occurrences: see ccr_low, ccr_high",
    ),
    "shadowed": ("<", "next to a harder rock, and not hard elsewhere"),
    "stretch": ("_", "no harder than nearby tokens"),
    "position_bound": ("|", "at positions with few other types: type and position are confounded"),
    "excluded": ("x", "excluded from the ranking by the options"),
    "not_in_rollouts": ("o", "absent from the rollouts of the later student"),
    "not_singled_out": (
        "=",
        "a lift is not above 1: hard occurrences resemble the others of the type",
    ),
    "lift_unknown": (
        "-",
        "a lift is unknown or has no interval: it may be above 1 or not",
    ),
    FEW_PROMPTS: (".", f"fewer than {MIN_EFFECTIVE} effective prompts carry a lift: no interval"),
    "lifts_sampled": (
        "s",
        "context lift from samples of 1,000 persistent and 1,000 other occurrences",
    ),
}


def opening(result: DetectResult) -> list[str]:
    """The rocks, and their certainty."""
    rocks, rule = result.rocks, result.params["rule"]
    if result.log["pre"] is None:
        sure = f"Ranked by Rock Score only: {result.log['no_context']}."
        if rule == "tested":
            return [
                "Persistence is unknown, so there are no rock tokens; these types have the most "
                "loss.",
                sure,
            ]
        return [_carried(result, "by Rock Score"), sure]
    if rule != "tested":
        sure = "Untested: the types with the largest scores; noise also gives such a list."
        return [_carried(result, "by context Rock Score"), sure]
    if rocks:
        return [_carried(result), *_how_sure(result)]
    types = counted(result.totals["tested"] or 0, "tested type")
    hard = result.totals["hard"]
    beside = f" Of these, {count(hard)} {'is' if hard == 1 else 'are'} hard" if hard else ""
    return [
        f"No rock tokens: none of {types} is persistently hard in recurring contexts beyond "
        f"chance.{beside and beside + ' beyond chance, in contexts that do not recur.'}",
        *_how_sure(result),
    ]


def render(result: DetectResult, view: View | None = None) -> str:
    """Answer, rocks, what the marks mean, density, provenance."""
    view = view or View.plain()
    parts = [*view.answer(opening(result)), "", *_tokens(result, view)]
    if result.log["pre"] is not None:
        parts += [*map(view.prose, _occurrences(result)), ""]
    parts += [view.aside(line) for line in (*_provenance(result), result.log["path"])]
    return "\n".join(parts) + "\n"


def _tokens(result: DetectResult, view: View) -> list[str]:
    """The table, the number of hidden rows and columns, and the legend of its marks."""
    if not result.tokens:
        return [view.aside("--all lists every token type."), ""]
    # A number that was asked for holds for all types, too.
    everything = result.params["all_types"] and view.top is None
    rows = view.first(result.tokens, everything=everything)
    names, more = _layout(result)
    told = _INSTEAD in more
    columns = [_COLUMNS[name] for name in (*names, *more)]
    fields = [
        Field(
            _heading(name, view),
            text=name in ("token", _INSTEAD),
            extra=name in more,
            # With all columns, no text is cut.
            least=8 if name != _INSTEAD else 80 if view.wide else 12,
        )
        for name in (*names, *more)
    ]
    cells = [(*(cell(row) for cell in columns), _marks(row)) for row in rows]
    table, hidden = lay_out([*fields, Field("", text=True, dim=True)], cells, view)
    used = {flag for row in rows for flag in row["flags"]}
    total = len(result.tokens)
    noun = "types" if result.params["all_types"] or result.log["pre"] is None else "rock tokens"
    parts = [table.rstrip("\n"), *view.more(total - len(rows), f"--top {total}", noun)]
    if hidden:
        parts.append(view.aside(f"… {counted(hidden, 'more column')} (--wide)"))
    legend = [f"{mark}  {why}" for flag, (mark, why) in _MARKS.items() if flag in used]
    if told and _heading(_INSTEAD, view) in table:
        legend.append(
            f"{_heading(_INSTEAD, view)}  the teacher's likeliest other tokens at persistent "
            "occurrences: lower bounds of mean probabilities"
        )
    return [*parts, *map(view.aside, legend), ""]


def _heading(name: str, view: View) -> str:
    if name == _INSTEAD and view.width < _ROOMY and not view.wide:
        return "instead"
    return _HEADINGS.get(name, name)


def _layout(result: DetectResult) -> tuple[list[str], list[str]]:
    """Columns that are always shown, and those where there is room."""
    if result.log["pre"] is None:
        names = ["token", "freq", "prompts", "loss", "Rock Score", "share", "coverage"]
        rest = ["rank"]
    elif result.permuted is not None:
        names = ["token", "CCR", "R_ctx", "persistence lift", "context lift"]
        rest = [*_TESTED, *_CONTEXT[4:]] if result.params["rule"] == "tested" else _CONTEXT
    elif result.params["rule"] == "tested":
        names, rest = _TESTED, [*_CONTEXT[4:], "score", "p hard", "p context"]
    else:
        names, rest = _CONTEXT, ["pre → post", "change"]
    some = result.tokens[0]
    own = [
        name
        for name, key in (("rollout freq", "rollout_frequency"), ("log ratio", "mean_log_ratio"),
                          ("p student", "student_probability"),
                          ("p teacher", "teacher_probability"))
        if some.get(key) is not None
    ]  # fmt: skip
    if any(row["instead"] is not None for row in result.tokens):
        # Room for it: the change can be seen in what stands before that.
        moved = [name for name in names if name == "change"]
        names, rest = [name for name in names if name not in moved], [_INSTEAD, *moved, *rest]
        own += ["q on token", "p on token"]
    rest = [*rest, "rank", "Rock Score", "coverage", "prompts", *own]
    return names, [name for name in dict.fromkeys(rest) if name not in names]


def _carried(result: DetectResult, rule: str = "") -> str:
    """The number of rocks, and their share of the loss."""
    rocks, totals = result.rocks, result.totals
    by = f" {rule}" if rule else ""
    if not rocks:
        return f"No rock tokens{by}."
    share = percent(sum(row["loss_share"] or 0.0 for row in rocks))
    positions = percent(sum(row["frequency"] for row in rocks) / totals["positions"])
    return (
        f"{counted(len(rocks), 'rock token')}{by} {'carries' if len(rocks) == 1 else 'carry'} "
        f"{share} of the loss at {positions} of the positions."
    )


def _how_sure(result: DetectResult) -> list[str]:
    """Of tested rocks."""
    totals, rocks = result.totals, result.rocks
    line = (
        f"FDR {100 * result.params['fdr']:g}%: {count(totals['tested'])} of the "
        f"{counted(totals['tests'] or 0, 'type')} in enough prompts could be tested; untested "
        f"types carry {percent(totals['untested_loss_share'])} of the loss."
    )
    wanted = totals["text_wanted"]
    if wanted is not None and wanted > 1:
        line += f" To test types with half of the loss takes {times_as_much(wanted)} text."
    again = totals["replication"]
    if again is not None and again["share"] is not None:
        line += (
            f" {percent(again['share'])} of the rocks of one half of the prompts replicate in the "
            "other half."
        )
    shadowed = sum("shadowed" in row["flags"] for row in rocks)
    stretches = sum("stretch" in row["flags"] for row in rocks)
    beside = [f"{shadowed} next to a harder rock"] if shadowed else []
    beside += [f"{stretches} no harder than nearby tokens"] if stretches else []
    return [line, f"Of the {len(rocks):,}: {', '.join(beside)}."] if beside else [line]


def _occurrences(result: DetectResult) -> list[str]:
    """Thresholds, numbers of occurrences, and share of rocks in a sequence."""
    log, totals, thresholds = result.log, result.totals, result.thresholds
    second = thresholds["tau_post"] if thresholds["tau_change"] is None else None
    lines = [
        f"persistent: loss ≥ {number(thresholds['tau_pre'])} nats at {log['pre']} and "
        + (
            f"≥ {number(second)} at {log['post']}"
            if second is not None
            else f"change < {number(thresholds['tau_change'])}"
        ),
        f"occurrences: {count(totals['persistent'])} persistent (all types), "
        f"{count(totals['retained'])} retained (rocks)",
    ]
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


def contexts(result: DetectResult) -> tuple[str, str] | None:
    """A name for what was compared, and when two contexts are similar; None: none was compared."""
    params, similarity = result.params, result.similarity
    if similarity is None:
        return None
    what = "hidden states of the teacher"
    if similarity != "hidden":
        what = f"windows of {counted(params['window'], 'token')} on each side"
    by = "contexts (auto)" if params.get("similarity_given") == "auto" else "contexts"
    chosen = " (95% quantile of random pairs)" if params["gamma"] == "auto" else ""
    least = number(result.thresholds["gamma"])
    return by, f"{what}, similar if {_MEASURES[similarity]} ≥ {least}{chosen}"


def _provenance(result: DetectResult) -> list[str]:
    log, totals = result.log, result.totals
    steps = f"{log['post']}" if log["pre"] is None else f"{log['pre']} to {log['post']}"
    compared = contexts(result)
    return [
        *([] if compared is None else [": ".join(compared)]),
        f"{log['table']}/, step {steps}: {counted(totals['sequences'], 'sequence')}, "
        f"{counted(totals['positions'], 'position')}, {number(totals['loss'], 4)} nats; "
        f"{counted(log['passes'], 'pass')}",
        *left_out(log),
    ]


def _permuted(row: PermutedRow) -> str:
    least = "" if row["complete"] else "at least "
    return (
        f"labels permuted within types: {least}{counted(row['rocks_permuted'], 'rock token')}, "
        f"{row['reach_lowest']:,} with at least the lowest R_ctx"
    )


def _marks(row: DetectRow) -> str:
    return "".join(_MARKS[flag][0] for flag in row["flags"] if flag in _MARKS)


def _change(row: DetectRow) -> str:
    pre, post = row["mean_loss_pre"], row["mean_loss"]
    return "–" if not pre else f"{round(100 * (post / pre - 1)):+d}%".replace("+0%", "0%")


def _retained_share(row: DetectRow) -> str:
    retained, persistent = row["retained"], row["persistent"]
    return "–" if retained is None or not persistent else percent(retained / persistent)


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None and low is not None:
        return f"≥ {number(low, 2)}"
    text = number(value)
    if low is None or high is None:
        return text
    return f"{text} ({number(low, 2)}–{number(high, 2)})"


#: Similarity → what it is, in a line on contexts.
_MEASURES = {
    "surprisal": "rarity-weighted cosine",
    "bag": "cosine of token counts",
    "jaccard": "Jaccard index",
    "positional": "share of equal places",
    "embedding": "cosine of mean embeddings",
    "hidden": "cosine",
}

#: What the teacher held likeliest in the place of a rock: the first column to go for want of room.
_INSTEAD = "teacher wrote instead"

#: Others that stand in a cell.
_OTHERS = 2

#: Columns of a screen from which there is room for its whole heading.
_ROOMY = 100

#: Name of a column → its cells.
_COLUMNS: dict[str, Callable[[DetectRow], str]] = {
    "rank": lambda row: str(row["rank"]),
    "token": lambda row: token(row["token"]),
    "freq": lambda row: count(row["frequency"]),
    "prompts": lambda row: count(row["prompts"]),
    "loss": lambda row: number(row["mean_loss"]),
    "pre → post": lambda row: f"{number(row['mean_loss_pre'])} → {number(row['mean_loss'])}",
    "change": _change,
    "share": lambda row: percent(row["loss_share"]),
    "coverage": lambda row: percent(row["coverage"]),
    "Rock Score": lambda row: number(row["rock_score"]),
    "hardness": lambda row: number(row["hardness"]),
    "retained": _retained_share,
    "q": lambda row: p_value(row["q_value"]),
    "p hard": lambda row: p_value(row["p_hard"]),
    "p context": lambda row: p_value(row["p_context"]),
    "score": lambda row: number(row["score"]),
    "persist": lambda row: count(row["persistent"]),
    "retain": lambda row: count(row["retained"]),
    "CCR": lambda row: "–" if row["ccr"] is None else f"{row['ccr']:.3f}",
    "R_ctx": lambda row: number(row["context_rock_score"]),
    "persistence lift": lambda row: _with_interval(
        row.get("persistence_lift_measured", row["persistence_lift"]),
        row.get("persistence_lift_low"),
        row.get("persistence_lift_high"),
    ),
    "context lift": lambda row: _with_interval(
        row.get("context_lift"), row.get("context_lift_low"), row.get("context_lift_high")
    ),
    "rollout freq": lambda row: count(row["rollout_frequency"]),
    "log ratio": lambda row: number(row["mean_log_ratio"]),
    "p student": lambda row: number(row["student_probability"]),
    "p teacher": lambda row: number(row["teacher_probability"]),
    _INSTEAD: lambda row: instead_text(row, _OTHERS) or "–",
    "q on token": lambda row: number(row["teacher_on_token"]),
    "p on token": lambda row: number(row["student_on_token"]),
}
#: Where a name is too wide for its cells.
_HEADINGS = {"pre → post": "loss pre→post", "hardness": "hard"}
_TESTED = ["token", "freq", "pre → post", "change", "share", "hardness", "retained", "q"]
_CONTEXT = ["token", "freq", "loss", "share", "persist", "retain", "CCR", "R_ctx"]


def encode(result: DetectResult, form: Form) -> bytes:
    """All columns of `DetectResult.table`, but four for each of the other tokens."""
    at = result.columns.index("instead")
    before, after = result.columns[:at], result.columns[at + 1 :]
    kinds = {
        **kinds_of(DetectRow, before),
        **{
            f"instead_{place}_{name}": kind
            for place in range(1, NAMED + 1)
            for name, kind in kinds_of(InsteadRow).items()
        },
        **kinds_of(DetectRow, after),
    }
    return encode_table([_flat(row) for row in result.tokens], kinds, form, result.about("tokens"))


def _flat(row: DetectRow) -> dict[str, object]:
    """The row with a column for everything that is known of another token."""
    others = row["instead"] or []
    return {
        **row,
        **{
            f"instead_{place}_{name}": value
            for place, other in enumerate(others, start=1)
            for name, value in other.items()
        },
    }
