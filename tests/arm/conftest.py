"""Tests of the installed wheel on Linux on ARM, skipped elsewhere.

`make test-arm` runs them on emulated cores, and the workflow on a real one.
"""

from __future__ import annotations

import platform

import pytest


@pytest.fixture(autouse=True, scope="session")
def _only_on_arm() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "aarch64"):
        pytest.skip("for Linux on aarch64: see `make test-arm`")
