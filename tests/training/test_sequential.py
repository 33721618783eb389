"""Members trained one after another: against joint training, NumPy, and themselves resumed."""

import dataclasses
import weakref

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.ensembles import as_ensemble, build_member
from larq_ensemble.ensembles.ensemble import own_layers
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import lq
from larq_ensemble.runs import load_run
from larq_ensemble.training import fit, sequential
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.evaluation import evaluate, member_logits
from larq_ensemble.training.sequential import RunTraining

# Without validation, whose graphs cost more than the training, where a test doesn't need it.
UNVALIDATED = DataOptions(limit_train=72, limit_test=64, validation=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("in_turn")


@pytest.fixture(scope="module")
def train(stem_backbone, recipe, folder):
    """Trains two members from `stem_backbone` for one epoch of three steps each."""

    def run(name, *, pretrained=stem_backbone, **arguments):
        defaults = {
            "members": 2,
            "recipe": recipe.override(epochs=1),
            "data": UNVALIDATED,
            "verbose": 0,
        }
        return train_ensemble(pretrained, folder / name, **{**defaults, **arguments})

    return run


@pytest.fixture(scope="module")
def splits(stem_backbone, few):
    return few.load(DATASETS["digits"], stem_backbone.config.seed)


def logits_of(run, split):
    return member_logits(run.model, split, DATASETS["digits"])


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def own_weights(model, member):
    return [w for layer in as_ensemble(model).own_layers(member) for w in layer.get_weights()]


def differ(model, *members):
    pairs = zip(*(own_weights(model, member) for member in members))
    return any(not np.array_equal(first, second) for first, second in pairs)


def assert_shared_is_the_backbone_s(run, backbone):
    shared = run.model.shared_layers()
    assert {layer.name for layer in shared} == set(run.config.ensemble["shared_layers"])
    for layer in shared:
        for weight, original in zip(
            layer.get_weights(), backbone.model.get_layer(layer.name).get_weights(), strict=True
        ):
            assert np.array_equal(weight, original)


@pytest.fixture
def interrupt_in_epoch(epochs_begun, monkeypatch):
    """Makes the training stop as by Ctrl-C in the n-th epoch that is begun, all members counted."""
    original = fit.EpochTimer.on_train_batch_end

    def arm(number):
        def on_train_batch_end(self, batch, logs=None):
            original(self, batch, logs)
            if len(epochs_begun) == number and batch == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(fit.EpochTimer, "on_train_batch_end", on_train_batch_end)

    return arm


@pytest.fixture
def earlier_alive(monkeypatch):
    """At each epoch's end, how many weights and graphs of the epochs before are in memory."""
    earlier, alive = [], []
    original = fit.LearningRateLogger.on_epoch_end

    def on_epoch_end(self, epoch, logs):
        alive.append(sum(reference() is not None for reference in earlier))
        functions = self.model.train_tf_function._list_all_concrete_functions()
        graphs = [function.graph for function in functions]
        assert graphs
        earlier.extend(map(weakref.ref, [*graphs, *self.model.trainable_variables]))
        original(self, epoch, logs)

    monkeypatch.setattr(fit.LearningRateLogger, "on_epoch_end", on_epoch_end)
    return alive


def test_sequential_bagging_is_joint_bagging_but_for_memory(
    train, stem_backbone, read_log, earlier_alive
):  # fmt: skip
    """Members with losses of their own do not touch each other, so the order changes nothing."""
    arguments = {"scheme": "bagging", "class_weights": "balanced"}
    joint, _ = train("joint", **arguments)
    run, result = train("in_turn", in_turn=True, **arguments)
    assert earlier_alive == [0, 0, 0]  # joint, first member, second
    pairs = zip(run.model.get_weights(), joint.model.get_weights(), strict=True)
    for weight, expected in pairs:
        np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-4)
    assert differ(run.model, 0, 1)
    assert_shared_is_the_backbone_s(run, stem_backbone)
    assert run.config.ensemble["in_turn"]
    assert result["images_per_second"] > 0
    assert result["members"] == len(result["member_top1"]) == 2
    rows = [(row["member"], row["epoch"], row["step"]) for row in read_log(run)]
    assert rows == [(0, 0, 3), (1, 0, 3)]
    assert list(run.path.glob("member_1/tensorboard/train/events*"))
    assert not list(run.path.glob("member_*/checkpoints"))


