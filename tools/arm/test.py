"""Tests the project on emulated ARM cores: `make test-arm`.

Installs the project's wheel for aarch64 into the userland (`userland.py`) and runs there

- what an app does, by `tests/arm`, the tests of C and the example in C++ on each of `EVERY_CORE`;
- the tests of the runtime, but for those that need TensorFlow or LCE, on the first of them.

    python tools/arm/test.py dist/larq_ensemble-*_aarch64.whl
    python tools/arm/test.py --here         # on a real ARM core, where the wheel is installed
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
C_TESTS = userland.ARM / "delegate"
VALUES = ("tests/arm",)
RUNTIME = (
    *(f"tests/larq_ensemble/{part}" for part in ("runtime", "legalization", "ir", "tflite")),
    *(
        f"--ignore=tests/larq_ensemble/runtime/{name}.py"
        for name in (
            # On which of the back ends runs, of which ARM has one.
            *("backends/test_choice", "backends/test_lce"),
            # Minutes of arithmetic that is NumPy's and SciPy's.
            *("test_calibration", "test_metrics"),
        )
    ),
    # Hundreds of drawn operators, minutes here, with LCE's answers: `tests/arm` draws convolutions.
    "--ignore=tests/larq_ensemble/legalization/test_operators.py",
    # Within a second, which no emulated processor is.
    "--deselect=tests/larq_ensemble/runtime/test_interpreter.py::test_the_start_up_is_short",
    # QEMU 7.2 ends with an assertion of its own where the child of a fork starts a thread.
    *(
        "--deselect=tests/larq_ensemble/runtime/test_sharing_an_interpreter.py::"
        f"test_after_a_fork_both_processes_predict[2-{case}]"
        for case in ("indexed-builtin", "subgraphs-builtin", "indexed-delegate")
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", type=Path, nargs="?", help="of the project, for Linux on aarch64")
    parser.add_argument("--here", action="store_true", help="run pytest of this Python")
    parser.add_argument("--missing", action="store_true", help="name missing packages and exit")
    arguments = parser.parse_args()
    if arguments.missing:
        print(*userland.missing())
        return
    if arguments.here:
        # Of the command `pytest` the current folder, the checkout, is not on Python's path.
        pytest = [Path(sys.executable).with_name("pytest")]
        sys.exit(0 if run_tests("this machine", pytest, [*VALUES, *RUNTIME]) else 1)
    if arguments.wheel is None:
        parser.error("a wheel is missing: `make test-arm` builds it")
    try:
        userland.build()
        userland.install(arguments.wheel)
        build_c_tests()
    except (userland.UserlandError, OSError) as error:
        sys.exit(str(error))
    results = []
    for core in EVERY_CORE:
        results += [
            run_c_tests(core),
            run_example(core),
            run_tests(core, emulated_pytest(core), VALUES),
        ]
    core = EVERY_CORE[0]
    results.append(run_tests(core, emulated_pytest(core), RUNTIME))
    sys.exit(0 if all(results) else 1)


def build_c_tests() -> None:
    """Builds the delegate's tests by CMake, with the compiler for aarch64.

    # Raises
        UserlandError: if it fails.
    """
    root = userland.ARM / EVERY_CORE[0]
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER": userland.COMPILER,
        "CMAKE_CROSSCOMPILING_EMULATOR": f"{userland.QEMU};-L;{root}",
    }
    defined = [f"-D{key}={value}" for key, value in settings.items()]
    userland.call(["cmake", "-S", userland.ROOT / "delegate", "-B", C_TESTS, *defined])
    userland.call(["cmake", "--build", C_TESTS])


def run_c_tests(core: str) -> bool:
    """Runs them on a core; whether all passed."""
    print(f"On {core}: delegate/tests", flush=True)
    done = subprocess.run(
        ["ctest", "--test-dir", C_TESTS, "--output-on-failure"],
        env={**os.environ, "QEMU_CPU": core},
        check=False,
    )
    return done.returncode == 0


def run_example(core: str) -> bool:
    """Runs the tests of the C++ example, which emulate what they compile; whether all passed."""
    test = "tests/examples/test_cpp.py"
    print(f"On {core}: {test}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=userland.ROOT,
        env={**os.environ, "LARQ_ENSEMBLE_CORE": core},
        check=False,
    )
    return done.returncode == 0


def emulated_pytest(core: str) -> list[str | Path]:
    """The command that is pytest on a core; `-P`, because the checkout is not what is tested."""
    return [userland.python(core), "-P", "-m", "pytest"]


def run_tests(where: str, pytest: Sequence[str | Path], tests: Sequence[str]) -> bool:
    """Runs tests with a command that is pytest; whether all passed."""
    print(f"On {where}: {tests[0]} ...", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        [*pytest, "-q", "-p", "no:cacheprovider", "-p", "skips", *tests],
        cwd=userland.ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        check=False,
    )
    print(f"{time.monotonic() - start:.0f} seconds", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
