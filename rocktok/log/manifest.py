"""Small JSON files of a log: how they are sealed; manifests and attempts.

Each carries a CRC32 of its own content: they decide which rows are read, and what the values mean,
so they must not be trusted less than the shards.

A manifest says what one rank has published in one attempt. It is written before the rank's first
shard, and again at every flush.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import rocktok.schema as schema
from rocktok.errors import DamagedError, LogError
from rocktok.files import SMALL_FILE_BYTES
from rocktok.log.shard import ShardEntry, newer_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocktok.files import Place

_RESTORE = "restore it from a copy"


@dataclass(frozen=True)
class Dropped:
    """Records of one step that were given up, and why."""

    table: str
    step: int
    rows: int
    reason: str


@dataclass(frozen=True)
class FileSeal:
    """Bytes and CRC32 of a whole file."""

    size: int
    crc32: int

    @classmethod
    def of(cls, data: bytes) -> FileSeal:
        """The seal of a file's bytes."""
        return cls(len(data), zlib.crc32(data))


@dataclass(frozen=True)
class WeightsInForce:
    """Weights that target tokens had in the trained loss; recorded losses have none.

    Attributes:
        from_step: first optimizer step whose loss they are part of: of the student of that many
            steps.
        found_at: step of the kept text at which the run found them; None: they were given.
        sha256: of the weights file, or of the weights. select: how the types were selected.
        weight, radius: as in the weights file. windows: contexts that were matched.
        token_ids: types that were weighted.
    """

    from_step: int
    found_at: int | None
    sha256: str
    select: str
    weight: float
    radius: int
    windows: int
    token_ids: tuple[int, ...]


