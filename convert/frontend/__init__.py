"""From a Keras ensemble to the graph that the passes start from; needs TensorFlow.

`member_indexed` makes a `tf.function` of one member, whose values are looked up; `lowerings` says
what a layer type looks up and computes, `tables` how the values are stored, `thresholds` when a
comparison does for a batch norm, `workarounds` what LCE gets wrong; `lce` calls LCE's converter.
"""
