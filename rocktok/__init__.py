"""rocktok: which tokens stay hard in on-policy distillation, and what they cost.

Hooks write per-token losses into a log (`rocktok.hooks`, or `LogWriter` from any trainer);
`rocktok.log` reads and checks it; `rocktok.engine` streams it through the accumulators of
`rocktok.analyse`, which find the tokens whose loss persists in recurring contexts;
`rocktok.report` makes tables of the answers; `rocktok.cli` is a thin shell over all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocktok._version import __version__

if TYPE_CHECKING:
    from rocktok.analyses.attribute.passes import attribute as attribute
    from rocktok.analyses.controls.passes import controls as controls
    from rocktok.analyses.detect.passes import detect as detect
    from rocktok.analyses.stability.passes import stability as stability
    from rocktok.analyses.stagnation.passes import stagnation as stagnation
    from rocktok.log import Log as Log
    from rocktok.log import LogWriter as LogWriter
    from rocktok.log import open_log as open

__all__ = [
    "Log",
    "LogWriter",
    "__version__",
    "attribute",
    "controls",
    "detect",
    "open",
    "stability",
    "stagnation",
]

# Loaded on first use: `rocktok --help` and the training hooks must not pay for the analysis.
_LAZY = {
    "Log": ("rocktok.log", "Log"),
    "LogWriter": ("rocktok.log", "LogWriter"),
    "attribute": ("rocktok.analyses.attribute.passes", "attribute"),
    "controls": ("rocktok.analyses.controls.passes", "controls"),
    "detect": ("rocktok.analyses.detect.passes", "detect"),
    "open": ("rocktok.log", "open_log"),
    "stability": ("rocktok.analyses.stability.passes", "stability"),
    "stagnation": ("rocktok.analyses.stagnation.passes", "stagnation"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'rocktok' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
