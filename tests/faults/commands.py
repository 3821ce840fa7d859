"""Damages files of a log, of each kind alike, and judges whole commands by what a user meets.

    python tests/faults/commands.py --faults 300 [--seed 0]

Each damage meets one command, or with `--each` all of them. Files of a kind (shards of each table,
manifests, attempts, run.json, the vocabulary) are damaged equally often, by the ways of `campaign`:
bits flipped, bytes overwritten, lost or inserted, blocks of zeros or repeated, files cut short,
lengthened or removed. A command must

- refuse the log: exit 1, one line on stderr that names the file, and nothing written; or
- answer with the same bytes as without the damage; or
- under `--allow-missing`, answer and say which file was left out.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rocktok.log import LogWriter
from tests.faults import campaign
from tests.faults.campaign import Fault
from tests.logs import RUN, rows
from tests.processes import run_command

#: Kinds of files in the log of `write`.
KINDS = 10

#: Command → its arguments after the log; OUT is a path that does not exist yet.
COMMANDS: dict[str, tuple[str, ...]] = {
    "detect": ("--format", "json"),
    "detect --allow-missing": ("--allow-missing", "--format", "json"),
    "info": ("--format", "json"),
    "info --verify": ("--verify", "--format", "json"),
    "check": ("--format", "json"),
    "export": ("-o", "OUT"),
    "compact": ("-o", "OUT"),
    "report": ("-o", "OUT"),
}


def write(path: Path) -> Path:
    """Three attempts, every table: the log of `campaign`, and rollouts of a last attempt."""
    campaign.write_small(path)
    with LogWriter(path, run=RUN, resume_step=21, columns=["grad_norm"]) as writer:
        batch = rows(21, range(100, 110), tokens=12)
        batch["grad_norm"] = batch["loss"] * np.float32(0.5)
        writer.write(batch)
        writer.finish_step(21)
    return path


def kind_of(path: str) -> str:
    """The kind of a file: its table, or its folder, or its name."""
    return path.split("/", maxsplit=1)[0]


def faults(log: Path, count: int, seed: int) -> Iterator[Fault]:
    """Damage of random ways; each kind of file in turn."""
    by_kind: dict[str, list[str]] = {}
    for file in sorted(p for p in log.rglob("*") if p.is_file()):
        path = file.relative_to(log).as_posix()
        by_kind.setdefault(kind_of(path), []).append(path)
    rng = np.random.default_rng(seed)
    kinds, made = sorted(by_kind), 0
    assert len(kinds) == KINDS
    while made < count:
        path = str(rng.choice(by_kind[kinds[made % len(kinds)]]))
        way = str(rng.choice([*campaign.WAYS, "removed"]))
        data = (log / path).read_bytes()
        changed = None if way == "removed" else bytes(campaign.WAYS[way](bytearray(data), rng))
        if changed != data:
            made += 1
            yield Fault(way, path, way, changed)


def in_turn(number: int) -> tuple[str, ...]:
    """One command for each damage, so that every one meets every kind of file."""
    names = tuple(COMMANDS)
    return (names[(number + number // KINDS) % len(names)],)


@dataclass
class Outcome:
    """(kind of file, command, what happened) → how often; and what must not happen."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def run(
    log: Path, damages: Iterable[Fault], commands: Callable[[int], Iterable[str]], folder: Path
) -> Outcome:
    """Damage the log, run commands, undo, and so on; `commands` by the number of the damage."""
    good: dict[str, tuple[int, str, str]] = {}
    outcome = Outcome()
    for number, fault in enumerate(damages):
        if number and number % 25 == 0:
            print(f"{number} damages, {len(outcome.wrong)} wrong", file=sys.__stderr__)
        names = tuple(commands(number))
        good |= {name: _answer(log, name, folder) for name in names if name not in good}
        path = log / fault.path
        data = path.read_bytes()
        if fault.data is None:
            path.unlink()
        else:
            path.write_bytes(fault.data)
        try:
            for name in names:
                answer = _answer(log, name, folder)
                judged = judge(answer, good[name], str(path), "--allow-missing" in name)
                outcome.counts[kind_of(fault.path), name, judged] += 1
                if judged.isupper():
                    said = f"{answer[0]}, {answer[2][-400:]!r}"
                    outcome.wrong.append(f"{name}: {fault.path} ({fault.what}): {judged}: {said}")
        finally:
            path.write_bytes(data)
    return outcome


def _answer(log: Path, name: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, a digest of what was written and printed, and stderr; "" where nothing was."""
    output = folder / "out"
    command, *_ = name.split()
    arguments = [output if word == "OUT" else word for word in COMMANDS[name]]
    try:
        code, printed, said = run_command(command, log, *arguments)
    except Exception as error:
        return -1, "", f"traceback: {error!r}"
    digest = hashlib.sha256(printed.encode())
    files = sorted(p for p in output.rglob("*") if p.is_file())
    for file in files:
        digest.update(file.relative_to(output).as_posix().encode() + file.read_bytes())
    shutil.rmtree(output, ignore_errors=True)
    return code, digest.hexdigest() if files or printed else "", said


def judge(
    answer: tuple[int, str, str], good: tuple[int, str, str], path: str, may_skip: bool
) -> str:
    """What a command made of a damaged file: in capitals what it must not."""
    code, written, said = answer
    if code not in (0, 1):
        return "CRASHED" if code == -1 else f"EXIT {code}"
    if "Traceback" in said:
        return "TRACEBACK"
    if code == 1:
        # That it waits for a file it says before.
        lines = [line for line in said.splitlines() if line.startswith("rocktok: ")]
        lines = [line for line in lines if "waiting up to" not in line]
        # `info` prints the whole answer, with the damage in it.
        if len(lines) != 1 and not written:
            return "NOT ONE LINE"
        return "refused" if path in said else "UNNAMED"
    if written == good[1]:
        return "the same bytes"
    return "left out, named" if may_skip and path in said else "ANOTHER ANSWER"


def main() -> None:
    """Print a table of what happened."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", action="store_true", help="every damage meets all commands")
    given = parser.parse_args()
    commands = (lambda _: tuple(COMMANDS)) if given.each else in_turn
    with tempfile.TemporaryDirectory() as folder, campaign.quiet():
        log = write(Path(folder) / "log")
        outcome = run(log, faults(log, given.faults, given.seed), commands, Path(folder))
    by_command: Counter[tuple[str, str]] = Counter()
    for (_, name, result), times in outcome.counts.items():
        by_command[name, result] += times
    print("| command | outcome | times |\n|---|---|---|")
    for (name, result), times in sorted(by_command.items()):
        print(f"| `{name}` | {result} | {times:,} |")
    print("\n| file | outcome | times |\n|---|---|---|")
    by_kind: Counter[tuple[str, str]] = Counter()
    for (kind, _, result), times in outcome.counts.items():
        by_kind[kind, result] += times
    for (kind, result), times in sorted(by_kind.items()):
        print(f"| {kind} | {result} | {times:,} |")
    print(f"\n{len(outcome.wrong)} wrong")
    print(*outcome.wrong[:100], sep="\n")
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
