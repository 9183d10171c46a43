"""A store's folder: the rows, ids and metadata, the index, and the manifest that says which files count.

    manifest.json            format, dimension, metric, dtype, encoder, count, and name, bytes, SHA-256 of:
    vectors-<sha>.npy        [rows, dim] little-endian float32, as given
    rows-<sha>.json          {"ids": [...], "metadata": [...]}; an id of null is a deleted row
    index-<sha>.faiss        derived from the vectors; rebuilt when it is missing or does not fit

New files are written beside the old ones and brought to the disk; then the manifest is replaced in one
step; then old files go. Whatever interrupts this, the folder holds the old state or the new one, whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.files import replace_file, sync_folder
from refimpl.retrieve.store import StoreError

MANIFEST = "manifest.json"
FORMAT = "refimpl-store-1"
ATTEMPTS = 3
STALE = ("vectors-*.npy", "rows-*.json", "index-*.faiss", ".writing-*")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is no store yet.

    Raises:
        StoreError: not a folder; a manifest that was truncated or altered, or of another format.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"url: got {folder.name!r}, a file; takes a folder")
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    try:
        manifest: dict[str, Any] = json.loads(text)
        form, checksum = manifest["format"], manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"manifest: not readable ({error}): the file was truncated or altered") from error
    if form != FORMAT:
        raise StoreError(f"manifest: got format {form!r}; takes {FORMAT!r}")
    if checksum != _digest(manifest):
        raise StoreError("manifest: its checksum does not fit: the file was truncated or altered")
    return manifest


def read(folder: Path) -> tuple[dict[str, Any], np.ndarray, list[str | None], list[Any], bytes | None] | None:
    """``(manifest, vectors, ids, metadata, index or None)``, or None where there is no store yet.

    Raises:
        StoreError: as `read_manifest`; rows that are missing, truncated or altered.
    """
    for attempt in range(1, ATTEMPTS + 1):
        found = read_manifest(folder)
        if found is None:
            return None
        manifest, entries = found, found["files"]
        try:
            vectors, text = _read_file(folder, entries["vectors"]), _read_file(folder, entries["rows"])
            break
        except FileNotFoundError as error:  # a writer may have replaced them since the manifest was read
            if attempt == ATTEMPTS:
                raise StoreError(f"folder: got no file {Path(str(error.filename)).name!r}") from None
    rows = json.loads(text)
    array = np.load(io.BytesIO(vectors), allow_pickle=False)
    if array.dtype != "<f4" or array.shape != (len(rows["ids"]), manifest["dim"]):
        raise StoreError(f"vectors: got {array.dtype} {array.shape}; the manifest says otherwise")
    index = None
    if "index" in entries:
        try:
            index = _read_file(folder, entries["index"])
        except (FileNotFoundError, StoreError):
            index = None  # derived: built again
    return manifest, array, rows["ids"], rows["metadata"], index


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go with the process.

    Raises:
        StoreError: another writer has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":  # no lock there: what is written is compared with what was read, no more
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)  # the folder itself: no file more in it
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"folder: {folder.name!r} is being written by another writer; open it again"
            ) from None
        except OSError:  # a file system without locks: as where there are none
            pass
        yield
    finally:
        os.close(handle)


def write(
    folder: Path,
    fields: dict[str, Any],
    vectors: np.ndarray,
    ids: list[str | None],
    metadata: list[Any],
    index: bytes | None,
) -> dict[str, Any]:
    """Replace the folder's state in one step and return the new manifest; `fields` are its first entries."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype("<f4", copy=False), allow_pickle=False)
    rows = json.dumps({"ids": ids, "metadata": metadata}, ensure_ascii=False, allow_nan=False).encode()
    files = {
        "vectors": _write_file(folder, "vectors-{}.npy", buffer.getvalue()),
        "rows": _write_file(folder, "rows-{}.json", rows),
    }
    if index is not None:
        files["index"] = _write_file(folder, "index-{}.faiss", index)
    manifest: dict[str, Any] = {"format": FORMAT, **fields, "dtype": "<f4", "files": files}
    manifest["sha256"] = _digest(manifest)
    sync_folder(folder)
    replace_file(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    sync_folder(folder)
    kept = {entry["name"] for entry in files.values()}
    for pattern in STALE:
        for old in folder.glob(pattern):
            if old.name not in kept:
                old.unlink(missing_ok=True)
    return manifest


def _read_file(folder: Path, entry: dict[str, Any]) -> bytes:
    payload = (folder / Path(entry["name"]).name).read_bytes()
    if len(payload) != entry["bytes"] or hashlib.sha256(payload).hexdigest() != entry["sha256"]:
        raise StoreError(f"{entry['name']}: its checksum does not fit: the file was truncated or altered")
    return payload


def _write_file(folder: Path, name: str, payload: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(payload).hexdigest()
    name = name.format(digest[:16])
    replace_file(folder / name, payload)
    return {"name": name, "bytes": len(payload), "sha256": digest}


def _digest(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
