"""Weights that a run finds by itself: rocks of its own kept text, weighted from then on.

`rocktok detect` runs over the log in a process of its own, at a low priority, so a step of training
waits for nothing: between two steps one asks whether it has ended. When it ends depends on the
machine; the log says from which step on its rocks were weighted, and a run that is resumed weights
the same ones.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rocktok.errors import HookError, RocktokError
from rocktok.hooks.token_weights import TokenWeights
from rocktok.inputs import load_detect
from rocktok.log.manifest import WeightsInForce, load_attempts, load_manifests
from rocktok.weighting import check_weight

if TYPE_CHECKING:
    import threading

    from rocktok.files import Place

#: `select` of weights that a run has found.
LIVE = "live"

#: Niceness of the process that looks for rocks.
_NICENESS = 10

#: The command line as a process of this installation, wherever that stands.
_CALL = "import sys; sys.path.append(sys.argv.pop(1)); from rocktok.cli import run; run()"


@dataclass(frozen=True)
class LiveWeights:
    """Asks a recorder to find rocks while it records, and to weight them from then on.

    Rocks are those of `rocktok detect` between the first scoring of the kept text and the first
    one at `step` or later; where that finds none, the next scoring is tried.

    Args:
        weight: λ of the rocks' occurrences, 0 or more; 0: their losses are left out.
        step: optimizer steps after which rocks are looked for.
        options: more options of `rocktok detect`, as on the command line: ("--fdr", "0.2").

    Raises `HookError` for a value out of range.
    """

    weight: float = 0.0
    step: int = 1
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            check_weight(self.weight)
        except RocktokError as error:
            raise HookError(f"LiveWeights: {error}") from error
        if not isinstance(self.step, int) or self.step < 1:
            raise HookError(f"LiveWeights: step must be an integer of at least 1, not {self.step}")
        if isinstance(self.options, str) or not all(isinstance(o, str) for o in self.options):
            raise HookError(
                f"LiveWeights: options must be a sequence of words, not {self.options!r}"
            )

    @property
    def wants_contexts(self) -> bool:
        """Whether contexts are to be compared by hidden states; else windows of the text are."""
        return bool({"hidden", "--similarity=hidden"} & set(self.options))


@dataclass(frozen=True)
class Answer:
    """What a search came to: token ids of rocks (perhaps none), or what went wrong."""

    token_ids: tuple[int, ...] = ()
    fault: str | None = None


class LiveSearch:
    """Looks for rocks once the kept text has been scored often enough. All ranks go together.

    Args:
        asked: what to look for.
        log_dir: the log. rank: of this process; rank 0 alone starts the process that looks.
        inherited: weights that an earlier attempt found.
    """

    def __init__(
        self,
        asked: LiveWeights,
        log_dir: str | os.PathLike[str],
        *,
        rank: int = 0,
        inherited: WeightsInForce | None = None,
    ) -> None:
        self._asked, self._log_dir, self._rank = asked, log_dir, rank
        self.in_force = inherited
        self._weights = None if inherited is None else _weights_of(inherited)
        self._state: Literal["waiting", "writing", "searching", "ended"]
        self._state = "waiting" if inherited is None else "ended"
        self._scored_at = 0
        self._written: threading.Event | None = None
        self._process: _Detect | None = None

    def at(self, step: int) -> TokenWeights | None:
        """The weights of the optimizer step that a student of `step` steps takes."""
        if self.in_force is None or step < self.in_force.from_step:
            return None
        return self._weights

    def scored(self, step: int, first: int, flush: Callable[[], threading.Event | None]) -> None:
        """The kept text has been scored at `step`, for the first time at `first`."""
        if self._state == "waiting" and step > first and step >= self._asked.step:
            self._state, self._scored_at, self._written = "writing", step, flush()

    def advance(
        self, step: int, all_gather: Callable[[Any], Sequence[Any]]
    ) -> tuple[WeightsInForce | None, Answer | None]:
        """Between two steps: go on with the search; waits for nothing but the other ranks.

        Every rank calls this with the same step. Returns the weights that begin now, if any do,
        and what a search that has ended came to.
        """
        if self._state == "writing":
            done = self._written is None or self._written.is_set()
            if all(all_gather(done)):
                if self._rank == 0:
                    self._process = _Detect(self._log_dir, self._scored_at, self._asked.options)
                self._state = "searching"
        elif self._state == "searching":
            answer = None if self._process is None else self._process.answer()
            answer = all_gather(answer)[0]
            if answer is not None:
                return self._end(step, answer), answer
        return None, None

    def _end(self, step: int, answer: Answer) -> WeightsInForce | None:
        self._process = None
        if answer.fault is not None or not answer.token_ids:
            # No rocks yet: there may be some at the next scoring. A fault would come again.
            self._state = "waiting" if answer.fault is None else "ended"
            return None
        self._state = "ended"
        self._weights = TokenWeights(answer.token_ids, self._asked.weight, select=LIVE)
        self.in_force = in_force(self._weights, step, self._scored_at)
        return self.in_force

    def close(self) -> None:
        """Give up a search that is going on."""
        if self._process is not None:
            self._process.kill()
            self._process = None
            self._state = "ended"


def in_force(weights: TokenWeights, step: int, found_at: int | None = None) -> WeightsInForce:
    """What the log says of weights that begin at a step."""
    facts = weights.facts()
    return WeightsInForce(
        from_step=step,
        found_at=found_at,
        sha256=facts["sha256"],
        select=weights.select,
        weight=weights.weight,
        radius=weights.radius,
        windows=facts["windows"],
        token_ids=weights.token_ids,
    )


def _weights_of(recorded: WeightsInForce) -> TokenWeights:
    return TokenWeights(
        recorded.token_ids, recorded.weight, select=recorded.select, sha256=recorded.sha256
    )


def inherit_weights(where: Place, resume_step: int) -> WeightsInForce | None:
    """Weights that an earlier attempt found, for one that starts now from this step.

    Those found on rows that count no more are looked for again. Raises `LogError`.
    """
    found = {m.attempt: m.weights for m in load_manifests(where) if m.weights is not None}
    valid_below = resume_step
    for attempt in reversed(load_attempts(where)):
        weights = found.get(attempt.attempt)
        if weights is not None and weights.found_at is not None and weights.found_at < valid_below:
            return weights
        valid_below = min(valid_below, attempt.resume_step)
    return None


class _Detect:
    """`rocktok detect` in a process of its own."""

    def __init__(self, log_dir: str | os.PathLike[str], post: int, options: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rocktok-live-")
        self._output = Path(self._folder.name) / "detect.json"
        self._said = Path(self._folder.name) / "said.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._fault: str | None = None
        root = str(Path(__file__).resolve().parents[2])
        arguments = [
            "detect", os.fspath(log_dir), "--post", str(post), "--format", "json",
            "-o", str(self._output), "--jobs", "1", "--quiet", *options,
        ]  # fmt: skip
        try:
            with self._said.open("wb") as said:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CALL, root, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
        except OSError as error:
            self._fault = f"it cannot be started ({error.strerror})"
            return
        with contextlib.suppress(OSError, AttributeError):  # not on every system
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICENESS)

    def answer(self) -> Answer | None:
        """What it came to; None while it runs."""
        if self._process is not None and self._process.poll() is None:
            return None
        try:
            return self._read()
        finally:
            self._folder.cleanup()

    def _read(self) -> Answer:
        if self._fault is not None or self._process is None:
            return Answer(fault=self._fault)
        if self._process.returncode != 0:
            lines = self._said.read_text(errors="replace").strip().splitlines()
            return Answer(fault=lines[-1] if lines else f"exit code {self._process.returncode}")
        try:
            rows = load_detect(self._output)["tokens"]
            return Answer(tuple(sorted({int(r["token_id"]) for r in rows if r["is_rock"]})))
        except (RocktokError, KeyError, TypeError, ValueError) as error:
            return Answer(fault=str(error))

    def kill(self) -> None:
        """End it, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()
