"""Writes the golden files of this version, beside this script: `python tests/data/make.py`.

Each `NAME.tflite` is a file as this version writes it, each `NAME.npz` what it answers: `images`
(uint8 `[n, 8, 8, 3]`), `logits` (float32 `[members, n, 5]`), `probabilities` (`[n, 5]`) and, where
a cascade is in the file, `adaptive_members` (`[n]`). `weighted.tflite` has no answers: its tests
compute them.

They show that later versions read files of this one, so they are never written anew: a change of
the format adds files to them, under a new name.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble import build_ensemble, build_model
from larq_ensemble.convert import convert_ensemble, convert_file
from larq_ensemble.convert.passes import shared_trunk
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.keras import keras, lq
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.calibration import calibrate
from larq_ensemble.runtime.file import read_ensemble

FOLDER = Path(__file__).parent
MEMBERS, CLASSES, SIZE = 3, 5, 8


def main() -> None:
    convert("indexed", class_names=["ant", "bee", "cat", "dog", "eel"], dataset="golden")
    convert("subgraphs", sharing="c3")
    convert("branches", layout="branches")
    convert("compact", scheme="voting", heads="int8", precision="compact")
    add_cascade("compact")
    without_trunk("indexed", "version_1")
    weighted()
    convert_file(path_of("indexed"), path_of("stock"))
    for name in ("indexed", "subgraphs", "branches", "compact", "version_1", "stock"):
        save_answers(name)


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.tflite"


def pixels(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)


def ensemble(**options: Any) -> keras.Model:
    """A narrow ResNet-20 with random weights, whose members differ a lot."""
    keras.utils.set_random_seed(0)
    backbone = build_model("resnet20", input_shape=(SIZE, SIZE, 3), classes=CLASSES, width=0.25)
    model = build_ensemble(backbone, MEMBERS, **options)
    draw = np.random.default_rng(0)
    value = {
        "gamma": lambda shape: draw.normal(1, 0.4, shape),
        "beta": lambda shape: draw.normal(0, 0.5, shape),
        "moving_mean": lambda shape: draw.normal(0, 0.5, shape),
        "moving_variance": lambda shape: draw.uniform(0.3, 2, shape),
        "alpha": lambda shape: draw.uniform(-0.3, 0.6, shape),
    }
    for layer in model.layers:
        for weight in layer.weights:
            kind = weight.name.split("/")[-1].split(":")[0]
            if kind in value:
                weight.assign(value[kind](weight.shape))
            elif layer.name.startswith("member_"):
                weight.assign(draw.normal(0, 0.3, weight.shape))
    return model


def convert(name: str, *, scheme: str = "fusion", sharing: str = "fusion", **options: Any) -> None:
    model = ensemble(scheme=scheme, sharing=sharing)
    convert_ensemble(model, path_of(name), mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3], **options)


def weighted() -> None:
    """What tests of the runtime run: members with weights, images that aren't square, names."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 10, 3))
    x = keras.layers.Conv2D(32, 3, name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = lq.layers.QuantConv2D(
        32, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign",
        kernel_constraint="weight_clip", name="binary",
    )(x)  # fmt: skip
    x = keras.layers.GlobalAveragePooling2D()(x)
    backbone = keras.Model(inputs, keras.layers.Dense(4)(x))
    model = build_ensemble(backbone, MEMBERS, scheme="adaboost", weights=[1.5, 0.25, 4.0])
    draw = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(draw.normal(size=weight.shape))
    names = ["ant", "bee", "cat", "dog"]
    convert_ensemble(model, path_of("weighted"), mean=[0.5] * 3, std=[0.25] * 3, class_names=names)


def add_cascade(name: str) -> None:
    """Calibrates on labels that the members are right about four times of five."""
    images = pixels(200, seed=1)
    labels = EnsembleInterpreter(path_of(name), kernel="default").predict(images).argmax(-1)
    labels[::5] = np.arange(40) % CLASSES
    calibrate(path_of(name), images, labels, mean_members=2)


def without_trunk(source: str, name: str) -> None:
    """The format's version 1: complete graphs only."""
    file = read_ensemble(path_of(source))
    module = read(file.data)
    shared_trunk.drop_parts(module)
    metadata = dataclasses.replace(file.metadata, version=1)
    path_of(name).write_bytes(write_ensemble(module, metadata))


def save_answers(name: str) -> None:
    interpreter = EnsembleInterpreter(path_of(name), kernel="default")
    images = pixels(6)
    answers = {
        "images": images,
        "logits": interpreter.predict_logits(images),
        "probabilities": interpreter.predict(images),
    }
    if interpreter.metadata.cascade is not None:
        answers["adaptive_members"] = interpreter.predict_adaptive(images).members
    np.savez_compressed(FOLDER / f"{name}.npz", **answers)


if __name__ == "__main__":
    main()
