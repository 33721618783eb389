"""What each rule of a network for deployment saves in arm64 instructions.

Starts with the paper's network, whose batch norms before a sign and whose PReLUs may have learned
negative scales and slopes, and adds one rule after the other, up to DeployNet-9. Nothing is
trained, because the cost depends on the signs of these values only. Where a rule is not kept, the
first channel of every batch norm has a negative scale, and every PReLU has negative slopes.

Needs a counter of instructions, see `arm_cost.py`. For bytes see `file_sizes.py`.

    python benchmarks/deployment_network.py --counter COUNTER
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from arm_cost import KERNELS, counted

from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.runtime.file import read_ensemble

if TYPE_CHECKING:
    from larq_ensemble.keras import keras

MEMBERS = 2  # All members run the same operators, so one is counted.

PAPER, DEPLOYMENT = MODELS["resnet20"], MODELS["deploynet9"]
# The paper's block in the stages of DeployNet; seven convolutions are no whole number of blocks.
WIDE = Architecture(residual_block, (64, 64), (2, 2), stem_conv=DEPLOYMENT.stem_conv)


@click.command()
@click.option("--counter", required=True, metavar="PATH", help="The program that counts.")
@click.option("--classes", default=100, show_default=True)
@json_option
def main(counter: str, classes: int, json_target: str | None) -> None:
    """Count the arm64 instructions of networks that keep more and more of the rules."""
    with reporting(json_target) as report:
        rows = []
        for name, network in networks(classes):
            rows.append({"network": name, **instructions_of(network, counter)})
            report.line(f"{name}: {rows[-1]['default']:,} instructions of a member")
        report.result = {"networks": rows}
        report.table(
            f"fusion, {classes} classes; arm64 instructions once per image, and of each member",
            [
                "network",
                *("default: once", "default: a member", "indirect: once", "indirect: a member"),
            ],
            [list(row.values()) for row in rows],
        )


def networks(classes: int) -> Iterator[tuple[str, keras.Model]]:
    """Untrained networks with a name, each with one rule more than the one before."""

    def build(architecture: Architecture, pad_values: float = 0.0) -> keras.Model:
        from larq_ensemble.keras import keras
        from larq_ensemble.models.keras_layers import KerasLayers

        image = keras.Input((32, 32, 3), name="image")
        layers = KerasLayers(pad_values=pad_values)
        return keras.Model(
            image, architecture.apply(layers, image, classes=classes, dropout=0.0, width=1.0)
        )

    yield "ResNet-20, signs of scales and slopes free", with_signs(build(PAPER), -1, -1)
    yield "+ positive scales before signs", with_signs(build(PAPER), 1, -1)
    yield "+ non-negative slopes", build(PAPER)
    yield "+ padding with ones", build(PAPER, 1.0)
    yield "+ 64 channels, half the resolution, 4 blocks", build(WIDE, 1.0)
    yield "DeployNet-9", with_signs(build(DEPLOYMENT, DEPLOYMENT.pad_values), 1, -1)


def with_signs(network: keras.Model, scales: int, slopes: int) -> keras.Model:
    """Gives the first scale of every batch norm and the slopes of every PReLU these signs."""
    from larq_ensemble.keras import keras

    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma = abs(layer.gamma.numpy())
            gamma[0] *= scales
            layer.gamma.assign(gamma)
        elif isinstance(layer, keras.layers.PReLU):
            layer.alpha.assign(slopes * abs(layer.alpha.numpy()))
    return network


def instructions_of(network: keras.Model, counter: str) -> dict[str, int]:
    """Instructions once per image and of a member, by kernel."""
    from larq_ensemble.convert.conversion import convert_ensemble
    from larq_ensemble.ensembles.building import build_ensemble

    row: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ensemble.tflite")
        convert_ensemble(build_ensemble(network, MEMBERS), path, mean=[0.5] * 3, std=[0.25] * 3)
        for kernel in KERNELS:
            row[f"{kernel}_once"], row[kernel] = counted(counter, read_ensemble(path), kernel)
    return row


if __name__ == "__main__":
    try:
        main()
    except EnsembleError as error:
        raise SystemExit(f"error: {error}") from None
