"""The numbers that Kim et al. 2022 report, from `paper.json`; needs no TensorFlow."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

#: Our names of schemes that the paper calls otherwise.
_CALLED = {"batch_bagging": "bagging", "bagging": None}


@functools.cache
def paper() -> dict[str, Any]:
    """All of `paper.json`: values with their units, notes and source."""
    return json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))


def accuracies(dataset: str, model: str, *, scheme: str, sharing: str) -> dict[int, float]:
    """Test top-1 in percent of the paper's ensembles, by M; empty if it has none of this kind.

    What the paper calls bagging is our `batch_bagging`. It has none of our `bagging`.
    """
    network = paper()["accuracy"].get(dataset, {}).get(model, {})
    if sharing == "fusion":
        values = network.get("schemes", {}).get(_CALLED.get(scheme, scheme), [])
    else:
        values = network.get("sharing", {}).get(sharing, []) if scheme == "fusion" else []
    return {
        members: value for members, value in zip(paper()["members"], values) if value is not None
    }


def single_accuracy(dataset: str, model: str) -> float | None:
    """Test top-1 in percent of the paper's pretrained single network, if it has one."""
    return paper()["accuracy"].get(dataset, {}).get(model, {}).get("single")


def block_bits(model: str, classes: int) -> dict[str, int]:
    """Bits of the weights of one network by block: Table 1 (`resnet20`) or 2 (`resnet18`)."""
    blocks = dict(paper()["storage"][model])
    blocks.pop("parts", None)
    return {**blocks, "linear": blocks["linear"][str(classes)]}


def own_bits(model: str, classes: int, sharing: str) -> int:
    """Bits of the weights that each further member adds to those of one network, by its tables."""
    blocks, parts = block_bits(model, classes), paper()["storage"][model]["parts"]
    return {
        "none": sum(blocks.values()),
        "fusion": blocks["linear"],
        "all_frozen": 0,
        "c1": blocks["conv1"],
        "c2": parts["shortcuts"] + blocks["linear"],
        "c3": parts["last_convolutions"] + blocks["linear"],
    }[sharing]


def energy_mj(members: int) -> float:
    """Energy of an image in mJ by the paper's model: M times that of XNOR-Net on ImageNet."""
    return members * paper()["compute"]["energy"]["xnornet"]
