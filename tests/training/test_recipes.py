import dataclasses

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions, Dataset
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.keras import keras, tf
from larq_ensemble.training.fit import adam
from larq_ensemble.training.pipeline import steps_per_epoch
from larq_ensemble.training.recipes import RECIPES, Recipe, recipes_for


def test_the_papers_values():
    recipes = RECIPES["paper"](100)
    pretrain, retrain = recipes.pretrain, recipes.retrain
    assert (pretrain.epochs, pretrain.lr) == (400, 1e-3)
    assert (retrain.epochs, retrain.lr) == (200, 1e-2)
    for recipe in (pretrain, retrain):
        assert recipe.batch_size == 256
        assert recipe.end_lr == 0
        assert (recipe.beta_1, recipe.beta_2) == (0.9, 0.999)
        assert recipe.dropout == 0.5
        assert recipe.source


def test_backbones_drop_out_on_100_classes_only():
    """Against the paper's text, but as its logs show, ensembles do on 10, too."""
    recipes = RECIPES["paper"](10)
    assert recipes.pretrain.dropout == 0
    assert recipes.retrain.dropout == 0.5
    assert RECIPES["paper"](10, "birealnet18").retrain.dropout == 0


def test_the_papers_rate_falls_between_epochs():
    """lr (1 - epoch / epochs), with 196 steps an epoch: 50,000 images in batches of 256."""
    retrain = RECIPES["paper"](100).retrain
    assert (retrain.epsilon, retrain.decay, retrain.drop_remainder) == (1e-8, "epoch", False)
    steps = steps_per_epoch(50_000, retrain.batch_size, drop_remainder=retrain.drop_remainder)
    assert steps == 196
    optimizer = adam(retrain, steps)
    assert optimizer.epsilon == 1e-8
    rate = keras.optimizers.schedules.deserialize(optimizer.get_config()["learning_rate"])
    for step, expected in {
        0: 0.01,
        195: 0.01,
        196: 0.01 * 199 / 200,
        391: 0.01 * 199 / 200,
        100 * 196: 0.005,
        200 * 196 - 1: 0.01 / 200,
    }.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5)
        assert float(rate(tf.constant(step, tf.int64))) == pytest.approx(expected, rel=1e-5)


def test_adams_first_step_by_hand():
    """m / (1 - beta_1) is g and v / (1 - beta_2) is g^2: the step is lr g / (|g| + epsilon').

    TensorFlow adds epsilon before the bias correction of v, so epsilon' is epsilon / sqrt(1 -
    beta_2).
    """
    recipe = RECIPES["paper"](100).pretrain
    gradients = np.array([1e-7, 1e-3])
    weight = tf.Variable(np.zeros(2, np.float32))
    adam(recipe, 10).apply_gradients([(tf.constant(gradients, tf.float32), weight)])
    expected = -1e-3 * gradients / (gradients + 1e-8 / np.sqrt(1 - 0.999))
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4)


def test_recipes_of_before_stay_what_they_were():
    before = {
        "epochs": 400,
        "batch_size": 256,
        "lr": 1e-3,
        "dropout": 0.5,
        "source": "",
        "end_lr": 0.0,
        "jitter": None,
        "beta_1": 0.9,
        "beta_2": 0.999,
    }
    recipe = Recipe.from_json(before)
    assert recipe.to_json() == before
    assert (recipe.epsilon, recipe.decay, recipe.drop_remainder) == (1e-7, "step", True)
    now = RECIPES["paper"](100).pretrain
    assert dataclasses.replace(now.as_begun(before), source="") == recipe
    assert now.as_begun(now.to_json()) == now


@pytest.mark.parametrize(
    ("model", "pretrain", "retrain", "dropout"),
    [
        # Epochs, batch size and rate; batch size of fusion.
        ("resnet18", (400, 256, 1e-3), (200, 256, 1e-2, 128), 0.5),
        ("birealnet18", (200, 256, 1e-3), (200, 256, 1e-3, 128), 0.0),
        ("reactnet10", (400, 256, 5e-4), (200, 256, 1e-3, 256), 0.0),
    ],
)
def test_the_papers_values_for_other_networks(model, pretrain, retrain, dropout):
    fusion = RECIPES["paper"](100, model)
    other = RECIPES["paper"](100, model, "bagging")
    assert fusion.pretrain == other.pretrain
    for recipe, expected in (
        (other.pretrain, pretrain),
        (other.retrain, retrain[:3]),
        (fusion.retrain, (retrain[0], retrain[3], retrain[2])),
    ):
        assert (recipe.epochs, recipe.batch_size, recipe.lr) == expected
        assert recipe.dropout == dropout
    assert fusion.from_real == (model == "reactnet10")
    assert not RECIPES["paper"](100, f"{model}_real").from_real


