"""TFLite's own interpreter runs members by the file's signatures, as apps in C++ and Kotlin do.

It lacks LCE's operators, so the network has no binary layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert.conversion import convert_ensemble
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.keras import keras, tf
from larq_ensemble.runtime import EnsembleInterpreter

from .conftest import MEAN, STD, pixels, randomized

MEMBERS = 3


@pytest.fixture(scope="module")
def ensemble() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(image))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.PReLU(shared_axes=[1, 2])(x))
    return randomized(build_ensemble(keras.Model(image, keras.layers.Dense(5)(x)), MEMBERS))


def by_signature(tflite: tf.lite.Interpreter, layout: str, image: np.ndarray) -> list[Any]:
    """The logits of each member."""
    members = range(MEMBERS)
    if layout == "subgraphs":
        runners = [tflite.get_signature_runner(f"member_{member}") for member in members]
        return [run(image=image)["logits"] for run in runners]
    run = tflite.get_signature_runner("serving_default")
    if layout == "branches":
        outputs = run(image=image)
        return [outputs[f"logits_{member}"] for member in members]
    return [run(image=image, member=np.array([m], np.int32))["logits"] for m in members]


def by_prefix(tflite: tf.lite.Interpreter, layout: str, image: np.ndarray) -> list[Any]:
    """The same, what members have in common only once."""
    features = tflite.get_signature_runner("prefix")(image=image)
    members = range(MEMBERS)
    if layout == "subgraphs":
        runners = [tflite.get_signature_runner(f"rest_{member}") for member in members]
        return [run(**features)["logits"] for run in runners]
    run = tflite.get_signature_runner("rest")
    return [run(**features, member=np.array([m], np.int32))["logits"] for m in members]


@pytest.mark.filterwarnings("ignore::UserWarning")  # where TFLite's interpreter moves to
@pytest.mark.parametrize("layout", ["indexed", "subgraphs", "branches"])
def test_tflite_runs_each_member_by_name(ensemble, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "ensemble.tflite"
    convert_ensemble(ensemble, path, mean=MEAN, std=STD, layout=layout)
    image = pixels(1, (8, 8, 3))
    expected = EnsembleInterpreter(path).predict_logits(image)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    logits = by_signature(tf.lite.Interpreter(str(path)), layout, image.astype(np.float32))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    if layout != "branches":
        by_parts = by_prefix(tf.lite.Interpreter(str(path)), layout, image.astype(np.float32))
        np.testing.assert_array_equal(by_parts, logits)
