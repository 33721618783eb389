"""TensorFlow, Keras 2 and Larq.

Larq 0.14 is written for Keras 2, and takes its classes from `tf.keras`, which is Keras 3 in
TensorFlow 2.16 and later. So `tf.keras` has to be Keras 2 in every process that uses Larq:
importing `larq_ensemble` makes it that, whether TensorFlow has been imported or not, as long as
nothing has used `tf.keras`. Every module that needs TensorFlow imports it from here:

```python
from larq_ensemble.keras import keras, lq, tf
```

# Raises
    ImportError: if `tf.keras` has been used as Keras 3, or if a package is missing.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from larq_ensemble import tensorflow_start
from larq_ensemble.errors import EnsembleError, install_command

_asked = os.environ.get(tensorflow_start.KERAS_2)
tensorflow_start.choose_keras_2()


try:
    with tensorflow_start.quiet_start():
        import tensorflow as tf
        import tf_keras as keras

        _is_keras_2 = tf.keras.Model is keras.Model
except ImportError as error:
    raise ImportError(
        f"Training and conversion need TensorFlow and tf-keras, which can't be imported ({error}): "
        f"install them: {install_command('train')}."
    ) from error

#: What the environment says against Keras 2.
_refused = ""
if _asked not in (None, "", "1", "true", "True"):
    _refused = f"{tensorflow_start.KERAS_2}={_asked}"

if not _is_keras_2:
    raise ImportError(
        "`tf.keras` has been used as Keras 3 in this process, but Larq needs Keras 2: "
        + (f"leave {_refused} out of the environment, " if _refused else "")
        + "write `import larq_ensemble` in the first line of the program, and start Python again."
    )
if _refused:
    warnings.warn(
        f"{_refused} is in the environment, but Larq needs Keras 2: `tf.keras` is Keras 2 now.",
        stacklevel=2,
    )

import larq as lq  # noqa: E402 (only once Keras is known to be Keras 2)

__all__ = ["check_keras_2", "keras", "lq", "tf"]


def check_keras_2(**arguments: Any) -> None:
    """Checks that no argument is, or holds, an object of Keras 3, as `import keras` makes them.

    # Raises
        EnsembleError: if one does. Keras 2 itself would fail with an attribute that is missing.
    """
    for name, argument in arguments.items():
        for value in tf.nest.flatten(argument):
            if any(base.__module__.startswith("keras.") for base in type(value).__mro__):
                raise EnsembleError(
                    f"`{name}` holds an object of Keras 3 ({type(value).__name__}), but Larq needs "
                    "Keras 2: take `keras` from `larq_ensemble.keras`, or use tf.keras."
                )
