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
        name: of both. The command is `rocktok.cli.<name>:<name>_command`.
        help: what it is about, in one line.
        function: "module:function"; nothing is imported until it is used.
        section: whether a report shows it in a section made from its result; False for what is
            built into the report, and for what is no analysis of one log.
    """

    name: str
    help: str
    function: str
    section: bool = True

    def load(self) -> Any:
        """Import the function."""
        module, function = self.function.split(":")
        return getattr(import_module(module), function)


def _entry(name: str, help_: str, module: str) -> Analysis:
    return Analysis(name, help_, f"rocktok.{module}:{name}", section=False)


#: In the order in which users meet them.
ANALYSES = (
    _entry("info", "What is in a log: steps, sequences, columns, gaps, damage.",
           "analyses.info.passes"),
    Analysis("check", "Whether the run is healthy: ends, templates, cut or looping texts, losses.",
             "rocktok.analyses.check.passes:check"),
    _entry("compact", "Many small shards into few ordered ones.", "log.compact"),
    _entry("rescore", "Score kept text with saved checkpoints, into a log with fixed text.",
           "replay.rescore"),
    _entry("detect", "Which tokens are rocks: persistent loss in recurring contexts.",
           "analyses.detect.passes"),
    _entry("report", "Everything the log allows, as figures and one HTML page.", "report.passes"),
    _entry("summary", "What came of each of several runs, one row a run.",
           "analyses.summary.passes"),
    _entry("compare", "Whether logs agree on their rocks.", "analyses.compare.passes"),
    _entry("attribute",
           "Who takes the gradient: its norm by token and by group, and its directions.",
           "analyses.attribute.passes"),
    _entry("stagnation", "Whether rocks learn: losses over the steps, fairly chosen and compared.",
           "analyses.stagnation.passes"),
    _entry("controls", "What rocks are fairly compared with, and how well it is balanced.",
           "analyses.controls.passes"),
    _entry("stability",
           "How sure the rocks are: whether half of the prompts would name the same.",
           "analyses.stability.passes"),
    Analysis("lenses", "Whether rocks are the tokens that other papers call important.",
             "rocktok.analyses.lenses.passes:lenses"),
)  # fmt: skip


def analyses() -> dict[str, Analysis]:
    """Name → entry, in order."""
    return {entry.name: entry for entry in ANALYSES}
