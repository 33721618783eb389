"""One member by itself, converted by Larq Compute Engine as any Keras model.

The baseline for an ensemble's file: M such files, one per member.
"""

from __future__ import annotations

from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.copying import in_float32


def convert_single(network: keras.Model) -> bytes:
    """Converts a network without tables, passes or input normalization.

    # Arguments
        network: a functional model with one image as input, for example `Ensemble.member(0)`.

    # Returns
        A TFLite flatbuffer with the input `image` (float32 `[1, h, w, c]`, normalized as in
        training) and the output `logits` (float32 `[1, classes]`).
    """

    def logits(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": network(image, training=False)}

    network = in_float32(network)
    image = tf.TensorSpec([1, *network.inputs[0].shape[1:]], tf.float32, name="image")
    signature = tf.function(logits, input_signature=[image], autograph=False)
    return convert_function(signature, network.weights)
