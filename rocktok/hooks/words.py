"""The recorder's lines: which steps will be scored, and what came of them."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import rocktok.schema as schema
from rocktok.words import counted

if TYPE_CHECKING:
    from rocktok.hooks.fixed_set import FixedSet
    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.token_weights import TokenWeights
    from rocktok.log.manifest import Manifest, WeightsInForce

_SHOWN = 3

#: Prompts that must hold a type for `rocktok detect` to test it.
MIN_PROMPTS = 5


def beginning(
    recorder: Recorder,
    first: int = 0,
    last: int | None = None,
    at_start: bool = False,
    why_later: str | None = None,
) -> str:
    """One line: where, which steps of rollouts, which scorings of kept text.

    Args:
        recorder: one that has just started.
        first: step from which it starts.
        last: step at which training ends; None: not known.
        at_start: whether kept text is generated now.
        why_later: why it is not, where that was to be expected.
    """
    log, attempt, every = recorder.log_dir, recorder.attempt, recorder.every
    fixed_every, prompts = recorder.fixed_every, recorder.fixed_sequences
    rollouts = recorder.fixed_rollouts
    inherited = not recorder.fixed.collecting
    number = f" (attempt {attempt}, from step {first})" if attempt or first else ""
    parts = [f"recording into {log}{number}", f"rollouts every {_steps(every)}"]
    # What half of the training takes leaves two steps at least.
    half = 1 if last is None else max(1, (last - first) // 2)
    recorded = [] if last is None else [s for s in range(first, last) if s % every == 0]
    if last is not None and len(recorded) < 2:
        which = f"only step {recorded[0]}" if recorded else "none"
        parts[-1] += f", {which} before max_steps={last}: set every={half} or less"
    if prompts == 0:
        return "; ".join([*parts, "no kept text"])
    text = f"text of {counted(prompts, 'prompt')}"
    text += f" ({rollouts} rollouts each)" if rollouts > 1 else ""
    if inherited:
        text += " kept by an earlier attempt"
        text += f" ({_size(recorder.fixed)})," if recorder.fixed.kept else ","
        at_start = True
    elif at_start:
        text += " kept now,"
    else:
        later = f" ({why_later})" if why_later else ""
        text += f" kept during training{later},"
    scored = [] if last is None else _scored(first, last, fixed_every)
    if inherited and first % fixed_every:
        scored = scored[1:]
    text += f" scored {_when(scored, last, fixed_every, at_start)}"
    if last is None or last - first > fixed_every:
        pass
    elif at_start:
        text += f"; for curves with more steps set fixed_every={half} or less"
    else:
        text += (
            f"; that may be only one step, and persistence needs two: set fixed_every={half} or "
            "less, or fixed_at_start=True"
        )
    return "; ".join([*parts, text, *_at_most(recorder)])


def _most_positions(recorder: Recorder) -> int | None:
    """Positions of the text to keep, at most; None: the run does not say."""
    if recorder.most_tokens is None:
        return None
    return recorder.fixed_sequences * recorder.fixed_rollouts * recorder.most_tokens


def _at_most(recorder: Recorder) -> list[str]:
    """That the text to keep will be too little, where its largest size is known to be."""
    most = _most_positions(recorder)
    if most is None or most >= schema.ENOUGH_POSITIONS or not recorder.fixed.collecting:
        return []
    wanted = _prompts_wanted(recorder.fixed_sequences, most)
    return [
        f"at most {most:,} positions are kept, {schema.ENOUGH_POSITIONS:,} are advised: set "
        f"fixed_sequences={wanted} or more"
    ]


def _prompts_wanted(prompts: int, positions: int) -> int:
    """Prompts for enough positions, if each gives as many as these."""
    return -(-schema.ENOUGH_POSITIONS * prompts // max(1, positions))


def _size(fixed: FixedSet) -> str:
    positions, types = fixed.size(MIN_PROMPTS)
    return (
        f"{counted(positions, 'position')}; at most {counted(types, 'type')} can be tested, "
        f"those in {MIN_PROMPTS} prompts or more"
    )


def kept_text(recorder: Recorder) -> str:
    """One line: how much text is kept, how many types can be tested, whether that is little."""
    fixed, most = recorder.fixed, _most_positions(recorder)
    positions, _ = fixed.size(MIN_PROMPTS)
    line = f"kept text of {counted(fixed.prompts, 'prompt')}: {_size(fixed)}"
    foretold = most is not None and most < schema.ENOUGH_POSITIONS
    if positions < schema.ENOUGH_POSITIONS and not foretold:
        wanted = _prompts_wanted(fixed.prompts, positions)
        line += (
            f"; {schema.ENOUGH_POSITIONS:,} positions are advised: set fixed_sequences={wanted} or "
            "more"
        )
    return line


def _scored(first: int, last: int, every: int) -> list[int]:
    """The steps at which text is scored that is there at the first."""
    return sorted(
        {first, last, *range(first - first % every, last, every)} & {*range(first, last + 1)}
    )


def _when(scored: list[int], last: int | None, every: int, at_start: bool) -> str:
    if last is None:
        return f"at once and every {_steps(every)}" if at_start else f"every {_steps(every)}"
    if not at_start:
        return f"when complete, every {_steps(every)} and at step {last}"
    if len(scored) <= _SHOWN + 2:
        return f"at step{'' if len(scored) == 1 else 's'} {', '.join(map(str, scored))}"
    return f"at steps {', '.join(map(str, scored[:_SHOWN]))}, … {scored[-1]} ({len(scored)} in all)"


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count:,} steps"


def ending(log: str, manifest: Manifest, *, ranks: int, final: bool) -> str:
    """One line: what was recorded, what is missing, and what to run next."""
    fixed, rollout = (sorted(manifest.steps.get(table, ())) for table in ("fixed", "rollout"))
    parts = [
        f"{counted(len(rollout), 'step')} of rollouts",
        f"{counted(len(fixed), 'scoring')} of kept text",
    ]
    if len(fixed) > 1:
        parts[-1] += f" (steps {fixed[0]} to {fixed[-1]})"
    lost = f"dropped: {_lost(manifest)}" if manifest.dropped else "nothing dropped"
    rank = " on this rank" if ranks > 1 else ""
    name = quote(log)
    if len(fixed) > 1:
        following = f"next: rocktok report {name} -o report"
    elif fixed or rollout:
        following = f"next: rocktok info {name}"
    else:
        following = "nothing to read"
    state = "recorded into" if final else "stopped recording into"
    return f"{state} {log}{rank}: {', '.join(parts)}; {lost}; {following}"


def hung(log: str, seconds: float) -> str:
    """Message for a disk that does not answer."""
    return f"{log}: the disk did not store the last records within {seconds:.0f} s; they are lost"


def weights_given(weights: TokenWeights) -> str:
    """One line: which tokens have which weight."""
    around = f", and {weights.radius} positions around their contexts" if weights.radius else ""
    return (
        f"{counted(len(weights.token_ids), 'token type')} ({weights.select}) weighted "
        f"{weights.weight:g} in the trained loss{around}"
    )


def weights_found(weights: WeightsInForce) -> str:
    """One line: rocks that are weighted from now on."""
    return (
        f"found {counted(len(weights.token_ids), 'rock')} in the kept text at step "
        f"{weights.found_at}; weighted {weights.weight:g} in the trained loss from step "
        f"{weights.from_step} on"
    )


def weights_again(weights: WeightsInForce) -> str:
    """One line: rocks that an earlier attempt found."""
    return (
        f"{counted(len(weights.token_ids), 'rock')} that an earlier attempt found at step "
        f"{weights.found_at} weighted {weights.weight:g} from step {weights.from_step} on"
    )


def unsynced(log: str, seconds: float) -> str:
    """Message for a disk that is too slow for the rows that belong to a checkpoint."""
    return (
        f"{log}: the rows before a checkpoint were not on disk within {seconds:.0f} s, and the "
        "checkpoint is saved without them: if this run is killed now and resumes from it, its log "
        "has a gap. Training continues; Recorder(sync_on_save=False) does not wait"
    )


def unsaved(log: str, manifest: Manifest) -> str:
    """Message for a last manifest that could not be written."""
    return (
        f"{log}: the last manifest of rank {manifest.rank} could not be written: "
        f"{_lost(manifest)} were dropped, and the log may not count them"
    )


def _lost(manifest: Manifest) -> str:
    """How much was given up; what stands beside rows of kept text goes with these."""
    fixed = {item.step for item in manifest.dropped if item.table == "fixed"}
    lost = [
        item
        for item in manifest.dropped
        if item.table not in schema.BESIDE_FIXED or item.step not in fixed
    ]
    rows = sum(item.rows for item in lost if item.table != "sequences")
    steps = {(item.table, item.step) for item in lost if item.table != "sequences"}
    said = f"{counted(rows, 'row')} of {counted(len(steps), 'step')}"
    sequences = sum(item.rows for item in manifest.dropped if item.table == "sequences")
    return f"{said}, {counted(sequences, 'row')} of sequences/" if sequences else said


def fewer_prompts(there: int, wanted: int) -> str:
    """Message for a kept text of fewer prompts than asked for."""
    return (
        f"kept text of {counted(there, 'prompt')}; training had no more, and "
        f"fixed_sequences={wanted} asks for more"
    )
