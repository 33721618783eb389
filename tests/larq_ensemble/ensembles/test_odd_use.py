"""What a Keras user may do with an ensemble, though few do: each as the plain layers would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from larq_ensemble.ensembles import Ensemble, build_ensemble, fit_members, load_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf

from ..conftest import CLASSES, SHAPE, images, labels

X, Y = images(), labels()


def network(seed: int | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE, name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = keras.layers.Dropout(0.5, seed=seed, name="dropout")(x) if seed is not None else x
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(CLASSES, name="linear")(x))


def ensemble_of(
    members: int = 2, scheme: str = "voting", *, backbone: keras.Model | None = None, **build: Any
) -> Ensemble:
    return build_ensemble(backbone or network(), members, scheme=scheme, **build)


def compiled(ensemble: Ensemble, **options: Any) -> Ensemble:
    ensemble.compile(keras.optimizers.SGD(0.1), **options)
    return ensemble


def assert_same_weights(one: keras.Model, other: keras.Model, **tolerance: float) -> None:
    for first, second in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, **(tolerance or {"atol": 1e-6}))


def test_members_that_are_not_frozen_alike_are_not_traced() -> None:
    """Traced, all would do what member 0 does: update or keep the statistics of batch norm."""
    ensemble = ensemble_of()
    ensemble.get_layer("member_1_norm").trainable = False
    compiled(ensemble)
    before = ensemble.get_layer("member_1_norm").get_weights()
    ensemble.train_on_batch(X, Y)
    assert not ensemble.is_traced
    for old, new in zip(before, ensemble.get_layer("member_1_norm").get_weights()):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(EnsembleError, match=r"member_1_norm.*frozen or configured otherwise"):
        ensemble.compile("sgd", execution="traced")


def doubled(x: tf.Tensor) -> tf.Tensor:
    return 2 * x


def tripled(x: tf.Tensor) -> tf.Tensor:
    return 3 * x


tripled.__name__ = "doubled"


def test_members_that_are_not_configured_alike_are_not_traced() -> None:
    """Also in what Keras writes as a dictionary, and in functions of one name."""
    ensemble = ensemble_of()
    ensemble.get_layer("member_1_norm").momentum = 0.9
    assert "member_1_norm" in str(ensemble.tracing_obstacle)

    image = keras.Input(SHAPE)
    x = lq.layers.QuantConv2D(2, 3, input_quantizer=lq.quantizers.SteSign(), name="conv")(image)
    x = keras.layers.Dense(4, activation="relu", name="dense")(keras.layers.Flatten()(x))
    backbone = keras.Model(image, keras.layers.Dense(CLASSES, name="linear")(x))
    ensemble = ensemble_of(backbone=backbone, sharing="none")
    assert ensemble.tracing_obstacle is None
    conv, dense = (ensemble.get_layer(f"member_1_{name}") for name in ("conv", "dense"))
    conv.input_quantizer = lq.quantizers.SteSign(clip_value=2.0)
    assert "member_1_conv" in str(ensemble.tracing_obstacle)
    conv.input_quantizer = lq.quantizers.SteSign()
    ensemble.get_layer("member_0_dense").activation = doubled
    dense.activation = tripled
    assert "member_1_dense" in str(ensemble.tracing_obstacle)
    compiled(ensemble)
    _, other, _ = ensemble(X)
    np.testing.assert_allclose(other, ensemble.member(1)(X), atol=1e-5)


def test_layers_frozen_or_thawed_after_compile() -> None:
    """Keras trains what was trainable when the model was compiled, and does not say so."""
    traced, plain = (compiled(ensemble_of(), execution=kind) for kind in ("traced", "plain"))
    before = traced.get_weights()
    for ensemble in (traced, plain):
        ensemble.get_layer("member_0_norm").trainable = False
        ensemble.get_layer("conv").trainable = True
        with pytest.warns(UserWarning, match=r"2 layers .*'conv'.* until `compile` .* again"):
            ensemble.fit(X, Y, shuffle=False, verbose=0)
        ensemble.get_layer("member_0_norm").trainable = True
        ensemble.get_layer("conv").trainable = False
    assert_same_weights(traced, plain, atol=1e-4)
    moved = [(old != new).any() for old, new in zip(before, traced.get_weights())]
    names = [weight.name for weight in traced.weights]
    assert {name for name, has in zip(names, moved) if not has} == {"conv/kernel:0", "conv/bias:0"}


@pytest.mark.parametrize("frozen", [(0, 1), (1,)])
def test_norms_frozen_after_compile_keep_their_statistics_in_a_loop_of_ones_own(frozen) -> None:
    """As in Keras, where it has an effect at once in calls of the model."""
    ensemble = compiled(ensemble_of())
    assert ensemble.is_traced
    ensemble(X, training=True)
    norms = [ensemble.get_layer(f"member_{member}_norm") for member in (0, 1)]
    for member in frozen:
        norms[member].trainable = False
    before = [norm.get_weights() for norm in norms]
    ensemble(X, training=True)
    for member, (norm, weights) in enumerate(zip(norms, before, strict=True)):
        moved = [(old != new).any() for old, new in zip(weights, norm.get_weights(), strict=True)]
        assert any(moved) == (member not in frozen)


def test_shared_layers_thawed_after_compile_have_gradients_in_a_loop_of_ones_own() -> None:
    image = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3, name="stem")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    backbone = keras.Model(image, keras.layers.Dense(CLASSES)(x))
    ensemble = compiled(ensemble_of(backbone=backbone))
    ensemble(X, training=True)
    ensemble.get_layer("conv").trainable = True
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(ensemble(X, training=True)[0] ** 2)
    gradient = tape.gradient(total, ensemble.get_layer("conv").kernel)
    assert gradient is not None
    assert np.abs(gradient).max() > 0


def test_a_run_that_was_saved_without_compiling_can_be_evaluated(tmp_path) -> None:
    ensemble = ensemble_of()
    ensemble.save(tmp_path / "model.keras")
    loaded = load_ensemble(tmp_path)
    accuracy = np.mean(ensemble(X)[-1].numpy().argmax(axis=1) == Y)
    measured = loaded.evaluate(X, Y, verbose=0, return_dict=True)
    assert measured["ensemble_accuracy"] == pytest.approx(accuracy)
    with pytest.raises(RuntimeError, match="must compile"):
        load_ensemble(tmp_path, compile=False).evaluate(X, Y, verbose=0)


def test_inputs_by_name_reach_their_members() -> None:
    """Sorted by name, as TensorFlow flattens a dictionary, member 10 would be the third."""
    traced, plain = (
        compiled(ensemble_of(11, independent_inputs=True), execution=execution)
        for execution in ("traced", "plain")
    )
    inputs = {name: X + member for member, name in enumerate(traced.input_names)}
    for one, other in zip(traced(inputs), plain(inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [[X], (X,), {"image": X}], ids=["list", "tuple", "dict"])
@pytest.mark.parametrize("options", [{}, {"recompute": True}], ids=["traced", "recompute"])
def test_one_input_in_a_structure(form: Any, options: dict[str, Any]) -> None:
    one, other = (
        compiled(ensemble_of(scheme="batch_bagging"), run_eagerly=True, **options) for _ in "ab"
    )
    one.train_on_batch(X, Y)
    other.train_on_batch(form, Y)
    assert_same_weights(one, other)


def test_recomputed_inputs_by_name() -> None:
    one, other = (
        compiled(ensemble_of(independent_inputs=True), run_eagerly=True, recompute=again)
        for again in (False, True)
    )
    inputs = {name: X + member for member, name in enumerate(one.input_names)}
    one.train_on_batch(inputs, Y)
    other.train_on_batch(inputs, Y)
    assert_same_weights(one, other, atol=1e-4)


@pytest.mark.parametrize("scheme", ["voting", "bagging"])
def test_images_of_whole_numbers_in_a_stream(scheme: str) -> None:
    """Keras casts them for the plain layers."""
    pixels = (X * 10).astype(np.int64)
    stream = tf.data.Dataset.from_tensor_slices((pixels, Y)).batch(len(Y))
    traced, plain = (
        compiled(ensemble_of(scheme=scheme), execution=execution)
        for execution in ("traced", "plain")
    )
    traced.fit(stream, verbose=0)
    plain.fit(stream, verbose=0)
    assert_same_weights(traced, plain, atol=1e-4)


def test_dropout_of_images_of_any_size_is_not_traced(repeatable) -> None:
    image = keras.Input((None, None, SHAPE[-1]))
    x = keras.layers.Dropout(0.5)(keras.layers.Conv2D(4, 3)(image))
    x = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(x))
    backbone = keras.Model(image, x)
    ensemble = compiled(build_ensemble(backbone, 2, scheme="voting"), run_eagerly=True)
    assert "size is unknown" in str(ensemble.tracing_obstacle)
    ensemble.train_on_batch(X, Y)


def test_members_with_seeded_dropout_draw_different_numbers() -> None:
    ensemble = ensemble_of(backbone=network(seed=1), jitter=0.0)
    seeds = [ensemble.get_layer(f"member_{m}_dropout").get_config()["seed"] for m in (0, 1)]
    assert seeds == [1, 2]


@pytest.mark.parametrize("scheme", ["bagging", "batch_bagging", "sampled_nested_fusion"])
@pytest.mark.parametrize(
    "loss",
    [{"ensemble": "mse", "member_0": "mse"}, "mse"],
    ids=["of an output", "of all"],
)
def test_losses_that_the_samples_would_not_weigh(scheme: str, loss: Any) -> None:
    """Without a word, bagging on the loss of the combination would be voting."""
    with pytest.raises(EnsembleError, match="`loss` as a dictionary for just"):
        ensemble_of(scheme=scheme).compile("sgd", loss=loss)


def test_one_loss_for_logits_and_probabilities() -> None:
    """Keras's usual string would take the members' logits for probabilities."""
    with pytest.raises(EnsembleError, match="dictionary by output"):
        ensemble_of(scheme="fusion").compile("sgd", "sparse_categorical_crossentropy")


@pytest.mark.parametrize("scheme", ["fusion", "voting", "soft_boosting"])
def test_one_hot_labels_train_as_class_numbers(scheme: str) -> None:
    one_hot = keras.utils.to_categorical(Y, CLASSES)
    one, other = (compiled(ensemble_of(scheme=scheme), run_eagerly=True) for _ in "ab")
    logs = [
        model.train_on_batch(X, y, return_dict=True) for model, y in ((one, Y), (other, one_hot))
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert_same_weights(one, other)


def test_mixed_labels_have_the_mean_of_the_losses() -> None:
    """The cross-entropy is linear in the label."""
    ensemble = compiled(ensemble_of(), run_eagerly=True)
    one_hot = np.eye(CLASSES, dtype=np.float32)
    first, second = one_hot[Y], one_hot[(Y + 1) % CLASSES]
    losses = [
        ensemble.evaluate(X, y, verbose=0, return_dict=True)["loss"]
        for y in (first, second, 0.25 * first + 0.75 * second)
    ]
    assert losses[2] == pytest.approx(0.25 * losses[0] + 0.75 * losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"run_eagerly": True}])
def test_labels_of_other_classes(options: dict[str, bool]) -> None:
    one_hot = keras.utils.to_categorical(Y, CLASSES + 1)
    with pytest.raises(ValueError, match=rf"distributions \[n, {CLASSES}\].*, {CLASSES + 1}\]"):
        compiled(ensemble_of(), **options).fit(X, one_hot, verbose=0)


def test_fit_members_on_one_hot_labels() -> None:
    """AdaBoost's weight of a member, by hand from what it gets wrong (SAMME)."""
    backbone = network()
    y = backbone(X).numpy().argmax(axis=1)
    y[:2] = (y[:2] + 1) % CLASSES
    one_hot = keras.utils.to_categorical(y, CLASSES)
    ensemble = fit_members(
        backbone, X, one_hot, members=1, scheme="adaboost", jitter=0.0, optimizer="sgd",
        validation_data=(X, one_hot), verbose=0,
    )  # fmt: skip
    error = np.mean(ensemble(X)[0].numpy().argmax(axis=1) != y)
    assert 0 < error < 1 - 1 / CLASSES
    expected = np.log((1 - error) / error) + np.log(CLASSES - 1)
    assert ensemble.member_weights == pytest.approx((expected,))


