"""Stands in for lce_benchmark_model: takes its flags, runs the file once, prints what it would.

With --external_delegate_path it is TFLite's benchmark_model, which knows no flag of LCE's.

Written after TFLite's benchmark_tflite_model.cc and benchmark_model.cc. Member k takes
10 + k ms on one thread, a file with one input 8 ms; a second thread halves that.
"""

import sys

import numpy as np

from larq_ensemble.runtime.backends.lce import load_model

KNOWN = {
    *("graph", "num_threads", "num_runs", "use_xnnpack", "use_indirect_bgemm"),
    *("input_layer", "input_layer_shape", "input_layer_value_range"),
}

print("INFO: STARTING!", file=sys.stderr)
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
if "external_delegate_path" in flags:
    KNOWN ^= {"external_delegate_path", "use_indirect_bgemm"}
    with open(flags["external_delegate_path"], "rb") as library:
        assert library.read() == b"the delegate"
if flags.keys() - KNOWN:
    print("WARN: Unconsumed cmdline flags:", *flags.keys() - KNOWN, file=sys.stderr)
with open(flags["graph"], "rb") as graph:
    model = load_model(graph.read(), threads=1, kernel="indirect")
print(f"INFO: Loaded model {flags['graph']}", file=sys.stderr)
names = flags.get("input_layer", "").split(",")
shapes = [tuple(map(int, shape.split(","))) for shape in
          flags.get("input_layer_shape", "").split(":") if shape]  # fmt: skip
low = high = 99  # the tool would draw from 0 to 99
if "input_layer_value_range" in flags:
    name, low, high = flags["input_layer_value_range"].split(",")
    assert names[[len(shape) for shape in shapes].index(1)] == name
if shapes and [len(shape) for shape in shapes] != [len(shape) for shape in model.input_shapes]:
    print("ERROR: Input tensor #0 should have 4 dimensions!", file=sys.stderr)
    print("ERROR: Benchmarking failed.", file=sys.stderr)
    sys.exit(1)
assert not shapes or shapes == [tuple(shape) for shape in model.input_shapes]
model.predict([
    np.full(shape, int(high), kind) if np.dtype(kind).kind == "i" else np.zeros(shape, kind)
    for shape, kind in zip(model.input_shapes, model.input_types)
])  # fmt: skip
member_us = 10_000 + 1000 * int(low) if shapes else 8000
average = member_us / int(flags["num_threads"])
runs = flags["num_runs"]
print(f"""INFO: The input model file size (MB): 0.4
INFO: Initialized session in 1.5ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if \
exceeding 150 seconds.
INFO: count=9 first=30000 curr=12000 min=11000 max=30000 avg=14000 std=5000

INFO: Running benchmark for at least {runs} iterations and at least 1 seconds but terminate if \
exceeding 150 seconds.
INFO: count={runs} first=11 curr=12 min=10 max=20 avg={average} std=300 p5=10 median=11 p95=19

INFO: Inference timings in us: Init: 1500, First inference: 30000, Warmup (avg): 1.4e+04, \
Inference (avg): {average}
INFO: Memory footprint delta from the start of the tool (MB): init=1.9 overall=4.1""",
      file=sys.stderr)  # fmt: skip
