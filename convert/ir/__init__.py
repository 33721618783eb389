"""The converter's intermediate representation (IR): a TFLite model as tensors and operators.

`graph` has the classes, `flatbuffer` reads and writes them, `verifier` checks them, `evaluation`
computes constants. No module here imports TensorFlow.
"""
