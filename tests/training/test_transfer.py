import dataclasses

import numpy as np
import pytest

from larq_ensemble.convert.conversion import convert_run
from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.network.architectures import MODELS
from larq_ensemble.runs import load_run
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.frontier import frontier
from larq_ensemble.training.pretrain import pretrain
from larq_ensemble.training.transfer import (
    check_backbone,
    check_twin,
    split_seed,
    start_from_backbone,
    start_from_real,
    started_network,
)


@pytest.fixture(scope="module")
def real(tiny, recipe, few, tmp_path_factory):
    """An untrained run of the real-valued twin of `tiny`, of seed 3."""
    MODELS._entries["tiny_real"] = dataclasses.replace(MODELS[tiny], binary=False)
    out = tmp_path_factory.mktemp("runs") / "real"
    untrained = recipe.override(epochs=0)
    yield pretrain("tiny_real", "digits", out, recipe=untrained, seed=3, data=few, verbose=0)[0]
    del MODELS._entries["tiny_real"]


@pytest.fixture
def start(tiny, recipe, few, real, tmp_path):
    def run(name="run", **arguments):
        named = {"recipe": recipe.override(epochs=0), "data": few, "from_real": real, "verbose": 0}
        return pretrain(tiny, "digits", tmp_path / name, **{**named, **arguments})

    return run


def test_a_network_starts_with_the_weights_of_its_twin(start, real):
    run, result = start(seed=1)
    kernels = 0
    for layer in run.model.layers:
        source = real.model.get_layer(layer.name)
        assert len(layer.weights) == len(source.weights)
        for actual, expected in zip(layer.get_weights(), source.get_weights(), strict=True):
            if isinstance(layer, lq.layers.QuantConv2D):
                kernels += 1
                expected = np.minimum(np.maximum(expected, -1), 1)
            np.testing.assert_array_equal(actual, expected)
    assert kernels == 2
    assert result["from_real"]["not_copied"] == []
    assert set(result["from_real"]["copied"]) == {
        layer.name for layer in real.model.layers if layer.weights
    }
    config = load_run(run.path).config
    assert config.transfer == {"from_real": real.digest}
    # What the twin held out, this run and those that start from it hold out as well.
    assert (config.seed, config.split_seed) == (1, 3)
    with pytest.raises(EnsembleError, match=r"started with transfer.from_real = .*, not None"):
        start(seed=1, from_real=None, resume=True)
    assert load_run(start("own", seed=1, split_seed=3)[0].path).config.split_seed == 3
    assert load_run(start("free", from_real=None, split_seed=5)[0].path).config.split_seed == 5
    with pytest.raises(EnsembleError, match=r"`split_seed` 4 would hold out .* must be theirs, 3"):
        start("other", seed=1, split_seed=4)


def test_two_stages(start, tiny, recipe, few, tmp_path):
    """Binary activations and real-valued filters first; its weights start the binary network."""
    untrained = {"recipe": recipe.override(epochs=0), "data": few, "verbose": 0}
    first, _ = pretrain(tiny, "digits", tmp_path / "1", binarize="activations", **untrained)
    conv = first.model.get_layer("layer2_0_conv1")
    assert conv.input_quantizer is not None
    assert conv.kernel_quantizer is None
    assert conv.kernel.constraint is None
    weight = np.random.default_rng(0).normal(0, 1, conv.kernel.shape).astype(np.float32)
    conv.kernel.assign(weight)
    x = np.random.default_rng(1).normal(size=(1, 8, 8, conv.input_shape[-1])).astype(np.float32)
    expected = tf.nn.conv2d(
        np.where(x >= 0, 1, -1).astype(np.float32), weight, conv.strides, "SAME"
    )
    np.testing.assert_allclose(conv(x), expected, atol=1e-4)

    second, result = start("2", from_real=first)
    assert result["from_real"]["not_copied"] == []
    latent = second.model.get_layer("layer2_0_conv1")
    assert latent.kernel_quantizer is not None
    np.testing.assert_array_equal(latent.get_weights()[0], np.clip(weight, -1, 1))
    assert "binarize" not in second.config.model

    for use in (
        lambda: train_ensemble(first, tmp_path / "e", members=2, recipe=recipe, data=few),
        lambda: convert_run(first, tmp_path / "f.tflite"),
        lambda: frontier([first], tmp_path / "frontier"),
    ):
        with pytest.raises(EnsembleError, match=r"is of the first stage: .* as `from_real`"):
            use()
    other = {**second.config.model, "width": 2.0}
    with pytest.raises(EnsembleError, match=r"not the first stage of 'tiny': its width is 1.0, n"):
        check_twin(first, other)
    with pytest.raises(EnsembleError, match=r"its name is 'tiny', not 'tiny_real'"):
        check_twin(first, first.config.model)


