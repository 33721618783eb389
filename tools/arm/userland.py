"""An aarch64 Linux with Python, LiteRT and this project, that QEMU's user mode runs on any Linux.

It is made of Debian's packages for arm64 and wheels of PyPI, which are unpacked only, so nothing
of the host is touched and nobody has to be root:

    .arm/root/          Debian's packages, unpacked
    .arm/site/          the wheels of requirements.txt, unpacked
    .arm/project/       the wheel of this project, unpacked
    .arm/cortex-a72/    the root with this core's /proc/cpuinfo; its `python` runs there

Each folder is made beside its place and renamed, and has a stamp that says of what it is made. So
an interruption leaves nothing half done, and what is there is made anew only if its stamp differs.

    python tools/arm/userland.py
    .arm/cortex-a72/python -c 'import platform; print(platform.machine())'
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARM = ROOT / ".arm"

QEMU, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-gcc"
#: Programs that are needed, and Debian's packages of them.
PROGRAMS = {
    QEMU: "qemu-user",
    COMPILER: "gcc-aarch64-linux-gnu",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "cmake": "cmake",
    "gcc": "gcc",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}

#: Debian 12, on which Raspberry Pi OS "bookworm" is built.
SOURCES = """\
deb [signed-by={keyring}] http://deb.debian.org/debian bookworm main
deb [signed-by={keyring}] http://deb.debian.org/debian bookworm-updates main
deb [signed-by={keyring}] http://deb.debian.org/debian-security bookworm-security main
"""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
PYTHON = "3.11"
PLATFORMS = ("manylinux_2_17_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


@dataclass(frozen=True)
class Core:
    """What /proc/cpuinfo says of a core, by which XNNPACK chooses its kernels.

    # Arguments
        part: Arm's number of it.
        revision: variant and revision.
        features: the extensions that it has.
    """

    part: int
    revision: tuple[int, int]
    features: str

    def cpuinfo(self, cores: int = 2) -> str:
        return "".join(
            f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {self.features}\n"
            f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: {self.revision[0]:#x}\n"
            f"CPU part\t: {self.part:#x}\nCPU revision\t: {self.revision[1]}\n\n"
            for number in range(cores)
        )


_BASE = "fp asimd evtstrm crc32 cpuid"
_DOT_PRODUCT = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
#: By the names that QEMU gives them.
CORES = {
    "cortex-a53": Core(0xD03, (0, 4), _BASE),  # Raspberry Pi 3, Zero 2 W
    "cortex-a72": Core(0xD08, (0, 3), _BASE),  # Raspberry Pi 4
    "cortex-a76": Core(0xD0B, (4, 1), _DOT_PRODUCT),  # Raspberry Pi 5
}


class UserlandError(Exception):
    """What is missing, and how to get it."""


def python(core: str) -> Path:
    """The program that runs Python on an emulated core, as `python` does."""
    return ARM / core / "python"


def missing() -> list[str]:
    """Debian's packages that the host lacks."""
    packages = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    return [*packages, *([] if KEYRING.exists() else ["debian-archive-keyring"])]


def build() -> None:
    """Makes `.arm/` but for the project; some 20 seconds the first time.

    # Raises
        UserlandError: if something is missing, or a download fails.
    """
    if packages := missing():
        raise UserlandError(
            f"An emulated ARM needs {', '.join(packages)}: on Debian or Ubuntu, as root, "
            f"apt-get install {' '.join(packages)}"
        )
    made("root", f"{SOURCES}{PACKAGES}{ARM}", _unpack_packages)
    made("site", REQUIREMENTS.read_text(), _unpack_wheels)
    for name, core in CORES.items():
        made(name, core.cpuinfo() + _program(name), functools.partial(_core, name))


def install(wheel: Path) -> None:
    """Puts a wheel of the project into `.arm/project/`."""

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)

    made("project", hashlib.sha256(wheel.read_bytes()).hexdigest(), unpack)


def made(name: str, ingredients: str, make: Callable[[Path], None]) -> Path:
    """The folder `.arm/NAME`, which `make` fills unless it is there, made of the same."""
    folder, stamp = ARM / name, ARM / f".{name}-is-made-of"
    ARM.mkdir(exist_ok=True)
    with open(ARM / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file, also by a process that is killed
        if folder.exists() and stamp.exists() and stamp.read_text() == ingredients:
            return folder
        stamp.unlink(missing_ok=True)
        unfinished = ARM / f".{name}-unfinished"
        for path in (unfinished, folder):
            shutil.rmtree(path, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(folder)
        stamp.write_text(ingredients)
    return folder


def call(command: Sequence[str | Path], **options: object) -> None:
    """Runs a program quietly.

    # Raises
        UserlandError: if it fails, with what it said.
    """
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode:
        raise UserlandError(f"{shlex.join(map(str, command))} failed:\n{done.stdout.strip()}")


def _unpack_packages(folder: Path) -> None:
    """Lets apt find and load what `PACKAGES` need, with a state of its own for arm64."""
    state = ARM / ".apt"  # after an interruption apt goes on with what it has loaded
    cache = state / "archives"
    for path in (state / "lists/partial", cache / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text(SOURCES.format(keyring=KEYRING))
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State": state,
        "Dir::State::Status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::Archives": cache,
        "Acquire::Languages": "none",
        "Binary::apt-get::APT::Keep-Downloaded-Packages": "true",
    }
    apt = ["apt-get", "-q", "-y", *(f"-o{key}={value}" for key, value in settings.items())]
    call([*apt, "update"])
    call([*apt, "install", "--download-only", *PACKAGES])
    for package in sorted(cache.glob("*.deb")):
        call(["dpkg-deb", "-x", package, folder])
    shutil.rmtree(state)
    packages_of_python = folder / f"usr/local/lib/python{PYTHON}/dist-packages"
    packages_of_python.mkdir(parents=True)
    (packages_of_python / "arm.pth").write_text(f"{ARM / 'project'}\n{ARM / 'site'}\n")


def _unpack_wheels(folder: Path) -> None:
    wheels = ARM / ".wheels-unfinished"
    shutil.rmtree(wheels, ignore_errors=True)
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    call(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", PYTHON, *platforms),
            *("--dest", wheels, "--requirement", REQUIREMENTS),
        ]
    )
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    shutil.rmtree(wheels)


def _core(name: str, folder: Path) -> None:
    for path in (ARM / "root").iterdir():
        (folder / path.name).symlink_to(Path("..", "root", path.name))
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text(CORES[name].cpuinfo())
    program = folder / "python"
    program.write_text(_program(name))
    program.chmod(0o755)


def _program(core: str) -> str:
    """A shell script: the emulated Python starts it as `sys.executable`, too."""
    root = shlex.quote(str(ARM / core))
    return (
        "#!/bin/sh\n"
        # Threads of NumPy's BLAS would only wait here.
        f"OPENBLAS_NUM_THREADS=1 exec {QEMU} -cpu {core} -L {root} \\\n"
        f'  -0 {root}/python {root}/usr/bin/python3 "$@"\n'
    )


if __name__ == "__main__":
    try:
        build()
    except UserlandError as error:
        sys.exit(str(error))
