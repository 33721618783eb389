"""Quiet TensorFlow, before any test imports it; patience with a busy machine."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# How long an example takes says nothing here: other work on the machine would fail tests.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_collection_finish() -> None:
    """What was imported stays: to walk through it at each collection of garbage costs seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def cache_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the cache in place of the user's, also in processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder / "larq-ensemble"


@pytest.fixture(autouse=True, scope="module")
def settings_stay() -> Iterator[None]:
    """No module leaves a global setting changed, which tests after it would fail or pass by."""
    folder = Path.cwd()
    yield
    assert Path.cwd() == folder
    if "tf_keras" in sys.modules:
        from larq_ensemble.keras import keras, tf

        assert not keras.backend.experimental.is_tf_random_generator_enabled()
        assert keras.mixed_precision.global_policy().name == "float32"
        assert keras.backend.floatx() == "float32"
        assert not tf.config.functions_run_eagerly()


@pytest.fixture
def bfloat16(monkeypatch) -> None:
    """Skips a test where TensorFlow can't compute convolutions in bfloat16, as on old CPUs.

    Where it can, but slowly, the test runs, and nothing warns.
    """
    from larq_ensemble.ensembles import bfloat16
    from larq_ensemble.keras import tf

    try:
        bfloat16.slowdown()
    except tf.errors.OpError as error:
        pytest.skip(f"no convolutions in bfloat16: {error.message}")
    monkeypatch.setattr(bfloat16, "slowdown", lambda: 1.0)


@pytest.fixture(scope="session")
def digits():
    """(training, test) data of `digits`."""
    from larq_ensemble.data.datasets import DATASETS

    return DATASETS["digits"].read(None)
