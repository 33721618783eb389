"""Says which versions of Python work; setup.cfg holds everything else.

Of `python_requires` alone pip makes a conflict of dependencies, without the word Python.
"""

import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(
        "larq-ensemble needs Python 3.10, 3.11 or 3.12, for which larq-compute-engine has wheels. "
        f"This is Python {sys.version_info[0]}.{sys.version_info[1]}: install with another, such "
        "as python3.12 -m pip install ."
    )

from setuptools import setup

setup()
