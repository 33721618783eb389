"""The C++ example is compiled and run, on stock files and, with the delegate, on those for LCE.

With a core in `LARQ_ENSEMBLE_CORE`, as `make test-arm` has it, it runs emulated on that.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.legalization import legalized
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import delegate as beside_the_package
from larq_ensemble.runtime.cascade import calibrated_prediction
from larq_ensemble.runtime.combination import COMBINATIONS
from larq_ensemble.runtime.file import read_ensemble, seal, with_metadata

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
ARM = ROOT / ".arm"
CORE = os.environ.get("LARQ_ENSEMBLE_CORE")
LAYOUTS = ("indexed", "subgraphs", "branches", "compact")

Program = list[str]  # the command that runs it


def litert() -> Path | None:
    """LiteRT's shared library in its wheel, if there is one."""
    if CORE:
        return ARM / "site" / "ai_edge_litert" / "libLiteRt.so"
    found = importlib.util.find_spec("ai_edge_litert")
    if found is None or not found.submodule_search_locations:
        return None
    library = Path(found.submodule_search_locations[0]) / "libLiteRt.so"
    return library if library.exists() else None


pytestmark = [
    pytest.mark.skipif(litert() is None, reason="no ai-edge-litert with a libLiteRt.so"),
    pytest.mark.skipif(
        not shutil.which("cmake") or not shutil.which("c++"), reason="no cmake or no c++"
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Program:
    folder = tmp_path_factory.mktemp("cpp")
    settings = {
        "LITERT_LIBRARY": litert(),
        "CMAKE_BUILD_TYPE": "Debug",  # compiles in half the time
        "CMAKE_COMPILE_WARNING_AS_ERROR": "ON",
    }
    if CORE:
        settings |= {
            "CMAKE_SYSTEM_NAME": "Linux",
            "CMAKE_SYSTEM_PROCESSOR": "aarch64",
            "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        }
    defined = [f"-D{key}={value}" for key, value in settings.items()]
    for command in (
        ["cmake", "-S", ROOT / "examples" / "cpp", "-B", folder, *defined],
        ["cmake", "--build", folder, "--parallel"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    emulator = ["qemu-aarch64", "-cpu", CORE, "-L", str(ARM / CORE)] if CORE else []
    return [*emulator, str(folder / "classify")]


@pytest.fixture(scope="module")
def delegate() -> Path:
    path = beside_the_package.path()
    if CORE:
        path = ARM / "project" / "larq_ensemble" / "runtime" / path.name
    elif not path.exists():
        pytest.skip("no delegate: `make` builds it if there is a C compiler")
    return path


def run(program: Program, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def images(name: str, folder: Path) -> tuple[np.ndarray, list[Path]]:
    """The images of a file's recorded logits, as PPMs but for the first, which has pixels only.

    Its pixels begin as a PPM does.
    """
    pixels = np.load(DATA / f"{name}.npz")["images"].astype(np.uint8)
    pixels[0].reshape(-1)[:2] = [*b"P6"]
    paths = []
    for number, image in enumerate(pixels):
        header = b"" if number == 0 else b"P6\n# a comment\n%d %d\n255\n" % image.shape[1::-1]
        paths.append(folder / f"{number}.ppm")
        paths[-1].write_bytes(header + image.tobytes())
    return pixels, paths


def check_predictions(program: Program, file: Path, name: str, folder: Path, *options: str) -> None:
    """All members, the first ones and the cascade give what the Python runtime gives."""
    pixels, paths = images(name, folder)
    reference = EnsembleInterpreter(DATA / f"{name}.tflite")
    ways = [("--members", "2"), ()]
    if reference.metadata.cascade is not None:
        ways.append(("--adaptive",))
    for way in ways:
        done = run(program, file, *options, *way, *paths)
        assert done.returncode == 0, done.stderr
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert [row[0] for row in rows] == [str(path) for path in paths]
        if way == ("--adaptive",):
            expected, members = reference.predict_adaptive(pixels)
            assert len(set(members)) > 1, "the images need as many members, which shows nothing"
        else:
            reference.members = 2 if way else reference.max_members
            expected, members = reference.predict(pixels), [reference.members] * len(pixels)
        names = reference.class_names or tuple(map(str, range(reference.classes)))
        assert [row[1] for row in rows] == [names[c] for c in expected.argmax(axis=1)]
        shown = np.array([float(row[2]) for row in rows])
        np.testing.assert_allclose(shown, expected.max(axis=1), atol=2e-4)
        assert [int(row[3]) for row in rows] == list(members)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_stock_file(program, tmp_path, name) -> None:
    file = tmp_path / "stock.tflite"
    file.write_bytes(legalized((DATA / f"{name}.tflite").read_bytes()))
    check_predictions(program, file, name, tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_for_lce_with_the_delegate(program, delegate, tmp_path, name) -> None:
    options = ("--delegate", str(delegate), "--threads", "2")
    check_predictions(program, DATA / f"{name}.tflite", name, tmp_path, *options)


def test_every_scheme(program, delegate, tmp_path) -> None:
    """With weights and temperatures, as NumPy combines the members' logits."""
    file = read_ensemble(DATA / "indexed.tflite")
    pixels, paths = images("indexed", tmp_path)
    logits = EnsembleInterpreter(DATA / "indexed.tflite").predict_logits(pixels)
    weights, temperatures = (1.0, 0.25, 3.0), (1.0, 2.0, 0.5)
    changed = {"weights": weights, "temperatures": temperatures, "class_names": None}
    path = tmp_path / "scheme.tflite"
    for scheme in COMBINATIONS:
        metadata = dataclasses.replace(file.metadata, scheme=scheme, **changed)
        path.write_bytes(with_metadata(file.data, metadata))
        done = run(program, path, "--delegate", delegate, *paths)
        assert done.returncode == 0, done.stderr
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        expected = calibrated_prediction(logits, scheme, weights, temperatures)
        assert [int(row[1]) for row in rows] == expected.argmax(axis=1).tolist()
        shown = [float(row[2]) for row in rows]
        np.testing.assert_allclose(shown, expected.max(axis=1), atol=2e-4, err_msg=scheme)


NUMBERS_IN_GERMAN = """
#include <clocale>
#include <cstdio>
#include "json.h"

int main() {
  if (!std::setlocale(LC_ALL, "de_DE.UTF-8") || *std::localeconv()->decimal_point != ',') return 77;
  for (double number : Json::Parse("[0.5, -1e-3, 7]").numbers()) std::printf("%g ", number);
  for (const char* wrong : {"[0,5", "[1.2.3]", "[-]", "[1e]"}) {
    try {
      Json::Parse(wrong);
      std::puts(wrong);
    } catch (const std::exception&) {
    }
  }
}
"""


def test_numbers_have_a_decimal_point_in_every_locale(tmp_path) -> None:
    """An app with a user interface takes the locale of its user."""
    names = ["-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"]
    if (
        not shutil.which("localedef")
        or subprocess.run(["localedef", *names], check=False).returncode
    ):
        pytest.skip("no localedef with German")
    source, built = tmp_path / "numbers.cc", tmp_path / "numbers"
    source.write_text(NUMBERS_IN_GERMAN)
    include = ["-I", ROOT / "examples" / "cpp"]
    subprocess.run(["c++", "-std=c++17", *include, source, "-o", built], check=True)
    done = subprocess.run(
        [built], env={"LOCPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "0,5 -0,001 7 ")


def test_what_it_says_to_bad_input(program, tmp_path) -> None:
    file = DATA / "indexed.tflite"
    image = tmp_path / "image.ppm"
    image.write_bytes(b"P6 2 2 255\n" + bytes(12))
    done = run(program, file, image)
    assert done.returncode == 1
    assert "2x2x3 values up to 255, the file takes 8x8x3" in done.stderr
    image.write_bytes(b"\x89PNG" + bytes(80))
    done = run(program, file, image)
    assert done.returncode == 1
    assert "image.ppm is neither a binary PPM or PGM nor 8x8x3 bytes of pixels" in done.stderr
    image.write_bytes(bytes(8 * 8 * 3))
    done = run(program, file, image)
    assert done.returncode == 1
    assert "operators of Larq Compute Engine need the delegate" in done.stderr
    done = run(program, file, "--delegate", sys.executable, image)
    assert done.returncode == 1
    (tmp_path / "no.tflite").write_bytes(b"no model")
    assert "reading" in run(program, tmp_path / "no.tflite", image).stderr
    other_rule = tmp_path / "rule.tflite"
    data = (DATA / "compact.tflite").read_bytes()
    other_rule.write_bytes(seal(data.replace(b'"log_margin"', b'"log_morgen"')))
    done = run(program, other_rule, image)
    assert done.returncode == 1
    assert "doesn't know the rule of the cascade: log_morgen" in done.stderr
    for arguments in ([file], ["--no-such-option", file, image], [file, image, "--members", "0"]):
        done = run(program, *arguments)
        assert done.returncode == 2
        assert "Usage: classify F.tflite" in done.stderr
