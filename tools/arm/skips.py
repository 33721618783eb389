"""A plugin of pytest for ARM: tests that need a package without wheels there are skipped.

So the tests of the runtime run as they are, but for those that convert with TensorFlow or compare
with LCE. tests/arm, which shows that the runtime needs none of these, may skip nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

#: Packages that conversion and some tests need.
ABSENT = ("larq", "larq_compute_engine", "sklearn", "tensorflow", "tf_keras")
#: What messages say where one of them is missing.
MESSAGES = (
    "Larq Compute Engine is not installed",
    "Training and conversion need TensorFlow",
)
NEVER_SKIPPED = Path(__file__).parents[2] / "tests" / "arm"


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
