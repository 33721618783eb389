import json

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq
from larq_ensemble.layers import PReLU
from larq_ensemble.models import PRELU_GRADIENT
from larq_ensemble.runs import load_run
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.pretrain import pretrain
from larq_ensemble.training.recipes import Recipe


def test_the_run_directory_holds_everything(backbone, recipe):
    run = load_run(backbone.path, kind="backbone")
    assert {path.name for path in run.path.iterdir()} == {
        "checkpoints",
        "config.json",
        "log.csv",
        "model.keras",
        "result.json",
        "tensorboard",
    }
    config = json.loads((run.path / "config.json").read_text())
    assert config["model"]["name"] == "tiny"
    assert config["recipe"] == recipe.to_json()
    assert config["seed"] == 0
    assert config["data"] == {"validation": 0.1, "limit_train": 80, "limit_test": 64}
    assert config["dataset"]["classes"] == len(config["dataset"]["class_names"]) == 10
    assert config["dataset"]["input_shape"] == [8, 8, 1]
    assert config["dataset"]["mean"] == list(DATASETS["digits"].normalization.mean)
    assert config["versions"]["larq"].startswith("0.")
    assert list(run.path.glob("tensorboard/train/events*"))
    assert list(run.path.glob("tensorboard/validation/events*"))


def test_log_rows_follow_the_schedule(backbone, read_log):
    rows = read_log(backbone)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    # 72 training images in batches of 24.
    assert [row["step"] for row in rows] == [3, 6, 9]
    # Each row has the rate of its last step, counted from 0.
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([1e-2 * (1 - step / 9) for step in (2, 5, 8)], abs=1e-8)
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= rows[0].keys()


def test_recorded_accuracies_are_those_of_the_saved_model(backbone, digits, few):
    dataset = DATASETS["digits"]
    model = keras.models.load_model(backbone.path / "model.keras")
    result = json.loads((backbone.path / "result.json").read_text())
    test = digits[1].first(64)
    logits = model(dataset.normalization(test.images)).numpy()
    assert result["test_top1"] == pytest.approx(100 * np.mean(logits.argmax(1) == test.labels))
    validation = few.load(dataset, 0).validation
    logits = model(dataset.normalization(validation.images)).numpy()
    expected = 100 * np.mean(logits.argmax(1) == validation.labels)
    assert result["validation_top1"] == pytest.approx(expected)
    assert result["epochs"] == 3
    assert result["images_per_second"] > 0


def test_what_the_last_epoch_and_chance_say_is_recorded(backbone, read_log):
    result = json.loads((backbone.path / "result.json").read_text())
    assert result["training_top1"] == pytest.approx(100 * read_log(backbone)[-1]["accuracy"])
    # Nine steps, and eight images held out: chance is 60 % or so with two standard errors.
    assert "learned next to nothing" in result["advice"]


def test_training_learns(tiny, tmp_path):
    recipe = Recipe(epochs=8, batch_size=32, lr=2e-2, dropout=0.0, source="test")
    data = DataOptions(limit_train=600, validation=0)
    run, result = pretrain(tiny, "digits", tmp_path / "run", recipe=recipe, data=data, verbose=0)
    assert result["validation_top1"] is None
    assert result["test_top1"] > 25
    # Binary layers stayed binary: their filters are one value, of either sign.
    binary = [layer for layer in run.model.layers if isinstance(layer, lq.layers.QuantConv2D)]
    assert len(binary) == 2
    for layer in binary:
        with lq.context.quantized_scope(True):
            magnitudes = np.abs(layer.get_weights()[0])
        np.testing.assert_allclose(np.ptp(magnitudes, axis=(0, 1, 2)), 0, atol=1e-6)


def test_no_epochs_write_a_run_without_reading_data(tiny, recipe, tmp_path, no_data):
    run, result = pretrain(
        tiny, "digits", tmp_path / "run", recipe=recipe.override(epochs=0), seed=7, verbose=0
    )
    assert result == {
        "test_top1": None,
        "validation_top1": None,
        "epochs": 0,
        "images_per_second": None,
    }
    again, _ = pretrain(
        tiny, "digits", tmp_path / "again", recipe=recipe.override(epochs=0), seed=7, verbose=0
    )
    assert load_run(run.path).model.count_params() > 0
    for weight, expected in zip(again.model.get_weights(), run.model.get_weights()):
        assert np.array_equal(weight, expected)


def test_the_estimator_reaches_the_network_and_its_configuration(tiny, recipe, tmp_path):
    recipe = recipe.override(epochs=0)
    run, _ = pretrain(
        tiny, "digits", tmp_path / "run", recipe=recipe, estimator="approx_sign", verbose=0
    )
    assert load_run(run.path).config.model["estimator"] == "approx_sign"
    binary = [layer for layer in run.model.layers if isinstance(layer, lq.layers.QuantConv2D)]
    assert {type(layer.input_quantizer) for layer in binary} == {lq.quantizers.ApproxSign}
    with pytest.raises(EnsembleError, match=r"started with model\.estimator = 'approx_sign'"):
        pretrain(tiny, "digits", run.path, recipe=recipe, resume=True, verbose=0)


