"""Tables from the Hugging Face Hub (GLUE, WikiText, ...) or from a folder in the Hub's layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_table"]

# What the benchmarks of the papers are called on the Hub.
HUB_NAMES = {"glue": "nyu-mll/glue", "wikitext": "Salesforce/wikitext"}


def load_table(
    name_or_path: str | Path,
    config: str | None = None,
    *,
    split: str = "train",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """One split of a dataset as a `datasets.Dataset`: rows are dictionaries, columns are lists.

        load_table("glue", "sst2", split="validation")
        load_table("wikitext", "wikitext-2-raw-v1", split="test")
        load_table("folder/of/your/own", split="train")

    A folder is laid out as on the Hub: files called after their split (``train.csv``,
    ``data/train-00000-of-00001.parquet``, ``test.jsonl``), in a folder for each config if there are
    several, with or without the README that lists them. A name needs a network the first time, after
    that the local cache is enough.

    Args:
        name_or_path: a folder; ``"glue"`` or ``"wikitext"``; or any dataset's name on the Hub.
        config: which of its configs, e.g. ``"sst2"``.
        split: ``"train"``, ``"validation"``, ``"test"``, or as `datasets` takes it (``"train[:1000]"``).
        revision: branch, tag or commit on the Hub; with a folder it must be ``None``.
        cache_dir: where `datasets` keeps its files; its own default when ``None``.

    Raises:
        ModuleNotFoundError: the package ``datasets`` is not installed.
        FileNotFoundError: no such folder, or no data files in it.
        ValueError: unknown config or split; a revision with a folder.
        OSError: the name is neither in the cache nor reachable on the Hub.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if local and revision is not None:
        raise ValueError(f"revision: got {revision!r} with a folder; takes None there")
    is_path = isinstance(name_or_path, Path) or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1
    if is_path and not local:
        raise FileNotFoundError(f"name_or_path: got {name!r}; takes an existing folder or a name on the Hub")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("load_table: not installed; run: pip install datasets") from error
    options: dict[str, Any] = {"revision": revision}
    options["cache_dir"] = None if cache_dir is None else str(cache_dir)
    target = str(folder) if local else HUB_NAMES.get(name, name)
    if local and config is not None and not (folder / "README.md").is_file():
        if not (folder / config).is_dir():
            known = sorted(p.name for p in folder.iterdir() if p.is_dir())
            raise ValueError(f"config: got {config!r}; takes one of {known}")
        options["data_dir"] = config  # without a README the folder's name is the config's
    elif config is not None:
        options["name"] = config
    try:
        with _no_progress_bar():
            return datasets.load_dataset(target, split=split, **options)
    except FileNotFoundError as error:
        if not local:
            raise  # the library says best what the Hub does not have
        message = f"name_or_path: got {name!r} without data files; takes the Hub's layout"
        raise FileNotFoundError(message) from error
    except ConnectionError as error:
        raise OSError(
            f"name_or_path: got {name!r}; it is no folder, not in the local cache, and the Hub cannot be "
            "reached; takes a folder in the Hub's layout, or a name when there is a network"
        ) from error


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()
