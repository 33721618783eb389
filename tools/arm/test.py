"""Tests the project on emulated ARM cores: `make test-arm`.

Installs the project's wheel for aarch64 into the userland (`userland.py`) and runs there

- what an app does, by `tests/arm`, and the tests of C on each of `EVERY_CORE`;
- the tests of the runtime, but for those that need TensorFlow or LCE, on the first of them.

    python tools/arm/test.py dist/larq_ensemble-*_aarch64.whl
    python tools/arm/test.py --missing      # only says which Debian packages are missing
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import userland

#: Without and with dot products, for which XNNPACK has kernels of its own.
EVERY_CORE = ("cortex-a72", "cortex-a76")
VALUES = ("tests/arm",)
RUNTIME = tuple(
    f"tests/larq_ensemble/{part}" for part in ("runtime", "legalization", "ir", "tflite")
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", type=Path, nargs="?", help="of the project, for Linux on aarch64")
    parser.add_argument("--missing", action="store_true", help="name missing packages and exit")
    arguments = parser.parse_args()
    if arguments.missing:
        print(*userland.missing())
        return
    if arguments.wheel is None:
        parser.error("a wheel is missing: `make test-arm` builds it")
    try:
        userland.build()
        userland.install(arguments.wheel)
    except (userland.UserlandError, OSError) as error:
        sys.exit(str(error))
    results = [run_tests(core, VALUES) for core in EVERY_CORE]
    results.append(run_tests(EVERY_CORE[0], RUNTIME))
    sys.exit(0 if all(results) else 1)


def run_tests(core: str, tests: Sequence[str]) -> bool:
    """Runs tests on a core; whether all passed."""
    print(f"On an emulated {core}: {' '.join(tests)}", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        [
            # Not the checkout but the wheel.
            *(userland.python(core), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "skips", *tests),
        ],
        cwd=userland.ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        check=False,
    )
    print(f"{time.monotonic() - start:.0f} seconds", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
