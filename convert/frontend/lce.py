"""From a `tf.function` to the bytes of Larq Compute Engine's converter."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.keras import tf


def convert_function(
    function: tf.types.experimental.GenericFunction, variables: Sequence[tf.Variable]
) -> bytes:
    """Converts one function with LCE.

    # Arguments
        function: has an input signature of static shapes and returns outputs by name.
        variables: all that the function reads; they become constants.

    # Returns
        A TFLite flatbuffer with LCE's operators and one SignatureDef.

    # Raises
        EnsembleError: with the converter's reason, if it refuses the graph.
    """
    import larq_compute_engine as lce

    # Saving a Keras model would trace every layer for nothing: a bare module is saved at once.
    module = tf.Module()
    module.read = list(variables)
    with tempfile.TemporaryDirectory() as folder:
        # Nobody trains the converted graph, and tracing gradients takes a third of the time.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=function, options=options)
        try:
            with without_notes():
                return lce.convert_saved_model(folder)
        except Exception as error:  # the converter raises a bare Exception for every failure
            raise EnsembleError(
                f"Larq Compute Engine can't convert the network: {first_line(error)} "
                "Check that its layers are among those that TFLite and LCE support."
            ) from error


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Keeps the converter's notes from standard error, warnings not; unless the user chose.

    LCE brings a TensorFlow of its own, which reads the variable when it first has to say something.
    """
    name = "TF_CPP_MIN_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
