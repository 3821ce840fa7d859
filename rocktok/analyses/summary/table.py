"""`summary` as tables for people, CSV or Parquet."""

from __future__ import annotations

from rocktok.analyses.summary.result import RunRow, SummaryResult
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import labels
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, counted, number, percent, render_table

_FIELDS = (
    Field("run", text=True),
    Field("step", extra=True),
    Field("loss pre→post"),
    Field("rocks"),
    Field("of loss"),
    Field("repl."),
    Field("verdict", text=True),
    Field("check", text=True),
)


def opening(result: SummaryResult) -> list[str]:
    """The number of runs with rocks, and of runs that could not be read."""
    read = [row for row in result.runs if row["error"] is None]
    told = [row for row in read if row["rocks"] is not None]
    some = [row for row in told if row["rocks"]]
    verb = "has" if len(some) == 1 else "have"
    answer = f"{len(some):,} of {counted(len(told), 'run')} with persistence {verb} rock tokens."
    if not told:
        answer = f"None of {counted(len(read), 'run')} has the same text at two steps, so no rocks."
    lines = [answer]
    shares = [row["rocks_loss_share"] or 0.0 for row in some]
    if shares:
        low, high = percent(min(shares)), percent(max(shares))
        lines.append(f"Rocks carry {low if low == high else f'{low} to {high}'} of a run's loss.")
    lines.append("One log is one training run: the variation between runs is not measured.")
    if result.failed:
        lines.append(f"{counted(len(result.failed), 'run')} could not be read (below).")
    return lines


def render(result: SummaryResult, view: View | None = None) -> str:
    """Answer, runs, and those that could not be read."""
    view = view or View.plain()
    names = dict(
        zip(range(len(result.runs)), labels([r["name"] for r in result.runs]), strict=True)
    )
    read = [(names[i], row) for i, row in enumerate(result.runs) if row["error"] is None]
    shown = view.first(read)
    parts = [*view.answer(opening(result)), ""]
    if read:
        table = render_table(_FIELDS, (_cells(*pair) for pair in shown), view).rstrip("\n")
        parts += [table, *view.more(len(read) - len(shown), "--all", "runs")]
    if result.failed:
        parts += ["", view.heading("Not read")]
        parts += [view.prose(str(row["error"]), indent=2) for row in result.failed]
    parts += [
        "",
        view.aside("repl.: rocks of one half of the prompts that are hard in the other half"),
        view.aside("check: the worst findings of `rocktok check`"),
        view.aside("verdict: whether the loss of rocks falls less than that of similar types"),
    ]
    return "\n".join(parts) + "\n"


def _cells(name: str, row: RunRow) -> tuple[str, ...]:
    pre, post = number(row["loss_pre"]), number(row["loss_post"])
    return (
        name,
        "–" if row["post"] is None else str(row["post"]),
        f"{pre} → {post}",
        "–" if row["rocks"] is None else f"{row['rocks']:,}",
        percent(row["rocks_loss_share"]),
        percent(row["replication"]),
        row["verdict"] or "–",
        _check(row),
    )


def _check(row: RunRow) -> str:
    """The worst findings: how many there are of them."""
    worst = row["check"] or "–"
    same = sum(one.startswith(f"{worst}:") for one in row["findings"] or ())
    return counted(same, worst) if same else worst


def encode(result: SummaryResult, form: Form) -> bytes:
    """The runs."""
    return encode_table(result.runs, kinds_of(RunRow), form, result.about("runs"))
