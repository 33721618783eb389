import dataclasses
import json

import numpy as np
import pytest

from larq_ensemble.data.augmentation import Augmentation
from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.ensembles import as_ensemble
from larq_ensemble.ensembles.bfloat16 import warn_where_slow
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import load_run
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.evaluation import member_logits
from larq_ensemble.training.pretrain import pretrain

SCHEMES = ["fusion", "sampled_nested_fusion", "hard_voting", "batch_bagging"]


@pytest.fixture
def train(stem_backbone, recipe, few, tmp_path):
    """Trains two members from `stem_backbone` for one epoch of three steps."""

    def run(name="run", *, pretrained=stem_backbone, **arguments):
        defaults = {"members": 2, "recipe": recipe.override(epochs=1), "data": few, "verbose": 0}
        return train_ensemble(pretrained, tmp_path / name, **{**defaults, **arguments})

    return run


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def combined(logits: np.ndarray, scheme: str) -> np.ndarray:
    """[members, n, classes] -> [n, classes], written out anew."""
    if scheme in ("fusion", "sampled_nested_fusion"):
        return softmax(logits.mean(0))
    if scheme == "hard_voting":
        return np.mean([np.eye(10)[member.argmax(1)] for member in logits], axis=0)
    return np.mean([softmax(member) for member in logits], axis=0)


def outputs(model, x):
    """The members' logits and the ensemble's probabilities.

    Not by `predict`, whose tracing takes longer than what it computes.
    """
    given = [output.numpy() for output in model(x)]
    return [*given[:2], given[-1]]


@pytest.fixture(scope="module")
def fusion(backbone, recipe, few, tmp_path_factory):
    """A run of `fusion` and its result; not to be changed."""
    out = tmp_path_factory.mktemp("fusion") / "run"
    recipe = recipe.override(epochs=1)
    return train_ensemble(backbone, out, members=2, recipe=recipe, data=few, verbose=0)


@pytest.mark.parametrize(
    ("scheme", "independent_data"),
    [*((scheme, False) for scheme in SCHEMES), ("voting", True), ("bagging", True)],
)
def test_a_trained_ensemble(
    train, fusion, backbone, stem_backbone, digits, few, read_log, scheme, independent_data
):
    if scheme == "fusion":
        trained, result = fusion
    else:
        # A binary network once with one input, that is `fusion`, and once with one a member.
        backbone = backbone if scheme == "voting" else stem_backbone
        trained, result = train(
            pretrained=backbone, scheme=scheme, independent_data=independent_data
        )
    run = load_run(trained.path, kind="ensemble")
    assert json.loads((run.path / "result.json").read_text()) == result
    assert result.keys() == {
        "test_top1",
        "member_top1",
        "backbone_top1",
        "validation_top1",
        "epochs",
        "images_per_second",
        "members",
    }
    assert result["members"] == 2
    assert result["epochs"] == 1
    assert result["images_per_second"] > 0
    assert run.config.ensemble["backbone"] == backbone.digest
    assert run.config.ensemble["independent_data"] == independent_data
    (row,) = read_log(run)
    assert row["step"] == 3
    assert np.isfinite([row["loss"], row["val_loss"]]).all()
    if independent_data:
        # The ensemble's output gets no labels in training, where each member sees other images.
        assert row.keys() >= {"member_0_accuracy", "val_member_1_accuracy"}
        assert "ensemble_accuracy" not in row
    else:
        assert result["validation_top1"] == pytest.approx(100 * row["val_ensemble_accuracy"])
    assert list(run.path.glob("tensorboard/train/events*"))

    # What was saved is an ordinary Keras model, and what was recorded is what it does.
    model = keras.models.load_model(run.path / "model.keras")
    first = ["first_1"] if scheme == "sampled_nested_fusion" else []
    assert model.output_names == ["member_0", "member_1", *first, "ensemble"]
    test = digits[1].first(64)
    dataset = DATASETS["digits"]
    *logits, probabilities = outputs(model, dataset.normalization(test.images))
    expected = combined(np.stack(logits), scheme)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    for recorded, scores in zip(
        [result["test_top1"], *result["member_top1"]], [expected, *logits], strict=True
    ):
        assert recorded == pytest.approx(100 * np.mean(scores.argmax(1) == test.labels))
    single = json.loads((backbone.path / "result.json").read_text())
    assert result["backbone_top1"] == single["test_top1"]
    held_out = few.load(dataset, backbone.config.seed).validation
    *logits, _ = outputs(model, dataset.normalization(held_out.images))
    validation = combined(np.stack(logits), scheme).argmax(1) == held_out.labels
    assert result["validation_top1"] == pytest.approx(100 * validation.mean())

    # Members have left the backbone and each other; what they share is as it was, bit for bit.
    shared = {layer.name for layer in as_ensemble(model).shared_layers()}
    assert shared == set(run.config.ensemble["shared_layers"])
    assert shared == {
        layer.name for layer in backbone.model.layers if isinstance(layer, keras.layers.Conv2D)
    }
    for layer in backbone.model.layers:
        if not layer.trainable_weights:
            continue
        if layer.name in shared:
            for weight, original in zip(
                model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True
            ):
                assert np.array_equal(weight, original)
            continue
        names = [f"member_{member}_{layer.name}" for member in range(2)]
        values = [layer.get_weights()[0], *(model.get_layer(n).get_weights()[0] for n in names)]
        for first, second in ((0, 1), (0, 2), (1, 2)):
            assert not np.array_equal(values[first], values[second]), layer.name