@dataclass
class Manifest:
    """What one rank has published in one attempt.

    `steps`: for each table the steps that the rank has finished and published (also those for
    which it had no rows). `mismatches`: step → calls whose recorded loss was not the trainer's.
    `vocab`: vocab.parquet as it was when the attempt began (None: none was there, or not rank 0).
    `publishing`: how the files got their names (see `rocktok.publishing`; None: not known).
    `weights`: of target tokens in the trained loss (rank 0; None: there were none).
    """

    run_id: str
    rank: int
    attempt: int
    final: bool = False
    shards: list[ShardEntry] = field(default_factory=list)
    steps: dict[str, list[int]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    mismatches: dict[int, int] = field(default_factory=dict)
    vocab: FileSeal | None = None
    publishing: str | None = None
    weights: WeightsInForce | None = None

    @property
    def path(self) -> str:
        """Where the manifest stands below the log."""
        return manifest_path(self.rank, self.attempt)

    def next_number(self, table: str) -> int:
        """The running number of the next shard of a table."""
        paths = [entry.path for entry in self.shards if entry.path.startswith(f"{table}/")]
        return max((shard_number(path) for path in paths), default=-1) + 1

    def __post_init__(self) -> None:
        self._encoded: list[_Encoded] = []

    def encode(self) -> bytes:
        """The file's bytes: `dump_json` of all fields.

        It is written at every flush, so each shard is encoded once, and kept so.
        """
        if [one.entry for one in self._encoded] != self.shards[: len(self._encoded)]:
            self._encoded = []
        self._encoded += map(_Encoded.of, self.shards[len(self._encoded) :])
        content = _plain(asdict(replace(self, shards=[])))
        content["schema_version"] = schema.SCHEMA_VERSION
        sealed = _put(_compact(content), '"shards":[]', [one.compact for one in self._encoded], ",")
        shown = _indented({**content, "crc32": zlib.crc32(sealed.encode())})
        shown = _put(shown, '"shards": []', [one.shown for one in self._encoded], ",\n  ")
        return (shown + "\n").encode()


@dataclass(frozen=True)
class _Encoded:
    """A shard's entry as JSON: as its checksum is made of, and as it stands in the file."""

    entry: ShardEntry
    compact: str
    shown: str

    @classmethod
    def of(cls, entry: ShardEntry) -> _Encoded:
        content = _plain(asdict(entry))
        return cls(entry, _compact(content), _indented(content).replace("\n", "\n  "))


def _put(text: str, empty: str, rows: list[str], between: str) -> str:
    """JSON with the rows of an empty list; its key stands nowhere else, for quotes are escaped."""
    if not rows:
        return text
    before, after = text.split(empty)
    key, line = empty.removesuffix("[]"), between.removeprefix(",")
    return f"{before}{key}[{line}{between.join(rows)}{line[:-1]}]{after}"


def manifest_path(rank: int, attempt: int) -> str:
    """Where the manifest of a rank in an attempt stands below the log."""
    return f"manifest/rank-{rank:05d}-{attempt:02d}.json"


def shard_prefix(rank: int, attempt: int) -> str:
    """How the names begin of the shards that a rank publishes in an attempt."""
    return f"rank-{rank:05d}-{attempt:02d}-"


def shard_number(path: str) -> int:
    """The running number in the name of a shard of our writer; -1 for another name."""
    number = path.rsplit("-", 1)[-1].removesuffix(".parquet")
    return int(number) if number.isdecimal() else -1


def dump_json(content: Mapping[str, Any]) -> bytes:
    """A JSON file of a log: with the schema version, and the CRC32 of all the rest."""
    plain = _plain({**content, "schema_version": schema.SCHEMA_VERSION})
    plain["crc32"] = _crc(plain)
    return (_indented(plain) + "\n").encode()


def _crc(content: Mapping[str, Any]) -> int:
    kept = {key: value for key, value in content.items() if key != "crc32"}
    return zlib.crc32(_compact(kept).encode())


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it is read back: with keys that are texts, by which the checksum sorts them."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _compact(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _indented(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


def load_json(where: Place, path: str, *, by_hand: bool = False) -> dict[str, Any]:
    """A JSON object below the log, without its checksum, which is compared.

    `by_hand`: a `crc32` of null is accepted, as people write who change the file.

    Raises `DamagedError`, or `LogError` for a newer version.
    """
    name = where.show(path)
    try:
        content = json.loads(where.read(path, largest=SMALL_FILE_BYTES))
        damaged = isinstance(content, dict) and not _is_sealed(content, by_hand)
    except RecursionError as error:
        raise DamagedError(
            f"{name}: cannot be read as JSON (nested too deeply); {_RESTORE}"
        ) from error
    except MemoryError as error:
        raise DamagedError(
            f"{name}: cannot be read as JSON (it does not fit into memory); {_RESTORE}"
        ) from error
    except (OSError, ValueError) as error:
        raise DamagedError(f"{name}: cannot be read as JSON ({error}); {_RESTORE}") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{name}: is not a JSON object; {_RESTORE}")
    if damaged:
        edited = "; if you have changed it, set its crc32 to null" if by_hand else ""
        raise DamagedError(
            f"{name}: altered or damaged (its CRC32 does not match its content); {_RESTORE}{edited}"
        )
    version = content.get("schema_version", 1)
    if type(version) is not int or version > schema.SCHEMA_VERSION:
        raise LogError(newer_version(name, version))
    content.pop("crc32", None)
    return content


def _is_sealed(content: Mapping[str, Any], by_hand: bool) -> bool:
    """Whether the content is that of its CRC32; files of version 1 have none, but manifests."""
    if "crc32" not in content:
        version = content.get("schema_version", 1)
        return type(version) is int and version < schema.SEALED_VERSION
    if content["crc32"] is None and by_hand:
        return True
    return type(content["crc32"]) is int and content["crc32"] == _crc(content)


def _whole(value: Any) -> int:
    """A number of a JSON file that must be an integer, not negative; `ValueError` otherwise."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def load_manifest(where: Place, path: str) -> Manifest:
    """Read a manifest back. Raises `DamagedError` when its checksum or its keys are off."""
    content = load_json(where, path)
    name = where.show(path)
    try:
        return Manifest(
            run_id=str(content["run_id"]),
            rank=_whole(content["rank"]),
            attempt=_whole(content["attempt"]),
            final=bool(content["final"]),
            shards=[_shard_entry(entry) for entry in content["shards"]],
            steps={table: list(steps) for table, steps in content["steps"].items()},
            dropped=[Dropped(**item) for item in content["dropped"]],
            mismatches={int(step): n for step, n in content["mismatches"].items()},
            vocab=None if content.get("vocab") is None else FileSeal(**content["vocab"]),
            publishing=content.get("publishing"),
            weights=None if content.get("weights") is None else _weights(content["weights"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{name}: not a manifest ({error!r}); {_RESTORE}") from error


def _weights(entry: dict[str, Any]) -> WeightsInForce:
    return WeightsInForce(**{**entry, "token_ids": tuple(map(_whole, entry["token_ids"]))})


def _shard_entry(entry: dict[str, Any]) -> ShardEntry:
    steps = {int(step): rows for step, rows in entry["steps"].items()}
    crcs = tuple(entry.get("chunk_crc32", ()))
    return ShardEntry(**{**entry, "steps": steps, "chunk_crc32": crcs})


def load_manifests(where: Place) -> list[Manifest]:
    """All manifests of a log. Raises `DamagedError`, also for two of one rank in one attempt."""
    by_owner: dict[tuple[int, int], str] = {}
    manifests = []
    for path, _ in where.files("manifest", ".json"):
        manifest = load_manifest(where, path)
        other = by_owner.setdefault((manifest.rank, manifest.attempt), path)
        if other != path:
            raise DamagedError(
                f"{where.show(path)}: is of rank {manifest.rank} in attempt {manifest.attempt}, as "
                f"{where.show(other)} is; keep one"
            )
        manifests.append(manifest)
    return manifests


def remove_strays(where: Place, manifest: Manifest) -> None:
    """Remove temporary files of the rank's earlier attempts, whose processes have ended.

    A rank that ended as it should has left none, so they are looked for only where one did not.
    """
    rank = manifest.rank
    killed = [n for n in range(manifest.attempt) if _was_killed(where, manifest_path(rank, n))]
    prefixes = []
    for attempt in killed:
        prefixes += [shard_prefix(rank, attempt), f"rank-{rank:05d}-{attempt:02d}.json."]
        if rank == 0:
            prefixes += [f"{attempt:02d}.", "run.json.", "vocab.parquet."]
    if prefixes:
        where.remove_temporaries(tuple(prefixes))


def _was_killed(where: Place, path: str) -> bool:
    try:
        return where.exists(path) and not load_manifest(where, path).final
    except LogError:
        return True


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

    def encode(self) -> bytes:
        """The file's bytes."""
        content = {key: value for key, value in asdict(self).items() if value is not None}
        return dump_json(content)


def load_attempt(where: Place, path: str) -> Attempt:
    """Read attempts/<n>.json. Raises `DamagedError`."""
    content = load_json(where, path)
    try:
        columns, fingerprint = content.get("columns"), content.get("fingerprint")
        return Attempt(
            attempt=_whole(content["attempt"]),
            resume_step=_whole(content["resume_step"]),
            world_size=_whole(content["world_size"]),
            columns=None if columns is None else tuple(columns),
            fingerprint=None if fingerprint is None else dict(fingerprint),
        )
    except (KeyError, TypeError, ValueError) as error:
        name = where.show(path)
        raise DamagedError(f"{name}: not an attempt ({error!r}); {_RESTORE}") from error


def load_attempts(where: Place) -> list[Attempt]:
    """All attempts of a log, in order. Raises `DamagedError`, also where one is twice there."""
    by_number: dict[int, tuple[str, Attempt]] = {}
    for path, _ in where.files("attempts", ".json"):
        attempt = load_attempt(where, path)
        other, _ = by_number.setdefault(attempt.attempt, (path, attempt))
        if other != path:
            raise DamagedError(
                f"{where.show(path)}: is attempt {attempt.attempt}, as {where.show(other)} is; "
                "keep one"
            )
    return [attempt for _, (_, attempt) in sorted(by_number.items())]
