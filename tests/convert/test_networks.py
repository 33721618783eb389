"""Networks of Larq's tutorials and of users: how they end, and what is inside, becomes a file."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.runtime import EnsembleInterpreter

from .. import zoo
from .conftest import converted, pixels, randomized

NETWORKS = {
    "mnist_tutorial": lambda: zoo.mnist_tutorial(18, (32, 32, 32), 32, 5),
    "network_in_network": lambda: zoo.network_in_network(8, classes=5),
    "transfer_learning": lambda: zoo.transfer_learning(8, classes=5),
    "two_classes": lambda: zoo.two_classes(8),
}


def ensemble_of(name: str, **options) -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = zoo.settled(NETWORKS[name]())
    return randomized(build_ensemble(backbone, 2, **options))


@pytest.mark.parametrize(
    ("name", "options", "formats"),
    [
        ("mnist_tutorial", {}, {}),
        ("network_in_network", {}, {"heads": "int8"}),
        ("network_in_network", {"sharing": "c1"}, {"heads": "int8"}),
        ("transfer_learning", {"sharing": "all_frozen"}, {}),
        ("two_classes", {}, {}),
    ],
)
def test_a_file_computes_what_keras_computes(name, options, formats, tmp_path) -> None:
    case = converted(ensemble_of(name, **options), tmp_path, **formats)
    images = pixels(24, case.model.input_shape[1:])
    expected = np.stack(case.logits(images))
    logits = EnsembleInterpreter(case.path).predict_logits(images)
    # The median, because rounding flips a sign now and then.
    length = np.linalg.norm(expected, axis=-1)
    distance = np.median(np.linalg.norm(logits - expected, axis=-1) / length, axis=1)
    assert (distance < (0.02 if formats else 1e-4)).all()
    assert not np.allclose(*expected, atol=0.1)
    if name == "network_in_network" and not options:
        # 32 x 5 weights as int8, and a scale and a bias of each class as floats.
        assert inspect_file(case.path).lower_bound["heads"] == 2 * (32 * 5 + 5 * 4 + 5 * 4)


def test_a_binary_head_has_no_int8_weights(tmp_path) -> None:
    with pytest.raises(EnsembleError, match="can't have int8 weights: it is binarized"):
        converted(ensemble_of("mnist_tutorial"), tmp_path, heads="int8")
