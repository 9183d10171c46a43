"""The manifest of a store in Redis: one is made, found again, and told from another one that was made under its name since."""

from __future__ import annotations

import json
import uuid
from typing import Any

from refimpl.retrieve.manifest import check_manifest
from refimpl.retrieve.store import StoreError

FORMAT = "refimpl-redis-1"
REMEMBERED = 10_000  # changes in the stream; a store that slept through more reads all rows again
# by whom a server searches, as behind ``index=``; the manifest has the one it was made with
SERVED = ("vset", "search")


class Entry:
    """``<prefix>manifest`` in a server.

    Attributes:
        kind: by whom the server searches, one of ``SERVED``; None where the processes do.
        new: whether `open` has made it.
    """

    def __init__(self, client: Any, prefix: bytes, name: str) -> None:
        self._redis, self._prefix, self._name = client, prefix, name
        self._key = prefix + b"manifest"
        self._id: str | None = None
        self.kind: str | None = None
        self.new = False

    def open(
        self,
        dim: int | None,
        metric: str,
        encoder: str | None,
        served: str | None,
        index: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """The manifest that is there; a new one where there is none, unless another process is quicker.

        Args:
            dim, metric, encoder: as `open_store`.
            served: one of ``SERVED``, for a store that its server searches.
            index: of that server.
        """
        made = uuid.uuid4().hex
        payload = self._redis.get(self._key)
        if payload is None:
            if dim is None:
                raise ValueError("dim: got None; takes the numbers a vector, as there is no store yet")
            fields = {"format": FORMAT, "dim": dim, "metric": metric, "encoder": encoder}
            fields |= {served: index, "id": made} if served else {"id": made}
            with self._redis.pipeline(transaction=True) as batch:
                batch.set(self._key, json.dumps(fields), nx=True)
                # never empty: the last entry that a store has seen tells whether it missed any
                batch.xadd(self._prefix + b"changes", {"ids": "[]"}, maxlen=REMEMBERED)
                batch.get(self._key)
                payload = batch.execute()[-1]
        found = self._read(payload)
        check_manifest(found, FORMAT, dim, metric, encoder)
        self.kind = next((kind for kind in SERVED if kind in found), None)
        if served not in (None, self.kind):
            raise StoreError(
                f"url: got index={served}; this store was made with index={self.kind or 'local'}, "
                "and its rows are in no other index"
            )
        if encoder is not None and found["encoder"] is None:
            found = self._redis.transaction(
                lambda batch: self._say(batch, encoder), self._key, value_from_callable=True
            )
            check_manifest(found, FORMAT, dim, metric, encoder)
        self._id, self.new = found.get("id"), found.get("id") == made
        return found

    def check_there(self) -> None:
        """Raise `StoreError` if the store that was opened is gone, also if another one has its name now."""
        payload = self._redis.get(self._key)
        if payload is None or self._read(payload).get("id") != self._id:
            raise StoreError(
                f"name: the store {self._name!r} is gone from the server; open it again to make it"
            )

    def _say(self, batch: Any, encoder: str) -> dict[str, Any]:
        """Of a store that knows no encoder: the first to say it decides."""
        found = self._read(batch.get(self._key))
        batch.multi()
        if found["encoder"] is None:
            found["encoder"] = encoder
            batch.set(self._key, json.dumps(found))
        return found

    def _read(self, payload: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(payload))
        except (ValueError, TypeError) as error:
            raise StoreError(f"name: {self._name!r} has no readable manifest ({error})") from error
