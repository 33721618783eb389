"""From a Keras ensemble to the graph that the passes start from; needs TensorFlow.

- `member_indexed`: the `tf.function` of one member that looks its values up;
- `lowerings`: what each layer type looks up and computes;
- `tables`: how the values are stored;
- `quantized_constants`: what shared quantized weights are;
- `thresholds`: batch norms that become comparisons;
- `workarounds`: layers that LCE 0.16 computes wrongly;
- `lce`: the call of LCE's converter.
"""
