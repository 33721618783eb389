import dataclasses

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.ensembles.labels import CrossEntropy
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import load_run
from larq_ensemble.trained import open_trained
from larq_ensemble.training.distillation import (
    Distillation,
    DistillationLoss,
    Student,
    TaughtEnsemble,
    teacher_logits,
)
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.pretrain import pretrain
from larq_ensemble.training.transfer import split_seed


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def expected_loss(labels, teacher, student, weight, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    hard = -np.log(softmax(student)[np.arange(len(labels)), labels])
    divergence = np.sum(p * np.log(p / q), axis=1)
    return np.mean((1 - weight) * hard + weight * temperature**2 * divergence)


@pytest.fixture
def logits():
    """(labels, teacher's logits, student's logits) of 6 images of 5 classes."""
    generator = np.random.default_rng(0)
    return (
        generator.integers(5, size=6),
        generator.normal(0, 3, (6, 5)).astype(np.float32),
        generator.normal(0, 3, (6, 5)).astype(np.float32),
    )


def packed(labels, teacher):
    return np.concatenate([labels[:, np.newaxis], teacher], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("weight", "temperature"), [(0.9, 4.0), (0.3, 1.0), (0.0, 2.0), (1.0, 0.5)]
)
def test_the_loss_is_that_of_the_formula(logits, weight, temperature):
    labels, teacher, student = logits
    loss = DistillationLoss(weight, temperature)
    actual = loss(packed(labels, teacher), student).numpy()
    assert actual == pytest.approx(
        expected_loss(labels, teacher, student, weight, temperature), rel=1e-5
    )
    again = DistillationLoss.from_config(loss.get_config())
    assert again(packed(labels, teacher), student).numpy() == actual


def test_the_loss_of_probabilities_is_that_of_their_logits(logits):
    labels, teacher, student = logits
    loss = DistillationLoss(0.7, 3.0, from_logits=False)
    expected = expected_loss(labels, teacher, student, 0.7, 3.0)
    actual = loss(packed(labels, teacher), tf.constant(softmax(student)))
    assert actual.numpy() == pytest.approx(expected, rel=1e-4)
    # Of Keras's softmax the logits are known, also where it rounds to 0.
    far = 100 * student
    assert softmax(far).min() == 0
    actual = loss(packed(labels, teacher), keras.activations.softmax(tf.constant(far)))
    by_logits = DistillationLoss(0.7, 3.0)(packed(labels, teacher), far)
    assert actual.numpy() == pytest.approx(by_logits.numpy(), rel=1e-5)


def test_smoothed_labels(logits):
    """Of the labels' part alone, by the formula; with the teacher alone there is no such part."""
    labels, teacher, student = logits
    log_p = np.log(softmax(student))
    smoothed = 0.8 * np.eye(5)[labels] + 0.2 / 5
    expected = np.mean(-np.sum(smoothed * log_p, axis=1))
    loss = DistillationLoss(0.0, 1.0, label_smoothing=0.2)
    assert loss(packed(labels, teacher), student).numpy() == pytest.approx(expected, rel=1e-5)
    of_logits, of_softmax = CrossEntropy(from_logits=True), CrossEntropy()
    for plain, outputs in ((of_logits, student), (of_softmax, softmax(student))):
        actual = plain.smoothed(0.2)
        assert actual(labels, outputs).numpy() == pytest.approx(expected, rel=1e-4)
        one_hot = np.eye(5, dtype=np.float32)[labels]
        assert actual(one_hot, outputs).numpy() == pytest.approx(expected, rel=1e-4)
        again = CrossEntropy.from_config(actual.get_config())
        assert again(labels, outputs).numpy() == actual(labels, outputs).numpy()
    with pytest.raises(EnsembleError, match=r"`label_smoothing` 0.1 has no effect with the `weigh"):
        Distillation(None, weight=1.0).check_smoothing(0.1)


def test_an_ensemble_with_smoothed_labels():
    ensemble = build_ensemble(classifier(0), members=2, sharing="none", scheme="voting")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(8, 4)).astype(np.float32)
    labels = generator.integers(3, size=8)
    smoothed = 0.7 * np.eye(3)[labels] + 0.1
    expected = [
        np.mean(-np.sum(smoothed * np.log(softmax(logits.numpy())), axis=1))
        for logits in ensemble(images)[:2]
    ]
    ensemble.compile("sgd", label_smoothing=0.3)
    logs = ensemble.test_on_batch(images, labels, return_dict=True)
    assert [logs["member_0_loss"], logs["member_1_loss"]] == pytest.approx(expected, rel=1e-4)
    again = ensemble.get_config()["compile_options"]
    assert again["label_smoothing"] == 0.3
    with pytest.raises(EnsembleError, match="`label_smoothing` must be from 0 to below 1"):
        ensemble.compile("sgd", label_smoothing=1.0)
    boosted = build_ensemble(classifier(0), members=2, sharing="none", scheme="soft_boosting")
    with pytest.raises(EnsembleError, match=r"`label_smoothing` does not go with .*soft_boosting"):
        boosted.compile("sgd", label_smoothing=0.1)


