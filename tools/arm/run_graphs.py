"""Runs models between the counter's marks; `count.py` calls it in the emulated Python.

The third of three runs is the one that counts: earlier ones pack filters and fill caches. Before
the models, nothing runs three times: what a mark itself costs is subtracted.

    python run_graphs.py [--delegate LIBRARY] MODEL.tflite...
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

RUNS = 3
MARK = 0x5A5A
_system_call = ctypes.CDLL(None).syscall


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delegate")
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    marked(lambda: None)
    for model in arguments.models:
        delegates = [load_delegate(arguments.delegate)] if arguments.delegate else None
        interpreter = Interpreter(model, num_threads=1, experimental_delegates=delegates)
        interpreter.allocate_tensors()
        draw = np.random.default_rng(0)
        for inputs in interpreter.get_input_details():
            shape, kind = inputs["shape"], inputs["dtype"]
            # Integers are a member's number.
            values = draw.normal(size=shape) if kind == np.float32 else np.zeros(shape)
            interpreter.set_tensor(inputs["index"], values.astype(kind))
        marked(interpreter.invoke)


def marked(run: Callable[[], None]) -> None:
    for _ in range(RUNS):
        _system_call(MARK, 1)
        run()
        _system_call(MARK, 0)


main()
