"""Time refimpl beside other libraries, in one run on this machine: ``python -m tests.bench [NAME ...]``.

Each file of this folder is one benchmark with a ``main()`` that prints its table. The numbers hold for the
machine they are taken on: compare the ratios, which are taken side by side.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil

import tests.bench


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    names = [m.name for m in pkgutil.iter_modules(tests.bench.__path__) if not m.name.startswith("_")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*names, []], help=f"of {names}; all when none is given")
    for name in parser.parse_args().names or names:
        print(f"\n== {name}", flush=True)
        importlib.import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main()
