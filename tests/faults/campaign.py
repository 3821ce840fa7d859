"""Damages a log in every way that is asked for, and counts what the commands make of it.

    python tests/faults/campaign.py                everything; see --help for parts of it
    python tests/faults/campaign.py --by-hand      headers of a log that no manifest vouches for

Each damaged log is read by `detect`, `attribute`, `stagnation` and `info --verify`, and row by row
(`Log.scan`). Each must refuse it, in a line that names the damaged file, or answer with the same
bytes as before.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import rocktok
from rocktok.analyses.info.passes import info
from rocktok.engine.passes import Engine
from rocktok.errors import RocktokError
from rocktok.log import LogWriter, opening
from rocktok.log.chunks import chunks_of
from rocktok.log.pages import pages_of
from tests.logs import (
    RUN,
    alternatives_rows,
    context_rows,
    rows,
    sequence_rows,
    write_by_hand,
)

SEQUENCES = 40
TOKENS = 12


def write_small(path: Path) -> Path:
    """Two attempts of one run, the second of which does a step again; every table but rollout.

    Alternatives stand at half of the positions of the last step, contexts at the first.
    """
    vocab = [(i, f"t{i}", b"t%d" % i) for i in range(50)]
    for resume, steps in ((0, (0, 20)), (20, (20,))):
        with LogWriter(
            path, run=RUN, resume_step=resume, columns=["grad_norm"], vocab=vocab
        ) as writer:
            if resume == 0:
                writer.write(sequence_rows(range(SEQUENCES)), table="sequences")
            for step in steps:
                writer.write(_scored(step, resume), table="fixed")
                writer.finish_step(step, "fixed")
                if step == 0:
                    writer.write(context_rows(0, range(SEQUENCES), TOKENS), table="contexts")
                    writer.finish_step(0, "contexts")
                writer.flush()
            if resume:
                writer.write(_half(20), table="alternatives")
                writer.finish_step(20, "alternatives")
                writer.write(_sums(20), table="gradients")
                writer.finish_step(20, "gradients")
    return path


def write_small_by_hand(path: Path) -> Path:
    """The same rows as pandas writes them: no manifest, no checksum of pages."""
    for step in (0, 20):
        write_by_hand(path, _scored(step, step), f"step-{step}")
    lists = {name: list(v) if v.ndim == 2 else v for name, v in _half(20).items()}
    write_by_hand(path, lists, "all", table="alternatives")
    contexts = context_rows(0, range(SEQUENCES), TOKENS)
    as_bytes = [row.tobytes() for row in contexts["context"]]
    write_by_hand(path, {**contexts, "context": as_bytes}, "all", table="contexts")
    return write_by_hand(path, sequence_rows(range(SEQUENCES)), "all", table="sequences")


def _scored(step: int, resume: int) -> dict[str, np.ndarray]:
    batch = rows(step, range(SEQUENCES), tokens=TOKENS)
    # Hard types, so that there is something to be found, and to be lost.
    batch["loss"] = batch["loss"] + np.float32(3 + resume / 10) * (batch["token_id"] < 5)
    batch["grad_norm"] = batch["loss"] * np.float32(0.5)
    return batch


def _half(step: int) -> dict[str, np.ndarray]:
    whole = alternatives_rows(step, range(SEQUENCES), TOKENS)
    return {name: values[::2] for name, values in whole.items()}


def _sums(step: int) -> dict[str, np.ndarray]:
    kinds = [("type", 3), ("type", 7), ("global", -1), ("balanced", -1)] * 2
    n = len(kinds)
    return {
        "step": np.full(n, step),
        "half": np.repeat([0, 1], n // 2),
        "kind": np.array([kind for kind, _ in kinds]),
        "token_id": np.array([token for _, token in kinds]),
        "count": np.full(n, 3),
        "norm_sum": np.full(n, 1.5),
        "square_sum": np.full(n, 2.5),
        "vector": np.random.default_rng(0).normal(size=(n, 50)).astype(np.float32),
        "vocab_size": np.full(n, 50),
        "sketch_dims": np.zeros(n, int),
        "seed": np.zeros(n, int),
    }


@dataclass(frozen=True)
class Fault:
    """One damage to one file; `data` None: the file is gone."""

    kind: str
    path: str
    what: str
    data: bytes | None


def header_flips(log: Path) -> Iterator[Fault]:
    """Every single bit of every page header of every shard."""
    for path in sorted(log.rglob("*.parquet")):
        data = path.read_bytes()
        for start, stop in page_headers(path):
            yield from _flips("page header", log, path, data, range(8 * start, 8 * stop))


def json_flips(log: Path) -> Iterator[Fault]:
    """Every single bit of every JSON file."""
    for path in sorted(log.rglob("*.json")):
        data = path.read_bytes()
        yield from _flips("JSON", log, path, data, range(8 * len(data)))


def removals(log: Path) -> Iterator[Fault]:
    """Every file gone."""
    for path in sorted(p for p in log.rglob("*") if p.is_file()):
        yield Fault("removed", path.relative_to(log).as_posix(), "removed", None)


def mutations(log: Path, count: int, seed: int) -> Iterator[Fault]:
    """Random damage of many kinds to files drawn by their size."""
    paths = sorted(p for p in log.rglob("*") if p.is_file())
    sizes = np.array([p.stat().st_size for p in paths], dtype=float)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        path = paths[int(rng.choice(len(paths), p=np.sqrt(sizes) / np.sqrt(sizes).sum()))]
        data = path.read_bytes()
        kind = str(rng.choice(list(WAYS)))
        changed = WAYS[kind](bytearray(data), rng)
        if changed != data:
            yield Fault(kind, path.relative_to(log).as_posix(), kind, bytes(changed))


def _flips(kind: str, log: Path, path: Path, data: bytes, bits: Iterable[int]) -> Iterator[Fault]:
    name = path.relative_to(log).as_posix()
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield Fault(kind, name, f"byte {bit // 8}, bit {bit % 8}", bytes(changed))


def _flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(len(data), size=int(rng.integers(1, 4))).tolist():
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _overwrite(data: bytearray, rng: np.random.Generator) -> bytearray:
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
    part = data[at : at + length]
    data[at : at + length] = rng.bytes(len(part))
    return data


def _zero(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data)))
    part = data[at : at + 512]
    data[at : at + 512] = bytes(len(part))
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data)))]


def _lengthen(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data + rng.bytes(int(rng.integers(1, 100)))


def _lose_bytes(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data)))
    del data[at : at + int(rng.integers(1, 16))]
    return data


def _insert_bytes(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data)))
    data[at:at] = rng.bytes(int(rng.integers(1, 16)))
    return data


def _repeat_block(data: bytearray, rng: np.random.Generator) -> bytearray:
    source, target = rng.integers(len(data), size=2).tolist()
    block = data[source : source + 64]
    data[target : target + len(block)] = block
    return data


WAYS: dict[str, Callable[[bytearray, np.random.Generator], bytearray]] = {
    "bits flipped": _flip,
    "bytes overwritten": _overwrite,
    "block of zeros": _zero,
    "cut short": _cut,
    "lengthened": _lengthen,
    "bytes lost": _lose_bytes,
    "bytes inserted": _insert_bytes,
    "block repeated": _repeat_block,
}


def page_headers(path: Path) -> Iterator[tuple[int, int]]:
    """(first byte, end) of each page header of a Parquet file."""
    data = path.read_bytes()
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        for chunk in chunks_of(metadata, group):
            for page in pages_of(data[chunk.start : chunk.stop]):
                yield chunk.start + page.start, chunk.start + page.end


#: Name → the answer as text. Damage that `info` reports is raised, as the command does.
READERS: dict[str, Callable[[Path], str]] = {
    "detect": lambda log: rocktok.detect(log, all_types=True, rule="top-k").to_json(),
    "attribute": lambda log: rocktok.attribute(log).to_json(),
    "stagnation": lambda log: rocktok.stagnation(log).to_json(),
    "info --verify": lambda log: _verified(log),
    "scan": lambda log: _scanned(log),
}

#: What `scan` reads beside the keys.
_READ = {
    "fixed": ("token_id", "loss"),
    "alternatives": ("student_ids", "student_probs", "teacher_ids", "teacher_probs"),
    "contexts": ("context",),
}


def _verified(log: Path) -> str:
    with Engine(1) as engine:
        result = info(log, verify=True, engine=engine)
    if result.damage:
        raise RocktokError("\n".join(result.damage))
    return result.to_json()


def _scanned(path: Path) -> str:
    """A digest of every row that counts."""
    log = rocktok.open(path)
    digest = hashlib.blake2b()
    for table, columns in _READ.items():
        for part in log.scan(table, columns):
            for values in part.columns.values():
                digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


@dataclass
class Outcome:
    """How often each thing happened, and what must not."""

    counts: Counter[tuple[str, str, str]]
    wrong: list[str]


def run(log: Path, faults: Iterable[Fault], commands: Iterable[str] = tuple(READERS)) -> Outcome:
    """Do one fault after another to a log, each undone again, and read it with every command."""
    readers = {name: READERS[name] for name in commands}
    good = {name: _answer(read, log, "")[1] for name, read in readers.items()}
    outcome = Outcome(Counter(), [])
    for number, fault in enumerate(faults):
        if number and number % 1000 == 0:
            print(f"{number:,} faults, {len(outcome.wrong)} wrong", file=sys.__stderr__)
        path = log / fault.path
        data = path.read_bytes()
        if fault.data is None:
            path.unlink()
        else:
            path.write_bytes(fault.data)
        try:
            for name, read in readers.items():
                result, said = _answer(read, log, fault.path)
                if result == "answered":
                    result = "the same bytes" if said == good[name] else "WRONG"
                outcome.counts[fault.kind, name, result] += 1
                if result.isupper():
                    what = said if result != "WRONG" else "another answer"
                    outcome.wrong.append(f"{name}: {fault.path} ({fault.what}): {result}: {what}")
        finally:
            path.write_bytes(data)
    return outcome


def _answer(read: Callable[[Path], str], log: Path, path: str) -> tuple[str, str]:
    try:
        return "answered", read(log)
    except RocktokError as error:
        said = str(error)
        named = str(log / path) in said
        return ("refused" if named else "UNNAMED"), said
    except Exception as error:
        return "CRASHED", repr(error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No waiting for files, and no warnings."""
    wait, opening.MISSING_WAIT = opening.MISSING_WAIT, 0.0
    logger = logging.getLogger("rocktok")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        opening.MISSING_WAIT, logger.disabled = wait, disabled


