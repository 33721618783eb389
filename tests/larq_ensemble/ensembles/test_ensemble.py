"""What a Keras user does with an ensemble: compile, fit, save and load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import (
    Ensemble,
    as_ensemble,
    build_ensemble,
    fit_members,
    load_ensemble,
)
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import RunConfig, create_run

from ..conftest import CLASSES, SHAPE, images, labels, tiny_backbone

X, Y = images(), labels()


def linear() -> keras.Model:
    """A network that is a linear layer, whose training NumPy can repeat."""
    image = keras.Input(SHAPE)
    x = keras.layers.Flatten(name="flat")(image)
    return keras.Model(image, keras.layers.Dense(CLASSES, name="linear")(x))


def compiled(scheme: str, members: int = 2, *, backbone=linear, rate: float = 0.1, **options):
    keras.utils.set_random_seed(0)
    ensemble = build_ensemble(backbone(), members, scheme=scheme, sharing="none")
    ensemble.compile(keras.optimizers.SGD(rate), run_eagerly=True, **options)
    return ensemble


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def step(weights: list[np.ndarray], counts: np.ndarray, rate: float = 0.1) -> list[np.ndarray]:
    """One step of gradient descent on the cross-entropy, example i counted `counts[i]` times."""
    kernel, bias = weights
    flat = X.reshape(len(X), -1)
    residual = counts[:, None] * (softmax(flat @ kernel + bias) - np.eye(CLASSES)[Y]) / len(X)
    return [kernel - rate * flat.T @ residual, bias - rate * residual.sum(axis=0)]


def counts_of_step(ensemble: Ensemble, before: list[list[np.ndarray]]) -> list[np.ndarray]:
    """How often each member has seen each example, solved from what one step changed."""
    flat = np.c_[X.reshape(len(X), -1), np.ones(len(X))]
    found = []
    for member, (kernel, bias) in enumerate(before):
        after = np.vstack(ensemble.get_layer(f"member_{member}_linear").get_weights())
        gradient = (np.vstack([kernel, bias]) - after) * len(X) / 0.1
        residual = np.linalg.lstsq(flat.T, gradient, rcond=None)[0]
        full = softmax(flat[:, :-1] @ kernel + bias) - np.eye(CLASSES)[Y]
        found.append((residual * full).sum(axis=1) / (full**2).sum(axis=1))
    return found


def weights_of(ensemble: Ensemble) -> list[list[np.ndarray]]:
    return [
        ensemble.get_layer(f"member_{member}_linear").get_weights()
        for member in range(ensemble.members)
    ]


def bootstrap(seed: int, members: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), size=members)


def test_bagging_on_arrays_is_the_exact_bootstrap() -> None:
    """Each member's step is that on its own sample with replacement, in NumPy."""
    ensemble = compiled("bagging", seed=3)
    before = weights_of(ensemble)
    ensemble.fit(X, Y, batch_size=12, verbose=0)
    for own, weights, counts in zip(weights_of(ensemble), before, bootstrap(3), strict=True):
        for actual, expected in zip(own, step(weights, counts), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(counts_of_step(ensemble, before), bootstrap(3), atol=1e-2)


def test_bagging_with_validation_and_weights_of_the_user() -> None:
    """The last examples validate, unweighted; classes and examples are weighed on top."""
    ensemble = compiled("bagging", seed=3, rate=0.0)
    given = np.linspace(0.5, 2, 12).astype(np.float32)
    history = ensemble.fit(
        X, Y, batch_size=12, validation_split=1 / 3, class_weight={0: 2.0, 1: 0.5},
        sample_weight=given, verbose=0,
    ).history  # fmt: skip
    counts = np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), size=2)
    of_class = np.array([2.0, 0.5, 1.0])[Y]
    for member, logits in enumerate(ensemble(X)[:2]):
        losses = -np.log(softmax(logits.numpy()))[np.arange(12), Y]
        weighted = (counts[member] * given[:8] * of_class[:8] * losses[:8]).mean()
        assert history[f"member_{member}_loss"][0] == pytest.approx(weighted, rel=1e-4)
        validation = (given[8:] * losses[8:]).mean()
        assert history[f"val_member_{member}_loss"][0] == pytest.approx(validation, rel=1e-4)
    plain = ensemble.fit(X, Y, validation_data=(X, Y), batch_size=12, verbose=0).history
    logits = ensemble(X)[0].numpy()
    expected = -np.log(softmax(logits))[np.arange(12), Y].mean()
    assert plain["val_member_0_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_bagging_on_a_stream_keeps_the_counts_of_an_example() -> None:
    """Whatever the order and the epoch; other seeds and members draw others."""

    def counts(order: np.ndarray, seed: int, epoch: int = 0) -> np.ndarray:
        ensemble = compiled("bagging", seed=seed)
        stream = tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(12)
        for _ in range(epoch + 1):
            before = weights_of(ensemble)
            ensemble.fit(stream, verbose=0)
        return np.array(counts_of_step(ensemble, before))

    first = counts(np.arange(12), seed=3)
    np.testing.assert_allclose(first, first.round(), atol=1e-2)
    assert (first.round() != first[:1].round()).any()
    np.testing.assert_allclose(counts(np.arange(12)[::-1], seed=3), first, atol=1e-2)
    np.testing.assert_allclose(counts(np.arange(12), seed=3, epoch=1), first, atol=1e-2)
    assert np.abs(counts(np.arange(12), seed=4) - first).max() > 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_counts_of_a_stream_are_poisson_and_independent(dtype) -> None:
    bagging = SCHEMES["bagging"]
    examples = 4000
    data = np.random.default_rng(0).integers(0, 256, (examples, 3, 3, 1)).astype(dtype)
    counts = bagging.drawn_weights(3, [tf.constant(data)], 7, tf.constant(0)).numpy()
    assert counts.shape == (3, examples)
    # Five standard deviations of the shares of Poisson(1): 0.368, 0.368, 0.184, 0.061.
    for value, share in enumerate(np.exp(-1) / np.array([1, 1, 2, 6])):
        allowed = 5 * np.sqrt(share * (1 - share) / examples)
        assert np.abs((counts == value).mean(axis=1) - share).max() < allowed
    assert np.abs(np.corrcoef(counts) - np.eye(3)).max() < 5 / np.sqrt(examples)
    # A change of one bit of one pixel is another example.
    other = data.copy()
    other[:, 0, 0, 0] = other[:, 0, 0, 0].astype(np.uint8) ^ 1
    changed = bagging.drawn_weights(3, [tf.constant(other)], 7, tf.constant(5)).numpy()
    assert np.abs([np.corrcoef(*pair)[0, 1] for pair in zip(counts, changed)]).max() < 0.09


def test_independent_inputs_on_a_stream_count_their_own_examples() -> None:
    bagging = SCHEMES["bagging"]
    first, second = (tf.constant(images(seed=seed)) for seed in (1, 2))
    counts = bagging.drawn_weights(2, [first, second], 7, tf.constant(0))
    for member, stream in enumerate((first, second)):
        alone = bagging.drawn_weights(2, [stream], 7, tf.constant(0))
        np.testing.assert_array_equal(counts[member], alone[member])


def test_batch_bagging_draws_a_part_in_each_step() -> None:
    ensemble = compiled("batch_bagging", seed=3)
    seen = []
    for _ in range(2):
        before = weights_of(ensemble)
        ensemble.fit(X, Y, batch_size=12, shuffle=False, verbose=0)
        for weights in np.array(counts_of_step(ensemble, before)):
            part = weights > 0.5
            np.testing.assert_allclose(weights, 12 / part.sum() * part, atol=1e-2)
            assert 0 < part.sum() < 12
            seen.append(tuple(part))
    assert len(set(seen)) == 4


def test_sampled_nested_fusion_trains_one_m_a_step() -> None:
    """The logits of a linear network of which only the first m members have changed."""
    ensemble = compiled("sampled_nested_fusion", 3, prefix_weights=(1, 1, 1), seed=0)
    drawn = []
    for _ in range(12):
        before = weights_of(ensemble)
        ensemble.train_on_batch(X, Y)
        changed = [
            (old[0] != new[0]).any() for old, new in zip(before, weights_of(ensemble), strict=True)
        ]
        drawn.append(sum(changed))
        assert changed == [member < drawn[-1] for member in range(3)]
        logs = ensemble.evaluate(X, Y, verbose=0, return_dict=True)  # the plain weighted sum
        expected = np.mean([logs[f"{name}_loss"] for name in ("first_1", "first_2", "ensemble")])
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert set(drawn) == {1, 2, 3}


@pytest.mark.parametrize("scheme", ["bagging", "batch_bagging", "sampled_nested_fusion"])
def test_the_seed_decides(scheme: str) -> None:
    results = []
    for seed in (1, 1, 2):
        ensemble = compiled(scheme, seed=seed)
        ensemble.fit(X, Y, batch_size=6, epochs=2, shuffle=False, verbose=0)
        results.append(np.concatenate([np.ravel(w) for w in ensemble.get_weights()]))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_weights_by_output_are_taken_for_the_draw() -> None:
    ensemble = compiled("bagging")
    before = weights_of(ensemble)
    counts = np.arange(24, dtype=np.float32).reshape(2, 12) % 4
    ensemble.fit(X, Y, batch_size=12, sample_weight=dict(zip(("member_0", "member_1"), counts)),
                 verbose=0)  # fmt: skip
    np.testing.assert_allclose(counts_of_step(ensemble, before), counts, atol=1e-2)


@pytest.fixture(scope="module")
def fitted() -> Ensemble:
    """Nested fusion of two after two steps of Adam, compiled with options that are not default."""
    ensemble = build_ensemble(tiny_backbone(), 2, scheme="nested_fusion")
    ensemble.compile("adam", prefix_weights=(1, 2), seed=5)
    ensemble.fit(X, Y, batch_size=6, verbose=0)
    return ensemble


def assert_same(actual: keras.Model, expected: keras.Model) -> None:
    for weight, wanted in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, wanted)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("load", [keras.models.load_model, load_ensemble])
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_traced_ensemble_is_saved_and_goes_on(suffix: str, load, fitted, tmp_path) -> None:
    fitted.save(tmp_path / f"ensemble.{suffix}")
    loaded = load(tmp_path / f"ensemble.{suffix}")
    assert isinstance(loaded, Ensemble)
    assert_same(loaded, fitted)
    assert loaded.is_traced
    assert loaded._training.seed == 5
    assert loaded._training.scheme.loss_weights(2) == pytest.approx(
        {"first_1": 1 / 3, "ensemble": 2 / 3}
    )
    assert loaded.optimizer.get_config() == fitted.optimizer.get_config()
    for one, other in zip(loaded.optimizer.variables, fitted.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    expected = fitted.evaluate(X, Y, verbose=0, return_dict=True)
    assert loaded.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)
    loaded.fit(X, Y, batch_size=12, verbose=0)
    assert int(loaded.optimizer.iterations) == int(fitted.optimizer.iterations) + 1


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> tuple[Ensemble, dict[str, Path]]:
    """An ensemble of bagging, and what callbacks saved of it at the end of its only epoch."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {name: folder / name for name in ("best.keras", "best.h5", "best.weights.h5")}
    ensemble = build_ensemble(tiny_backbone(), 2, scheme="bagging")
    ensemble.compile("adam")
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(path), save_weights_only="weights" in name)
        for name, path in paths.items()
    ]
    ensemble.fit(X, Y, verbose=0, callbacks=callbacks)
    return ensemble, paths


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["best.keras", "best.h5", "best.weights.h5"])
def test_model_checkpoint(name: str, checkpoints) -> None:
    ensemble, paths = checkpoints
    if "weights" in name:
        loaded = build_ensemble(tiny_backbone(seed=1), 2, scheme="bagging")
        loaded.load_weights(paths[name])
    else:
        loaded = load_ensemble(paths[name])
    assert_same(loaded, ensemble)


def test_losses_and_metrics_of_the_user_are_saved_too(tiny, tmp_path) -> None:
    ensemble = build_ensemble(tiny, 2)
    loss = {"ensemble": keras.losses.SparseCategoricalCrossentropy(reduction="sum")}
    ensemble.compile("sgd", loss, {"ensemble": keras.metrics.SparseTopKCategoricalAccuracy(2)})
    ensemble.save(tmp_path / "a.keras")
    expected = ensemble.evaluate(X, Y, verbose=0, return_dict=True)
    assert "ensemble_sparse_top_k_categorical_accuracy" in expected
    loaded = load_ensemble(tmp_path / "a.keras")
    assert loaded.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)
    assert load_ensemble(tmp_path / "a.keras", compile=False).optimizer is None


def test_a_run_directory_and_its_plain_model_load(fitted, tmp_path) -> None:
    """As run directories of any version hold it: a functional model that ends in `Combine`."""
    config = RunConfig("ensemble", {"name": "tiny"}, {"name": "none"}, {"epochs": 1}, seed=0)
    run = create_run(tmp_path / "run", config)
    run.save_model(fitted)
    plain = keras.models.load_model(run.model_path, compile=False)
    assert not isinstance(plain, Ensemble)
    for loaded in (load_ensemble(run.path), run.model, as_ensemble(plain)):
        assert isinstance(loaded, Ensemble)
        assert_same(loaded, fitted)
    ensemble = as_ensemble(plain)
    ensemble.compile("adam", run_eagerly=True)
    ensemble.fit(X, Y, verbose=0)
    assert_same(plain, ensemble)  # on the same layers
    assert as_ensemble(ensemble) is ensemble


def test_the_normalization_stays_with_the_ensemble(tiny, tmp_path) -> None:
    """In every saved form, and in runs from before ensembles had one."""
    channels = SHAPE[-1]
    normalization = Normalization([0.25] * channels, [0.5] * channels)
    ensemble = build_ensemble(tiny, 2, normalization=normalization)
    for name in ("a.keras", "a.h5"):
        ensemble.save(tmp_path / name)
        assert load_ensemble(tmp_path / name).normalization == normalization
    assert build_ensemble(tiny, 2).normalization is None
    constants = {"name": "none", **normalization.to_json()}
    config = RunConfig("ensemble", {"name": "tiny"}, constants, {"epochs": 1}, seed=0)
    run = create_run(tmp_path / "run", config)
    run.save_model(ensemble)
    assert load_ensemble(run.path).normalization == normalization
    run.save_model(build_ensemble(tiny, 2))
    assert load_ensemble(run.path).normalization is None
    assert run.model.normalization == run.normalization == normalization
    with pytest.raises(EnsembleError, match=f"`mean` must hold {channels} numbers"):
        ensemble.normalization = Normalization.raw(channels + 1)
    for wrong in ([0.5] * channels, normalization.to_json(), "raw"):
        message = "`normalization` must be a larq_ensemble.Normalization"
        with pytest.raises(EnsembleError, match=message):
            ensemble.normalization = wrong
        with pytest.raises(EnsembleError, match=message):  # before the training
            fit_members(tiny, None, None, members=2, scheme="voting", normalization=wrong)
    image = keras.Input(SHAPE, dtype="uint8")
    floats = keras.layers.Rescaling(1 / 255)(image)
    backbone = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(floats)))
    with pytest.raises(EnsembleError, match=r"input is uint8: give Normalization\.raw"):
        build_ensemble(backbone, 2, sharing="none", normalization=normalization)
    raw = Normalization.raw(channels)
    whole = build_ensemble(backbone, 2, sharing="none", normalization=raw)
    assert whole.normalization == raw


def test_what_can_not_be_loaded(tiny, tmp_path) -> None:
    for path in (tmp_path, tmp_path / "missing.keras"):
        with pytest.raises(EnsembleError, match=r"No ensemble at .*give a \.keras or \.h5 file"):
            load_ensemble(path)
    (tmp_path / "a.keras").write_bytes(b"PK\x03\x04")
    with pytest.raises(EnsembleError, match=r"a\.keras' can't be read .*damaged"):
        load_ensemble(tmp_path / "a.keras")
    tiny.save(tmp_path / "backbone.keras")
    with pytest.raises(EnsembleError, match="'tiny' is not an ensemble"):
        load_ensemble(tmp_path / "backbone.keras")


def test_weights_after_fit_are_in_the_ensemble_and_validation_is_traced(tiny) -> None:
    """`predict`, `evaluate` and a call give the same as the plain layers do after training."""
    ensemble = build_ensemble(tiny, 2)
    ensemble.compile("adam")
    before = ensemble(X)[-1].numpy()
    ensemble.fit(X, Y, epochs=3, verbose=0)
    predicted = ensemble.predict(X, verbose=0)[-1]
    assert np.abs(predicted - before).max() > 1e-3
    plain = keras.Model(ensemble.inputs, ensemble.outputs)(X)[-1]
    np.testing.assert_allclose(predicted, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ensemble.combine(ensemble(X)[:2])[-1], plain, rtol=1e-4, atol=1e-5)
