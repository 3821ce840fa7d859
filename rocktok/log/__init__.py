"""The format, both directions: shards, run directory, checks. pyarrow; no torch."""

from __future__ import annotations

from rocktok.log.catalogue import Log
from rocktok.log.gradients import StepGradients, load_gradients
from rocktok.log.opening import open_log
from rocktok.log.writer import LogWriter

__all__ = ["Log", "LogWriter", "StepGradients", "load_gradients", "open_log"]
