"""Small JSON files of a log: manifests and attempts.

A manifest says what one rank has published in one attempt. It is rewritten at every flush, and
carries a CRC32 of its own content: it decides which rows are read, so it must not be trusted less
than the shards.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import rocktok.schema as schema
from rocktok.errors import DamagedError, LogError
from rocktok.log.shard import ShardEntry, newer_version

if TYPE_CHECKING:
    from rocktok.files import Place


@dataclass(frozen=True)
class Dropped:
    """Records of one step that were given up, and why."""

    table: str
    step: int
    rows: int
    reason: str


@dataclass
class Manifest:
    """What one rank has published in one attempt.

    `steps`: for each table the steps that the rank has finished and published (also those for
    which it had no rows). `mismatches`: step → calls whose recorded loss was not the trainer's.
    """

    run_id: str
    rank: int
    attempt: int
    final: bool = False
    shards: list[ShardEntry] = field(default_factory=list)
    steps: dict[str, list[int]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    mismatches: dict[int, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the manifest stands below the log."""
        return f"manifest/rank-{self.rank:05d}-{self.attempt:02d}.json"

    def next_number(self, table: str) -> int:
        """The running number of the next shard of a table."""
        paths = [entry.path for entry in self.shards if entry.path.startswith(f"{table}/")]
        return max((shard_number(path) for path in paths), default=-1) + 1

    def encode(self) -> bytes:
        """The file's bytes."""
        content = {"schema_version": schema.SCHEMA_VERSION, **asdict(self)}
        content = json.loads(json.dumps(content))
        content["crc32"] = _crc(content)
        return dump_json(content)


def shard_prefix(rank: int, attempt: int) -> str:
    """How the names begin of the shards that a rank publishes in an attempt."""
    return f"rank-{rank:05d}-{attempt:02d}-"


def shard_number(path: str) -> int:
    """The running number in the name of a shard of our writer; -1 for another name."""
    number = path.rsplit("-", 1)[-1].removesuffix(".parquet")
    return int(number) if number.isdecimal() else -1


def dump_json(content: Any) -> bytes:
    """JSON bytes as every small file of a log is written."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _crc(content: dict[str, Any]) -> int:
    kept = {key: value for key, value in content.items() if key != "crc32"}
    return zlib.crc32(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode())


def load_json(where: Place, path: str) -> dict[str, Any]:
    """A JSON object below the log. Raises `DamagedError`, or `LogError` for a newer version."""
    name = where.show(path)
    try:
        content = json.loads(where.read(path))
    except (OSError, ValueError) as error:
        raise DamagedError(
            f"{name}: cannot be read as JSON ({error}); restore it from a copy"
        ) from error
    if not isinstance(content, dict):
        raise DamagedError(f"{name}: is not a JSON object; restore it from a copy")
    version = content.get("schema_version", 1)
    if not isinstance(version, int) or version > schema.SCHEMA_VERSION:
        raise LogError(newer_version(name, version))
    return content


def load_manifest(where: Place, path: str) -> Manifest:
    """Read a manifest back. Raises `DamagedError` when its checksum or its keys are off."""
    content = load_json(where, path)
    name = where.show(path)
    if content.get("crc32") != _crc(content):
        raise DamagedError(
            f"{name}: altered or damaged (its CRC32 does not match its content); restore it from "
            "a copy"
        )
    try:
        return Manifest(
            run_id=str(content["run_id"]),
            rank=int(content["rank"]),
            attempt=int(content["attempt"]),
            final=bool(content["final"]),
            shards=[
                ShardEntry(**{**entry, "steps": {int(s): n for s, n in entry["steps"].items()}})
                for entry in content["shards"]
            ],
            steps={table: list(steps) for table, steps in content["steps"].items()},
            dropped=[Dropped(**item) for item in content["dropped"]],
            mismatches={int(step): n for step, n in content["mismatches"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{name}: not a manifest ({error!r}); restore it from a copy") from error


@dataclass(frozen=True)
class Attempt:
    """One start of the training job: rows of earlier attempts at `resume_step` or later are void.

    `columns`: the optional columns that the attempt records; `fingerprint`: its models and loss,
    by name. All attempts of a log agree in both; None: not known.
    """

    attempt: int
    resume_step: int
    world_size: int
    columns: tuple[str, ...] | None = None
    fingerprint: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        """Where the attempt stands below the log."""
        return f"attempts/{self.attempt:02d}.json"


def load_attempt(where: Place, path: str) -> Attempt:
    """Read attempts/<n>.json. Raises `DamagedError`."""
    content = load_json(where, path)
    try:
        columns, fingerprint = content.get("columns"), content.get("fingerprint")
        return Attempt(
            attempt=int(content["attempt"]),
            resume_step=int(content["resume_step"]),
            world_size=int(content["world_size"]),
            columns=None if columns is None else tuple(columns),
            fingerprint=None if fingerprint is None else dict(fingerprint),
        )
    except (KeyError, TypeError, ValueError) as error:
        name = where.show(path)
        raise DamagedError(f"{name}: not an attempt ({error!r}); restore it from a copy") from error


def load_attempts(where: Place) -> list[Attempt]:
    """All attempts of a log, in order."""
    paths = [path for path, _ in where.files("attempts") if path.endswith(".json")]
    return sorted((load_attempt(where, path) for path in paths), key=lambda a: a.attempt)
