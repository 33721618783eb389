"""Networks of Larq's tutorials and of users: how they end, and what is inside, becomes a file."""

from __future__ import annotations

import pytest

from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models.graph import layer_graph
from larq_ensemble.network.graph import Role

from .. import zoo
from .conftest import assert_members_agree, converted, pixels, randomized

NETWORKS = {
    "mnist_tutorial": lambda: zoo.mnist_tutorial(18, (32, 32, 32), 32, 5),
    "network_in_network": lambda: zoo.network_in_network(8, classes=5),
    "mobilenet": lambda: zoo.mobilenet(8, classes=5),
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
        ("mnist_tutorial", {"sharing": "all_frozen"}, {}),
        ("network_in_network", {}, {"heads": "int8"}),
        ("network_in_network", {"sharing": "c1"}, {"heads": "int8"}),
        ("mobilenet", {"sharing": "all_frozen"}, {}),
        ("transfer_learning", {}, {"heads": "int8"}),
        ("two_classes", {}, {}),
    ],
)
def test_a_file_computes_what_keras_computes(name, options, formats, tmp_path) -> None:
    ensemble = ensemble_of(name, **options)
    case = converted(ensemble, tmp_path, **formats)
    assert_members_agree(case, pixels(24, ensemble.input_shape[1:]), least=0.9)


def test_the_bytes_of_an_int8_head_that_is_a_convolution(tmp_path) -> None:
    """32 x 5 weights and 5 scales of each member, and the biases."""
    case = converted(ensemble_of("network_in_network"), tmp_path, heads="int8")
    heads = layer_graph(case.model.member(0)).roles
    assert [name for name, role in heads.items() if role is Role.HEAD] == ["member_0_head"]
    inspection = inspect_file(case.path)
    assert inspection.lower_bound["member_heads"] == 2 * (32 * 5 + 5 * 4 + 5 * 4)
    assert inspection.categories["heads"] >= 2 * (32 * 5 + 5 * 4 + 5 * 4)


def test_a_binary_head_has_no_int8_weights(tmp_path) -> None:
    with pytest.raises(EnsembleError, match="can't have int8 weights: it is binarized"):
        converted(ensemble_of("mnist_tutorial"), tmp_path, heads="int8")
