"""The start of an attempt: rank 0 opens the log, the others follow, or all refuse together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError, RocktokError
from rocktok.files import place
from rocktok.hooks.arguments import check_terminal_ids
from rocktok.hooks.background import describe
from rocktok.hooks.fixed_set import Inherited, inherit
from rocktok.hooks.live_weights import inherit_weights
from rocktok.log.run import PATH, load_run, run_facts

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rocktok.files import Place
    from rocktok.log import LogWriter
    from rocktok.log.manifest import WeightsInForce


@dataclass(frozen=True)
class _Opened:
    """What rank 0 tells the others."""

    attempt: int
    run_id: str
    inherited: Inherited
    terminal_ids: tuple[int, ...]
    weights: WeightsInForce | None


@dataclass(frozen=True)
class Start:
    """What a rank begins an attempt with.

    `weights`: those that an earlier attempt found.
    """

    writer: LogWriter
    inherited: Inherited
    terminal_ids: tuple[int, ...]
    weights: WeightsInForce | None


def start_attempt(
    log_dir: str | os.PathLike[str],
    *,
    columns: Sequence[str],
    rank: int,
    world_size: int,
    resume_step: int,
    run: Mapping[str, Any],
    vocab: Iterable[tuple[int, str, bytes]] | None,
    fingerprint: Mapping[str, Any],
    supersede: bool,
    all_gather: Callable[[Any], Sequence[Any]],
) -> Start:
    """Every rank's writer, the kept texts of earlier attempts, and the run's terminal ids.

    Arguments: `Recorder.start`. Terminal ids are those of the log, as its columns are sums over
    these; of this attempt where the log names none.

    Raises `HookError` on every rank if it cannot be had on one: a rank that went on alone would
    wait for the others for ever.
    """
    from rocktok.log import LogWriter

    def create(**identity: Any) -> LogWriter:
        return LogWriter(
            log_dir,
            columns=columns,
            rank=rank,
            world_size=world_size,
            resume_step=resume_step,
            **identity,
        )

    writer, opened, error = None, None, None
    if rank == 0:
        try:
            # Before the attempt exists: creating it voids rows, so all else must be in order.
            where = place(log_dir)
            inherited = inherit(where, resume_step)
            weights = inherit_weights(where, resume_step)
            terminal_ids = _terminal_ids(where, run)
            check_terminal_ids(columns, terminal_ids)
            writer = create(run=run, vocab=vocab, fingerprint=fingerprint, supersede=supersede)
            opened = _Opened(writer.attempt, writer.run_id, inherited, terminal_ids, weights)
        except Exception as problem:
            error = _say(log_dir, problem)
    opened, error = all_gather((opened, error))[0]
    if opened is not None and rank != 0:
        try:
            writer = create(attempt=opened.attempt, run_id=opened.run_id)
        except Exception as problem:
            error = f"rank {rank}: {_say(log_dir, problem)}"
    errors = [e for e in all_gather(error) if e is not None]
    if errors or writer is None or opened is None:
        raise HookError(errors[0])
    return Start(writer, opened.inherited, opened.terminal_ids, opened.weights)


def _terminal_ids(where: Place, run: Mapping[str, Any]) -> tuple[int, ...]:
    """Those that the log names, else the attempt; within the vocabulary. Raises `LogError`."""
    recorded = load_run(where)
    named = run_facts(recorded, where.show(PATH)).terminal or run_facts(run, "run").terminal or ()
    size = run.get("vocab_size")
    return tuple(number for number in named if size is None or number < size)


def _say(log_dir: str | os.PathLike[str], problem: Exception) -> str:
    if isinstance(problem, RocktokError):
        return str(problem)
    return f"{log_dir}: cannot be written ({describe(problem)})"
