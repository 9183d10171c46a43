"""Run notebooks top to bottom and write reproducible, reviewable files: ``python -m book_kit.run FILE...``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

SCRUB = [  # a machine's paths never reach a committed output
    (re.compile(r"/[^\s:'\"]*/site-packages/"), "site-packages/"),
    (re.compile(r"/tmp/ipykernel_\d+/\d+\.py"), "<cell>"),
]


def scrub(value: Any) -> Any:
    """``value`` with paths of this machine replaced, images left alone."""
    if isinstance(value, str):
        for pattern, new in SCRUB:
            value = pattern.sub(new, value)
        return value.replace(f"{Path.cwd()}/", "")
    if isinstance(value, list):
        return [scrub(item) for item in value]
    if isinstance(value, dict):
        return {k: v if k.startswith("image/") else scrub(v) for k, v in value.items()}
    return value


def run(path: Path) -> None:
    """Execute one notebook in its own folder and write it back: stable ids, no times, no paths."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=1800,
        startup_timeout=180,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"c{number:03d}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [nbformat.from_dict(scrub(dict(output))) for output in cell.outputs]
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main() -> int:
    """Run every notebook named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    os.environ.setdefault("OMP_NUM_THREADS", "2")  # the course's reference machine
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for path in parser.parse_args().notebooks:
        begun = time.monotonic()
        run(path)
        print(f"{path}: {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