def test_boosting_fits_residuals_and_goes_on_after_a_kill(
    train, recipe, few, folder, splits, stem_backbone, read_log, epochs_begun, copy_at_step,
    assert_same_training,
):  # fmt: skip
    arguments = {
        "scheme": "boosting",
        "shrinkage": 0.5,
        "data": few,
        "recipe": dataclasses.replace(recipe, epochs=2, dropout=0.3),
    }
    # Within the second epoch of three steps, in the end that of the second member.
    with copy_at_step(5, folder / "boosting", folder / "resumed"):
        expected, result = train("boosting", **arguments)
    assert epochs_begun == [0, 1, 0, 1]

    # The validation loss of a member is the squared error of its logits, in NumPy.
    first, second = logits_of(expected, splits.validation)
    targets = np.eye(10)[splits.validation.labels]
    rows = read_log(expected)
    for row, logits, so_far in ((rows[1], first, 0 * first), (rows[3], second, 0.5 * first)):
        error = np.square(logits - (targets - softmax(so_far))).mean()
        assert row["val_loss"] == pytest.approx(error, rel=1e-4)
        top1 = np.mean((so_far + 0.5 * logits).argmax(1) == splits.validation.labels)
        assert row["val_accuracy"] == pytest.approx(top1)
    assert result["validation_top1"] == pytest.approx(100 * rows[3]["val_accuracy"])
    assert expected.model.member_weights == (0.5, 0.5)
    images = DATASETS["digits"].normalization(splits.validation.images)
    probabilities = expected.model(images)[-1]
    np.testing.assert_allclose(probabilities, softmax(0.5 * (first + second)), rtol=1e-4)
    assert_shared_is_the_backbone_s(expected, stem_backbone)

    # The first member is there and not trained again.
    epochs_begun.clear()
    actual, _ = train("resumed", resume=True, **arguments)
    assert epochs_begun == [1]
    assert_same_training(actual, expected)


def test_boosting_ends_early(train, recipe, few, capsys):
    """At a learning rate of 0 members stay at the zeros they start from: none is an improvement."""
    arguments = {
        "scheme": "boosting",
        "members": 4,
        "patience": 1,
        "data": few,
        "recipe": recipe.override(epochs=1, lr=0.0),
        "verbose": 2,
    }
    run, result = train("early", **arguments)
    out = capsys.readouterr().out
    assert "Member 2 of 4" in out
    assert "Member 3 of 4" not in out
    assert "has the first 1 members, not 4" in out
    assert result["members"] == run.model.members == len(result["member_top1"]) == 1
    assert run.config.ensemble["members"] == load_run(run.path).config.ensemble["members"] == 1
    assert len(evaluate(run)["by_members"]) == 1
    assert train("early", resume=True, **arguments)[1] == result
    with pytest.raises(EnsembleError, match="ensemble\\.members = 4, not 3"):
        train("early", resume=True, **{**arguments, "members": 3})


def test_snapshots_are_the_minima_of_a_cyclic_learning_rate(
    train, recipe, read_log, stem_backbone, splits, monkeypatch
):  # fmt: skip
    recipe = dataclasses.replace(recipe, epochs=4, lr=0.02)
    run, _ = train("snapshot", scheme="snapshot", recipe=recipe)
    assert_shared_is_the_backbone_s(run, stem_backbone)
    assert differ(run.model, 0, 1)
    # Two cycles of two epochs of three steps; a row has the rate of its epoch's last step.
    rates = [0.01 * (np.cos(np.pi * (step % 6) / 6) + 1) for step in (2, 5, 8, 11)]
    assert [row["learning_rate"] for row in read_log(run)] == pytest.approx(rates, rel=1e-5)
    # The second cycle goes on where the first has ended, and not with its images again.
    training = RunTraining(
        stem_backbone.model,
        2,
        {"sharing": "fusion", "scheme": "snapshot", "seed": 0},
        run=run,
        splits=splits,
        dataset=DATASETS["digits"],
        recipe=recipe,
    )
    start = training.start(1)
    for layer in own_layers(start, 1):
        source = run.model.get_layer(layer.name.replace("member_1_", "member_0_"))
        for weight, previous in zip(layer.get_weights(), source.get_weights(), strict=True):
            assert np.array_equal(weight, previous)
    first_epochs = []
    monkeypatch.setattr(
        sequential,
        "fit_images",
        lambda *_, first_epoch, **options: first_epochs.append(first_epoch),
    )
    for member in (0, 1):
        training.fit(member, start)
    assert first_epochs == [0, 2]


@pytest.mark.parametrize(
    ("scheme", "members", "epochs", "rates"),
    [
        # Two cycles of six steps: 8, 14, 20, 14, 8 and 2 thousandths.
        ("fast_geometric", 2, 4, [0.02, 0.002, 0.02, 0.002]),
        # Down on a line from step 0 to step 6, which is after the last.
        ("adversarial", 1, 2, [0.014, 0.005]),
    ],
)
def test_rates_of_members(
    train, recipe, stem_backbone, read_log, epochs_begun, interrupt_in_epoch,
    scheme, members, epochs, rates,
):  # fmt: skip
    """A row has the rate of its epoch's third step, though the second member is interrupted."""
    recipe = dataclasses.replace(recipe, epochs=epochs, lr=0.02, end_lr=0.002)
    arguments = {"scheme": scheme, "members": members, "recipe": recipe}
    if members > 1:
        interrupt_in_epoch(2 * members)
        with pytest.raises(KeyboardInterrupt):
            train(scheme, **arguments)
        interrupt_in_epoch(None)
    run, _ = train(scheme, resume=True, **arguments)
    assert epochs_begun == [0, 1] * members + [1] * (members > 1)
    rows = [(row["member"], row["learning_rate"], row["step"]) for row in read_log(run)]
    expected = list(zip((0, 0, 1, 1)[: 2 * members], rates, (3, 6, 3, 6)))
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    assert_shared_is_the_backbone_s(run, stem_backbone)
    assert all(differ(run.model, 0, member) for member in range(1, members))