def test_the_bias_of_a_shared_head(train, recipe, tmp_path):
    """Each member's own, but not in an ensemble that was started before that was so."""
    arguments = {"sharing": "all_frozen", "recipe": recipe.override(epochs=0)}
    run, _ = train(**arguments)
    assert {layer.name for layer in run.model.layers} >= {"linear", "member_1_linear_bias"}
    assert "linear" in run.config.ensemble["shared_layers"]
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    assert config["ensemble"].pop("own_head_bias") is True
    path.write_text(json.dumps(config))
    run.model_path.unlink()
    run, _ = train(resume=True, **arguments)
    assert run.model.get_layer("linear").use_bias
    assert not [layer.name for layer in run.model.layers if "linear_bias" in layer.name]
    assert json.loads(path.read_text()) == config


def test_an_ensemble_that_was_killed_goes_on_as_if_nothing_had_happened(
    train, backbone, recipe, epochs_begun, copy_at_step, assert_same_training, tmp_path
):
    """A binarized one, whose weights are clipped, in networks that draw for themselves."""
    arguments = {
        "pretrained": backbone,
        "scheme": "batch_bagging",
        "independent_data": True,
        "recipe": dataclasses.replace(recipe, epochs=3, dropout=0.3),
    }
    with copy_at_step(4, tmp_path / "expected", tmp_path / "run"):
        expected, _ = train("expected", **arguments)
    epochs_begun.clear()
    actual, result = train(resume=True, **arguments)
    assert epochs_begun == [1, 2]
    assert_same_training(actual, expected)
    # Now it has finished.
    _, recorded = train(resume=True, **arguments)
    assert len(epochs_begun) == 2
    assert recorded == result


