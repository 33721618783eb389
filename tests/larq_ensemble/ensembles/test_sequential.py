"""`fit_members` on arrays and streams: what each member is trained on, and going on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from larq_ensemble.ensembles import build_member, fit_members
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf

from ..conftest import CLASSES, SHAPE, images, labels

X, Y = images(), labels()


@pytest.fixture(scope="module")
def backbone() -> keras.Model:
    """A network that is a linear layer, whose training NumPy can repeat."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = keras.layers.Flatten(name="flat")(image)
    return keras.Model(image, keras.layers.Dense(CLASSES, name="linear")(x))


def stream() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(12)


def fitted(backbone, scheme: str, *data, **options):
    """Two members after one step of gradient descent each."""
    defaults = {
        "members": 2,
        "sharing": "none",
        "optimizer": keras.optimizers.SGD(0.1),
        "batch_size": 12,
        "verbose": 0,
    }
    return fit_members(backbone, *(data or (X, Y)), scheme=scheme, **{**defaults, **options})


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def logits_of(weights: list[np.ndarray]) -> np.ndarray:
    return X.reshape(12, -1) @ weights[0] + weights[1]


def step(weights, errors: np.ndarray, rate: float = 0.1) -> list[np.ndarray]:
    """One step along the gradient for the logits, `errors` [n, classes]."""
    flat = X.reshape(12, -1)
    return [weights[0] - rate * flat.T @ errors, weights[1] - rate * errors.sum(axis=0)]


def start(backbone, member: int, scheme: str) -> list[np.ndarray]:
    return build_member(backbone, member, sharing="none", scheme=scheme).get_weights()


def own(ensemble, member: int) -> list[np.ndarray]:
    return ensemble.get_layer(f"member_{member}_linear").get_weights()


def assert_close(actual, expected) -> None:
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("data", [(X, Y), (stream(),)], ids=["arrays", "stream"])
def test_boosting_fits_the_residual_of_the_members_before(data, backbone) -> None:
    ensemble = fitted(backbone, "boosting", *data, shrinkage=0.5)
    assert ensemble.member_weights == (0.5, 0.5)
    so_far = np.zeros((12, CLASSES))
    for member in range(2):
        zeros = [np.zeros_like(weight) for weight in backbone.get_weights()]
        residual = np.eye(CLASSES)[Y] - softmax(so_far)
        expected = step(zeros, -2 * residual / CLASSES / 12)
        assert_close(own(ensemble, member), expected)
        so_far += 0.5 * logits_of(expected)
    np.testing.assert_allclose(ensemble(X)[-1], softmax(so_far), rtol=1e-4)


@pytest.mark.parametrize("data", [(X, Y), (stream(),)], ids=["arrays", "stream"])
def test_adaboost_weighs_what_the_members_before_got_wrong(data, backbone) -> None:
    """Three members, so that the second reweighting follows on the first."""
    ensemble = fitted(backbone, "adaboost", *data, members=3, class_weights={1: 2.5})
    weights, alphas = np.where(Y == 1, 2.5, 1.0), []
    for member in range(3):
        before = start(backbone, member, "adaboost")
        errors = softmax(logits_of(before)) - np.eye(CLASSES)[Y]
        expected = step(before, weights[:, None] * errors / 12)
        assert_close(own(ensemble, member), expected)
        wrong = logits_of(expected).argmax(axis=1) != Y
        error = np.clip((weights * wrong).sum() / weights.sum(), 1 / 24, 23 / 24)
        alphas.append(max(np.log((1 - error) / error) + np.log(CLASSES - 1), 1e-3))
        weights = weights * np.exp(alphas[-1] * wrong)
        weights /= weights.mean()
    assert ensemble.member_weights == pytest.approx(alphas, rel=1e-4)


