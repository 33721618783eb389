"""A plugin of pytest for ARM: skips what can't run there, and draws fewer random examples.

A test that needs a package without wheels for ARM is skipped. So the tests of the runtime run as
they are, but for those that convert with TensorFlow or compare with LCE. tests/arm, which shows
that the runtime needs none of these, may skip nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

#: Packages that conversion and some tests need.
ABSENT = ("larq", "larq_compute_engine", "sklearn", "tensorflow", "tf_keras")
#: What messages say where one of them is missing.
MESSAGES = (
    "Larq Compute Engine is not installed",
    "Training and conversion need TensorFlow",
)
NEVER_SKIPPED = Path(__file__).parents[2] / "tests" / "arm"


def pytest_sessionstart() -> None:
    """After tests/conftest.py: emulated, examples take some twenty times as long."""
    settings.register_profile("arm", deadline=None, max_examples=10)
    settings.load_profile("arm")


def _reason(error: BaseException) -> str | None:
    """Why a test can't run on ARM; `None` if that isn't the cause of its error."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in ABSENT:
        return f"needs {error.name}"
    return next((message for message in MESSAGES if message in str(error)), None)


def _skipping(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None or NEVER_SKIPPED in path.parents:
            raise
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    yield from _skipping(item.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    yield from _skipping(item.path)