def test_the_gradient_of_the_loss(logits):
    """T (softmax(z / T) - softmax(z_t / T)) an image: of one size whatever T is."""
    labels, teacher, student = logits
    student = tf.Variable(student)
    with tf.GradientTape() as tape:
        loss = DistillationLoss(1.0, 3.0)(packed(labels, teacher), student)
    expected = 3 * (softmax(student.numpy() / 3) - softmax(teacher / 3)) / len(labels)
    np.testing.assert_allclose(tape.gradient(loss, student), expected, atol=1e-6)


def classifier(seed):
    image = keras.Input((4,), name="image")
    hidden = keras.layers.Dense(
        6, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed), name="hidden"
    )(image)
    return keras.Model(
        image,
        keras.layers.Dense(
            3, kernel_initializer=keras.initializers.GlorotUniform(seed + 1), name="linear"
        )(hidden),
    )


def test_fit_trains_the_student_alone():
    network, teacher = classifier(0), classifier(10)
    before = [model.get_weights() for model in (network, teacher)]
    student = Student(network, teacher_logits(teacher))
    student.compile("sgd", DistillationLoss(0.6, 2.0), metrics=["accuracy"])
    assert len(student.weights) == len(student.trainable_weights) == 4
    generator = np.random.default_rng(0)
    images = generator.normal(size=(8, 4)).astype(np.float32)
    labels = generator.integers(3, size=8)
    expected = expected_loss(labels, teacher(images).numpy(), network(images).numpy(), 0.6, 2.0)
    history = student.fit(images, labels, batch_size=8, epochs=1, verbose=0).history
    assert history["loss"] == [pytest.approx(expected, rel=1e-5)]
    changed = [
        [not np.array_equal(*pair) for pair in zip(weights, model.get_weights())]
        for weights, model in zip(before, (network, teacher))
    ]
    assert changed == [[True] * 4, [False] * 4]


def test_an_ensemble_teaches_by_its_combined_probabilities():
    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    ensemble = build_ensemble(classifier(0), members=2, sharing="none", scheme="voting")
    actual = softmax(teacher_logits(ensemble)(images).numpy())
    np.testing.assert_allclose(actual, ensemble(images)[-1], atol=1e-6)


