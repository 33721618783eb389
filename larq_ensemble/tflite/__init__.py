"""`.tflite` files: reading and verifying them, for the runtime and for the converter.

`flatbuffer` follows offsets within the file, `schema` says what its tables hold, `reader` makes a
`model.Model` of them, and `verifier` checks it with a rule for each operator (`rules`), so that an
interpreter in C++, which trusts its file, can run it. No module here imports TensorFlow.
"""
