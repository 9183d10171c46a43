"""A Redis server for tests: the one of REDIS_URL, or one of our own in a folder, stopped at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REQUIRED = (
    os.environ.get("REFIMPL_REQUIRE_REDIS") == "1"
)  # set by .ci/run: there a missing server is an error


class OwnServer:
    """``redis-server`` on a socket in a folder; it can be killed and started again on the same files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--save", "", *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 20
        while (
            subprocess.run(["redis-cli", "-s", str(self.socket), "ping"], capture_output=True).stdout
            != b"PONG\n"
        ):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError("redis-server does not answer")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut: no time to save anything."""
        self.process.kill()
        self.process.wait()


def available() -> bool:
    if shutil.which("redis-server") or os.environ.get("REDIS_URL"):
        return True
    if REQUIRED:
        raise RuntimeError("REFIMPL_REQUIRE_REDIS is set and there is no redis-server")
    return False


needs_redis = pytest.mark.skipif(not available(), reason="no redis-server on PATH and no REDIS_URL")


@contextmanager
def own_server(*options: str) -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # a socket's path must be short
        server = OwnServer(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()
