"""`occurrences` as text for people."""

from __future__ import annotations

from rocktok.analyses.occurrences.result import OccurrencesResult
from rocktok.tables.names import left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, counted, render_table, token

_FIELDS = (
    Field("token", text=True),
    Field("freq"),
    Field("persistent"),
    Field("judged"),
    Field("retained"),
    Field("similar"),
    Field("", text=True, dim=True),
)


def opening(result: OccurrencesResult) -> list[str]:
    """How many occurrences, how many of rocks; how many have a verdict."""
    totals = result.totals
    rocks = "none is of a rock"
    if totals["rock_persistent"]:
        rocks = (
            f"{totals['rock_persistent']:,} are of {counted(totals['rocks'], 'rock')}, and "
            f"{totals['rock_retained']:,} of these are retained"
        )
    left = totals["persistent"] - totals["judged"]
    sure = "Every one was judged"
    if left:
        sure = f"{left:,} have no verdict: their types are sampled, or cannot be judged"
    return [
        f"{counted(totals['persistent'], 'persistent occurrence')} of "
        f"{counted(len(result.tokens), 'token type')}; {rocks}.",
        f"{sure}; {totals['retained']:,} of them are retained.",
    ]


def render(result: OccurrencesResult, view: View | None = None) -> str:
    """The answer, one row per type, provenance."""
    view = view or View.plain()
    shown = view.first(result.tokens)
    cells = [
        (
            token(row["token"]),
            count(row["frequency"]),
            count(row["persistent"]),
            count(row["judged"]),
            "–" if row["retained"] is None else count(row["retained"]),
            "–" if row["persistent_similar"] is None else f"{row['persistent_similar']:.1f}",
            "r" if row["rock"] else "",
        )
        for row in shown
    ]
    log = result.log
    parts = [*view.answer(opening(result)), ""]
    if cells:
        parts += [
            render_table(_FIELDS, cells, view).rstrip("\n"),
            *view.more(len(result.tokens) - len(shown), "--all", "types"),
            view.aside("r rock  similar: mean number of similar persistent partners"),
            "",
        ]
    parts += [
        view.aside(
            f"{log['table']}/, step {log['pre']} to {log['post']}: "
            f"{result.totals['positions']:,} positions; {counted(log['passes'], 'pass')}"
        ),
        *map(view.aside, (*left_out(log), log["path"])),
        *([] if result.output is None else [view.aside(f"written to {result.output}")]),
    ]
    return "\n".join(parts) + "\n"
