"""What a store says of itself, and whether it is the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refimpl.retrieve.store import StoreError


def check_manifest(
    found: Mapping[str, Any], form: str, dim: int | None, metric: str, encoder: str | None
) -> None:
    """Refuse a store of another format, dimension, metric or encoder; what is None on either side is not compared.

    Raises:
        StoreError: naming what was asked for and what the store was made with.
    """
    if found.get("format") != form:
        raise StoreError(f"manifest: got format {found.get('format')!r}; takes {form!r}")
    for field, got in (("dim", dim), ("metric", metric), ("encoder", encoder)):
        if got is not None and found[field] is not None and got != found[field]:
            raise StoreError(f"{field}: got {got!r}; this store was made with {found[field]!r}")