def test_each_mean_of_nested_fusion_is_taught():
    teacher = classifier(10)
    ensemble = build_ensemble(classifier(0), members=2, sharing="none", scheme="nested_fusion")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(8, 4)).astype(np.float32)
    labels = generator.integers(3, size=8)
    first, second = (ensemble(images)[member].numpy() for member in range(2))
    assert np.abs(first - second).max() > 0.01
    taught = teacher(images).numpy()
    expected = [
        expected_loss(labels, taught, mean, 0.6, 2.0) for mean in (first, (first + second) / 2)
    ]
    student = TaughtEnsemble(ensemble, teacher_logits(teacher))
    assert len(student.weights) == len(ensemble.weights)
    scheme = ensemble.scheme.with_prefix_weights((1, 3))
    losses = Distillation(None, weight=0.6, temperature=2.0).losses(scheme, 2)
    student.compile("sgd", loss=losses, loss_weights=scheme.loss_weights(2))
    logs = student.train_on_batch(images, labels, return_dict=True)
    assert logs["first_1_loss"] == pytest.approx(expected[0], rel=1e-4)
    assert logs["ensemble_loss"] == pytest.approx(expected[1], rel=1e-4)
    assert logs["loss"] == pytest.approx(expected[0] / 4 + expected[1] * 3 / 4, rel=1e-4)
    assert np.abs(ensemble(images)[0].numpy() - first).max() > 1e-4


def test_a_taught_ensemble_around_its_backbone(stem_backbone, recipe, few, tmp_path):
    """A run: what it recorded, and that the kept member is the backbone."""
    with pytest.warns(UserWarning, match=r"`mirror` shows .* was trained without"):
        run, result = train_ensemble(
            stem_backbone,
            tmp_path / "run",
            members=2,
            scheme="nested_fusion",
            keep_pretrained=True,
            mirror=True,
            distillation=Distillation(stem_backbone, temperature=2.0),
            recipe=recipe.override(epochs=1),
            data=few,
            verbose=0,
        )
    assert run.config.transfer == {
        "teacher": stem_backbone.digest,
        "weight": 0.9,
        "temperature": 2.0,
    }
    assert run.config.ensemble["keep_pretrained"] == 1
    assert run.config.ensemble["mirror"] is True
    assert result["member_top1"][0] == result["backbone_top1"]
    ensemble = run.model
    for layer in ensemble.own_layers(0):
        if layer.name == "member_0_mirror":
            continue
        original = stem_backbone.model.get_layer(layer.name.removeprefix("member_0_"))
        for weight, expected in zip(layer.get_weights(), original.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)
    head, start = ensemble.get_layer("member_1_linear"), stem_backbone.model.get_layer("linear")
    assert (head.get_weights()[0] != start.get_weights()[0]).any()


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("boosting", "`teacher` does not go with the scheme 'boosting', trained sequentially: it"),
        ("soft_boosting", "`teacher` does not go with the scheme 'soft_boosting': each member"),
    ],
)
def test_schemes_that_are_not_taught(backbone, recipe, few, tmp_path, scheme, message):
    with pytest.raises(EnsembleError, match=message):
        train_ensemble(
            backbone, tmp_path / "run", members=2, scheme=scheme, recipe=recipe, data=few,
            distillation=Distillation(backbone),
        )  # fmt: skip


def test_a_teacher_that_saw_what_is_held_out(backbone, recipe, few, tmp_path):
    other = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, seed=1))
    with pytest.raises(EnsembleError, match=r"`teacher` .* was trained on images that .*backbone"):
        train_ensemble(
            backbone, tmp_path / "run", members=2, recipe=recipe, data=few,
            distillation=Distillation(other),
        )  # fmt: skip


