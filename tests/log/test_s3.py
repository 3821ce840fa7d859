"""A log on object storage: a real S3 protocol over HTTP, served on this machine."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rocktok
from rocktok.errors import LogError
from rocktok.log import LogWriter
from tests.logs import RUN, alternatives_rows, context_rows, rows, sequence_rows
from tests.processes import run_command, wait_until

pytest.importorskip("moto.server")

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Address of an empty bucket."""
    port = _free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stderr=subprocess.DEVNULL,
    )
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    try:
        wait_until(lambda: _answers(port), server)
        from pyarrow.fs import S3FileSystem

        options = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http"}
        S3FileSystem(**options, region="us-east-1", allow_bucket_creation=True).create_dir("logs")
        yield f"s3://logs/%s?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def test_written_to_and_read_from_a_bucket(bucket: str, tmp_path: Path) -> None:
    for target in (bucket % "run", tmp_path / "run"):
        with LogWriter(target, run=RUN) as writer:
            writer.write(sequence_rows(range(40)), table="sequences")
            for step in (0, 10):
                writer.write(rows(step, range(40)), table="fixed")
    far, near = rocktok.open(bucket % "run"), rocktok.open(tmp_path / "run")
    assert [s.path for s in far.shards("fixed")] == [s.path for s in near.shards("fixed")]
    options = {"all_types": True, "quantile_pre": 0.5}
    a, b = (rocktok.detect(log, **options) for log in (far, near))
    assert a.tokens == b.tokens


def test_the_tables_beside_fixed_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    with LogWriter(bucket % "beside", run=RUN) as writer:
        writer.write(rows(0, range(4)), table="fixed")
        writer.write(alternatives_rows(0, range(4)), table="alternatives")
        writer.write(context_rows(0, range(4)), table="contexts")
    rocktok.compact(bucket % "beside", tmp_path / "near")
    far, near = rocktok.open(bucket % "beside"), rocktok.open(tmp_path / "near")
    for table, columns in (
        ("alternatives", ["teacher_ids", "teacher_probs"]),
        ("contexts", ["context"]),
    ):
        (one,), (other,) = (list(log.scan(table, columns)) for log in (far, near))
        for name in columns:
            np.testing.assert_array_equal(one.columns[name], other.columns[name])
    assert rocktok.info(far, verify=True).damage == ()


def test_the_command_line_reads_an_address(bucket: str) -> None:
    with LogWriter(bucket % "cli", run=RUN) as writer:
        writer.write(rows(0, range(4)))
    code, printed, error = run_command("info", bucket % "cli", "--verify")
    assert code == 0, error
    assert "48 rows in 1 shard" in printed


def test_nothing_there_is_one_line(bucket: str) -> None:
    with pytest.raises(LogError, match=r"^s3://logs/nowhere: no such directory"):
        rocktok.open(bucket % "nowhere")


def test_a_damaged_object_is_named(bucket: str) -> None:
    with LogWriter(bucket % "bad", run=RUN) as writer:
        writer.write(rows(0, range(4)))
    where = rocktok.open(bucket % "bad").place
    (shard,) = rocktok.open(bucket % "bad").shards("rollout")
    data = bytearray(where.read(shard.path))
    data[40] ^= 1
    where.replace(shard.path, bytes(data))
    with pytest.raises(LogError, match=r"s3://logs/bad/rollout/.*: row group 0, column"):
        list(rocktok.open(bucket % "bad").scan("rollout", ["loss"]))


# The client asks again for some seconds where the status is 500.
@pytest.mark.parametrize("status", [403, pytest.param(500, marks=pytest.mark.long)])
def test_a_storage_that_refuses_is_one_line(status: int, bucket: str) -> None:
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET
        do_PUT = do_GET

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    try:
        log = f"s3://logs/run?endpoint_override={address}&scheme=http&region=us-east-1"
        code, printed, error = run_command("info", log)
    finally:
        server.shutdown()
    assert (code, printed) == (1, "")
    assert error.startswith("rocktok: s3://logs/run: the storage failed (")
    assert error.count("\n") == 1
