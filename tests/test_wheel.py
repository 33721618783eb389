"""Wheel and source distribution hold one package, `larq_ensemble`, and it is ours that runs.

A checkout has links, `larq_ensemble/training` and `larq_ensemble/convert`, to folders beside it.
What is installed must hold files instead, and no top-level `training` or `convert`. With a C
compiler the wheel has the delegate in it and is for one platform; without one it is for all.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What setuptools reads; a copy, because it leaves build/ and *.egg-info where it runs.
SOURCES = ["larq_ensemble", "training", "convert", "delegate", "setup.py", "setup.cfg"]
SOURCES += ["pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"]

#: What is packaged of them.
PACKAGED = ["*.py", "*.json", "py.typed", "static/**/*.*", "networks/*", "images/*"]
PACKAGED += ["boards/*.*", "kernels/*.h"]

DELEGATE = "larq_ensemble/runtime/liblarq_ensemble_delegate.so"


def run(*command: str | Path, folder: Path, **more: str) -> str:
    """The standard output of a command that must succeed; `more` goes into its environment."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(checkout: Path, kind: str, target: Path, compiler: str = "cc") -> Path:
    """Builds a `wheel` or an `sdist` by the setuptools that is installed: needs no network."""
    program = f"import setuptools.build_meta as b; print(b.build_{kind}({str(target)!r}))"
    python = [sys.executable, "-c", program]
    # Unoptimized: nothing here runs the delegate. No symbol may be left to what Python has loaded.
    flags = {"CFLAGS": "-O0", "LDFLAGS": "-Wl,-z,defs" if sys.platform == "linux" else ""}
    return target / run(*python, folder=checkout, CC=compiler, **flags).splitlines()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what is packaged, links included."""
    folder = tmp_path_factory.mktemp("checkout")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", Path(DELEGATE).name)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=skip)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    return build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel besides its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if ".dist-info/" not in name and not name.endswith("/")
        }


def sources() -> dict[str, bytes]:
    """What the wheel has to hold: modules and data of the checkout, found through its links."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for folder in ("larq_ensemble", "larq_ensemble/training", "larq_ensemble/convert")
        for pattern in PACKAGED
        for path in (ROOT / folder).rglob(pattern)
    }


def test_one_package_with_every_module(wheel):
    found = contents(wheel)
    found.pop(DELEGATE, None)
    assert {name.split("/")[0] for name in found} == {"larq_ensemble"}
    assert found == sources()
    assert {"larq_ensemble/py.typed", "larq_ensemble/training/paper/paper.json"} <= set(found)
    assert "larq_ensemble/convert/commands/convert.py" in found


@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="no cc, or not Linux")
def test_the_delegate_is_in_the_wheel_of_a_platform_for_every_python(wheel, tmp_path):
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    (tmp_path / "delegate.so").write_bytes(contents(wheel)[DELEGATE])
    library = ctypes.CDLL(str(tmp_path / "delegate.so"))
    assert library.tflite_plugin_create_delegate
    assert library.tflite_plugin_destroy_delegate


def test_the_source_distribution_builds_without_a_compiler(checkout, tmp_path):
    archive = build(checkout, "sdist", tmp_path)
    with tarfile.open(archive) as tar:
        assert not [item.name for item in tar if item.islnk() or item.issym()]
        # Python 3.10 and 3.11 got `filter` in later patch releases.
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    for path in (ROOT / "delegate").glob("*/*.*"):
        assert (unpacked / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    wheel = build(unpacked, "wheel", tmp_path, compiler="no-such-compiler")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert contents(wheel) == sources()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of a new environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, folder=folder)
    # Dependencies come from here. A path in a .pth file has its own .pth files ignored, so an
    # editable install of the checkout stays out.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = run(python, "-c", where, folder=folder).strip()
    (Path(own) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def test_ours_runs_where_the_user_has_files_of_these_names(installed, tmp_path):
    for name in ("convert", "training"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the user ran')")
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the user')")
    ours = [installed / "python", "-m", "larq_ensemble"]

    program = "from larq_ensemble import convert, training; print(convert.__file__)"
    module = Path(run(ours[0], "-c", program, folder=tmp_path).strip())
    assert module.is_relative_to(installed.parent)

    shown = run(*ours, "convert", "--help", folder=tmp_path)
    assert shown.startswith("Usage: larq-ensemble convert ")
    assert run(installed / "larq-ensemble", "convert", "--help", folder=tmp_path) == shown

    report = run(*ours, "storage", "--classes", "10", "--json", "-", folder=tmp_path)
    assert json.loads(report)["paper_bits"] > 0
    for file in sorted((ROOT / "tests" / "data").glob("*.tflite"))[:1]:
        inspected = json.loads(run(*ours, "inspect", file, "--json", "-", folder=tmp_path))
        assert inspected["bytes"] == file.stat().st_size
