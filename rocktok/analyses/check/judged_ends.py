"""Findings on the ends of texts; docs/definitions.md gives reasons for the thresholds."""

from __future__ import annotations

from rocktok.analyses.check.ends import Ends
from rocktok.analyses.check.grading import (
    NOTHING,
    Levels,
    Number,
    finding,
    grade,
    percent,
    unknown,
)
from rocktok.analyses.check.result import Finding

TEACHER_END: Levels = {"note": 0.5, "warning": 0.1, "problem": 0.01}
END_TOKEN: Levels = {"warning": 0.5, "problem": 0.9}
STUDENT_END: Levels = {"warning": 0.5, "problem": 0.1}

_ENDS = "record the columns student_end and teacher_end (Recorder(columns='lenses'))"


def teacher_end(ends: Ends) -> Finding:
    """Whether the teacher would end where the student did."""
    measure = "the teacher's mean end mass at the last token of texts that stopped"
    how = ends.known.get("teacher")
    least = _mean(ends, "least") if how else NOTHING
    if least.value is None:
        return _no_ends("teacher_end", ends, measure)
    most = _mean(ends, "most")
    severity = grade(most, TEACHER_END, below=True)
    said = percent(least.value)
    if how != "exact":
        said = f"at least {said}"
        # Bounds that are wide are no reason to call it fine.
        if severity == "ok" and grade(least, TEACHER_END, below=True) != "ok":
            return unknown(
                "teacher_end", f"Where the student ended its text, the log gives the teacher an "
                "end "
                f"probability of {said}.", _ENDS, measure=measure,
            )  # fmt: skip
    text = f"Where the student ended its text, the teacher's end probability is {said} on average."
    return finding(
        "teacher_end", severity, text, number=least, measure=measure,
        remedy="see terminal_ids and end_token; if they agree, the student ends its texts too "
        "early, or where the teacher would continue",
        most=most.value, known=how, texts=ends.texts,
    )  # fmt: skip


def _mean(ends: Ends, end: str) -> Number:
    """Mean end mass of the teacher. Its interval is that of the rest: where the mass is small, few
    texts carry it."""
    value = ends.mean(f"teacher_{end}")
    found = Number.of(ends.mean(f"teacher_rest_{end}"), most=1.0)
    if found.low is None or found.high is None:
        return Number.of(value, most=1.0)
    return Number(float(value.value), 1 - found.high, 1 - found.low)


def end_token(ends: Ends) -> Finding:
    """Whether the teacher ends its texts with the token that the student wrote."""
    measure = "share of the teacher's end mass on tokens other than the one that ended the text"
    how = ends.known.get("teacher")
    if how in (None, "token") or "teacher" not in ends.on or not ends.texts:
        return _no_ends("end_token", ends, measure)
    least, most = (
        Number.of(ends.sum(f"teacher_other_{end}") / ends.sum(f"teacher_{end}"), most=1.0)
        for end in ("least", "most")
    )
    if least.value is None:
        return _no_ends("end_token", ends, measure)
    severity = grade(least, END_TOKEN)
    if severity == "ok" and grade(most, END_TOKEN) != "ok":
        return unknown(
            "end_token", "The log has too few probabilities of the teacher's end tokens.", _ENDS,
            measure=measure,
        )  # fmt: skip
    at_least = "" if how == "exact" else "at least "
    text = (
        f"Where the student ended its text, {at_least}{percent(least.value)} of the "
        "teacher's end probability is on another token than the one that was written."
    )
    return finding(
        "end_token", severity, text, number=least, measure=measure,
        remedy="the teacher ends its texts with another token: give both models the same EOS, or "
        "sum the probabilities of the teacher's end tokens",
        most=most.value, known=how,
    )  # fmt: skip


def student_end(
    first: Ends | None, last: Ends | None, steps: tuple[int, int], table: str
) -> Finding:
    """Whether the student has become less sure of its ends; each step's own texts, if `rollout`."""
    measure = "the student's mean end mass at its ends, last step over first"
    if first is None or last is None:
        return unknown(
            "student_end", "The log has one step, or none with texts that stopped.",
            "record more steps", measure=measure,
        )  # fmt: skip
    quantity = "student_least"
    if "student" not in first.known or not first.texts or not last.texts:
        return _no_ends("student_end", last if first.texts else first, measure)
    before, after = first.mean(quantity), last.mean(quantity)
    number = Number.of(after / before)
    severity = grade(number, STUDENT_END, below=True)
    text = (
        "At the end of texts that stopped, the student's mean end probability is "
        f"{percent(float(before.value))} at step {steps[0]} and {percent(float(after.value))} "
        f"at step {steps[1]}"
    )
    if table == "fixed":
        # Whoever wrote a text is surer of it than anyone after: it falls without any harm.
        severity = "ok" if severity == "ok" else "note"
        text += ", on the same texts, which an earlier student wrote"
    return finding(
        "student_end", severity, f"{text}.", number=number, measure=measure,
        remedy="the student learns not to end its texts: see terminal_ids, end_token and truncated",
        before=float(before.value), after=float(after.value), first_step=steps[0],
        last_step=steps[1], table=table,
    )  # fmt: skip


def _no_ends(name: str, ends: Ends, measure: str) -> Finding:
    if not ends.texts:
        why = "No text that stopped was recorded, or the log has no finish_reason."
        remedy = (
            "record texts that end by themselves (a larger max_completion_length), with "
            "finish_reason in sequences/"
        )
        return unknown(name, why, remedy, measure=measure)
    why = "The log has too few probabilities at the end of texts."
    return unknown(name, why, _ENDS, measure=measure)
