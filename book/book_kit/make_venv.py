"""Make a virtual environment with any Python 3.11+: ``python3 make_venv.py .venv``. Standard library only.

Debian's python3 comes without ensurepip (package python3-venv), and its pip refuses to install outside a
virtual environment. Then the environment is made without pip, and pip is put into it with the pip
that is there, or, without one, with a clear message of what to install.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path


def main(folder: str) -> int:
    """Create ``folder`` unless it is a working environment of this Python already."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(
            f"Python: got {sys.version.split()[0]}; takes 3.11 to 3.13 (make PYTHON=python3.12 ...)",
            file=sys.stderr,
        )
        return 1
    target = Path(folder)
    python = target / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if python.exists() and _has_pip(python):
        return 0
    shutil.rmtree(target, ignore_errors=True)
    try:
        import ensurepip  # noqa: F401

        venv.create(target, with_pip=True)
    except (ImportError, subprocess.CalledProcessError):
        venv.create(target, with_pip=False, clear=True)
        purelib = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
        # --target leaves the system's Python as it is, so that "externally managed" does not apply
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", purelib, "pip"]
        if subprocess.run(command, check=False).returncode or not _has_pip(python):
            print(
                "pip: got none for this Python; install it (Debian: apt install python3-venv)",
                file=sys.stderr,
            )
            return 1
    return 0


def _has_pip(python: Path) -> bool:
    return (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ".venv"))