def test_recipes_say_what_the_paper_does_not():
    assert "not stated" not in RECIPES["paper"](100, "resnet20").retrain.source
    assert "not stated there: no dropout" in RECIPES["paper"](100, "reactnet10").retrain.source
    for model, like in {
        "resnet32": "resnet20",
        "resnet34": "resnet18",
        "birealnet34": "birealnet18",
        "reactnet10_real": "reactnet10",
        "resnet34_real": "resnet18",
        "tiny": "resnet20",
    }.items():
        recipe = RECIPES["paper"](100, model).pretrain
        assert recipe.source.endswith(f"not stated there: all of {model}, as for {like}")
        expected = RECIPES["paper"](100, like).pretrain
        assert (recipe.epochs, recipe.lr, recipe.dropout) == (
            expected.epochs,
            expected.lr,
            expected.dropout,
        )


def test_unknown_models_list_the_names():
    with pytest.raises(UnknownNameError, match=r"model 'resnet99'.*resnet20"):
        RECIPES["paper"](10, "resnet99")


def test_the_short_recipe_is_short():
    recipes = RECIPES["short"](100)
    assert recipes.pretrain.epochs <= 20
    assert recipes.retrain.epochs <= 10


@pytest.mark.parametrize(
    ("images", "pretrain", "retrain"),
    [
        # 1200 and 150 steps of 32 images; at least 20 and 5 epochs.
        (320, 120, 15),
        (900, 43, 6),
        (1919, 21, 5),
        (1920, 20, 5),
        (50_000, 20, 5),
        (None, 20, 5),
    ],
)
def test_the_recipe_for_few_images_counts_steps(images, pretrain, retrain):
    recipes = RECIPES["small"](3, images=images)
    assert (recipes.pretrain.epochs, recipes.retrain.epochs) == (pretrain, retrain)
    assert recipes.pretrain.batch_size == recipes.retrain.batch_size == 32
    assert "small-sets" in recipes.pretrain.source


def test_data_of_ones_own_take_the_recipe_for_few_images():
    labels = np.arange(1000) % 5
    images = np.random.default_rng(0).integers(0, 256, (1000, 4, 4), np.uint8)
    own = Dataset.from_arrays(images, labels)
    # 800 of 1,000 images are for training, and 720 of them for the training split.
    options = DataOptions(validation=0.1)
    assert options.training_images(own) == len(options.load(own, 0).train) == 720
    constants = own.constants()
    counted = recipes_for(constants, images=lambda: options.training_images(own))
    assert counted.pretrain.epochs == 54  # 1,200 steps
    assert recipes_for(constants) == RECIPES["small"](5)
    assert recipes_for(constants, "short", images=None) == RECIPES["short"](5)


def test_images_are_counted_as_they_are_loaded():
    images, labels = np.zeros((60, 2, 2), np.uint8), np.arange(60) % 3
    images[0] = 1
    held_out = Dataset.from_arrays(images, labels, validation=(images, labels))
    rare = Dataset.from_arrays(images, np.minimum(np.arange(60), 40))  # 40 of one image each
    for dataset in (held_out, rare):
        for limit in (None, 20, 100):
            options = DataOptions(validation=0.5, limit_train=limit)
            counted = options.training_images(dataset)
            for seed in (0, 1):
                assert counted == len(options.load(dataset, seed).train)
    with pytest.raises(EnsembleError, match="No training data is left: 2 examples"):
        DataOptions(validation=0.9, limit_train=2).training_images(held_out)


def test_a_run_goes_on_for_the_epochs_that_an_earlier_version_counted():
    before, now = (RECIPES["small"](3, images=images).pretrain for images in (100, 90))
    assert (before.epochs, now.epochs) == (384, 427)
    assert now.as_begun(before.to_json()) == before
    slower = now.override(lr=1e-4)
    assert slower.as_begun(before.override(lr=1e-3).to_json()).epochs == 384
    # What somebody asked for is compared as ever.
    assert now.override(epochs=7).as_begun(before.override(epochs=8).to_json()).epochs == 7
    assert now.as_begun(before.override(epochs=8).to_json()) == now