def test_soft_boosting_goes_on_with_recomputation(
    stem_backbone, recipe, few, read_log, tmp_path, epochs_begun, interrupt_at_step
):
    """A training that ran out of memory is not lost."""
    arguments = {
        "members": 2,
        "scheme": "soft_boosting",
        "shrinkage": 0.5,
        "recipe": dataclasses.replace(recipe, epochs=2, dropout=0.3),
        "data": few,
        "verbose": 0,
    }
    interrupt_at_step(5)
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(stem_backbone, tmp_path / "run", **arguments)
    interrupt_at_step(None)
    arguments |= {"resume": True, "recompute": True}
    run, result = train_ensemble(stem_backbone, tmp_path / "run", **arguments)
    assert epochs_begun == [0, 1, 1]
    assert [row["step"] for row in read_log(run)] == [3, 6]

    ensemble = run.model
    assert ensemble.member_weights == (0.5, 0.5)
    for layer in ensemble.shared_layers():
        original = stem_backbone.model.get_layer(layer.name)
        np.testing.assert_array_equal(layer.get_weights()[0], original.get_weights()[0])
    heads = [run.model.get_layer(f"member_{member}_linear").kernel.numpy() for member in (0, 1)]
    assert np.abs(heads[0] - heads[1]).max() > 0
    assert np.abs(heads).max() < 0.1  # from zeros, by six steps of at most 0.01

    dataset = DATASETS["digits"]
    held_out = few.load(dataset, stem_backbone.config.seed).validation
    first, second = member_logits(run.model, held_out, dataset)
    targets = np.eye(10)[held_out.labels]
    row = read_log(run)[-1]
    errors = [first - (targets - 0.1), second - (targets - softmax(0.5 * first))]
    assert row["val_loss"] == pytest.approx(np.square(errors).mean((1, 2)).sum(), rel=1e-4)
    top1 = np.mean((first + second).argmax(1) == held_out.labels)
    assert row["val_ensemble_accuracy"] == pytest.approx(top1)
    assert result["validation_top1"] == pytest.approx(100 * top1)
    probabilities = run.model(dataset.normalization(held_out.images))[-1]
    np.testing.assert_allclose(probabilities, softmax(0.5 * (first + second)), rtol=1e-4)
    # The file holds a plain Keras model, whatever trained it.
    saved = keras.models.load_model(run.model_path, compile=False)
    assert type(saved) is type(keras.Model(saved.inputs, saved.outputs))


def test_data_that_cannot_be_read_leave_nothing_behind(train, tmp_path, monkeypatch, stem_backbone):
    def read(data_dir):
        raise EnsembleError("No internet.")

    unreadable = dataclasses.replace(DATASETS["digits"], read=read)
    monkeypatch.setitem(DATASETS._entries, "digits", unreadable)
    with pytest.raises(EnsembleError, match="No internet"):
        train()
    assert not any(tmp_path.iterdir())


def test_bfloat16(train, backbone, fusion, bfloat16) -> None:
    """The run says so, and goes on with it only."""
    run, result = train(pretrained=backbone, bfloat16=True)
    plain, _ = fusion
    assert result["test_top1"] is not None
    assert run.config.ensemble["bfloat16"] is True
    assert "bfloat16" not in plain.config.ensemble
    assert any(
        (one != other).any()
        for one, other in zip(run.model.get_weights(), plain.model.get_weights(), strict=True)
    )
    with pytest.raises(EnsembleError, match="bfloat16"):
        train(pretrained=backbone, resume=True)


def test_a_machine_without_bfloat16(train, backbone, tmp_path, monkeypatch) -> None:
    def conv2d(*args, **kwargs):
        raise tf.errors.UnimplementedError(None, None, "no kernel")

    monkeypatch.setattr(tf.nn, "conv2d", conv2d)
    warn_where_slow.cache_clear()
    with pytest.raises(EnsembleError, match=r"bfloat16 here \(no kernel\): leave `bfloat16` out"):
        train(pretrained=backbone, bfloat16=True)
    assert not any(tmp_path.iterdir())


def test_no_epochs_write_a_run_without_reading_data(train, recipe, no_data, stem_backbone):
    run, result = train(recipe=recipe.override(epochs=0), sharing="none", members=3)
    assert result["test_top1"] is None
    assert result["member_top1"] is None
    assert result["members"] == 3
    model = load_run(run.path).model
    assert model.members == 3
    assert model.count_params() == 3 * stem_backbone.model.count_params()


