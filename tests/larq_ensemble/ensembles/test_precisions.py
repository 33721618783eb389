"""Models that compute in something other than float32, and images that are not float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from larq_ensemble.convert import convert_ensemble
from larq_ensemble.ensembles import build_ensemble, fit_members, fused_network, load_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.copying import in_float32
from larq_ensemble.models.graph import layer_graph
from larq_ensemble.runtime import EnsembleInterpreter

from ..conftest import CLASSES, SHAPE, images, labels, tiny_backbone

X, Y = images(), labels()
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def policy(request) -> Iterator[str]:
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def test_ensembles_of_other_precisions(policy: str, tmp_path) -> None:
    """They train as Keras trains them; outputs are never below float32, and the file is float32."""
    backbone = tiny_backbone()
    ensemble = build_ensemble(backbone, 2)
    ensemble.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    computed = policy.removeprefix("mixed_")
    assert f"computes in {computed}, not in float32" in str(ensemble.tracing_obstacle)
    before = ensemble.get_layer("member_1_linear").get_weights()[0]
    ensemble.train_on_batch(X, Y)
    assert (ensemble.get_layer("member_1_linear").get_weights()[0] != before).any()
    outputs = tf.float64 if policy == "float64" else tf.float32
    assert {output.dtype for output in ensemble.outputs} == {outputs}
    ensemble.save(tmp_path / "a.keras")
    keras.mixed_precision.set_global_policy("float32")

    loaded = load_ensemble(tmp_path / "a.keras")
    reference = in_float32(loaded)
    assert {layer.compute_dtype for layer in reference.layers} == {"float32"}
    np.testing.assert_allclose(loaded(X)[-1], reference(X)[-1], atol=0.03)
    convert_ensemble(loaded, tmp_path / "a.tflite", mean=[0.5] * 3, std=[0.25] * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), np.uint8)
    expected = reference(((pixels / 255 - 0.5) / 0.25).astype(np.float32))[-1]
    predicted = EnsembleInterpreter(tmp_path / "a.tflite").predict(pixels)
    np.testing.assert_allclose(predicted, expected, atol=1e-4)


def test_a_float32_model_is_not_copied(tiny) -> None:
    assert in_float32(tiny) is tiny


def test_files_hold_float32_whatever_a_model_trains_in() -> None:
    layer = keras.layers.Dense(2, dtype="float64", name="last")
    image = keras.Input((3,))
    (linear,) = layer_graph(keras.Model(image, layer(image)))["last"].stored[:1]
    assert (linear.count, linear.bits) == (6, 32)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_recomputed_gradients_are_scaled_as_keras_scales_them(policy: str) -> None:
    """Unscaled, they would be 2^15 times too small, and no weight would move."""
    moved = []
    for recompute in (False, True):
        ensemble = build_ensemble(tiny_backbone(), 2)
        ensemble.compile(keras.optimizers.SGD(0.1), recompute=recompute, run_eagerly=True)
        head = ensemble.get_layer("member_1_linear")
        before = head.get_weights()[0]
        ensemble.train_on_batch(X, Y)
        moved.append(head.get_weights()[0] - before)
    assert np.abs(moved[0]).max() > 1e-3
    np.testing.assert_allclose(moved[1], moved[0], rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@pytest.mark.parametrize("scheme", ["boosting", "adversarial"])
def test_sequential_training_in_mixed_precision(scheme: str, policy: str) -> None:
    ensemble = fit_members(
        tiny_backbone(), X, Y, members=1, scheme=scheme, optimizer="sgd", verbose=0
    )
    start = build_ensemble(tiny_backbone(), 1, scheme=scheme).get_layer("member_0_linear")
    head = ensemble.get_layer("member_0_linear").get_weights()[0]
    assert np.abs(head - start.get_weights()[0]).max() > 1e-4


def backbone_in(policy: str) -> keras.Model:
    """The tiny backbone, as from a file: the global policy is float32."""
    keras.mixed_precision.set_global_policy(policy)
    try:
        return tiny_backbone()
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_gradients_are_scaled_for_the_layers_whatever_the_global_policy() -> None:
    """Keras looks at the global policy only, which in a program that loads a file is float32."""
    backbone = backbone_in("mixed_float16")
    ensemble = build_ensemble(backbone, 2)
    ensemble.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    assert isinstance(ensemble.optimizer, keras.mixed_precision.LossScaleOptimizer)
    reference = build_ensemble(in_float32(backbone), 2)
    reference.compile(keras.optimizers.SGD(1e-3), run_eagerly=True, execution="plain")
    moved = []
    # So small a loss that its gradients are 0 in float16.
    tiny_weights = np.full(len(Y), 1e-7, np.float32)
    for model in (ensemble, reference):
        model.optimizer.learning_rate.assign(1e4)
        scale = model.get_layer("member_1_conv1_bn").gamma
        before = scale.numpy()
        model.train_on_batch(X, Y, sample_weight=tiny_weights)
        moved.append(scale.numpy() - before)
    assert np.abs(moved[1]).min() > 1e-6
    np.testing.assert_allclose(moved[0], moved[1], rtol=0.1, atol=1e-5)


def test_a_loss_that_is_scaled_already_is_not_scaled_twice() -> None:
    ensemble = build_ensemble(backbone_in("mixed_float16"), 2)
    scaled = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    ensemble.compile(scaled)
    assert ensemble.optimizer is scaled
    plain = build_ensemble(backbone_in("mixed_bfloat16"), 2)
    plain.compile("sgd")
    assert type(plain.optimizer) is keras.optimizers.SGD


@pytest.mark.parametrize("scheme", ["boosting", "soft_boosting"])
def test_boosting_in_double_precision(scheme: str) -> None:
    """A step moves the weights as in float32."""
    moved = []
    for backbone in (backbone_in("float64"), tiny_backbone()):
        if scheme == "boosting":
            ensemble = fit_members(
                backbone, X, Y, members=1, scheme=scheme, optimizer="sgd", jitter=0.0, verbose=0
            )
        else:
            ensemble = build_ensemble(backbone, 1, scheme=scheme, jitter=0.0)
            ensemble.compile("sgd", run_eagerly=True)
            ensemble.train_on_batch(X, Y)
        moved.append(ensemble.get_layer("member_0_linear").get_weights())
    assert np.abs(moved[0][1]).max() > 1e-4
    for double, single in zip(*moved, strict=True):
        np.testing.assert_allclose(double, single, atol=1e-5)


def test_stochastic_rounding_in_bfloat16() -> None:
    backbone = backbone_in("bfloat16")
    ensemble = build_ensemble(backbone, 1, scheme="stochastic_rounding")
    filters = ensemble.get_layer("member_0_layer1_conv").get_weights()[0]
    assert filters.dtype == "bfloat16"
    latent = backbone.get_layer("layer1_conv").get_weights()[0].astype(np.float64)
    scales = np.abs(latent).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(
        np.abs(filters.astype(np.float64)), np.broadcast_to(scales, filters.shape), rtol=0.01
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_that_keras_could_not_read_are_not_written(suffix: str, tmp_path) -> None:
    ensemble = build_ensemble(backbone_in("bfloat16"), 2)
    with pytest.raises(EnsembleError, match=r"weights in bfloat16.*'mixed_bfloat16'.*SavedModel"):
        ensemble.save(tmp_path / f"a{suffix}")
    assert not [*tmp_path.iterdir()]
    keras.Model(ensemble.inputs, ensemble.outputs).save(tmp_path / f"a{suffix}")
    with pytest.raises(EnsembleError, match=r"has weights in bfloat16, which Keras.*can't read"):
        load_ensemble(tmp_path / f"a{suffix}")
    ensemble.save(tmp_path / "saved")
    loaded = load_ensemble(tmp_path / "saved")
    np.testing.assert_array_equal(loaded(X)[-1], ensemble(X)[-1])


@pytest.mark.parametrize(
    ("name", "save_format"),
    [
        ("a.h5", None),
        ("a.keras", None),
        ("a.weights.h5", None),
        ("a.weights.h5", "tf"),
        ("a", "h5"),
    ],
)
def test_weights_that_keras_could_not_read_are_not_written(name, save_format, tmp_path) -> None:
    ensemble = build_ensemble(backbone_in("bfloat16"), 2)
    with pytest.raises(EnsembleError, match=r"weights in bfloat16.*'mixed_bfloat16'.*SavedModel"):
        ensemble.save_weights(tmp_path / name, save_format=save_format)
    assert not [*tmp_path.iterdir()]
    before = ensemble.get_weights()
    ensemble.save_weights(tmp_path / "checkpoint")
    ensemble.set_weights([np.zeros_like(weight) for weight in before])
    ensemble.load_weights(tmp_path / "checkpoint").expect_partial()
    for ours, theirs in zip(ensemble.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


def test_members_that_keras_could_not_read_are_not_trained(tmp_path) -> None:
    backbone = backbone_in("bfloat16")
    with pytest.raises(EnsembleError, match=r"weights in bfloat16.*`folder`.*'mixed_bfloat16'"):
        fit_members(backbone, X, Y, members=1, scheme="voting", folder=tmp_path, verbose=0)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float64"])
def test_images_of_other_dtypes(dtype: str, tiny) -> None:
    """Keras casts arrays and streams for the plain layers; fused ones must get the same."""
    pixels = np.random.default_rng(0).integers(0, 4, X.shape).astype(dtype)
    network = fused_network(tiny_backbone())
    network.compile("sgd", LOSS, run_eagerly=True)
    plain = tiny_backbone()
    plain.compile("sgd", LOSS, run_eagerly=True)
    stream = tf.data.Dataset.from_tensor_slices((pixels, Y)).batch(len(Y))
    losses = [model.fit(stream, verbose=0).history["loss"] for model in (network, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    ensemble = build_ensemble(tiny, 2)
    ensemble.compile("sgd", run_eagerly=True)
    for call in (ensemble.predict, ensemble.predict_on_batch, ensemble):
        np.testing.assert_allclose(call(pixels)[-1], ensemble(pixels.astype("float32"))[-1])


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Nothing is traced, which takes longer than what a step computes."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though")  # of the stream, which has no functions
@pytest.mark.usefixtures("eagerly")
def test_adversarial_images_of_other_dtypes() -> None:
    """They train the member that the same images in float32 do."""
    pixels, trained = np.random.default_rng(0).integers(0, 4, X.shape), {}
    for dtype in ("float32", "uint8", "float64"):
        stream = tf.data.Dataset.from_tensor_slices((pixels.astype(dtype), Y)).batch(len(Y))
        ensemble = fit_members(tiny_backbone(), stream, members=1, scheme="adversarial", verbose=0)
        trained[dtype] = ensemble.get_weights()
    for dtype in ("uint8", "float64"):
        for ours, theirs in zip(trained[dtype], trained["float32"], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=dtype)


def test_adversarial_images_of_a_network_for_whole_numbers() -> None:
    image = keras.Input(SHAPE, dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    backbone = keras.Model(image, keras.layers.Dense(CLASSES)(x))
    with pytest.raises(EnsembleError, match=r"'adversarial' .* input is uint8"):
        fit_members(backbone, X, Y, members=1, scheme="adversarial", verbose=0)
