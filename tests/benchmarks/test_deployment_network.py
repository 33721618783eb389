"""The rules of a network for deployment: which network keeps which."""

from __future__ import annotations

import sys

from larq_ensemble.keras import keras
from larq_ensemble.models import build_model
from larq_ensemble.network.architectures import Architecture
from larq_ensemble.network.architectures.resnet import residual_block

from .conftest import ROOT, load


def test_each_network_keeps_one_rule_more(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = load("deployment_network")
    # The rules are of layers: two of the paper's nine blocks have all kinds.
    monkeypatch.setattr(script, "PAPER", Architecture(residual_block, (16, 32), (1, 1)))
    rows = list(script.networks(5))
    kept = []
    for _, network in rows:
        norms = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
        slopes = [x.alpha.numpy() for x in network.layers if isinstance(x, keras.layers.PReLU)]
        kept.append(
            (
                all((norm.gamma.numpy() > 0).all() for norm in norms),
                all((slope >= 0).all() for slope in slopes),
                {layer.pad_values for layer in network.layers if hasattr(layer, "pad_values")},
                network.get_layer("conv1").filters,
            )
        )
    assert kept == [
        (False, False, {0}, 16),
        (True, False, {0}, 16),
        (True, True, {0}, 16),
        (True, True, {1}, 16),
        (True, True, {1}, 64),
        (True, False, {1}, 64),
    ]
    names = [layer.name for layer in rows[-1][1].layers]
    deploynet = build_model("deploynet9", input_shape=(32, 32, 3), classes=5)
    assert names == [layer.name for layer in deploynet.layers]
