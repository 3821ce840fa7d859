"""`pillars` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rocktok.analyses.pillars.arms import corrected_p
from rocktok.analyses.pillars.asymmetry import BASELINES
from rocktok.analyses.pillars.result import (
    EQUIVALENT,
    INCONCLUSIVE,
    PILLAR,
    STUMBLING,
    ArmRow,
    GlobalRow,
    PillarsResult,
)
from rocktok.analyses.pillars.thirds_table import Section, thirds
from rocktok.tables.changes import (
    numbers_between,
    or_dash,
    points,
    points_between,
    signed,
    signed_number,
)
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, counted, number, p_value, percent, render_table
from rocktok.tables.text import token as quoted

#: What an intervention of each mode makes of its tokens, and what a group is called.
_DONE = {"ban": "banned", "ban-in-context": "locally banned", "replace": "replaced"}
_WORDS = {
    "rock": "rock",
    "control": "control",
    "placebo": "placebo token",
    "frequency": "frequency-matched token",
}

_CATEGORIES = {
    PILLAR: "pillar",
    STUMBLING: "stumbling",
    EQUIVALENT: "equivalent",
    INCONCLUSIVE: "undecided",
}

_ARMS = (
    Field("token", text=True),
    Field("group", text=True),
    Field("Δ"),
    Field("95%"),
    Field("p corr."),
    Field("category", text=True, least=10),
    Field("min. Δ"),
    Field("mode", text=True, extra=True),
    Field("benchmark", text=True, extra=True),
    Field("id", extra=True),
    Field("p", extra=True),
    Field("gained", extra=True),
    Field("lost", extra=True),
    Field("acted", extra=True),
    Field("90%", extra=True),
)

_CONTRASTS = (
    Field("rocks against", text=True),
    Field("mode", text=True),
    Field("pairs"),
    Field("Δ rock − Δ control"),
    Field("95%"),
    Field("p"),
    Field("over pairs"),
    Field("benchmark", text=True, extra=True),
)

_COMPENSATION = (
    Field("group", text=True), Field("mode", text=True), Field("loss after"), Field("baseline"),
    Field("change"), Field("95%"), Field("edited"), Field("benchmark", text=True, extra=True),
)  # fmt: skip

_AGREEMENT = (
    Field("benchmarks", text=True), Field("arms"), Field("Spearman"), Field("95%"),
    Field("same sign"), Field("chance"), Field("p"),
)  # fmt: skip

_PREDICTORS = (
    Field("predictor", text=True), Field("arms"), Field("Spearman"), Field("95%"), Field("p"),
    Field("q"), Field("mode", text=True, extra=True), Field("benchmark", text=True, extra=True),
)  # fmt: skip


def opening(result: PillarsResult) -> list[str]:
    """How many rocks change the accuracy, what could have been told, and how sure that is."""
    return [_answer(result), _how_sure(result)]


def _answer(result: PillarsResult) -> str:
    rows = _main(result)
    if not rows:
        return "No arm ever acted, so no effect can be told."
    if (same := _all_answers(result)) is not None:
        return (
            f"Every answer is {same}, with and without interventions, so the accuracy says nothing "
            "of them."
        )
    several = len(result.sources) > 1
    parts = []
    for row in rows:
        changed = row["pillar"] + row["stumbling"]
        noun = _WORDS[row["group"]]
        arms = counted(row["arms"], f"{_DONE[row['mode']]} {noun}")
        what = f"{count(changed)} of {arms}"
        where = f" on {row['benchmark']}" if several else ""
        verb = "changes" if changed == 1 else "change"
        parts.append(f"{what} {verb} the accuracy{where}{_which(row)}")
    effects = [row["minimum_effect"] for row in result.power if row["group"] == rows[0]["group"]]
    known = [effect for effect in effects if effect is not None]
    if len(known) < len(effects):
        power = "no effect could have been told with so few problems"
    else:
        low, high = points(min(known)), points(max(known))
        span = low if low == high else f"{low} to {high}"
        power = f"the smallest effect that could be told is ±{span}"
    return f"{'; '.join(parts)}; {power}."


def _all_answers(result: PillarsResult) -> str | None:
    """Right or wrong, if all answers are, as where a checker judges nothing; else None."""
    accuracies = {row["accuracy"] for row in result.sources}
    if accuracies not in ({0.0}, {1.0}) or any(row["gained"] or row["lost"] for row in result.arms):
        return None
    return "wrong" if accuracies == {0.0} else "right"


def _main(result: PillarsResult) -> list[GlobalRow]:
    """Of the rocks; where there are none, of all groups."""
    rocks = [row for row in result.overall if row["group"] == "rock"]
    return rocks or list(result.overall)


def _which(row: GlobalRow) -> str:
    parts = [
        f"{row['pillar']:,} {'pillar' if row['pillar'] == 1 else 'pillars'}"
        if row["pillar"]
        else "",
        f"{row['stumbling']:,} stumbling {'block' if row['stumbling'] == 1 else 'blocks'}"
        if row["stumbling"]
        else "",
        f"{row['equivalent']:,} equivalent" if row["equivalent"] else "",
        f"{row['inconclusive']:,} undecided" if row["inconclusive"] else "",
    ]
    return f" ({', '.join(part for part in parts if part)})"


def _how_sure(result: PillarsResult) -> str:
    params, rows = result.params, _main(result)
    sources = ", ".join(
        f"{counted(row['problems'], 'problem')}"
        f"{'' if row['draws'] == 1 else ' of ' + counted(row['draws'], 'draw')}, accuracy "
        f"{percent(row['accuracy'])}"
        for row in result.sources
    )
    if not rows or _all_answers(result) is not None:
        return f"{sources}."
    corrected = {"holm": "Holm's correction", "bonferroni": "Bonferroni's correction",
                 "bh": "control of the false discovery rate", "none": "no correction"}  # fmt: skip
    tests = max(row["tests"] for row in result.power)
    words = (
        f"At {percent(params['level'], 0)} with {corrected[params['correction']]} over "
        f"{counted(tests, 'arm')} ({sources})"
    )
    first = rows[0]
    signs = (
        f"{count(first['negative'])} of {counted(first['arms'], 'arm')} lose accuracy and "
        f"{count(first['positive'])} gain, which "
        f"{counted(first['baselines'], 'shared baseline')} "
        f"{'explains' if first['baselines'] == 1 else 'explain'} with p = "
        f"{p_value(first['p_asymmetry'])}"
    )
    return f"{words}; {signs}."


def render(result: PillarsResult, view: View | None = None) -> str:
    """Answer, arms, controls, what follows, agreement, provenance."""
    view = view or View.plain()
    ranked = sorted(
        result.arms,
        key=lambda row: (row["group"] != "rock", row["p_value"], -abs(row["delta"]), row["arm"]),
    )
    shown = view.first(ranked)
    parts = [*view.answer(opening(result)), ""]
    if ranked:
        parts += [
            view.heading("Change of accuracy by arm, in percentage points"),
            _table(_ARMS, [_arm_cells(row, result) for row in shown], view, result),
            *view.more(len(ranked) - len(shown), "--all", "arms"),
            view.aside(
                f"min. Δ: smallest change that is told with a chance of 80%; equivalent: the "
                f"{percent(1 - 2 * result.params['level'], 0)} interval is within "
                f"±{points(result.params['margin'])}"
            ),
        ]
    sections: list[Section] = [
        ("Rocks against their controls", _CONTRASTS, _contrast_cells(result)),
        ("After the place: loss in nats, and edits", _COMPENSATION, _after_cells(result)),
        *thirds(result, everything=view.everything),
        ("Agreement of benchmarks", _AGREEMENT, _agreement_cells(result)),
        ("Correlation with other numbers of the tokens", _PREDICTORS, _predictor_cells(result)),
    ]
    for heading, fields, rows in sections:
        cells = list(rows)
        if cells:
            some = view.first(cells)
            parts += ["", view.heading(heading), _table(fields, some, view, result),
                      *view.more(len(cells) - len(some), "--all")]  # fmt: skip
    parts += ["", *map(view.aside, _provenance(result))]
    return "\n".join(parts) + "\n"


def _table(
    fields: Sequence[Field], rows: Iterable[Sequence[str]], view: View, result: PillarsResult
) -> str:
    """A table; benchmark and mode are columns of it where there are several, else left out."""
    several = {
        "benchmark": len(result.sources) > 1,
        "mode": len({row["mode"] for row in result.arms}) > 1,
    }
    level = percent(1 - result.params["level"], 0)
    shown = [at for at, field in enumerate(fields) if several.get(field.heading, True)]
    own = [
        replace(
            fields[at],
            heading=level if fields[at].heading == "95%" else fields[at].heading,
            extra=fields[at].extra and fields[at].heading not in several,
        )
        for at in shown
    ]
    return render_table(own, ([row[at] for at in shown] for row in rows), view).rstrip("\n")


def _provenance(result: PillarsResult) -> Iterator[str]:
    for source in result.sources:
        baselines = counted(len(source["baseline_accuracies"]), "baseline")
        left = source["never_fired"]
        out = f"; {counted(left, 'arm')} that never acted left out" if left else ""
        few = not source["shared_draws"] and len(source["baseline_accuracies"]) < BASELINES
        asked = f" ({BASELINES} are asked for)" if few else ""
        yield (
            f"{source['benchmark']}: {counted(source['arms'], 'arm')}, {baselines}{asked}{out}; "
            f"{source['path']}"
        )


def _arm_cells(row: ArmRow, result: PillarsResult) -> tuple[str, ...]:
    return (
        f"id {row['token_id']}" if row["token"] is None else quoted(row["token"]),
        row["group"],
        signed(row["delta"]),
        points_between(row["ci_low"], row["ci_high"]),
        p_value(corrected_p(row, result.params["correction"])),
        _CATEGORIES[row["category"]],
        "none" if row["minimum_effect"] is None else f"±{points(row['minimum_effect'])}",
        row["mode"],
        row["benchmark"],
        f"{row['token_id']}",
        p_value(row["p_value"]),
        count(row["gained"]),
        count(row["lost"]),
        count(row["fired"]),
        points_between(row["ci90_low"], row["ci90_high"]),
    )


def _contrast_cells(result: PillarsResult) -> Iterator[tuple[str, ...]]:
    for row in result.contrasts:
        yield (
            row["control_group"],
            row["mode"],
            count(row["pairs"]),
            signed(row["difference"]),
            points_between(row["ci_low"], row["ci_high"]),
            p_value(row["p_value"]),
            points_between(row["pairs_low"], row["pairs_high"]),
            row["benchmark"],
        )


def _after_cells(result: PillarsResult) -> Iterator[tuple[str, ...]]:
    for row in result.compensation:
        yield (
            row["group"],
            row["mode"],
            number(row["loss_after"]),
            number(row["baseline_loss_after"]),
            signed_number(row["loss_change"]),
            numbers_between(row["loss_change_low"], row["loss_change_high"]),
            percent(row["edit_after"]),
            row["benchmark"],
        )
    for contrast in result.compensation_contrasts:
        yield (
            f"rock − {contrast['against']}",
            contrast["mode"],
            "",
            "",
            signed_number(contrast["loss_change"]),
            numbers_between(contrast["loss_change_low"], contrast["loss_change_high"]),
            or_dash(contrast["edit_after"]),
            contrast["benchmark"],
        )


def _agreement_cells(result: PillarsResult) -> Iterator[tuple[str, ...]]:
    for row in result.agreement:
        yield (
            f"{row['first']}, {row['second']}",
            count(row["arms"]),
            signed_number(row["spearman"]),
            numbers_between(row["spearman_low"], row["spearman_high"]),
            percent(row["same_sign"], 0),
            percent(row["same_sign_chance"], 0),
            p_value(row["p_sign"]),
        )


def _predictor_cells(result: PillarsResult) -> Iterator[tuple[str, ...]]:
    for row in sorted(result.predictors, key=lambda row: -abs(row["spearman"] or 0.0)):
        yield (
            row["predictor"],
            count(row["arms"]),
            signed_number(row["spearman"]),
            numbers_between(row["spearman_low"], row["spearman_high"]),
            p_value(row["p_value"]),
            p_value(row["q_bh"]),
            row["mode"],
            row["benchmark"],
        )


def encode(result: PillarsResult, form: Form) -> bytes:
    """One row per arm and benchmark."""
    return encode_table(result.arms, kinds_of(ArmRow), form, result.about("arms"))
