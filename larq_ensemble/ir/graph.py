"""Tensors, operators and graphs, as objects that refer to each other.

A `Module` is a TFLite model: one or more `Graph`s (TFLite's subgraphs) and named metadata. A pass
reads a graph through `producer`, `consumers` and `uses`, and changes it through `insert`, `erase`,
`rewrite`, `replace_uses` and `rebuild`. No pass holds the index of a tensor or an operator, so none
can go stale. The order of the lists is the order in the file.

```python
graph = module.graph
for op in graph.find("MUL"):
    x, factor = op.inputs
    if factor.data is not None and (factor.values == 1).all():
        graph.replace_uses(op.outputs[0], x)
        graph.erase(op)
```
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from larq_ensemble.tflite.model import Operator, Signature, Tensor, as_bytes

__all__ = ["Graph", "Module", "Operator", "Signature", "Tensor", "as_bytes", "substituted"]


class Graph:
    """A subgraph.

    Graphs of one module may share tensors and operators, so passes change operators only while the
    module has one graph.

    # Arguments
        tensors: in the order of the file; inputs, outputs and operands are among them.
        operators: in topological order.
        inputs, outputs: in the order of the interpreter.
        signature: its SignatureDef, if any.
        name: for people.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor] = (),
        operators: Iterable[Operator] = (),
        inputs: Iterable[Tensor] = (),
        outputs: Iterable[Tensor] = (),
        signature: Signature | None = None,
        name: str | None = None,
    ) -> None:
        self.tensors = list(tensors)
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.signature = signature
        self.name = name
        self._operators = list(operators)
        self._links: _Links | None = None

    @property
    def operators(self) -> tuple[Operator, ...]:
        """A copy of the list: the graph may be edited in a loop over it."""
        return tuple(self._operators)

    def find(self, name: str) -> list[Operator]:
        """All operators with this name."""
        return [op for op in self._operators if op.name == name]

    def producer(self, tensor: Tensor | None, name: str | None = None) -> Operator | None:
        """The operator that computes a tensor.

        # Arguments
            tensor: any tensor; `None` has no producer.
            name: return only an operator with this name.
        """
        op = None if tensor is None else self._linked.producers.get(tensor)
        return op if op is not None and name in (None, op.name) else None

    def consumers(self, tensor: Tensor) -> list[Operator]:
        """The operators that read a tensor, each once for each operand, in order."""
        return self._linked.consumers.get(tensor, [])

    def uses(self, tensor: Tensor) -> int:
        """How often a tensor is read: by operands and as an output of the graph."""
        return len(self.consumers(tensor)) + self.outputs.count(tensor)

    def computed_from(self, sources: Iterable[Tensor]) -> set[Tensor]:
        """The sources and all tensors that depend on one of them."""
        found = set(sources)
        for op in self._operators:
            if not found.isdisjoint(op.operands):
                found.update(op.outputs)
        return found

    def input(self, name: str) -> Tensor | None:
        """The input with this name in the signature; `None` if there is none."""
        return None if self.signature is None else self.signature.inputs.get(name)

    def of_image(self) -> set[Tensor]:
        """The tensors that depend on the input `image`; all others are weights."""
        image = self.input("image")
        return self.computed_from([] if image is None else [image])

    def add(self, tensor: Tensor) -> Tensor:
        """Adds a tensor at the end of the list and returns it."""
        self.tensors.append(tensor)
        return tensor

    def add_like(self, tensor: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Adds a tensor of the same type without a value; by default of the same shape."""
        shape = tensor.shape if shape is None else tuple(shape)
        return self.add(dataclasses.replace(tensor, data=None, shape=shape))

    def insert(self, op: Operator, *, after: Operator | None = None) -> None:
        """Adds an operator after another one; by default before all others."""
        place = 0 if after is None else self._operators.index(after) + 1
        self._operators.insert(place, op)
        self._links = None

    def erase(self, op: Operator) -> None:
        """Removes an operator; its tensors stay until dead-code elimination."""
        self._operators.remove(op)
        self._links = None

    def rewrite(self, op: Operator, **fields: Any) -> None:
        """Changes fields of an operator, which keeps its place.

        A new `name` resets those of `options`, `custom_options` and `version` that aren't given.
        """
        if "name" in fields:
            fields = {"options": None, "custom_options": None, "version": 1, **fields}
        for name, value in fields.items():
            setattr(op, name, tuple(value) if name in ("inputs", "outputs") else value)
        self._links = None

    def replace_uses(self, old: Tensor, new: Tensor) -> None:
        """Replaces a tensor by another one in all operators and outputs that read it."""
        for op in set(self.consumers(old)):
            op.inputs = tuple(new if tensor is old else tensor for tensor in op.inputs)
        self.outputs = [new if tensor is old else tensor for tensor in self.outputs]
        if self.signature is not None:
            names = self.signature.outputs
            names.update({name: new for name, tensor in names.items() if tensor is old})
        self._links = None

    def rebuild(self, operators: Iterable[Operator], helpers: Iterable[Operator] = ()) -> None:
        """Replaces the operators.

        # Arguments
            operators: the new operators, sorted topologically; otherwise the order stays.
            helpers: further operators, each placed right before the first one that needs it, and
                dropped if none does.
        """
        operators = list(operators)
        producers = {tensor: op for op in (*helpers, *operators) for tensor in op.outputs}
        ordered: dict[Operator, None] = {}

        def place(op: Operator) -> None:
            if op in ordered:
                return
            for tensor in op.operands:
                if tensor in producers:
                    place(producers[tensor])
            ordered[op] = None

        for op in operators:
            place(op)
        self._operators = list(ordered)
        self._links = None

    def eliminate_dead_code(self) -> None:
        """Drops the operators and tensors that no output depends on; all inputs stay."""
        needed = set(self.outputs)
        kept: list[Operator] = []
        for op in reversed(self._operators):
            if not needed.isdisjoint(op.outputs):
                needed.update(op.operands)
                kept.append(op)
        self._operators = kept[::-1]
        needed.update(self.inputs, *(op.outputs for op in kept))
        self.tensors = [tensor for tensor in self.tensors if tensor in needed]
        self._links = None

    def copy(self, substitute: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Graph:
        """A copy of the graph with new operators.

        # Arguments
            substitute: maps each tensor to the one that the copy uses; by default the same.
        """
        new = {tensor: substitute(tensor) for tensor in self.tensors}
        signature = self.signature and Signature(
            self.signature.key,
            {name: new[tensor] for name, tensor in self.signature.inputs.items()},
            {name: new[tensor] for name, tensor in self.signature.outputs.items()},
        )
        return Graph(
            new.values(),
            [substituted(op, new) for op in self._operators],
            [new[tensor] for tensor in self.inputs],
            [new[tensor] for tensor in self.outputs],
            signature,
            self.name,
        )

    @property
    def _linked(self) -> _Links:
        if self._links is None:
            self._links = _Links.of(self._operators)
        return self._links


def substituted(op: Operator, new: dict[Tensor, Tensor]) -> Operator:
    """A copy of an operator with the tensors that are keys of `new` replaced."""
    moved = copy.copy(op)
    moved.inputs = tuple(None if t is None else new.get(t, t) for t in op.inputs)
    moved.outputs = tuple(new.get(tensor, tensor) for tensor in op.outputs)
    return moved


@dataclass(frozen=True)
class _Links:
    """Producer and consumers of each tensor, valid until the graph is changed."""

    producers: dict[Tensor, Operator]
    consumers: dict[Tensor, list[Operator]]

    @classmethod
    def of(cls, operators: Sequence[Operator]) -> _Links:
        producers: dict[Tensor, Operator] = {}
        consumers: dict[Tensor, list[Operator]] = {}
        for op in operators:
            producers.update(dict.fromkeys(op.outputs, op))
            for tensor in op.operands:
                consumers.setdefault(tensor, []).append(op)
        return cls(producers, consumers)


@dataclass
class Module:
    """A TFLite model, and what the converter knows of it.

    # Arguments
        graphs: the subgraphs, in the order of the file.
        members: the number of members that it holds.
        layout: that of the finished file, one of `larq_ensemble.runtime.metadata.LAYOUTS`;
            `"auto"`: the pipeline chooses.
        metadata: the bytes of each entry, by name.
        description: for people.
        operator_codes: name and version of each operator, in the order of the file.
        version: of the schema.
    """

    graphs: list[Graph]
    members: int = 1
    layout: str = "auto"
    metadata: dict[str, bytes] = field(default_factory=dict)
    description: str | None = None
    operator_codes: list[tuple[str, int]] = field(default_factory=list)
    version: int = 3

    @property
    def graph(self) -> Graph:
        """The only graph.

        # Raises
            ValueError: if there are several.
        """
        (graph,) = self.graphs
        return graph

    def update_operator_codes(self) -> None:
        """Drops the codes that no operator uses, and adds new ones at the end."""
        used = {(op.name, op.version): None for graph in self.graphs for op in graph.operators}
        kept = [code for code in self.operator_codes if code in used]
        self.operator_codes = [*kept, *(code for code in used if code not in kept)]
