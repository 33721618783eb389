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

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

try:
    import tensorflow as tf

    keras = tf.keras
except ImportError as error:
    raise ImportError(
        f"Training and conversion need TensorFlow and tf-keras, which can't be imported ({error}): "
        'install them with `pip install "larq-ensemble[train]"`.'
    ) from error

if not keras.Model.__module__.startswith("tf_keras."):
    raise ImportError(
        "`tf.keras` is Keras 3 in this process, but Larq needs Keras 2: "
        "set the environment variable TF_USE_LEGACY_KERAS=1 before Python starts, "
        "or import larq_ensemble before you first use tf.keras."
    )

import larq as lq

__all__ = ["keras", "lq", "tf"]
