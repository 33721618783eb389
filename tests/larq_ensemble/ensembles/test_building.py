"""Ensembles: who owns what, what training changes, what is saved, and any functional network."""

from __future__ import annotations

import io
import zipfile

import h5py
import numpy as np
import pytest

from larq_ensemble.ensembles import (
    as_ensemble,
    build_ensemble,
    build_member,
    copy_weights,
    load_ensemble,
)
from larq_ensemble.ensembles.combine import Combine
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models.classifier import with_head_bias_apart
from larq_ensemble.models.keras_layers import KerasLayers
from larq_ensemble.network.architectures.resnet import resnet
from larq_ensemble.runtime.combination import combine

from ..conftest import CLASSES, SHAPE, images, labels, randomize, tiny_backbone

POLICIES = ["fusion", "all_frozen", "c1", "c2", "c3", "none"]
TRAINED = ["fusion", "nested_fusion", "voting", "hard_voting", "bagging", "batch_bagging"]
BINARY = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "magnitude_aware_sign",
    "kernel_constraint": "weight_clip",
    "use_bias": False,
}


def small_resnet(blocks: tuple[int, int] = (1, 1)) -> keras.Model:
    """Two residual blocks, the second with a convolution in its shortcut."""
    image = keras.Input(SHAPE, name="image")
    logits = resnet(
        KerasLayers(), image, classes=CLASSES, dropout=0.0, stages=(3, 5), blocks=blocks
    )
    return randomize(keras.Model(image, logits, name="small"))


def vgg() -> keras.Model:
    """Of another make: sequential, max pooling, one-padding, QuantDense, softmax at the end."""
    return randomize(
        keras.Sequential(
            [
                keras.Input(SHAPE),
                keras.layers.Conv2D(4, 3, name="first"),
                keras.layers.BatchNormalization(scale=False, name="norm_a"),
                lq.layers.QuantConv2D(6, 3, padding="same", pad_values=1, name="b1", **BINARY),
                keras.layers.MaxPooling2D(2, name="pool"),
                keras.layers.BatchNormalization(center=False, name="norm_b"),
                lq.layers.QuantConv2D(5, 3, padding="same", pad_values=1, name="b2", **BINARY),
                keras.layers.ReLU(name="relu"),
                keras.layers.Flatten(name="flat"),
                lq.layers.QuantDense(7, name="hidden", **BINARY),
                keras.layers.BatchNormalization(name="norm_c"),
                keras.layers.Dense(CLASSES, activation="softmax", name="probabilities"),
            ],
            name="vgg",
        )
    )


def tangled() -> keras.Model:
    """Operators on tensors, a concatenation, layers called twice, one on its own output."""
    image = keras.Input(SHAPE)
    x = 2 * image - 0.5
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
    twice = lq.layers.QuantConv2D(4, 3, padding="same", name="twice", **BINARY)
    slope = keras.layers.PReLU(shared_axes=[1, 2], name="slope")
    y = slope(twice(x))
    y = keras.layers.BatchNormalization(name="norm")(y)
    y = slope(twice(y) + x)
    x = keras.layers.Concatenate(name="both")([tf.nn.relu(x), y * 0.5, image])
    x = tf.reduce_mean(x, axis=[1, 2])
    x = keras.layers.Softmax(name="softmax")(keras.layers.Dense(CLASSES, name="linear")(x))
    return randomize(keras.Model(image, x, name="tangled"))


NETWORKS = {"small": small_resnet, "vgg": vgg, "tangled": tangled}


def logits_of(network: keras.Model, x: np.ndarray) -> np.ndarray:
    """Logits, up to a constant an example, of a network with or without softmax at its end."""
    y = network(x).numpy()
    logits = np.log(y) if np.allclose(y.sum(axis=1), 1) else y
    return logits - logits.mean(axis=1, keepdims=True)


def weights_by_name(layers) -> dict[str, list[np.ndarray]]:
    return {layer.name: [weight.copy() for weight in layer.get_weights()] for layer in layers}


def weights_of(member: int, ensemble: keras.Model, network: keras.Model) -> dict:
    """The weights that a member uses, put together by the names of a network's layers."""
    names = {layer.name for layer in ensemble.layers}
    weights = {}
    for layer in network.layers:
        own = own_name(member, layer.name)
        name = own if own in names else layer.name
        weights[layer.name] = ensemble.get_layer(name).get_weights() if layer.weights else []
    return weights


