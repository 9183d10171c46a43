"""Spelling of the notebooks' prose: ``python -m tests.spelling``. codespell reads their Markdown cells."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Write every notebook's Markdown and comments to a temporary folder and run codespell on it."""
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "book").rglob("*.ipynb")):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            text = "\n\n".join("".join(c["source"]) for c in cells)
            (Path(folder) / f"{path.stem}.txt").write_text(text, encoding="utf-8")
        ignore = "fpr,nd,te,ans,lik,hist,mis,ser,wit,coo"
        return subprocess.run(
            [sys.executable, "-m", "codespell_lib", "-L", ignore, folder], check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