@pytest.mark.parametrize("weights", [{0: 0.5, 1: 3.0}, [0.5, 3.0], "balanced"], ids=str)
def test_class_weights_of_a_backbone_with_one_unit(weights) -> None:
    image = keras.Input(SHAPE)
    x = keras.layers.Flatten(name="flat")(image)
    single = keras.Model(image, keras.layers.Dense(1, "sigmoid", name="linear")(x))
    of_one = Y == 1
    ensemble = fitted(single, "voting", X, of_one.astype(int), class_weights=weights)
    of_classes = 6 / np.bincount(of_one) if weights == "balanced" else np.array([0.5, 3.0])
    for member in range(2):
        before = start(single, member, "voting")
        errors = 1 / (1 + np.exp(-logits_of(before)[:, 0])) - of_one
        expected = step(before, (of_classes[of_one.astype(int)] * errors)[:, None] / 12)
        assert_close(own(ensemble, member), expected)


def test_bagging_on_arrays_is_the_sample_of_joint_bagging(backbone, tmp_path) -> None:
    """Of images on disk; class weights multiply its counts."""
    X.tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", X.dtype, "r", shape=X.shape)
    ensemble = fitted(backbone, "bagging", mapped, Y, seed=3, class_weights="balanced")
    weights = 12 / (CLASSES * np.bincount(Y))[Y]
    counts = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=2)
    for member in range(2):
        before = build_member(
            backbone, member, sharing="none", scheme="bagging", seed=3
        ).get_weights()
        errors = softmax(logits_of(before)) - np.eye(CLASSES)[Y]
        errors *= (weights * counts[member])[:, None]
        assert_close(own(ensemble, member), step(before, errors / 12))


@pytest.mark.parametrize(
    ("scheme", "rates"),
    [
        # Half a cosine over two steps, from its top; a triangle, at its top and at its foot.
        ("snapshot", [0.1, 0.05]),
        ("fast_geometric", [0.1, 0.02]),
    ],
)
def test_snapshots_go_on_at_a_cyclic_rate(scheme: str, rates, backbone) -> None:
    """One training of four steps in NumPy; the members are its second and its fourth."""
    end = 0.0 if scheme == "snapshot" else 0.02
    ensemble = fitted(backbone, scheme, epochs=4, end_learning_rate=end)
    weights = start(backbone, 0, scheme)
    for member in range(2):
        for rate in rates:
            errors = softmax(logits_of(weights)) - np.eye(CLASSES)[Y]
            weights = step(weights, errors / 12, rate)
        assert_close(own(ensemble, member), weights)


def test_adversarial_members_also_see_the_changed_images(backbone) -> None:
    ensemble = fitted(backbone, "adversarial", pixel_range=2.0, members=1)
    before = start(backbone, 0, "adversarial")
    errors = (softmax(logits_of(before)) - np.eye(CLASSES)[Y]) / 12
    flat = X.reshape(12, -1)
    changed = flat + 0.02 * np.sign(errors @ before[0].T)
    also = (softmax(changed @ before[0] + before[1]) - np.eye(CLASSES)[Y]) / 12
    kernel = before[0] - 0.1 * (flat.T @ errors + changed.T @ also)
    np.testing.assert_allclose(own(ensemble, 0)[0], kernel, rtol=1e-4, atol=1e-5)


def test_members_that_are_no_improvement_are_left_out(backbone) -> None:
    ensemble = fitted(
        backbone, "boosting", members=4, patience=1, validation_data=(X, Y),
        optimizer=keras.optimizers.SGD(0.0),
    )  # fmt: skip
    assert ensemble.members == 1