def assert_same_bits(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for name, values in before.items():
        for old, new in zip(values, after[name], strict=True):
            assert old.tobytes() == new.tobytes(), name


def train(ensemble: keras.Model, *, steps: int = 1, weights=None, rate: float = 0.05) -> None:
    ensemble.compile(keras.optimizers.Adam(rate), execution="plain", run_eagerly=True)
    ensemble.fit(images(), labels(), batch_size=12 // steps, sample_weight=weights, verbose=0)


@pytest.fixture(scope="module")
def small() -> keras.Model:
    """The second block alone, which has all kinds of layers; not to be changed."""
    return small_resnet((0, 1))


@pytest.mark.parametrize("sharing", POLICIES)
def test_members_start_at_the_pretrained_weights(sharing: str, small: keras.Model) -> None:
    ensemble = build_ensemble(small, 2, sharing=sharing, jitter=0)
    x = images()
    *members, combined = ensemble(x)
    for member in members:
        np.testing.assert_allclose(member, small(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(combined, tf.nn.softmax(small(x)), rtol=1e-5, atol=1e-6)
    network = with_head_bias_apart(small) if sharing in ("all_frozen", "c1") else small
    for member in range(2):
        actual = weights_of(member, ensemble, network)
        assert_same_bits(weights_by_name(network.layers), actual)


OWN = {
    "fusion": {"bn", "prelu", "linear"},
    "all_frozen": {"bn", "prelu", "linear_bias"},
    "c1": {"bn", "prelu", "linear_bias", "conv1"},
    "c2": {"bn", "prelu", "linear", "shortcut_conv"},
    "c3": {"bn", "prelu", "linear", "_conv2"},
    "none": {"bn", "prelu", "linear", "conv", "_conv2", "shortcut_conv"},
}


def is_own(name: str, sharing: str) -> bool:
    """The table of policies, on the names of our own network's layers."""
    kinds = OWN[sharing]
    if name in ("conv1", "linear", "linear_bias"):
        return name in kinds or (name == "conv1" and "conv" in kinds)
    if "bn" in name or "prelu" in name:
        return True
    if name.endswith("shortcut_conv"):
        return "shortcut_conv" in kinds
    return "conv" in kinds or (name.endswith("_conv2") and "_conv2" in kinds)


@pytest.mark.parametrize("sharing", POLICIES)
def test_training_leaves_every_bit_of_what_is_shared(sharing: str, small: keras.Model) -> None:
    ensemble = build_ensemble(small, 2, sharing=sharing)
    shared = weights_by_name(ensemble.shared_layers())
    own = weights_by_name([*ensemble.own_layers(0), *ensemble.own_layers(1)])
    stored = [layer.name for layer in small.layers if layer.weights]
    if "linear_bias" in OWN[sharing]:
        stored.append("linear_bias")
        assert [value.ndim for value in shared["linear"]] == [2]
    assert set(shared) == {name for name in stored if not is_own(name, sharing)}
    assert set(own) == {own_name(m, n) for n in stored if is_own(n, sharing) for m in range(2)}
    # Latent weights beyond the clip: a constraint applied to a frozen layer would change them.
    if sharing == "fusion":
        assert max(np.abs(shared["layer2_0_conv2"][0]).max(), np.abs(shared["conv1"][0]).max()) > 1
    train(ensemble)
    assert_same_bits(shared, weights_by_name(ensemble.shared_layers()))
    for name, values in weights_by_name([*ensemble.own_layers(0), *ensemble.own_layers(1)]).items():
        for old, new in zip(own[name], values, strict=True):
            assert (old != new).any(), name


@pytest.mark.parametrize("scheme", TRAINED)
def test_shared_batch_statistics_do_not_move(scheme: str, small: keras.Model) -> None:
    """A sharing of one's own that keeps some batch norms in common, and runs them as they are."""
    kept = {"conv1_bn", "layer2_0_bn2", "layer2_0_bn3"}
    ensemble = build_ensemble(
        small,
        2,
        scheme=scheme,
        sharing=lambda layer: layer.name in kept or isinstance(layer, keras.layers.Conv2D),
    )
    shared = weights_by_name(ensemble.shared_layers())
    assert kept < shared.keys()
    train(ensemble)
    assert_same_bits(shared, weights_by_name(ensemble.shared_layers()))


def test_the_backbone_is_left_alone() -> None:
    backbone = tiny_backbone()
    before, config = weights_by_name(backbone.layers), backbone.get_config()
    train(build_ensemble(backbone, 2, dropout=0.5))
    assert_same_bits(before, weights_by_name(backbone.layers))
    assert backbone.get_config() == config
    assert all(layer.trainable for layer in backbone.layers)


def scheme_weights(scheme: str, members: int) -> dict[str, np.ndarray] | None:
    """What the training pipeline feeds: each member's counts of the twelve examples."""
    function = SCHEMES[scheme].sample_weights(members, 12, 0)
    if function is None:
        return None
    counts = function(tf.range(12), tf.constant([0, 0], tf.int64)).numpy()
    return {f"member_{member}": counts[member] for member in range(members)}


@pytest.mark.parametrize("scheme", TRAINED)
def test_members_differ_after_one_epoch_without_dropout(scheme: str, tiny) -> None:
    ensemble = build_ensemble(tiny, 3, scheme=scheme)
    train(ensemble, weights=scheme_weights(scheme, 3))
    members = [member.numpy() for member in ensemble(images())[:3]]
    for first in range(3):
        for second in range(first):
            assert np.abs(members[first] - members[second]).max() > 1e-2


@pytest.mark.parametrize("scheme", ["fusion", "voting"])
def test_without_jitter_members_would_stay_equal(scheme: str, tiny) -> None:
    """Why there is jitter, and that the test above can fail."""
    ensemble = build_ensemble(tiny, 2, scheme=scheme, jitter=0)
    train(ensemble)
    first, second, _ = ensemble(images())
    np.testing.assert_array_equal(first, second)


def test_independent_members_train_as_if_alone(tiny) -> None:
    together, apart = (build_ensemble(tiny, 2, scheme="voting") for _ in range(2))

    def train_in_order(model: keras.Model, **compile_options) -> None:
        model.compile(keras.optimizers.Adam(0.05), **compile_options, run_eagerly=True)
        model.fit(images(), labels(), batch_size=4, shuffle=False, verbose=0)

    train_in_order(together, execution="plain")
    for member in range(2):
        train_in_order(
            apart.member(member),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    for layer in apart.layers:
        for one, other in zip(layer.get_weights(), together.get_layer(layer.name).get_weights()):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_fusion_follows_the_gradient_of_one_loss(tiny) -> None:
    x, y = images(), labels()
    ensemble, reference = (build_ensemble(tiny, 2) for _ in range(2))
    with tf.GradientTape() as tape:
        mean = tf.add_n([reference.member(m)(x, training=True) for m in range(2)]) / 2
        log_p = mean - tf.reduce_logsumexp(mean, axis=1, keepdims=True)
        loss = -tf.reduce_mean(tf.reduce_sum(log_p * tf.one_hot(y, CLASSES), axis=1))
    variables = reference.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        variable.assign_sub(0.1 * gradient)
    ensemble.compile(keras.optimizers.SGD(0.1), execution="plain", run_eagerly=True)
    ensemble.train_on_batch(x, y)
    for one, other in zip(ensemble.trainable_variables, variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def cross_entropy(logits, y):
    log_p = logits - tf.reduce_logsumexp(logits, axis=1, keepdims=True)
    return -tf.reduce_mean(tf.reduce_sum(log_p * tf.one_hot(y, CLASSES), axis=1))


@pytest.mark.parametrize("weights", [None, (3, 2, 1), (0, 0, 1)])
def test_nested_fusion_follows_the_gradient_of_the_weighted_losses(weights, tiny) -> None:
    x, y = images(), labels()
    nested, reference = (
        build_ensemble(tiny, 3, scheme=scheme) for scheme in ("nested_fusion", "fusion")
    )
    *factors, whole = np.array(weights or (1, 4, 9)) / sum(weights or (1, 4, 9))
    with tf.GradientTape() as tape:
        logits = [reference.member(m)(x, training=True) for m in range(3)]
        loss = whole * cross_entropy((logits[0] + logits[1] + logits[2]) / 3, y)
        if any(factors):
            loss += factors[0] * cross_entropy(logits[0], y)
            loss += factors[1] * cross_entropy((logits[0] + logits[1]) / 2, y)
    variables = reference.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        variable.assign_sub(0.1 * gradient)
    nested.compile(
        keras.optimizers.SGD(0.1), prefix_weights=weights, execution="plain", run_eagerly=True
    )
    logs = nested.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert logs["ensemble_loss"] == pytest.approx(
        float(cross_entropy(tf.add_n(logits) / 3, y)), rel=1e-5
    )
    assert_same_weights(nested, reference)


def assert_same_weights(model: keras.Model, expected: keras.Model) -> None:
    for layer in expected.layers:
        for one, other in zip(model.get_layer(layer.name).get_weights(), layer.get_weights()):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_outputs_of_nested_fusion(tiny, tmp_path) -> None:
    """The first m members' probabilities, also after saving, and what a user of M + 1 reads."""
    ensemble = build_ensemble(tiny, 3, scheme="nested_fusion")
    ensemble.save(tmp_path / "nested.keras")
    ensemble = keras.models.load_model(tmp_path / "nested.keras")
    names = ["member_0", "member_1", "member_2", "first_1", "first_2", "ensemble"]
    assert ensemble.output_names == names
    assert ensemble.members == 3
    outputs = [output.numpy() for output in ensemble(images())]
    for count, probabilities in enumerate(outputs[3:], start=1):
        expected = combine(np.stack(outputs[:count]), "nested_fusion")
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("scheme", "eagerly"), [("fusion", False), ("hard_voting", True)])
def test_plain_fit_save_and_load(scheme: str, eagerly: bool, tiny, tmp_path) -> None:
    """Nothing but Keras: compile, fit, evaluate, save, load, and fit again."""
    x, y = images(), labels()
    ensemble = build_ensemble(tiny, 2, scheme=scheme)
    ensemble.compile("adam", run_eagerly=eagerly)
    history = ensemble.fit(x, y, batch_size=6, validation_data=(x, y), verbose=0).history
    accuracy = np.mean(ensemble.predict(x, verbose=0)[-1].argmax(axis=1) == y)
    assert history["val_ensemble_accuracy"][0] == pytest.approx(accuracy)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    for one, other in zip(ensemble(x), loaded(x), strict=True):
        np.testing.assert_array_equal(one, other)
    frozen = weights_by_name(loaded.shared_layers())
    loaded.run_eagerly = eagerly
    loaded.fit(x, y, batch_size=6, verbose=0)
    assert_same_bits(frozen, weights_by_name(loaded.shared_layers()))
    assert int(loaded.optimizer.iterations) == 4


def saved_values(model: keras.Model, path) -> int:
    """How many numbers the weights' file inside a .keras archive holds."""
    model.save(path)
    counts = []
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visititems(
            lambda _, item: counts.append(item.size) if isinstance(item, h5py.Dataset) else None
        )
    return sum(counts)


def test_shared_weights_are_saved_once(tiny, tmp_path) -> None:
    """By hand: filters 3x3x3x4 and 3x3x4x5 once; norms, slope and linear layer for each member."""
    shared = 108 + 180
    own = 4 * (4 + 5) + 1 + 5 * CLASSES + CLASSES
    assert saved_values(tiny, tmp_path / "backbone.keras") == shared + own
    for members in (1, 2, 4):
        ensemble = build_ensemble(tiny, members)
        path = tmp_path / f"{members}.keras"
        assert saved_values(ensemble, path) == shared + members * own
        assert ensemble.count_params() == shared + members * own


@pytest.mark.parametrize("scheme", TRAINED)
@pytest.mark.parametrize("members", [1, 3])
def test_an_ensemble_comes_back_as_it_was(scheme: str, members: int, tiny, tmp_path) -> None:
    ensemble = build_ensemble(tiny, members, scheme=scheme)
    ensemble.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", compile=False)
    x = images()
    for one, other in zip(ensemble(x), loaded(x), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (loaded.members, loaded.scheme.name, loaded.classes) == (members, scheme, CLASSES)
    assert [layer.trainable for layer in loaded.shared_layers()] == [False, False]
    logits = np.stack([loaded.member(member)(x) for member in range(members)])
    np.testing.assert_allclose(loaded(x)[-1], combine(logits, scheme), rtol=1e-5, atol=1e-6)


def test_a_shared_prefix_runs_once(tiny) -> None:
    ensemble = build_ensemble(tiny, 3)
    calls = {layer.name: len(layer.inbound_nodes) for layer in ensemble.layers}
    assert calls["conv1"] == 1
    assert calls["layer1_conv"] == 3
    assert [calls[own_name(m, "conv1_bn")] for m in range(3)] == [1, 1, 1]
    frozen_norm = build_ensemble(tiny, 3, sharing=["conv1", "conv1_bn", "layer1_conv"])
    calls = {layer.name: len(layer.inbound_nodes) for layer in frozen_norm.layers}
    assert (calls["conv1_bn"], calls["layer1_conv"]) == (1, 1)


def test_no_prefix_is_shared_behind_dropout() -> None:
    """Members must not see the same dropout mask."""
    image = keras.Input(SHAPE)
    x = keras.layers.Dropout(0.5, name="drop")(keras.layers.Conv2D(4, 3, name="conv")(image))
    x = keras.layers.Dense(CLASSES, name="last")(keras.layers.Flatten(name="flat")(x))
    ensemble = build_ensemble(keras.Model(image, x), 2, jitter=0)
    first, second, _ = ensemble(images(), training=True)
    assert (first.numpy() != second.numpy()).any()
    first, second, _ = ensemble(images())
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_member_is_the_network_with_its_own_weights(name: str, tmp_path) -> None:
    """Wiring of any functional network, fresh and loaded: members that differ are told apart."""
    backbone = NETWORKS[name]()
    x = images()
    equal = build_ensemble(backbone, 2, jitter=0)
    for member in equal(x)[:-1]:
        expected = logits_of(backbone, x)
        centred = member - tf.reduce_mean(member, axis=1, keepdims=True)
        np.testing.assert_allclose(centred, expected, rtol=1e-4, atol=1e-4)

    ensemble = build_ensemble(backbone, 3, jitter=0)
    for member in range(3):
        randomize(ensemble.member(member), seed=10)  # The shared layers are the same each time ...
    for member in range(3):
        for layer in ensemble.own_layers(member):  # ... and members' own are not.
            for weight in layer.weights:
                weight.assign(weight * (1 + 0.3 * member))
    ensemble.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", compile=False)
    expected = []
    alone = keras.models.clone_model(backbone)
    for member in range(3):
        for layer_name, weights in weights_of(member, ensemble, alone).items():
            alone.get_layer(layer_name).set_weights(weights)
        expected.append(logits_of(alone, x))
    for model in (ensemble, loaded):
        for member, output in enumerate(model(x)[:-1]):
            centred = output - tf.reduce_mean(output, axis=1, keepdims=True)
            np.testing.assert_allclose(centred, expected[member], rtol=1e-3, atol=1e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    assert np.abs(expected[1] - expected[2]).max() > 0.1


@pytest.mark.parametrize("name", ["vgg", "tangled"])
def test_foreign_networks_train(name: str) -> None:
    ensemble = build_ensemble(NETWORKS[name](), 2)
    shared = weights_by_name(ensemble.shared_layers())
    of_vgg = {"first", "b1", "b2", "hidden"}
    assert set(shared) == (of_vgg if name == "vgg" else {"stem", "twice"})
    own = weights_by_name(ensemble.own_layers(1))
    train(ensemble)
    assert_same_bits(shared, weights_by_name(ensemble.shared_layers()))
    for layer_name, values in weights_by_name(ensemble.own_layers(1)).items():
        assert any((old != new).any() for old, new in zip(own[layer_name], values)), layer_name


def test_independent_inputs(tiny) -> None:
    ensemble = build_ensemble(tiny, 2, scheme="voting", independent_inputs=True)
    assert [tensor.name for tensor in ensemble.inputs] == ["member_0_image", "member_1_image"]
    x, other = images(), images(seed=1)
    first, second, combined = ensemble([x, other])
    np.testing.assert_allclose(combined, combine(np.stack([first, second]), "voting"), rtol=1e-5)
    one_input = build_ensemble(tiny, 2, scheme="voting", jitter=0)
    assert not np.allclose(one_input(x)[0], first)
    copy_weights(ensemble, one_input)
    np.testing.assert_allclose(one_input(x)[0], first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one_input(other)[1], second, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ensemble.member(1)(other), second, rtol=1e-5)


def test_the_view(tiny) -> None:
    ensemble = build_ensemble(tiny, 11)
    assert (ensemble.members, ensemble.classes, ensemble.scheme) == (11, CLASSES, SCHEMES["fusion"])
    assert ensemble.output_names == [*[f"member_{m}" for m in range(11)], "ensemble"]
    own = ["conv1_bn", "layer1_prelu", "layer1_bn", "linear"]
    for member in (0, 1, 10):
        assert [layer.name for layer in ensemble.own_layers(member)] == [
            own_name(member, name) for name in own
        ]
    assert [layer.name for layer in ensemble.shared_layers()] == ["conv1", "layer1_conv"]
    outputs = ensemble(images())
    for member in (1, 10):
        network = ensemble.member(member)
        np.testing.assert_allclose(network(images()), outputs[member], rtol=1e-5, atol=1e-6)
        assert len(network.trainable_weights) == 2 + 1 + 2 + 2
    for member in (-1, 11):
        with pytest.raises(
            EnsembleError, match=f"`member` must be a whole number from 0 to 10, got {member}"
        ):
            ensemble.member(member)


def test_jitter_is_seeded_and_as_large_as_asked() -> None:
    image = keras.Input((1, 1, 2000))
    x = keras.layers.BatchNormalization(name="norm")(image)
    x = keras.layers.Dense(2, name="last")(keras.layers.Flatten(name="flat")(x))
    backbone = randomize(keras.Model(image, x))
    gamma, beta = backbone.get_layer("norm").get_weights()[:2]

    def norms(members: int, **options) -> list[list[np.ndarray]]:
        ensemble = build_ensemble(backbone, members, **options)
        return [ensemble.get_layer(own_name(m, "norm")).get_weights() for m in range(members)]

    first, second = norms(2, jitter=0.2, seed=3)
    assert np.std(first[0] / gamma) == pytest.approx(0.2, rel=0.1)
    assert np.mean(first[0] / gamma) == pytest.approx(1, abs=0.03)
    assert np.std(first[1] - beta) == pytest.approx(0.2, rel=0.1)
    assert abs(np.corrcoef(first[1] - beta, second[1] - beta)[0, 1]) < 0.15
    np.testing.assert_array_equal(norms(5, jitter=0.2, seed=3)[1][0], second[0])
    assert (norms(2, jitter=0.2, seed=4)[0][0] != first[0]).any()
    # In each, a plain fit must not leave members equal for ever.
    for scheme in (name for name in SCHEMES if not SCHEMES[name].sequential):
        one, other = norms(2, scheme=scheme)
        assert (one[0] != other[0]).any()
    np.testing.assert_array_equal(norms(1, jitter=0)[0][0], gamma)


def test_jitter_without_batch_norm_of_their_own(tiny) -> None:
    ensemble = build_ensemble(tiny, 2, sharing=[".*conv.*", ".*bn.*"])
    heads = [ensemble.get_layer(own_name(m, "linear")).kernel.numpy() for m in range(2)]
    original = tiny.get_layer("linear").kernel.numpy()
    assert all((head != original).any() for head in heads)
    assert (heads[0] != heads[1]).any()
    slopes = build_ensemble(tiny, 2, sharing=[".*conv.*", ".*bn.*", "linear"])
    values = [slopes.get_layer(own_name(m, "layer1_prelu")).alpha.numpy() for m in range(2)]
    assert values[0] != values[1]


def test_a_member_by_itself_is_that_of_the_ensemble(tiny) -> None:
    options = {"sharing": "c2", "scheme": "voting", "seed": 5}
    ensemble, member = build_ensemble(tiny, 3, **options), build_member(tiny, 2, **options)
    np.testing.assert_array_equal(member(images()), ensemble(images())[2])
    assert member.output_names == ["member_2"]
    trainable = {weight.name for weight in ensemble.trainable_weights}
    own = {name for name in trainable if name.startswith("member_2_")}
    assert {weight.name for weight in member.trainable_weights} == own
    randomize(member)
    copy_weights(member, ensemble)
    np.testing.assert_array_equal(member(images()), ensemble(images())[2])


def test_random_members_are_independent_and_seeded(tiny) -> None:
    options = {"sharing": "none", "initial": "random", "seed": 5}
    ensemble = build_ensemble(tiny, 2, **options)
    again = build_member(tiny, 1, **options)
    np.testing.assert_array_equal(again(images()), ensemble(images())[1])
    kernels = [ensemble.get_layer(own_name(m, "layer1_conv")).get_weights()[0] for m in (0, 1)]
    original = tiny.get_layer("layer1_conv").get_weights()[0]
    for first, second in ((kernels[0], kernels[1]), (kernels[0], original)):
        assert (first != second).all()
    assert (ensemble.get_layer(own_name(0, "conv1_bn")).gamma.numpy() == 1).all()  # no jitter
    with pytest.raises(EnsembleError, match="needs the sharing 'none'"):
        build_ensemble(tiny, 2, initial="random")


def test_rounded_members(tiny) -> None:
    ensemble = build_ensemble(tiny, 2, scheme="stochastic_rounding")
    assert {layer.name for layer in ensemble.shared_layers()} == {"conv1"}
    layers = [ensemble.get_layer(own_name(m, "layer1_conv")) for m in (0, 1)]
    kernels = [layer.get_weights()[0] for layer in layers]
    scales = np.abs(tiny.get_layer("layer1_conv").get_weights()[0]).mean(axis=(0, 1, 2))
    for layer, kernel in zip(layers, kernels):
        assert not layer.trainable
        np.testing.assert_allclose(np.abs(kernel) / scales, 1, rtol=1e-5)
    assert (kernels[0] != kernels[1]).any()
    assert ensemble.get_layer(own_name(0, "linear")).trainable


@pytest.mark.parametrize("scheme", ["boosting", "snapshot"])
def test_sequential_schemes_do_not_train_by_fit(scheme: str, tiny) -> None:
    ensemble = build_ensemble(tiny, 2, scheme=scheme)
    ensemble.compile("adam")
    with pytest.raises(EnsembleError, match=f"'{scheme}' trains its members one after .*fit_memb"):
        ensemble.fit(images(), labels())


def test_dropout_of_the_members(tiny) -> None:
    ensemble = build_ensemble(tiny, 2, dropout=0.25)
    assert [ensemble.get_layer(own_name(m, "dropout")).rate for m in range(2)] == [0.25, 0.25]
    assert build_ensemble(tiny, 1).get_layer(own_name(0, "dropout")).rate == 0
    assert tiny.get_layer("dropout").rate == 0


def test_dropout_of_whole_maps_is_the_members_own_too() -> None:
    """`pretrain` and `tune` count it as Dropout."""
    image = keras.Input((4, 4, 3))
    x = keras.layers.SpatialDropout2D(0.1, name="maps")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    backbone = keras.Model(image, keras.layers.Dense(2)(x))
    ensemble = build_ensemble(backbone, 2, dropout=0.25)
    assert [ensemble.get_layer(own_name(m, "maps")).rate for m in range(2)] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 0}, "`members` must be a whole number from 1 on, got 0"),
        ({"members": -2}, "got -2"),
        ({"members": 1.5}, r"got 1\.5"),
        ({"members": True}, "got True"),
        ({"members": "2"}, "got '2'"),
        ({"seed": -1}, "`seed` must be a whole number from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "got 4294967296"),
        ({"seed": 1.5}, r"`seed` .* got 1\.5"),
        ({"seed": True}, "`seed` .* got True"),
        ({"seed": None}, "`seed` .* got None"),
        ({"jitter": "much"}, "`jitter` must be at least 0, and finite, got 'much'"),
        ({"jitter": float("inf")}, "`jitter` .* got inf"),
        ({"dropout": "some"}, "`dropout` .* got 'some'"),
        ({"sharing": 3}, "`sharing` must be a policy .* got 3"),
        ({"weights": 3}, "`weights` must be 2 positive.*got 3"),
        ({"weights": "ab"}, "`weights` must be 2 positive.*got ab"),
        ({"jitter": -0.1}, r"`jitter` must be at least 0, and finite, got -0\.1"),
        ({"jitter": float("nan")}, "`jitter` .* got nan"),
        ({"dropout": 1.0}, r"`dropout` must be at least 0 and below 1, got 1\.0"),
        ({"weights": (1, 2, 3)}, r"`weights` must be 2 positive.*got \(1, 2, 3\)"),
        ({"weights": (1, 0)}, "`weights` must be 2 positive, finite numbers"),
        ({"independent_inputs": True}, "`independent_inputs` does not go with the scheme 'fusion'"),
        ({"sharing": [".*"]}, "`sharing` leaves the members nothing of their own"),
        ({"sharing": ["no_such_layer"]}, "'no_such_layer', which matches no layer with weights"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict, message: str, tiny) -> None:
    with pytest.raises(EnsembleError, match=message):
        build_ensemble(tiny, **{"members": 2, **arguments})


def test_numbers_of_numpy(tiny) -> None:
    ensemble = build_ensemble(
        tiny,
        np.uint8(2),
        scheme="voting",
        jitter=np.float32(0.5),
        weights=np.array([1, 3], np.float32),
        seed=np.int64(5),
    )
    same = build_ensemble(tiny, 2, scheme="voting", jitter=0.5, weights=(1, 3), seed=5)
    for one, other in zip(ensemble(images()), same(images()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ensemble.member(np.int32(1)).name == "member_1"
    for member in (1.0, True, "1"):
        with pytest.raises(EnsembleError, match="`member` must be a whole number from 0 to 1"):
            ensemble.own_layers(member)


@pytest.mark.parametrize("sharing", ["fusion", "none"])
def test_layers_with_names_of_an_ensemble(sharing: str, tmp_path) -> None:
    """A member's own layers are told by their names, and outputs have names, too."""
    image = keras.Input(SHAPE, name="member_0")
    x = keras.layers.Conv2D(3, 3, name="member_1_stem")(image)
    x = keras.layers.ReLU(name="shared_ensemble")(keras.layers.ReLU(name="ensemble")(x))
    x = keras.layers.BatchNormalization(name="first_1")(x)
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, name="a/b")(x))
    x = keras.layers.Dense(CLASSES, name="member_0_member_1_stem")(x)
    backbone = randomize(keras.Model(image, x))
    ensemble = build_ensemble(backbone, 2, sharing=sharing, scheme="nested_fusion", jitter=0)
    ensemble.save(tmp_path / "ensemble.h5")
    for model in (ensemble, load_ensemble(tmp_path / "ensemble.h5")):
        for member in range(2):
            np.testing.assert_allclose(
                model.member(member)(images()), backbone(images()), rtol=1e-5, atol=1e-5
            )
    kept = {"shared_member_1_stem", "a/b"} if sharing == "fusion" else set()
    assert {layer.name for layer in ensemble.shared_layers()} == kept
    assert len(ensemble.own_layers(1)) == 4 - len(kept)
    if sharing == "fusion":
        names = {layer.name for layer in ensemble.layers}
        assert {"shared_member_0", "shared_shared_ensemble", "shared_ensemble"} < names


class Unregistered(keras.layers.Layer):
    def build(self, shape) -> None:
        self.scale = self.add_weight(name="scale", shape=shape[-1:], initializer="ones")

    def call(self, x):
        return x * self.scale


class UnregisteredSign(lq.quantizers.Quantizer):
    precision = 1

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def call(self, x):
        return super().call(self.size * lq.quantizers.ste_sign(x))

    def get_config(self):
        return {"size": self.size}


class WithoutConfiguration(keras.layers.Layer):
    """Keras writes arguments that are plain values down by itself."""

    def __init__(self, function, weighted: bool = False) -> None:
        super().__init__()
        self.function, self.weighted = function, weighted

    def build(self, shape) -> None:
        if self.weighted:
            self.scale = self.add_weight(name="scale", shape=shape[-1:], initializer="ones")

    def call(self, x):
        return self.function(x)


class NotConfigured(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.0


def unregistered(x):
    return 2 * lq.quantizers.ste_sign(x)


def times(factor: float):
    return lambda x: factor * x


def network_with(*layers) -> keras.Model:
    image = keras.Input(SHAPE)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 3)(image))
    for layer in layers:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))


def test_layers_that_nothing_can_look_up() -> None:
    """Copies are made by the layers' own classes, and of the functions that they have."""
    backbone = network_with(
        keras.layers.Lambda(lambda x, by: by * x, arguments={"by": 2.0}),
        Unregistered(),
        # Two functions of one name and of one code.
        keras.layers.Conv2D(4, 1, activation=times(3.0)),
        lq.layers.QuantConv2D(
            4, 3, input_quantizer=unregistered, kernel_quantizer=UnregisteredSign(5.0)
        ),
        keras.layers.Activation(times(0.5)),
        WithoutConfiguration(times(3.0)),
    )
    randomize(backbone)
    for sharing in ("fusion", "none"):
        ensemble = build_ensemble(backbone, 2, sharing=sharing, jitter=0)
        for member in ensemble(images())[:-1]:
            np.testing.assert_allclose(member, backbone(images()), rtol=1e-4, atol=1e-4)
        before = weights_by_name(ensemble.own_layers(1))
        train(ensemble, steps=1)
        for name, values in weights_by_name(ensemble.own_layers(1)).items():
            assert any((one != other).any() for one, other in zip(values, before[name])), name
    random = build_ensemble(network_with(Unregistered()), 2, sharing="none", initial="random")
    assert len(random.own_layers(0)) == 4


def test_saving_what_keras_cannot_look_up(tmp_path) -> None:
    doubled = build_ensemble(network_with(keras.layers.Lambda(lambda x: 2 * x)), 2)
    doubled.save(tmp_path / "lambda.keras")
    with pytest.raises(EnsembleError, match=r"has a Lambda layer.*safe_mode=False"):
        load_ensemble(tmp_path / "lambda.keras")
    loaded = load_ensemble(tmp_path / "lambda.keras", safe_mode=False)
    np.testing.assert_array_equal(loaded(images())[-1], doubled(images())[-1])
    scaled = build_ensemble(network_with(Unregistered()), 2)
    scaled.save(tmp_path / "class.keras")
    with pytest.raises(EnsembleError, match=r"class\.keras' .*`keras.utils.custom_object_scope`"):
        load_ensemble(tmp_path / "class.keras")
    with keras.utils.custom_object_scope({"Unregistered": Unregistered}):
        loaded = load_ensemble(tmp_path / "class.keras")
    np.testing.assert_array_equal(loaded(images())[-1], scaled(images())[-1])


@pytest.mark.parametrize(
    "layer",
    [
        lambda: WithoutConfiguration(times(2.0), weighted=True),
        lambda: keras.layers.Conv2D(2, 3, kernel_regularizer=NotConfigured()),
    ],
)
def test_layers_that_cannot_be_copied(layer) -> None:
    with pytest.raises(EnsembleError, match=r"can't be copied for each member.*`get_config`"):
        build_ensemble(network_with(layer()), 2)


@pytest.mark.parametrize("frozen", ["all", "one"])
def test_members_train_what_is_frozen_in_the_backbone(frozen: str) -> None:
    backbone, thawed = tiny_backbone(), tiny_backbone()
    (backbone if frozen == "all" else backbone.get_layer("layer1_bn")).trainable = False
    trained, expected = (
        [weight.name for weight in build_ensemble(network, 2).trainable_weights]
        for network in (backbone, thawed)
    )
    assert trained == expected
    assert len(trained) == 2 * 7
    assert backbone.get_layer("layer1_bn").trainable is False


def test_what_has_nothing_to_train() -> None:
    plain = keras.layers.BatchNormalization(center=False, scale=False, name="norm")
    with pytest.raises(EnsembleError, match=r"nothing to train: .*\(norm\) have no trainable"):
        build_ensemble(network_with(plain), 2, sharing=lambda layer: layer.name != "norm")
    ensemble = build_ensemble(tiny_backbone(), 2)
    ensemble.trainable = False
    ensemble.compile("sgd")
    with pytest.raises(EnsembleError, match="no trainable weights: set `trainable = True`"):
        ensemble.fit(images(), labels(), verbose=0)


@pytest.mark.parametrize("kind", ["loss", "metric", "function"])
def test_losses_and_metrics_that_an_ensemble_would_not_have(kind: str) -> None:
    backbone = network_with()
    if kind == "metric":
        backbone.add_metric(tf.reduce_mean(backbone.output), name="mean")
    else:
        backbone.add_loss((lambda: 1.0) if kind == "function" else tf.reduce_mean(backbone.output))
    with pytest.raises(EnsembleError, match=r"of its own, by `add_(loss|metric)`.*model without"):
        build_ensemble(backbone, 2)
    build_ensemble(keras.Model(backbone.inputs, backbone.outputs), 2)


def test_losses_of_layers_are_those_of_the_backbone() -> None:
    """Of weights once for each copy, of activations once for each call."""

    def backbone(*layers) -> keras.Model:
        return randomize(network_with(*layers))

    regularized = keras.layers.Conv2D(2, 1, kernel_regularizer="l2")
    activity = keras.layers.Activation("relu", activity_regularizer="l1")
    for layer, own in ((regularized, 1), (activity, 2)):
        network = backbone(layer)
        network(images())
        ensemble = build_ensemble(network, 2, jitter=0)
        ensemble(images())
        expected = float(sum(network.losses)) * own
        assert expected > 0
        assert float(sum(ensemble.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("regularizer", [None, "l2"])
def test_layers_that_wrap_others(regularizer: str | None) -> None:
    """Keras gives them the regularizer of the layer within, which can't be set."""
    inner = keras.layers.Dense(3, activity_regularizer=regularizer)
    network = randomize(network_with(keras.layers.TimeDistributed(inner)))
    network(images())
    ensemble = build_ensemble(network, 2, sharing="all_frozen", jitter=0)
    outputs = ensemble(images())
    np.testing.assert_allclose(outputs[1], network(images()), rtol=1e-4, atol=1e-5)
    assert len(ensemble.losses) == (2 if regularizer else 0)


def test_unknown_names_list_the_known_ones(tiny) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown scheme 'vote'. Known: adaboost, .*voting"):
        build_ensemble(tiny, 2, scheme="vote")
    with pytest.raises(UnknownNameError, match=r"Unknown sharing 'all'. Known: all_frozen, .*none"):
        build_ensemble(tiny, 2, sharing="all")


def test_what_is_no_backbone_and_what_is_no_ensemble(tiny) -> None:
    image = keras.Input(SHAPE)
    classes = keras.layers.Conv2D(3, 3)(image)
    with pytest.raises(EnsembleError, match=r"has outputs of the shape \(None, \d, \d, 3\)"):
        build_ensemble(keras.Model(image, classes), 2)
    for model in (tiny, build_ensemble(tiny, 2).layers[-1], None):
        with pytest.raises(EnsembleError, match="is not an ensemble"):
            as_ensemble(model)
    with pytest.raises(
        EnsembleError, match=r"is an ensemble already: .*`\.member\(i\)`, i from 0 to 1\."
    ):
        build_ensemble(build_ensemble(tiny, 2), 2)


def test_combine_is_an_ordinary_layer() -> None:
    layer = Combine.from_config(Combine("voting", name="a").get_config())
    assert (layer.name, layer.scheme.name) == ("a", "voting")


def test_a_backbone_that_has_diverged_is_named() -> None:
    backbone = tiny_backbone()
    layer = next(
        layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)
    )
    layer.moving_variance.assign(layer.moving_variance * np.nan)
    with pytest.raises(EnsembleError, match=f"'{layer.name}' .* not finite .*'moving_variance'"):
        build_ensemble(backbone, 2)
    layer.moving_variance.assign(-tf.ones_like(layer.moving_variance))
    with pytest.raises(EnsembleError, match=f"'{layer.name}' has a moving variance of -1"):
        build_ensemble(backbone, 2)


def test_variables_have_the_names_of_their_layers(tiny, tmp_path) -> None:
    """Keras builds registered layers of a configuration without them; HDF5 needs unlike names."""
    ensemble = build_ensemble(tiny, 2, sharing="none")
    ensemble.save(tmp_path / "ensemble.keras")
    for model in (ensemble, keras.models.load_model(tmp_path / "ensemble.keras")):
        names = [variable.name for variable in model.variables]
        assert len(set(names)) == len(names)
        assert all(name.startswith(("member_", "trunk")) for name in names), names
