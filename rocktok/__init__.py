"""rocktok: which tokens stay hard in on-policy distillation, and what they cost.

Hooks write per-token losses into a log (`rocktok.hooks`, or `LogWriter` from any trainer);
`rocktok.log` reads and checks it; `rocktok.engine` streams it through the accumulators of
`rocktok.analyses`, which find the tokens whose loss persists in recurring contexts;
`rocktok.report` makes one page of the answers; `rocktok.cli` is a thin shell over all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rocktok._version import __version__
from rocktok.analyses import analyses as _analyses

if TYPE_CHECKING:
    from rocktok.analyses.attribute.passes import attribute as attribute
    from rocktok.analyses.check.passes import check as check
    from rocktok.analyses.compare.passes import compare as compare
    from rocktok.analyses.controls.passes import controls as controls
    from rocktok.analyses.detect.passes import detect as detect
    from rocktok.analyses.info.passes import info as info
    from rocktok.analyses.lenses.passes import lenses as lenses
    from rocktok.analyses.occurrences.passes import occurrences as occurrences
    from rocktok.analyses.pillars.passes import pillars as pillars
    from rocktok.analyses.stability.passes import stability as stability
    from rocktok.analyses.stagnation.passes import stagnation as stagnation
    from rocktok.analyses.summary.passes import summary as summary
    from rocktok.analyses.weights.passes import weights as weights
    from rocktok.exporting.run import export as export
    from rocktok.importers.run import import_log as import_log
    from rocktok.log import Log as Log
    from rocktok.log import LogWriter as LogWriter
    from rocktok.log import open_log as open  # noqa: F401
    from rocktok.log.compact import compact as compact
    from rocktok.log.shipped import demo as demo
    from rocktok.replay.intervene.run import intervene as intervene
    from rocktok.replay.rescore import rescore as rescore
    from rocktok.report.passes import report as report
    from rocktok.report.text_passes import text as text

#: Beside the analyses: name → module and what it is called there.
_OTHERS = {
    "Log": ("rocktok.log", "Log"),
    "LogWriter": ("rocktok.log", "LogWriter"),
    "open": ("rocktok.log", "open_log"),
    "text": ("rocktok.report.text_passes", "text"),
}


def _functions() -> dict[str, Any]:
    return {entry.attribute: entry for entry in _analyses().values()}


__all__ = ["__version__", *_OTHERS, *_functions()]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `rocktok --help` and the training hooks must not pay for the analyses.
    if name in _OTHERS:
        module, own = _OTHERS[name]
        return getattr(import_module(module), own)
    if name in (functions := _functions()):
        return functions[name].load()
    raise AttributeError(f"module 'rocktok' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_OTHERS, *_functions()})
