"""`lenses` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rocktok.analyses.lenses.result import ClassRow, LensesResult, LensRow, LensTableRow
from rocktok.stats.intervals import WHY_NONE
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import contexts_of_rocks, left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, counted, number, p_value, percent, render_table

_LENSES = (
    Field("lens", text=True),
    Field("rocks"),
    Field("all"),
    Field("× hard"),
    Field("× type"),
    Field("× shuf."),
    Field("Jaccard"),
    Field("chance"),
    Field("", text=True),
    Field("p Holm", extra=True),
    Field("95%", extra=True),
    Field("ranked by", text=True, extra=True),
    Field("source", text=True, extra=True),
)

_CLASSES = (
    Field("lens", text=True),
    Field("class", text=True),
    Field("share"),
    Field("loss"),
    Field("grad"),
    Field("rocks"),
    Field("stays"),
    Field("share 95%", extra=True),
    Field("loss 95%", extra=True),
    Field("grad 95%", extra=True),
    Field("rocks 95%", extra=True),
    Field("stays 95%", extra=True),
)


def opening(result: LensesResult) -> list[str]:
    """Which lens comes closest to the rocks, whether beyond chance, and how sure that is."""
    return [_answer(result), _how_sure(result)]


def render(result: LensesResult, view: View | None = None) -> str:
    """Answer, lenses against the rocks, classes, what is missing, provenance."""
    view = view or View.plain()
    log = result.log
    ranked = sorted(
        (row for row in result.lenses if row["jaccard_top10"] is not None),
        key=lambda row: -(row["jaccard_top10"] or 0.0),
    )
    classes = [(lens, row) for lens in result.lenses for row in lens["classes"]]
    shown = view.first(classes)
    parts = [*view.answer(opening(result)), ""]
    if ranked:
        parts += [
            view.heading("Rock occurrences in the top 10% of each lens"),
            render_table(_LENSES, map(_lens_cells, ranked), view).rstrip("\n"),
            view.aside(
                "rocks, all: share of rock occurrences and of all positions in the top 10%; "
                "× hard, × type: ratio to the share of other hard positions, and of other "
                "occurrences of the rocks' types; × shuf.: ratio to the share with losses shuffled "
                "within sequences"
            ),
            view.aside("*  above all four shares, corrected for the number of lenses"),
            "",
        ]
    parts += [
        view.heading("Shares of positions, loss, gradient norm and rock occurrences by class"),
        render_table(_CLASSES, _class_cells(shown), view).rstrip("\n"),
        *view.more(len(classes) - len(shown), "--all", "classes"),
        view.aside(
            "stays: share of the positions in the class at the earlier step that are in it at the "
            "later step; by chance, the share of all positions"
        ),
    ]
    few = [row for lens in result.lenses for row in (lens, *lens["classes"])]
    if any(row["few_prompts_carry_it"] for row in few) and view.wide:
        parts.append(view.aside(WHY_NONE))
    if result.missing:
        parts += ["", view.heading("Lenses that this log does not allow"), *_missing(result, view)]
    steps = f"step {log['post']}"
    if log["pre"] is not None:
        steps = f"steps {log['pre']} and {log['post']}"
    provenance = [
        f"{log['table']}/, {steps}: {counted(log['positions'], 'position')}; "
        f"{counted(log['passes'], 'pass')}",
        *contexts_of_rocks(log),
        *left_out(log),
        log["path"],
    ]
    parts += ["", *map(view.aside, provenance)]
    return "\n".join(parts) + "\n"


def closest(result: LensesResult) -> LensRow | None:
    """The lens whose top 10% has the largest Jaccard with the rock occurrences."""
    known = [row for row in result.lenses if row["jaccard_top10"] is not None]
    return max(known, key=lambda row: row["jaccard_top10"] or 0.0, default=None)


def _answer(result: LensesResult) -> str:
    best = closest(result)
    if best is None:
        why = result.log["no_rocks"]
        if why is None:
            return "No lens of this log ranks positions, so none can be compared with the rocks."
        return f"No rock occurrences to compare with the lenses: {why}."
    words = (
        f"Of {_lenses(len(_ranking(result)))}, the top 10% of "
        f"{best['name']} overlaps most with the rock occurrences: Jaccard "
        f"{number(best['jaccard_top10'])}, by chance {number(best['jaccard_chance'])}"
    )
    over = best["over_hard"]
    hard = "" if over is None else f"{number(over)} times the share of other hard positions"
    inside = f"it holds {percent(best['rocks_share'], 0)} of them"
    return f"{words}; {inside}{', ' if hard else ''}{hard}."


def _lenses(number_of: int) -> str:
    return "1 lens" if number_of == 1 else f"{count(number_of)} lenses"


def _ranking(result: LensesResult) -> list[LensRow]:
    """Lenses that rank positions."""
    return [row for row in result.lenses if row["ranked_by"] is not None]


def _how_sure(result: LensesResult) -> str:
    """The lenses that select rocks beyond hardness and type."""
    log = result.log
    if closest(result) is None:
        return f"Classes of {counted(log['positions'], 'position')} by each lens are below."
    ranking = _ranking(result)
    told = [row["name"] for row in ranking if row["singles_out"]]
    unknown = [row["name"] for row in ranking if row["singles_out"] is None]
    basis = (
        f"{count(log['rock_occurrences'])} rock occurrences of {counted(len(log['rocks']), 'type')}"
    )
    beyond = "more often than chance, hardness, type, or both together explain"
    words = (
        f"At 95% over all lenses, {_names(told)} {'select' if len(told) > 1 else 'selects'} rocks "
        f"{beyond}"
        if told
        else f"At 95% over all lenses, none selects rocks {beyond}"
    )
    open_ = f"; too few prompts to decide for {_names(unknown)}" if unknown else ""
    return f"{words}{open_} ({basis})."


def _names(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _lens_cells(row: LensRow) -> tuple[str, ...]:
    return (
        row["name"],
        percent(row["rocks_share"]),
        percent(row["top_share"]),
        number(row["over_hard"]),
        number(row["over_type"]),
        number(row["over_shuffled"]),
        number(row["jaccard_top10"]),
        number(row["jaccard_chance"]),
        {True: "*", False: "", None: "?"}[row["singles_out"]],
        p_value(row["p_holm"]),
        _between(row["rocks_share_low"], row["rocks_share_high"]),
        row["ranked_by"] or "–",
        row["source"],
    )


def _class_cells(shown: Sequence[tuple[LensRow, ClassRow]]) -> Iterator[tuple[str, ...]]:
    last = None
    for lens, row in shown:
        yield _class_row(lens, row, first=lens["name"] != last)
        last = lens["name"]


def _class_row(lens: LensRow, row: ClassRow, *, first: bool) -> tuple[str, ...]:
    stays = next((each for each in lens["persistence"] if each["name"] == row["name"]), None)
    return (
        lens["name"] if first else "",
        row["name"].replace("_", " "),
        percent(row["share"]),
        percent(row["loss_share"]),
        percent(row["grad_share"]),
        percent(row["rocks_share"]),
        percent(stays["stays"]) if stays else "–",
        _between(row["share_low"], row["share_high"]),
        _between(row["loss_share_low"], row["loss_share_high"]),
        _between(row["grad_share_low"], row["grad_share_high"]),
        _between(row["rocks_share_low"], row["rocks_share_high"]),
        _between(stays["stays_low"], stays["stays_high"]) if stays else "–",
    )


def _between(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{percent(low)} to {percent(high)}"


def _missing(result: LensesResult, view: View) -> list[str]:
    """One line for each lens: what it lacks, and what would give it."""
    by_lens: dict[str, list[str]] = {}
    remedies: dict[str, str] = {}
    for row in result.missing:
        by_lens.setdefault(row["lens"], []).append(row["why"])
        remedies[row["lens"]] = row["remedy"]
    return [
        view.prose(f"{lens}: {'; '.join(whys)}; {remedies[lens]}", indent=2)
        for lens, whys in by_lens.items()
    ]


def encode(result: LensesResult, form: Form) -> bytes:
    """One row per class of each lens."""
    return encode_table(list(result.rows()), kinds_of(LensTableRow), form, result.about("lenses"))
