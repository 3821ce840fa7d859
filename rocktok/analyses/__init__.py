"""One folder a question. This file is the only list of them.

The commands, the functions of `rocktok` and the sections of a report follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Analysis:
    """One command of `rocktok`, which is one function of the package, too.

    Attributes:
        name: name of the command, which is `rocktok.cli.<attribute>:<attribute>_command`.
        help: its subject, a noun phrase in one line.
        function: "module:function"; nothing is imported until it is used.
        section: whether a report makes a section from its result. False for analyses built into
            the report, and for commands that do not analyse one log.
    """

    name: str
    help: str
    function: str
    section: bool = True

    @property
    def attribute(self) -> str:
        """Name of the function: the command's, unless that is a word of Python's own."""
        return self.function.split(":")[1]

    def load(self) -> Any:
        """Import the function."""
        module, function = self.function.split(":")
        return getattr(import_module(module), function)


def _entry(name: str, help_: str, module: str) -> Analysis:
    return Analysis(name, help_, f"rocktok.{module}:{name}", section=False)


#: In the order in which users meet them.
ANALYSES = (
    _entry("demo", "Report of a small log that ships with rocktok, opened in the browser.",
           "log.shipped"),
    _entry("info", "Contents of a log: steps, sequences, columns, gaps, damage.",
           "analyses.info.passes"),
    Analysis("check", "Health of the run: end tokens, templates, cut or looping texts, losses.",
             "rocktok.analyses.check.passes:check"),
    _entry("compact", "Copy of a log in few, sorted shards.", "log.compact"),
    _entry("export", "Tables of a log for other tools: datasets, CSV, JSONL, Arrow.",
           "exporting.run"),
    _entry("rescore", "Losses of recorded text under saved checkpoints, as a log with fixed text.",
           "replay.rescore"),
    Analysis("import", "Log from files of other trainers and of inference servers.",
             "rocktok.importers.run:import_log", section=False),
    _entry("detect", "Rock tokens: token types whose loss persists in recurring contexts.",
           "analyses.detect.passes"),
    _entry("report", "All analyses of a log, as figures, tables and one HTML page.",
           "report.passes"),
    _entry("summary", "Results of several runs in one table, one row per run.",
           "analyses.summary.passes"),
    _entry("compare", "Agreement of logs on their rocks.", "analyses.compare.passes"),
    _entry("attribute",
           "Gradient norm by token type and by group, and gradient directions.",
           "analyses.attribute.passes"),
    _entry("stagnation", "Loss of rocks over the steps, against other types of similar loss.",
           "analyses.stagnation.passes"),
    _entry("controls", "Matched controls for rocks, and the balance of the matches.",
           "analyses.controls.passes"),
    _entry("stability",
           "Stability of the rocks: how often half of the prompts name the same ones.",
           "analyses.stability.passes"),
    Analysis("lenses", "Overlap of rocks with the tokens that other papers call important.",
             "rocktok.analyses.lenses.passes:lenses"),
    _entry("occurrences", "Persistent occurrences one by one, with the similar ones that decide.",
           "analyses.occurrences.passes"),
    _entry("weights", "Weights of tokens for training, from rocks or by other selections.",
           "analyses.weights.passes"),
    _entry("intervene", "Answers of a student with rocks banned or replaced, beside controls.",
           "replay.intervene.run"),
    _entry("pillars", "Tokens that the accuracy depends on, from the outcomes of interventions.",
           "analyses.pillars.passes"),
)  # fmt: skip


def analyses() -> dict[str, Analysis]:
    """Name → entry, in order."""
    return {entry.name: entry for entry in ANALYSES}