def test_only_latent_weights_are_clipped_and_other_shapes_left_alone():
    def network(binary, classes):
        image = keras.Input((4, 4, 2))
        if binary:
            x = lq.layers.QuantConv2D(
                3,
                3,
                kernel_quantizer="ste_sign",
                kernel_constraint="weight_clip",
                use_bias=False,
                name="conv",
            )(image)
        else:
            x = keras.layers.Conv2D(3, 3, use_bias=False, name="conv")(image)
        x = keras.layers.BatchNormalization(name="bn")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        if binary:
            x = keras.layers.PReLU(name="prelu")(x)
        return keras.Model(image, keras.layers.Dense(classes, name="linear")(x))

    real, binary = network(False, 5), network(True, 6)
    for weight in real.weights:
        weight.assign(np.random.default_rng(0).normal(0, 2, weight.shape))
    linear = binary.get_layer("linear").get_weights()
    names = start_from_real(binary, real)
    assert names == {"copied": ["conv", "bn"], "not_copied": ["prelu", "linear"]}
    (kernel,) = real.get_layer("conv").get_weights()
    (latent,) = binary.get_layer("conv").get_weights()
    assert np.abs(kernel).max() > 1
    np.testing.assert_array_equal(latent, np.clip(kernel, -1, 1))
    for actual, expected in zip(
        [*binary.get_layer("bn").get_weights(), *binary.get_layer("linear").get_weights()],
        [*real.get_layer("bn").get_weights(), *linear],
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet20"}, "twin of 'resnet20': its name is 'tiny_real', not 'resnet20_real'"),
        ({"name": "resnet20", "width": 2.0}, "its name is 'tiny_real', not 'resnet20_real'"),
        ({"width": 2.0}, "twin of 'tiny': its width is 1.0, not 2.0"),
        ({"revision": 1}, "twin of 'tiny': its revision is 2, not 1"),
        ({"classes": 100}, "twin of 'tiny': its classes is 10, not 100"),
        ({"input_shape": [32, 32, 3]}, r"its input_shape is \[8, 8, 1\], not \[32, 32, 3\]"),
    ],
)
def test_a_run_of_another_network_is_refused(real, change, message):
    model = {**real.config.model, "name": "tiny"}
    check_twin(real, model)
    with pytest.raises(EnsembleError, match=rf"`from_real` '.*real' is not .*{message}"):
        check_twin(real, {**model, **change})


@pytest.mark.parametrize("name", ["tiny_real", "resnet20_relu"])
def test_a_real_valued_network_has_no_twin(real, name):
    with pytest.raises(EnsembleError, match=f"and '{name}' is real-valued: give `from_backbone`"):
        check_twin(real, {**real.config.model, "name": name})


def test_no_run_is_trained_on_what_another_holds_out(real, backbone):
    data, digits = DataOptions(validation=0.1), DATASETS["digits"]
    assert split_seed([], digits, data, 5) == 5
    assert split_seed([real], digits, data, 5) == 3
    assert split_seed([real], DATASETS["cifar10"], data, 5) == 5
    with pytest.raises(EnsembleError, match=r"held out different images .* same `seed`"):
        split_seed([real, backbone], digits, data, 5)
    with pytest.raises(EnsembleError, match=r"`validation` 0.2 would hold out images .* at most 0"):
        split_seed([real], digits, DataOptions(validation=0.2), 5)


def test_a_run_that_has_not_finished_is_refused(real, start, tmp_path):
    unfinished = dataclasses.replace(real, path=tmp_path / "unfinished")
    with pytest.raises(EnsembleError, match=r"has no model\.keras: its training has not finished"):
        start(from_real=unfinished)
    assert not (tmp_path / "run").exists()