def test_a_run_from_before_there_were_estimators_resumes(tiny, recipe, tmp_path):
    recipe = recipe.override(epochs=0)
    run, expected = pretrain(tiny, "digits", tmp_path / "run", recipe=recipe, verbose=0)
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    del config["model"]["estimator"]
    path.write_text(json.dumps(config))
    _, result = pretrain(tiny, "digits", run.path, recipe=recipe, resume=True, verbose=0)
    assert result == expected


def test_a_run_of_before_goes_on_with_its_network(tiny, recipe, tmp_path):
    """Without a mark in its configuration: no ReLU, no crop before the shortcut, Keras's PReLU."""
    recipe = recipe.override(epochs=0)
    run, _ = pretrain(tiny, "digits", tmp_path / "run", recipe=recipe, verbose=0)
    names = {layer.name for layer in run.model.layers}
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    assert config["model"].pop("revision") == 2
    assert config["model"].pop("prelu_gradient") == PRELU_GRADIENT
    path.write_text(json.dumps(config))
    run.model_path.unlink()
    run, _ = pretrain(tiny, "digits", run.path, recipe=recipe, resume=True, verbose=0)
    old = {layer.name for layer in run.model.layers}
    assert names - old == {"conv1_relu", "layer2_0_shortcut_crop"}
    assert old < names
    prelus = {type(layer) for layer in run.model.layers if "prelu" in layer.name}
    assert prelus == {keras.layers.PReLU}
    assert json.loads(path.read_text()) == config
    ensemble, _ = train_ensemble(run, tmp_path / "ensemble", members=2, recipe=recipe, verbose=0)
    assert load_run(ensemble.path).config.model["revision"] == 1
    assert "conv1_relu" not in {layer.name for layer in ensemble.model.layers}
    with pytest.raises(EnsembleError, match=r"started with model\.prelu_gradient = 'zero'"):
        pretrain(
            tiny,
            "digits",
            run.path,
            recipe=recipe,
            prelu_gradient="slope",
            resume=True,
            verbose=0,
        )


def test_the_gradient_of_prelu_reaches_the_network_and_its_configuration(tiny, recipe, tmp_path):
    recipe = recipe.override(epochs=0)
    for rule, layer_type in (("zero", keras.layers.PReLU), ("slope", PReLU)):
        out = tmp_path / rule
        run, _ = pretrain(tiny, "digits", out, recipe=recipe, prelu_gradient=rule, verbose=0)
        assert load_run(run.path).config.model["prelu_gradient"] == rule
        prelus = {type(layer) for layer in run.model.layers if "prelu" in layer.name}
        assert prelus == {layer_type}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("resnet99", "digits"), "Unknown model 'resnet99'. Known: .*resnet20"),
        (("tiny", "mnist"), "Unknown dataset 'mnist'. Known: cifar10, cifar100, digits"),
    ],
)
def test_unknown_names_leave_nothing_behind(names, message, recipe, tmp_path):
    with pytest.raises(EnsembleError, match=message):
        pretrain(*names, tmp_path / "run", recipe=recipe, verbose=0)
    assert not any(tmp_path.iterdir())


def test_bfloat16(tiny, tmp_path, recipe, few, bfloat16) -> None:
    """It trains, is recorded, and a run goes on in it alone; gradients: see test_bfloat16.py."""

    def again(**options):
        named = {"recipe": recipe, "data": few, "width": 4, "verbose": 0, **options}
        return pretrain(tiny, "digits", tmp_path / "run", **named)

    run, first = again(bfloat16=True)
    assert run.config.precision == "bfloat16"
    assert all(np.isfinite(weight).all() for weight in run.model.get_weights())
    with pytest.raises(EnsembleError, match="started with precision = 'bfloat16'"):
        again(resume=True)
    with pytest.raises(EnsembleError, match=r"`bfloat16` is for .* 16 input channels"):
        pretrain(
            tiny, "digits", tmp_path / "narrow", recipe=recipe, data=few, verbose=0, bfloat16=True
        )
    assert not (tmp_path / "narrow").exists()
    assert again(bfloat16=True, resume=True)[1] == first


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_how_the_caller_s_layers_draw_stays(enabled, dropout, stem, recipe, tmp_path):
    """Training sets how layers draw, which Keras keeps for the whole program."""
    settings = keras.backend.experimental
    untrained = recipe.override(epochs=0, dropout=dropout)
    if enabled:
        settings.enable_tf_random_generator()
    try:
        run, _ = pretrain(stem, "digits", tmp_path / "backbone", recipe=untrained, verbose=0)
        assert settings.is_tf_random_generator_enabled() == enabled
        train_ensemble(run, tmp_path / "ensemble", members=2, recipe=untrained, verbose=0)
        assert settings.is_tf_random_generator_enabled() == enabled
    finally:
        settings.disable_tf_random_generator()