FAULTS = {
    "mutations": lambda log, given: mutations(log, given.mutations, given.seed),
    "headers": lambda log, given: header_flips(log),
    "json": lambda log, given: json_flips(log),
    "removed": lambda log, given: removals(log),
}


def main() -> None:
    """Print how each kind of damage came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--only", choices=FAULTS, nargs="+", default=list(FAULTS))
    parser.add_argument("--commands", choices=READERS, nargs="+", default=list(READERS))
    parser.add_argument("--sample", type=int, help="no more faults of a kind than that")
    parser.add_argument("--by-hand", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        write = write_small_by_hand if given.by_hand else write_small
        write(log)
        print("| damage | command | outcome | times |")
        wrong = []
        for kind in given.only:
            if given.by_hand and kind in ("json", "removed", "mutations"):
                continue
            faults = list(FAULTS[kind](log, given))
            if given.sample is not None and given.sample < len(faults):
                faults = random.Random(given.seed).sample(faults, given.sample)
            with quiet():
                outcome = run(log, faults, given.commands)
            for (damage, name, result), times in sorted(outcome.counts.items()):
                print(f"| {damage} | {name} | {result} | {times:,} |", flush=True)
            wrong += outcome.wrong
        shutil.rmtree(log)
    print(f"{len(wrong)} wrong")
    print(*wrong[:100], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