def test_soft_boosting_keeps_its_loss() -> None:
    with pytest.raises(EnsembleError, match="loss of its own"):
        ensemble_of(scheme="soft_boosting").compile("sgd", loss={"member_0": "mse"})


@pytest.mark.parametrize("form", [list, tuple])
def test_weights_in_a_list_are_those_of_the_outputs(form: Any) -> None:
    counts = np.arange(len(Y)) % 3.0
    one, other = (compiled(ensemble_of(scheme="bagging"), run_eagerly=True) for _ in "ab")
    one.fit(X, Y, sample_weight=form([counts, counts, counts]), shuffle=False, verbose=0)
    by_name = {"member_0": counts, "member_1": counts}
    other.fit(X, Y, sample_weight=by_name, shuffle=False, verbose=0)
    assert_same_weights(one, other)


def test_weights_of_classes_for_one_hot_labels() -> None:
    loss = {f"member_{m}": keras.losses.CategoricalCrossentropy(from_logits=True) for m in (0, 1)}
    one, other = (
        compiled(ensemble_of(scheme="bagging"), run_eagerly=True, loss=loss, metrics=[])
        for _ in "ab"
    )
    weights = {0: 2.0, 1: 0.5}
    one_hot = np.eye(CLASSES)[Y]
    one.fit(X, one_hot, class_weight=weights, shuffle=False, verbose=0)
    of_examples = [weights.get(label, 1.0) for label in Y]
    other.fit(X, one_hot, sample_weight=np.array(of_examples), shuffle=False, verbose=0)
    assert_same_weights(one, other)