def test_adaboost_of_independent_members(train, stem_backbone, digits, recipe):
    """BENN: members from scratch, their weights recomputed from their errors in NumPy.

    Class weights are the examples' weights in the training of the first member.
    """
    recipe = dataclasses.replace(recipe, epochs=4, lr=0.02)
    run, result = train(
        "adaboost", scheme="adaboost", sharing="none", initial="random", recipe=recipe,
        class_weights={7: 3.0},
    )  # fmt: skip
    assert run.config.ensemble["shared_layers"] == []
    train_split = UNVALIDATED.load(DATASETS["digits"], stem_backbone.config.seed).train
    labels = train_split.labels
    examples = np.where(labels == 7, 3.0, 1.0)
    examples /= examples.sum()
    weights = []
    for logits in logits_of(run, train_split):
        wrong = logits.argmax(1) != labels
        error = examples[wrong].sum()
        weights.append(max(np.log((1 - error) / error) + np.log(9), 1e-3))
        examples = np.where(wrong, examples * np.exp(weights[-1]), examples)
        examples /= examples.sum()
    assert run.model.member_weights == pytest.approx(weights, rel=1e-5)
    assert weights[0] != pytest.approx(weights[1])

    test = digits[1].first(64)
    logits = logits_of(run, test)
    shares = np.array(weights) / sum(weights)
    expected = shares[0] * softmax(logits[0]) + shares[1] * softmax(logits[1])
    top1 = 100 * np.mean(expected.argmax(1) == test.labels)
    assert result["test_top1"] == pytest.approx(top1)
    rows = evaluate(run, limit=64)["by_members"]
    assert rows[1]["top1"] == pytest.approx(top1)
    nll = -np.log(expected[np.arange(64), test.labels]).mean()
    assert rows[1]["nll"] == pytest.approx(nll, rel=1e-4)


def test_stochastic_rounding_freezes_what_it_draws(train, backbone):
    run, _ = train("rounded", pretrained=backbone, scheme="stochastic_rounding")
    assert_shared_is_the_backbone_s(run, backbone)
    drawn = []
    for member in range(2):
        start = build_member(backbone.model, member, scheme="stochastic_rounding")
        binary = [
            layer for layer in own_layers(start, member) if isinstance(layer, lq.layers.QuantConv2D)
        ]
        assert len(binary) == 2
        for layer in binary:
            (kernel,) = run.model.get_layer(layer.name).get_weights()
            assert np.array_equal(kernel, layer.get_weights()[0])
        drawn.append(np.sign(binary[0].get_weights()[0]))
    assert (drawn[0] != drawn[1]).any()
    assert differ(run.model, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_turn": True}, "`in_turn` does not go with the scheme 'fusion'"),
        ({"shrinkage": 0.5}, "`shrinkage` does not go with the scheme 'fusion'"),
        ({"scheme": "boosting", "shrinkage": 0.0}, "`shrinkage` must be above 0, got 0"),
        ({"scheme": "snapshot", "patience": 2}, "`patience` does not go with the scheme 'snapsh"),
        ({"scheme": "boosting", "patience": 0}, "`patience` must be at least 1, got 0"),
        (
            {"scheme": "boosting", "patience": 1, "data": DataOptions(validation=0)},
            "`patience` watches the validation accuracy",
        ),
        ({"scheme": "snapshot"}, "`epochs` 1 is no multiple of 2: use 2"),
        ({"scheme": "fast_geometric"}, "'fast_geometric' splits its epochs .* use 2"),
        ({"scheme": "snapshot", "independent_data": True}, "`independent_data` does not go with"),
        (
            {"scheme": "soft_boosting", "in_turn": True},
            "`in_turn` does not go with",
        ),
        (
            {"scheme": "soft_boosting", "independent_data": True},
            "`independent_data` does not go wi",
        ),
        ({"scheme": "soft_boosting", "shrinkage": -1.0}, "`shrinkage` must be above 0, got -1"),
        ({"scheme": "boosting", "prefix_weights": (1, 2)}, "`prefix_weights` does not go with"),
        ({"scheme": "boosting", "members": 0}, "`members` must be a whole number"),
        ({"initial": "random"}, "`initial` 'random' needs the sharing 'none'"),
        ({"initial": "warm"}, "`initial` must be 'pretrained' or 'random', got 'warm'"),
        (
            {"initial": "random", "sharing": "none", "scheme": "stochastic_rounding"},
            "`initial` 'random' does not go with the scheme 'stochastic_rounding'",
        ),
    ],
)
def test_options_that_do_not_go_together(train, no_data, arguments, message):
    with pytest.raises(EnsembleError, match=message):
        train("refused", **arguments)
