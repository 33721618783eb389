"""The intermediate representation (IR): a TFLite model as tensors and operators that passes edit.

`graph` has the classes, `flatbuffer` reads and writes them, `writer` makes bytes, `verifier` checks
them, `evaluation` computes constants, `windows` says which taps of a filter meet which pixels. The
converter and the runtime share it, so no module here imports TensorFlow.
"""
