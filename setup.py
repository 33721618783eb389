"""Builds the delegate into the package; setup.cfg holds everything else.

The delegate (`delegate/`) is a shared library in C that LiteRT loads: no extension of Python. So
one wheel serves every Python of a platform. Without a C compiler the package goes without it.
"""

import os
import sys
from glob import glob

if sys.version_info < (3, 10):  # noqa: UP036
    # Of `python_requires` alone pip makes a conflict of dependencies, without the word Python.
    sys.exit(
        "larq-ensemble needs Python 3.10 or later to run files, and 3.10, 3.11 or 3.12 to train "
        "and convert. "
        f"This is Python {sys.version_info[0]}.{sys.version_info[1]}: install with another, such "
        "as python3.12 -m pip install ."
    )

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

DELEGATE = Extension(
    "larq_ensemble.runtime.liblarq_ensemble_delegate",
    sources=sorted(glob("delegate/src/*.c")),
    depends=sorted(glob("delegate/src/*.[hi]*")),
    libraries=[] if sys.platform == "win32" else ["m"],
    optional=True,  # builtin operators run what it would run, only slower
)

# As delegate/CMakeLists.txt has them, and none of those that this Python was built with: CC may
# name a compiler for another machine.
FLAGS = "-std=c11 -O3 -DNDEBUG -fPIC -fvisibility=hidden -ffp-contract=off -pthread"
SUFFIXES = {"darwin": ".dylib", "win32": ".dll"}


class BuildLibrary(build_ext):
    """Builds a plain shared library, with neither Python's flags nor the suffix of a module."""

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "unix":
            compiler = os.environ.get("CC", "cc")
            self.compiler.set_executables(
                compiler_so=f"{compiler} {FLAGS} {os.environ.get('CFLAGS', '')}",
                linker_so=f"{compiler} -shared -pthread {os.environ.get('LDFLAGS', '')}",
            )
        super().build_extensions()

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + SUFFIXES.get(sys.platform, ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols  # no PyInit_*

    def built(self) -> bool:
        return os.path.exists(self.get_ext_fullpath(DELEGATE.name))


class BuildWheel(bdist_wheel):
    """Tags the wheel by what is in it: for one platform and every Python, or for all."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform if self.get_finalized_command("build_ext").built() else "any"


setup(
    ext_modules=[DELEGATE] if DELEGATE.sources else [],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": BuildWheel},
)