def test_a_backbone_starts_one_of_other_classes_and_image_size(
    tiny, backbone, recipe, monkeypatch, tmp_path
):
    other = dataclasses.replace(
        DATASETS["digits"], name="other", classes=3, input_shape=(12, 10, 1), read=None
    )
    monkeypatch.setitem(DATASETS._entries, "other", other)
    arguments = {"recipe": recipe.override(epochs=0), "seed": 5, "verbose": 0}
    run, result = pretrain(tiny, "other", tmp_path / "run", from_backbone=backbone, **arguments)
    for layer in run.model.layers:
        values = dict(zip((weight.name for weight in layer.weights), layer.get_weights()))
        expected = backbone.model.get_layer(layer.name).get_weights()
        if layer.name == "linear":
            assert [value.shape for value in values.values()] == [(8, 3), (3,)]
        elif values:
            for value, from_backbone in zip(values.values(), expected, strict=True):
                np.testing.assert_array_equal(value, from_backbone)
    assert result["from_backbone"]["not_copied"] == ["linear"]
    config = load_run(run.path).config
    assert config.transfer == {"from_backbone": backbone.digest}
    assert config.split_seed == 5  # the backbone saw other data
    with pytest.raises(EnsembleError, match=r"started with transfer.from_backbone = .*, not None"):
        pretrain(tiny, "other", run.path, resume=True, **arguments)
    assert (
        pretrain(tiny, "other", run.path, from_backbone=backbone, resume=True, **arguments)[1]
        == result
    )


def test_the_head_starts_anew_even_with_as_many_classes(backbone):
    model = keras.models.clone_model(backbone.model)
    before = model.get_layer("linear").get_weights()
    assert start_from_backbone(model, backbone.model)["not_copied"] == ["linear"]
    for actual, expected in zip(model.get_layer("linear").get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_layers_that_a_backbone_lacks_are_named():
    def network(size):
        image = keras.Input((size, size, 1))
        x = keras.layers.Conv2D(2, 3, name="conv")(image)
        x = keras.layers.Dense(4, name="hidden")(keras.layers.Flatten()(x))
        return keras.Model(image, keras.layers.Dense(3, name="linear")(x))

    with pytest.raises(EnsembleError, match=r"`from_backbone` has no .* same shape for hidden: "):
        start_from_backbone(network(8), network(6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet20"}, "can't start 'resnet20': its name is 'tiny', not 'resnet20'"),
        ({"width": 2.0}, "its width is 1.0, not 2.0"),
        ({"revision": 1}, "its revision is 2, not 1"),
        ({"pad_values": 1.0}, "its pad_values is 0.0, not 1.0"),
        ({"binarize": "activations"}, "its `binarize` is 'all', not 'activations'"),
        ({"input_shape": [8, 8, 3]}, "its channels is 1, not 3.* choose `channels`: grey has 1"),
    ],
)
def test_a_backbone_of_another_network_is_refused(backbone, change, message):
    model = {**backbone.config.model, "classes": 3, "input_shape": [64, 48, 1]}
    check_backbone(backbone, model)
    with pytest.raises(EnsembleError, match=rf"`from_backbone` '.*backbone' .*{message}"):
        check_backbone(backbone, {**model, **change})


def test_where_it_starts_from_says_what_a_network_is(real, backbone):
    def of(run, **model):
        return dataclasses.replace(
            run, config=dataclasses.replace(run.config, model={**run.config.model, **model})
        )

    assert started_network(None, None) == (None, 1.0, None)
    assert started_network(None, of(backbone, width=0.5)) == ("tiny", 0.5, 0.0)
    assert started_network(of(real, width=0.5), None) == ("tiny", 0.5, None)
    assert started_network(of(backbone, binarize="activations", pad_values=1.0), None) == (
        "tiny",
        1.0,
        1.0,
    )
    # `check_twin` refuses what is no twin; a network of the user's has to be named.
    assert started_network(backbone, None) == ("tiny", 1.0, None)
    assert started_network(None, of(backbone, source="networks:tiny")) == (None, 1.0, None)


def test_only_one_network_gives_the_weights(real, backbone, start):
    with pytest.raises(EnsembleError, match="`from_real` and `from_backbone` both say"):
        start(from_backbone=backbone)
