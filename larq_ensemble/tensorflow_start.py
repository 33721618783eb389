"""What TensorFlow reads while it starts: which Keras it has, how it computes and what it prints.

Nothing here imports TensorFlow. Larq needs Keras 2, but TensorFlow 2.16 and later take Keras 3 for
`tf.keras` unless TF_USE_LEGACY_KERAS is 1. They read the variable twice: while they are imported,
to put a folder with `keras` in front of the path of the package `tensorflow`, and when `tf.keras`
is first used. So as long as nothing has used it, both can still be changed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import sys
import types
from collections.abc import Iterator
from pathlib import Path

KERAS_2 = "TF_USE_LEGACY_KERAS"
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def prefer_onednn() -> None:
    """Makes TensorFlow compute with oneDNN, if it isn't imported and the environment is silent.

    By itself it does so only on CPUs with instructions for neural networks, such as AVX512_VNNI.
    With AVX2 our training is 1.15 to 1.9 times as fast with it (docs/reports/performance.md). That
    was measured on Linux on x86_64; elsewhere nothing is changed.
    """
    measured = sys.platform == "linux" and platform.machine() == "x86_64"
    if measured and "tensorflow" not in sys.modules:
        os.environ.setdefault(ONEDNN, "1")


def is_undecided() -> bool:
    """Whether the environment leaves open which Keras `tf.keras` is."""
    return not os.environ.get(KERAS_2)


def choose_keras_2() -> None:
    """Makes `tf.keras` Keras 2, if tf-keras is installed and nothing has used `tf.keras` yet."""
    package = importlib.util.find_spec("tf_keras")
    if package is None or package.origin is None or _is_used():
        return
    os.environ[KERAS_2] = "1"
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        folder = str(Path(package.origin).parent / "api" / "_v2")
        # For `from tensorflow.keras import layers`, which reads the package's path.
        tensorflow.__path__ = [folder, *(path for path in tensorflow.__path__ if path != folder)]


def _is_used() -> bool:
    """Whether something has used `tf.keras`: until then TensorFlow has a lazy loader in its place.

    A name that is bound to the loader, as by `from tensorflow import keras`, is no use.
    """
    tensorflow = sys.modules.get("tensorflow")
    keras = None if tensorflow is None else vars(tensorflow).get("keras")  # doesn't load it
    return type(keras) is types.ModuleType or "tensorflow.keras" in sys.modules


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hides what TensorFlow prints while it is imported, if TF_CPP_MIN_LOG_LEVEL is 3.

    TensorFlow 2.21 prints some messages before it reads that variable.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    stderr = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
