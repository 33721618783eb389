"""Whether Larq Compute Engine can run what its converter wrote.

The converter accepts operators, and versions of operators, that the interpreter of the same release
doesn't have. Each operator that the interpreter refuses is traced back to a layer.
"""

from __future__ import annotations

from collections.abc import Mapping

from larq_ensemble.convert.targets.lce import write
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Graph, Module, Operator
from larq_ensemble.runtime.backends.lce import load_model

_GELU = "use gelu with `approximate=True`, or another activation"
_WAYS_OUT = {"Erf": _GELU, "Erfc": _GELU, "GELU": _GELU, "Softsign": "use another activation"}


def check_runnable(module: Module, data: bytes, layers: Mapping[str, str]) -> None:
    """Checks that the interpreter takes a model.

    # Arguments
        module: the model, as the converter wrote it, with the tensors' names.
        data: its bytes.
        layers: what an error calls each layer, by the layer's name in the graph.

    # Raises
        EnsembleError: with the operators that it refuses, and their layers.
    """
    operators = [op for graph in module.graphs for op in graph.operators]
    refused = {(_layer_of(op, layers), op.name) for op in operators if _is_unknown(op)}
    if not refused and _is_taken(data):
        return
    refused = refused or {
        (_layer_of(op, layers), op.name) for op in operators if not _is_taken(_alone(op))
    }
    if not refused:
        load_model(data, 1, "indirect")  # raises its own error
    found = ", ".join(f"{name} of {layer}" for layer, name in sorted(refused))
    ways_out = {_WAYS_OUT.get(name, "express it by other operators") for _, name in refused}
    raise EnsembleError(
        "The network can't be converted, because Larq Compute Engine can't run an operator that it "
        f"makes of it: {found}. To convert it, {' and '.join(sorted(ways_out))}."
    )


def _is_unknown(op: Operator) -> bool:
    """Whether it is a custom operator that isn't one of LCE's."""
    return op.custom_options is not None and not op.name.startswith("Lce")


def _is_taken(data: bytes) -> bool:
    try:
        # This kernel runs binary convolutions with groups too.
        load_model(data, 1, "indirect")
    except EnsembleError:
        return False
    return True


def _alone(op: Operator) -> bytes:
    """A model of one operator."""
    inputs = list(dict.fromkeys(tensor for tensor in op.operands if tensor.data is None))
    tensors = dict.fromkeys([*op.operands, *op.outputs])
    return write(Module([Graph(tensors, [op], inputs, op.outputs)]))


def _layer_of(op: Operator, layers: Mapping[str, str]) -> str:
    """The layer that an operator's output is named after."""
    for tensor in op.outputs:
        parts = (tensor.name or "").replace(";", "/").split("/")
        for part in parts:
            if part in layers:
                return f"the layer {layers[part]!r}"
    return "the network"