def test_nobody_knows_what_a_keras_file_held_out(backbone, recipe, few, tiny, tmp_path):
    ((mean,), (std,)) = backbone.normalization.mean, backbone.normalization.std
    untrained = {"recipe": recipe.override(epochs=0), "verbose": 0}
    for dataset in (None, "digits"):
        file = open_trained(backbone.model_path, dataset=dataset, normalization=f"{mean!r}/{std!r}")
        for train in (
            lambda **options: pretrain(tiny, "digits", tmp_path / "run", **untrained, **options),
            lambda **options: train_ensemble(
                backbone, tmp_path / "run", members=2, **untrained, **options
            ),
        ):
            with pytest.raises(EnsembleError, match=r"`validation` 0.1 may .*model.keras.*0 `epo"):
                train(distillation=Distillation(file), data=few)
    assert not (tmp_path / "run").exists()
    nothing = dataclasses.replace(few, validation=0.0)
    taught = {**untrained, "data": nothing, "distillation": Distillation(file)}
    run, _ = pretrain(tiny, "digits", tmp_path / "run", seed=5, **taught)
    assert run.config.transfer["teacher"] == backbone.digest
    assert run.config.split_seed == 5
    # So a network to start from, if it goes by the name of the file.
    of_file = dataclasses.replace(file, path=tmp_path / "other.keras")
    assert split_seed([of_file], DATASETS["cifar10"], few, 3) == 3
    with pytest.raises(EnsembleError, match=r"'.*other.keras' was trained on: nobody knows"):
        split_seed([of_file], DATASETS["digits"], few, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": 1.5}, "`weight` must be from 0 to 1, got 1.5"),
        ({"weight": -0.1}, "`weight` must be from 0 to 1, got -0.1"),
        ({"temperature": 0.0}, "`temperature` must be above 0, got 0.0"),
        ({"temperature": float("nan")}, "`temperature` must be above 0, got nan"),
    ],
)
def test_values_out_of_range(backbone, values, message):
    with pytest.raises(EnsembleError, match=message):
        Distillation(backbone, **values)


def test_a_teacher_of_other_classes_is_refused(backbone):
    distillation = Distillation(backbone)
    taught = backbone.config.model
    distillation.check_teaches(taught)
    with pytest.raises(
        EnsembleError, match=r"`teacher` '.*backbone' \(tiny\) has classes = 10, but wide has 100"
    ):
        distillation.check_teaches({**taught, "name": "wide", "classes": 100})
    with pytest.raises(EnsembleError, match=r"has input_shape = \[8, 8, 1\], but tiny has \[32,"):
        distillation.check_teaches({**taught, "input_shape": [32, 32, 3]})


def test_a_teacher_of_another_normalization_is_refused(backbone):
    distillation = Distillation(backbone)
    distillation.check_sees(backbone.normalization)
    with pytest.raises(EnsembleError, match=r"'.*backbone' was trained on images with mean"):
        distillation.check_sees(Normalization((0.5,), (0.25,)))


def test_a_distillation_that_was_killed_goes_on_as_if_nothing_had_happened(
    stem_backbone, recipe, few, stem, tmp_path, copy_at_step, epochs_begun, assert_same_training,
    read_log,
):  # fmt: skip
    def taught(name, **arguments):
        named = {"recipe": recipe.override(epochs=2), "data": few, "verbose": 0, "resume": True}
        named["distillation"] = Distillation(stem_backbone)
        return pretrain(stem, "digits", tmp_path / name, **{**named, **arguments})[0]

    with copy_at_step(4, tmp_path / "expected", tmp_path / "run"):
        expected = taught("expected")
    run = taught("run")
    assert epochs_begun == [0, 1, 1]
    assert_same_training(run, expected)
    # Not the training of the backbone, which differs by its teacher alone.
    assert read_log(run)[0]["loss"] != pytest.approx(read_log(stem_backbone)[0]["loss"], rel=0.01)

    # What is left is a network like any other, without its teacher.
    model = keras.models.load_model(run.path / "model.keras")
    assert type(model) is type(stem_backbone.model)
    assert [w.name for w in model.weights] == [w.name for w in stem_backbone.model.weights]
    config = load_run(run.path).config
    assert config.transfer == {"teacher": stem_backbone.digest, "weight": 0.9, "temperature": 4.0}
    with pytest.raises(EnsembleError, match=r"started with transfer.weight = 0.9, not 0.5"):
        taught("run", distillation=Distillation(stem_backbone, weight=0.5))
    with pytest.raises(EnsembleError, match=r"started with transfer.teacher = .*, not None"):
        taught("run", distillation=None)
    old = dataclasses.replace(config, transfer={}).to_json()
    del old["transfer"]  # as runs were written before there were teachers
    assert type(config).from_json(old, run.path).transfer == {}