@pytest.mark.parametrize("share", [1.0, -0.5, 0.999])
def test_validation_splits_that_leave_nothing(share: float) -> None:
    with pytest.raises(EnsembleError, match="`validation_split`"):
        compiled(ensemble_of(scheme="bagging")).fit(X, Y, validation_split=share, verbose=0)


@pytest.mark.parametrize("scheme", ["voting", "bagging"])
def test_fit_before_compile(scheme: str) -> None:
    with pytest.raises(RuntimeError, match="must compile"):
        ensemble_of(scheme=scheme).fit(X, Y, verbose=0)


def test_saved_model_of_a_traced_ensemble(tmp_path) -> None:
    ensemble = compiled(ensemble_of())
    ensemble.train_on_batch(X, Y)
    ensemble.save(tmp_path / "saved")
    assert ensemble.is_traced
    loaded = load_ensemble(tmp_path / "saved")
    np.testing.assert_allclose(loaded(X)[-1], ensemble(X)[-1], atol=1e-5)
    assert isinstance(loaded, Ensemble)


def test_fit_members_resumes_with_a_function_as_sharing(tmp_path) -> None:
    """A function has another text in every process; the layers it shares are the same."""

    def fitted() -> Ensemble:
        return fit_members(
            network(), X, Y, members=1, scheme="voting", epochs=1, verbose=0,
            sharing=lambda layer: layer.name == "conv", folder=tmp_path / "members",
        )  # fmt: skip

    assert_same_weights(fitted(), fitted(), atol=0)
