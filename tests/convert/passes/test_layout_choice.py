"""The layout `"auto"` follows from whether members own filters that can be bit-packed."""

from __future__ import annotations

from typing import Any

import pytest

from larq_ensemble.convert.passes import layout_choice

from .test_bit_packed_convolutions import module_of


@pytest.mark.parametrize(
    ("options", "layout"), [({}, "subgraphs"), ({"real_valued": True}, "indexed")]
)
def test_the_layout_follows(options: dict[str, Any], layout: str) -> None:
    module = module_of(**options)
    module.layout = "auto"
    layout_choice.run(module)
    assert module.layout == layout
    module.layout = "branches"
    layout_choice.run(module)
    assert module.layout == "branches"


def test_filters_that_members_share_need_no_graph_for_each() -> None:
    module = module_of(scaled=False)
    (lookup,) = module.graph.find("GATHER")
    lookup.outputs[0].set_values(lookup.operands[0].values[0])
    module.graph.erase(lookup)
    module.layout = "auto"
    layout_choice.run(module)
    assert module.layout == "indexed"
