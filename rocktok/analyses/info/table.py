"""`info` as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import rocktok.schema as schema
from rocktok.tables.terminal import View
from rocktok.tables.text import count, counted, percent, times_as_much

if TYPE_CHECKING:
    from rocktok.analyses.info.result import Coverage, LogInfo, TableInfo, WeightsInfo


def opening(info: LogInfo) -> list[str]:
    """Contents of the log, and the extent of the check."""
    how = "every row was read" if info.verified else "footers only; --verify reads every row"
    return [info.sentence, f"Checked: {how}."]


def render(info: LogInfo, view: View | None = None) -> str:
    """The answer, the possible analyses, then one fact per line."""
    view = view or View.plain()
    facts = [("next", info.next), *_questions(info), *_run(info)]
    for name, table in info.tables.items():
        facts += _table(name, table)
    facts += _enough(info)
    if info.sequences is not None:
        facts.append(("sequences", f"{count(info.sequences)} of {count(info.prompts)} prompts"))
    if info.vocab:
        facts.append(("vocabulary", f"{count(info.vocab)} tokens with text"))
    facts += _attempts(info)
    facts += _losses(info)
    width = max(len(name) for name, _ in facts) + 2
    lines = [*view.answer(opening(info)), ""]
    for name, value in facts:
        line = view.prose(f"{name:<{width}}{value}".rstrip(), width)
        lines.append(view.dim(line[:width]) + line[width:])
    return "\n".join(lines) + "\n"


def _questions(info: LogInfo) -> list[tuple[str, str]]:
    """Which commands have an answer here, and why others have none, or less."""
    plain = [row["command"] for row in info.questions if row["able"] and not row["why"]]
    facts = [("analyses", ", ".join(plain))] if plain else []
    for row in info.questions:
        if row["why"]:
            command = row["command"]
            facts.append((f"{command} *" if row["able"] else f"no {command}", row["why"]))
    return facts


def _run(info: LogInfo) -> list[tuple[str, str]]:
    run: Mapping[str, Any] = info.run or {}
    facts = [("log", info.log["path"])]
    if run.get("run_id"):
        facts.append(("run", f"{run['run_id']} ({run.get('created_at', 'no date')})"))
    for key in ("student", "teacher"):
        if run.get(key):
            facts.append((key, str(run[key])))
    loss = run.get("loss") or {}
    trained = {True: ", the trained loss", False: ", not the trained loss"}
    known = trained.get(bool(loss["trained"]), "") if "trained" in loss else ""
    facts.append(("loss", f"reverse KL, {info.log['exactness']}{known}"))
    return facts


def _table(name: str, table: TableInfo) -> list[tuple[str, str]]:
    steps = [step["step"] for step in table.steps]
    incomplete = len(table.incomplete_steps)
    span = f", {steps[0]} to {steps[-1]}" if len(steps) > 1 else f", {steps[0]}" if steps else ""
    facts = [
        (
            f"{name}/",
            f"{counted(table.rows, 'row')} in {counted(table.shards, 'shard')}; "
            f"{counted(len(steps), 'step')}{span}",
        ),
        ("  columns", ", ".join(table.columns)),
    ]
    if table.coverage is not None:
        facts.append(("  covers", _covered(table.coverage)))
    if incomplete:
        shown = ", ".join(map(str, table.incomplete_steps[:12]))
        facts.append(
            ("  incomplete", f"{counted(incomplete, 'step')}: {shown}{' …' * (incomplete > 12)}")
        )
    if table.superseded_rows:
        facts.append(
            ("  superseded", f"{count(table.superseded_rows)} rows of earlier attempts, not read")
        )
    return facts


def _enough(info: LogInfo) -> list[tuple[str, str]]:
    """How many types can be tested, and whether that is little."""
    if info.enough_unknown is not None:
        return [("testable", f"unknown: {info.enough_unknown}")]
    if info.enough is None:
        return []
    found = info.enough
    text = (
        f"{count(found['testable'])} of {counted(found['tests'], 'type')} in enough prompts; the "
        f"others carry {percent(found['untested_loss_share'])} of the loss"
    )
    wanted = found["text_wanted"]
    if wanted is not None and wanted > 1:
        text += f"; testing half of the loss takes {times_as_much(wanted)} text"
    facts = [("testable", text)]
    if found["positions"] < schema.ENOUGH_POSITIONS:
        facts.append(
            (
                "text",
                f"{counted(found['positions'], 'position')} of fixed text; text of a real "
                f"language model takes {count(schema.ENOUGH_POSITIONS)} or more",
            )
        )
    return facts


def _covered(covered: Coverage) -> str:
    share = 100 * covered.covered / max(1, covered.positions)
    there = (
        f"{count(covered.covered)} of {counted(covered.positions, 'position')} of fixed/ at step "
        f"{covered.step} ({share:.0f}%)"
    )
    if covered.texts_without is not None:
        # Contexts are written once, and stand for all steps.
        return there
    return f"{there}; {count(covered.steps)} of its {counted(covered.fixed_steps, 'step')}"


def _attempts(info: LogInfo) -> list[tuple[str, str]]:
    facts = []
    for attempt in info.attempts:
        ranks = [r for r in info.ranks if r["attempt"] == attempt["attempt"]]
        size, final = attempt["world_size"], sum(r["final"] for r in ranks)
        state = "final" if final == size else f"{final} of them final"
        ranks_of = f"{size} rank" if size == 1 else f"{size} ranks"
        value = f"from step {attempt['resume_step']}, {ranks_of}, {state}"
        facts.append((f"attempt {attempt['attempt']}", value))
        facts += [
            ("  weights", _weighted(weights))
            for weights in info.weights
            if weights["attempt"] == attempt["attempt"]
        ]
    return facts


def _weighted(weights: WeightsInfo) -> str:
    found = "" if weights["found_at"] is None else f", found at step {weights['found_at']}"
    around = f", with {weights['radius']} positions around contexts" if weights["radius"] else ""
    return (
        f"{counted(len(weights['token_ids']), 'token type')} ({weights['select']}{found}) weighted "
        f"{weights['weight']:g} in the trained loss from step {weights['from_step']} on{around}"
    )


def _losses(info: LogInfo) -> list[tuple[str, str]]:
    facts = []
    if info.dropped:
        reasons = ", ".join(sorted({item["reason"] for item in info.dropped}))
        facts.append(
            (
                "dropped",
                f"{counted(info.dropped_rows, 'row')} of {counted(len(info.dropped), 'step')} "
                f"({reasons})",
            )
        )
    if info.mismatches:
        facts.append(
            (
                "mismatches",
                f"{counted(info.mismatches, 'call')} whose recorded loss differs from the "
                "trainer's",
            )
        )
    if info.damage:
        facts += [("damage", line) for line in info.damage]
    else:
        how = "every row read" if info.verified else "footers only; --verify reads every row"
        facts.append(("damage", f"none found ({how})"))
    return facts