def test_it_goes_on_where_it_was_interrupted(backbone, tmp_path) -> None:
    """The first member is not trained again, and the second in its second epoch only."""
    begun: list[tuple[int, int]] = []

    class Interrupt(keras.callbacks.Callback):
        def __init__(self, member: int, at: tuple[int, int] | None) -> None:
            super().__init__()
            self.member, self.at = member, at

        def on_epoch_begin(self, epoch, logs=None) -> None:
            begun.append((self.member, epoch))
            if begun[-1] == self.at:
                raise KeyboardInterrupt

    def run(at: tuple[int, int] | None, folder=tmp_path / "run"):
        return fitted(
            backbone, "adaboost", epochs=2, folder=folder, seed=1,
            callbacks=lambda member: [Interrupt(member, at)],
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run((1, 1))
    assert begun == [(0, 0), (0, 1), (1, 0), (1, 1)]
    begun.clear()
    actual = run(None)
    assert begun == [(1, 1)]
    expected = run(None, tmp_path / "other")
    assert actual.member_weights == pytest.approx(expected.member_weights)
    for member in range(2):
        assert_close(own(actual, member), own(expected, member))
    begun.clear()
    run(None)
    assert not begun
    with pytest.raises(EnsembleError, match="was started with `epochs` = 2, not 3"):
        fitted(backbone, "adaboost", epochs=3, folder=tmp_path / "run", seed=1)
    with pytest.raises(EnsembleError, match="holds other files"):
        fitted(backbone, "adaboost", folder=tmp_path)


def test_a_folder_is_of_one_backbone_and_of_one_training(backbone, tmp_path) -> None:
    """Members that were trained on other filters, images or labels are not taken for finished."""
    folder = tmp_path / "run"

    def run(model=backbone, *data, **options):
        return fitted(model, "boosting", *data, members=1, folder=folder, **options)

    expected = run()
    other = keras.models.clone_model(backbone)
    other.set_weights([weight + 0.01 for weight in backbone.get_weights()])
    labels = Y.copy()
    labels[0] = (labels[0] + 1) % (labels.max() + 1)
    for key, train in {
        "backbone": lambda: run(other),
        "data": lambda: run(backbone, X, labels),
        "optimizer": lambda: run(optimizer=keras.optimizers.Adam(0.5)),
    }.items():
        with pytest.raises(EnsembleError, match=f"can't be resumed: .* with `{key}`"):
            train()
    with pytest.raises(EnsembleError, match="was started with `data` = 12 examples"):
        run(backbone, X + 0.5, Y)
    # A folder of before doesn't say it.
    (file,) = folder.glob("*.json")
    settings = json.loads(file.read_text())
    for key in ("backbone", "data", "optimizer", "end_learning_rate", "pixel_range"):
        del settings[key]
    file.write_text(json.dumps(settings))
    assert_close(own(run(), 0), own(expected, 0))


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("fusion", {}, "'fusion' can't train its members one after .*Ensemble.fit"),
        ("soft_boosting", {}, "'soft_boosting' can't train its members one"),
        ("snapshot", {"epochs": 3}, "`epochs` 3 is no multiple of 2: use 4"),
        ("snapshot", {"shrinkage": 0.5}, "`shrinkage` does not go with the scheme 'snapshot'"),
        ("boosting", {"shrinkage": 0}, "`shrinkage` must be above 0, got 0"),
        ("boosting", {"patience": 1}, "`patience` watches the validation accuracy"),
        ("boosting", {"members": 0}, "`members` must be a whole number"),
    ],
)
def test_options_that_do_not_go_together(scheme, options, message, backbone) -> None:
    with pytest.raises(EnsembleError, match=message):
        fitted(backbone, scheme, **options)


def test_data_that_can_not_be_used(backbone) -> None:
    unknown = stream().filter(lambda x, y: True)
    with pytest.raises(EnsembleError, match=r"does not know how many batches .*cardinality"):
        fitted(backbone, "snapshot", unknown, epochs=2)
    with pytest.raises(EnsembleError, match=r"`x` must be a tf\.data\.Dataset .*got ndarray"):
        fitted(backbone, "boosting", X)
    with pytest.raises(EnsembleError, match="of one length, got 12 and 11"):
        fitted(backbone, "boosting", X, Y[:-1])
    with pytest.raises(EnsembleError, match=r"`x` must have the elements \(images, labels\)"):
        fitted(backbone, "boosting", stream().map(lambda x, y: x))
    with pytest.raises(EnsembleError, match="'balanced' counts the labels, and `x`"):
        fitted(backbone, "boosting", stream(), class_weights="balanced")


def test_a_member_that_has_diverged_is_not_stored(backbone, tmp_path) -> None:
    rate = keras.optimizers.SGD(1e38)
    with pytest.raises(EnsembleError, match="'member_0_linear' has weights that are not finite"):
        fitted(backbone, "boosting", members=1, epochs=2, optimizer=rate, folder=tmp_path)
    assert not list(tmp_path.rglob("result.json"))
