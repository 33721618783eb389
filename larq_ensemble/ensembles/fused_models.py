"""Single networks that train faster on CPUs.

```python
trained = fused_network(backbone)  # its layers are the backbone's
trained.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
trained.fit(images, labels)
backbone.save("backbone.keras")
```
"""

from __future__ import annotations

from typing import Any

from larq_ensemble.ensembles.bfloat16 import (
    check_computes_bfloat16,
    convolved,
    is_for_bfloat16,
)
from larq_ensemble.ensembles.fused_activations import cropped, fused_prelu, fused_sign, given
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import (
    called,
    has_input_quantizer,
    input_list,
    run_functional,
    training_of,
)


@keras.utils.register_keras_serializable("larq_ensemble")
class FusedNetwork(keras.Model):
    """A functional model with fused activations in training; `fused_network` makes one.

    # Attributes
        bfloat16: whether convolutions compute in bfloat16, in training and in inference.
    """

    bfloat16 = False

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        is_fused = bool(training) and tf.distribute.get_strategy().num_replicas_in_sync == 1
        if not is_fused and not self.bfloat16:
            return super().call(inputs, training=training, mask=mask)

        def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
            trains = is_fused and training_of(layer, args, kwargs, True)
            if self.bfloat16 and is_for_bfloat16(layer):
                return convolved(layer, _quantized(layer, args[0], trains))
            if trains and (crop := cropped(layer)) is not None:
                return crop(args[0])
            prelu = fused_prelu(layer) if trains else None
            if prelu is not None:
                return prelu(args[0], tf.convert_to_tensor(layer.alpha), tf.ones(()))
            sign = fused_sign(layer) if trains else None
            with given(layer, {} if sign is None else {"input_quantizer": None}):
                args = args if sign is None else (sign(args[0]), *args[1:])
                return called(layer, args, kwargs, training=bool(training))

        known = dict(zip((tensor.ref() for tensor in self.inputs), input_list(self, inputs)))
        return tf.nest.pack_sequence_as(
            self.output, run_functional(self.layers, known, self.outputs, call)
        )


def _quantized(layer: keras.layers.Layer, x: tf.Tensor, trains: bool) -> tf.Tensor:
    """The input of a convolution after its quantizer: signs in bfloat16, anything else as it is."""
    sign = fused_sign(layer) if trains else None
    if sign is not None:
        return sign(x, tf.bfloat16)
    quantizer = layer.input_quantizer if has_input_quantizer(layer) else None
    return x if quantizer is None else quantizer(x)


def fused_network(model: keras.Model, *, bfloat16: bool = False) -> FusedNetwork:
    """The same functional model, on the same layers, with fused activations in training.

    `Ensemble.compile` does this for ensembles.

    # Arguments
        bfloat16: compute convolutions in bfloat16, see `larq_ensemble.ensembles.bfloat16`.

    # Raises
        EnsembleError: if TensorFlow can't do that on this machine.
    """
    if bfloat16:
        check_computes_bfloat16()
    fused = FusedNetwork(model.inputs, model.outputs, name=model.name)
    fused.bfloat16 = bfloat16
    return fused
