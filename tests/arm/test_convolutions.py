"""Binary convolutions on ARM, by the delegate and by builtin operators, against NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larq_ensemble.convert.targets.lce import write
from larq_ensemble.runtime.backends import KERNELS
from larq_ensemble.runtime.backends.litert import LITERT

from ..builder import Builder
from ..larq_ensemble.legalization.test_operators import Convolution, convolutions


@pytest.mark.parametrize("kernel", KERNELS["litert"])
@settings(max_examples=6)
@given(st.lists(convolutions(), min_size=8, max_size=8))
def test_they_are_those_of_numpy(kernel: str, drawn: Sequence[Convolution]) -> None:
    build = Builder()
    outputs = {f"y{n}": one.add(build, f"x{n}") for n, one in enumerate(drawn)}
    module = build.module(**outputs)
    signature = module.graph.signature
    inputs = {signature.inputs[f"x{n}"]: one.input for n, one in enumerate(drawn)}
    run = LITERT.open(write(module), threads=1, kernel=kernel)
    values = run([inputs[tensor] for tensor in module.graph.inputs])
    results = dict(zip(module.graph.outputs, values))
    for n, one in enumerate(drawn):
        found = results[signature.outputs[f"y{n}"]]
        np.testing.assert_allclose(
            found, one.expected(), rtol=1e-5, atol=1e-4, err_msg=f"{kernel}: {one}"
        )