def test_augmentation_and_class_weights_are_the_backbone_s_unless_given(
    train, recipe, no_data, stem_backbone
):
    mix, flip = (Augmentation.of_kind(kind, (8, 8, 1)).to_json() for kind in ("mix", "flip"))
    config = dataclasses.replace(
        stem_backbone.config,
        dataset={**stem_backbone.config.dataset, "augmentation": mix},
        data={**stem_backbone.config.data, "class_weights": "balanced"},
    )
    pretrained = dataclasses.replace(stem_backbone, config=config)
    for name, arguments, augmentation, class_weights in (
        ("as it was", {}, mix, "balanced"),
        (
            "given",
            {"augment": "flip", "class_weights": {"3": 2}},
            flip,
            [1.0] * 3 + [2.0] + [1.0] * 6,
        ),
        ("none", {"augment": "none", "class_weights": "none"}, {"pad": 0, "flip": False}, None),
    ):
        run, _ = train(name, pretrained=pretrained, recipe=recipe.override(epochs=0), **arguments)
        assert run.config.dataset["augmentation"] == augmentation
        assert run.config.data.get("class_weights") == class_weights


def test_seeds_decide_the_noise_on_members(train, recipe, no_data):
    untrained = recipe.override(epochs=0)
    weights = [
        train(name, recipe=untrained, seed=seed)[0].model.get_weights()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1]))
    assert not all(np.array_equal(a, c) for a, c in zip(weights[0], weights[2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 0}, "`members` must be a whole number from 1 on, got 0"),
        ({"scheme": "stacking"}, "Unknown scheme 'stacking'. Known: .*batch_bagging.*fusion"),
        ({"sharing": "some"}, "Unknown sharing 'some'. Known: .*all_frozen"),
        ({"sharing": "re:nothing.*"}, "'nothing.*', which matches no layer"),
        ({"sharing": "re:(unclosed"}, "'\\(unclosed', which is no regular expression"),
        ({"sharing": "re:.*"}, "`sharing` leaves the members nothing of their own"),
        (
            {"scheme": "bagging", "in_turn": True, "recompute": True},
            "`recompute` does not go with the scheme 'bagging', trained sequentially",
        ),
        ({"bfloat16": True, "recompute": True}, "leave out `bfloat16`, or `recompute`"),
        (
            {"bfloat16": True, "scheme": "snapshot"},
            "`bfloat16` does not go with the scheme 'snapshot'",
        ),
        ({"prefix_weights": (1, 2)}, "`prefix_weights` does not go with the scheme 'fusion'"),
        (
            {"scheme": "nested_fusion", "prefix_weights": (1, 2, 3)},
            "`prefix_weights` must be 2 numbers.*Received: \\(1, 2, 3\\)",
        ),
        ({"independent_data": True}, "`independent_data` does not go with the scheme 'fusion'"),
        ({"augment": "cutout"}, "Unknown augment 'cutout'. Known: crop, flip, mix, none, rand"),
        ({"class_weights": [1, 2]}, "`class_weights` must be 10 numbers"),
        (
            {"class_weights": "balanced", "data": DataOptions(limit_train=6)},
            "`class_weights` 'balanced' needs training images of every class, and there are none",
        ),
    ],
)
def test_unusable_arguments_leave_nothing_behind(train, tmp_path, arguments, message):
    with pytest.raises(EnsembleError, match=message):
        train(**arguments)
    assert not any(tmp_path.iterdir())


def test_an_ensemble_is_no_backbone(train, recipe, no_data):
    run, _ = train(recipe=recipe.override(epochs=0))
    with pytest.raises(EnsembleError, match="is of kind 'ensemble', but 'backbone' is needed"):
        load_run(run.path, kind="backbone")
    with pytest.raises(EnsembleError, match="'stem_ensemble' is an ensemble already"):
        train("second", pretrained=run)


def test_a_backbone_that_has_not_finished(train, tiny, recipe, tmp_path, no_data):
    run, _ = pretrain(
        tiny, "digits", tmp_path / "pretrained", recipe=recipe.override(epochs=0), verbose=0
    )
    (run.path / "model.keras").unlink()
    with pytest.raises(EnsembleError, match=r"pretrained' has no model\.keras: .*Resume it"):
        train(pretrained=load_run(run.path))
    assert not (tmp_path / "run").exists()
