"""Files that a crash leaves whole: the old content or the new one, never a part of either."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["replace_file", "sync_folder"]


def replace_file(path: str | os.PathLike[str], payload: bytes) -> None:
    """Give ``path`` the content ``payload`` in one step, on the disk when this returns.

    The bytes go to a temporary file ``.writing-*`` beside ``path``, are brought to the disk, and the file is
    renamed. A process killed meanwhile leaves at most that temporary file behind.

    Args:
        path: in a folder that exists.
        payload: all of the new content.

    Raises:
        TypeError: ``payload`` is not bytes.
        OSError: the folder is not there, is full, or may not be written; ``path`` is then as it was.
    """
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError(f"payload: got {type(payload).__name__}; takes bytes")
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring a folder's entries to the disk, so that a renamed file survives a power cut too.

    Does nothing where the system cannot open a folder (Windows).

    Raises:
        OSError: no such folder.
    """
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
