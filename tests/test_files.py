"""Publishing: whole or not at all, never over another file, on filesystems that lack things."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import rocktok
from rocktok import files, publishing
from rocktok.analyses.info.passes import info
from rocktok.log import LogWriter
from tests.logs import RUN, rows, write_log

LACKING = [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP]


def without(
    monkeypatch: pytest.MonkeyPatch, link: int | None = None, rename: int | None = None
) -> None:
    """A filesystem whose calls answer with these error numbers."""

    def refuse(code: int) -> None:
        raise OSError(code, os.strerror(code))

    if link is not None:
        monkeypatch.setattr(publishing.os, "link", lambda *_: refuse(link))
    if rename is not None:
        monkeypatch.setattr(publishing, "_rename_exclusive", lambda *_: refuse(rename))


@pytest.mark.parametrize("code", LACKING)
def test_without_links_and_rename_flags_a_claim_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    without(monkeypatch, link=code, rename=code)
    target = tmp_path / "x"
    assert publishing.create_file(target, b"first") == "claim and rename"
    with pytest.raises(FileExistsError):
        publishing.create_file(target, b"second")
    assert target.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_each_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert publishing.create_file(tmp_path / "a", b"") == "link"
    without(monkeypatch, link=errno.ENOSYS)
    assert publishing.create_file(tmp_path / "b", b"") == "exclusive rename"


@pytest.mark.parametrize("call", ["link", "rename"])
def test_a_disk_that_fails_is_no_filesystem_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    without(monkeypatch, **{"link": errno.EPERM, call: errno.EIO})
    with pytest.raises(OSError, match="Input/output error"):
        publishing.create_file(tmp_path / "x", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_claimed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, link=errno.EINVAL, rename=errno.EINVAL)
    claim = tmp_path / ".x.claim"
    claim.touch()
    with pytest.raises(OSError, match=r"another process is giving this name.*\.x\.claim") as error:
        publishing.create_file(tmp_path / "x", b"data")
    assert not isinstance(error.value, FileExistsError)
    assert [p.name for p in tmp_path.iterdir()] == [".x.claim"]


def test_a_reader_never_sees_a_claimed_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is claimed is a hidden name: the shard is there whole, or not at all."""
    without(monkeypatch, link=errno.EINVAL, rename=errno.EINVAL)
    seen: list[list[str]] = []
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        seen.append([path for path, _ in files.place(tmp_path).files("fixed", ".parquet")])
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    write_log(tmp_path, steps=(0,))
    assert [] in seen
    assert all(path.endswith(".parquet") for paths in seen for path in paths)
    log = rocktok.open(tmp_path)
    assert info(log, verify=True).damage == ()
    assert [rank["publishing"] for rank in info(log).ranks] == ["claim and rename"]


def test_the_log_says_how_its_files_were_published(tmp_path: Path) -> None:
    write_log(tmp_path)
    assert [rank["publishing"] for rank in info(tmp_path).ranks] == ["link"]
    with LogWriter("memory://published", run=RUN) as writer:
        writer.write(rows(0, range(3)))
    assert [rank["publishing"] for rank in info("memory://published").ranks] == ["put"]


# -- temporary files of processes that were killed -------------------------------------------


STRAYS = (
    "fixed/step-00000000/.rank-00000-00-00007.parquet.0123456789ab.tmp",
    "fixed/step-00000000/.rank-00001-00-00007.parquet.0123456789ab.tmp",
    "manifest/.rank-00000-00.json.0123456789ab.tmp",
    "kept/.00.parquet.0123456789ab.tmp",
    "fixed/step-00000000/.rank-00000-00-00008.parquet.claim",
)


def killed(path: Path) -> Path:
    """A log whose rank 0 has no final mark, with temporary files of two ranks."""
    writer = LogWriter(path, run=RUN)
    writer.write(rows(0, range(5)), table="fixed")
    writer.close(final=False)
    for name in STRAYS:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"half")
    return path


def test_info_names_temporary_files(tmp_path: Path) -> None:
    result = info(killed(tmp_path))
    assert result.temporary_files == tuple(sorted(STRAYS))
    for name in STRAYS:
        assert any(note.startswith(f"{name}: a temporary file") for note in result.notes)


def test_the_next_attempt_of_the_rank_removes_them(tmp_path: Path) -> None:
    killed(tmp_path)
    LogWriter(tmp_path, run=RUN, resume_step=1).close()
    assert info(tmp_path).temporary_files == (STRAYS[1],)


def test_those_of_a_rank_that_may_write_still_stay(tmp_path: Path) -> None:
    """Names of the attempt itself, and of attempts that have ended as they should."""
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(rows(0, range(5)), table="fixed")
    stray = tmp_path / "fixed/step-00000000/.rank-00000-01-00000.parquet.0123456789ab.tmp"
    stray.write_bytes(b"half")
    LogWriter(tmp_path, run=RUN, resume_step=1).close()
    assert stray.exists()


def test_compact_leaves_them_behind(tmp_path: Path) -> None:
    killed(tmp_path / "log")
    rocktok.compact(tmp_path / "log", tmp_path / "out")
    assert info(tmp_path / "out").temporary_files == ()
