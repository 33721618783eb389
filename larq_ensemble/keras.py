"""TensorFlow, Keras 2 and Larq, imported in the one order that works.

Larq 0.14 is written for Keras 2. TensorFlow 2.16 and later route `tf.keras` to Keras 3 unless
`TF_USE_LEGACY_KERAS=1` is in the environment when `tf.keras` is first used. Every module that
needs TensorFlow imports it from here:

```python
from larq_ensemble.keras import keras, lq, tf
```

# Raises
    ImportError: if `tf.keras` already is Keras 3, or if a package is missing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from larq_ensemble.errors import install_command

os.environ["TF_USE_LEGACY_KERAS"] = "1"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TensorFlow's start-up messages if TF_CPP_MIN_LOG_LEVEL is 3.

    TensorFlow 2.21 prints some of them before it reads that variable.
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


try:
    with _quiet():
        import tensorflow as tf

        keras = tf.keras
        _is_keras_2 = keras.Model.__module__.startswith("tf_keras.")
except ImportError as error:
    raise ImportError(
        f"Training and conversion need TensorFlow and tf-keras, which can't be imported ({error}): "
        f"install them: {install_command('train')}."
    ) from error

if not _is_keras_2:
    raise ImportError(
        "`tf.keras` is Keras 3 in this process, but Larq needs Keras 2: "
        "set the environment variable TF_USE_LEGACY_KERAS=1 before Python starts, "
        "or import larq_ensemble before you first use tf.keras."
    )

import larq as lq  # noqa: E402 (only once Keras is known to be Keras 2)

__all__ = ["keras", "lq", "tf"]