def test_built_in_data_keep_the_papers_and_are_not_counted():
    def images():
        raise AssertionError("The data were read.")

    constants = DATASETS["cifar10"].constants()
    recipes = recipes_for(constants, model_name="birealnet18", images=images)
    assert recipes == RECIPES["paper"](10, "birealnet18")
    few, digits = DataOptions(limit_train=500), DATASETS["digits"]
    assert few.training_images(digits) == len(few.load(digits, 0).train) == 450


def test_unknown_recipe_lists_the_names():
    with pytest.raises(UnknownNameError, match=r"recipe 'long'.*paper, short, small"):
        RECIPES["long"]


def test_override_keeps_the_rest_and_says_so():
    paper = RECIPES["paper"](100).pretrain
    changed = paper.override(epochs=3, lr=None, end_lr=1e-5)
    assert (changed.epochs, changed.lr, changed.end_lr) == (3, 1e-3, 1e-5)
    assert (changed.batch_size, changed.dropout) == (256, 0.5)
    assert paper.source in changed.source
    assert "end_lr, epochs" in changed.source
    assert paper.override(epochs=None) == paper
    # A zero is a value, not a missing one.
    assert paper.override(dropout=0.0, epochs=0).dropout == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("end_lr", -1.0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("jitter", -0.1),
        ("beta_1", 1.0),
        ("beta_2", 1.5),
        ("epsilon", -1e-8),
    ],
)
def test_invalid_values_name_field_and_value(name, value):
    with pytest.raises(EnsembleError, match=f"`{name}` must be at least .* got {value}"):
        RECIPES["paper"](10).retrain.override(**{name: value})


def test_unknown_decays_list_the_names():
    with pytest.raises(UnknownNameError, match=r"decay 'batch'.*epoch, step"):
        RECIPES["paper"](10).retrain.override(decay="batch")


def test_json_and_back():
    recipe = RECIPES["short"](10).retrain.override(jitter=0.2)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_adam_decays_linearly_over_all_steps():
    recipe = Recipe(
        epochs=5, batch_size=8, lr=0.1, end_lr=0.02, dropout=0, beta_1=0.8, beta_2=0.99, source=""
    )
    optimizer = adam(recipe, steps_per_epoch=20)
    schedule = optimizer.get_config()["learning_rate"]
    rate = keras.optimizers.schedules.deserialize(schedule)
    for step in (0, 25, 50, 99, 100, 150):
        share = min(step / 100, 1)
        assert float(rate(step)) == pytest.approx(0.1 * (1 - share) + 0.02 * share, rel=1e-5)
    assert (optimizer.beta_1, optimizer.beta_2) == (0.8, 0.99)
    assert not optimizer.weight_decay
    assert adam(recipe.override(weight_decay=0.05), 20).weight_decay == 0.05


def test_the_rate_rises_before_it_falls():
    """4 of 20 steps to the highest rate, and down to the lowest in 16."""
    recipe = Recipe(
        epochs=2, batch_size=1, lr=0.4, dropout=0.0, source="", end_lr=0.08, warmup_epochs=0.4
    )
    schedule = adam(recipe, steps_per_epoch=10)._learning_rate
    rates = [float(schedule(step)) for step in range(21)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4:] == pytest.approx([0.4 - 0.32 * step / 16 for step in range(17)])
    again = type(schedule).from_config(schedule.get_config())
    assert [float(again(step)) for step in (1, 9)] == [rates[1], rates[9]]


def test_what_older_runs_lack_is_recorded_if_it_is_used():
    recipe = Recipe(epochs=2, batch_size=1, lr=0.4, dropout=0.0, source="")
    assert not {"label_smoothing", "warmup_epochs", "weight_decay"} & recipe.to_json().keys()
    used = recipe.override(label_smoothing=0.1, warmup_epochs=0.5, weight_decay=0.05)
    values = {"label_smoothing": 0.1, "warmup_epochs": 0.5, "weight_decay": 0.05}
    assert used.to_json().items() >= values.items()
    # A run that began without can't be resumed with it: that is an error, not a silent change.
    assert used.as_begun(recipe.to_json()).label_smoothing == 0.1
    with pytest.raises(EnsembleError, match="`warmup_epochs` must be at least 0 and below 2, got"):
        recipe.override(warmup_epochs=2.0)
