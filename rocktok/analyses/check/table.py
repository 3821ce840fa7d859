"""`check` as text for people, CSV or Parquet."""

from __future__ import annotations

from collections import Counter

from rocktok.analyses.check.result import SEVERITIES, CheckResult, Finding, FindingRow
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import counted


def opening(result: CheckResult) -> list[str]:
    """How many findings, how bad; what was fine, and what could not be looked at."""
    found = Counter(one["severity"] for one in result.findings)
    bad = [(name, found[name]) for name in reversed(SEVERITIES[1:]) if found[name]]
    total = sum(number for _, number in bad)
    answer = "No findings."
    if total:
        what = ", ".join(counted(n, name) for name, n in bad)
        answer = f"{counted(total, 'finding')}: {what}."
    fine = f"{found['ok']} of {len(result.findings)} checks are ok"
    left = f", {found['unknown']} could not be made" if found["unknown"] else ""
    return [answer, f"{fine}{left}."]


def render(result: CheckResult, view: View | None = None) -> str:
    """The answer; one line for each finding, the worst first; provenance."""
    view = view or View.plain()
    widest = max(len(one["severity"]) for one in result.findings)
    names = max(len(one["name"]) for one in result.findings)
    lines = [*view.answer(opening(result)), ""]
    for one in result.findings:
        start = f"{one['severity']:<{widest}}  {one['name']:<{names}}  "
        line = view.prose(f"{start}{_sentence(one)}", len(start))
        head, rest = line[: len(start)], line[len(start) :]
        bold = one["severity"] in ("warning", "problem")
        lines.append((view.bold(head) if bold else view.dim(head)) + rest)
    log = result.log
    rollouts = (
        f", rollouts of step {log['rollout_step']}" if log["rollout_step"] is not None else ""
    )
    lines += [
        "",
        view.aside(
            f"{log['table']}/, step {log['step']}{rollouts}; {counted(log['passes'], 'pass')}"
        ),
        *map(view.aside, (*left_out(log), log["path"])),
    ]
    return "\n".join(lines) + "\n"


def _sentence(one: Finding) -> str:
    interval = ""
    low, high, level = one["low"], one["high"], one["level"]
    if low is not None and high is not None and level is not None and one["severity"] != "ok":
        # As the text has them: shares in percent.
        ends = (f"{end:.1%}" if "share" in one["measure"] else f"{end:.3g}" for end in (low, high))
        interval = f" [{level:.0%}: {' to '.join(ends)}]"
    text = f"{one['text']}{interval}"
    return f"{text} → {one['remedy']}" if one["remedy"] else text


def encode(result: CheckResult, form: Form) -> bytes:
    """One row per finding, without details; in Parquet these are in the metadata."""
    return encode_table(result.rows(), kinds_of(FindingRow), form, result.to_dict())
