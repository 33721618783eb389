import dataclasses
import itertools

import numpy as np
import pytest
from click.testing import CliRunner

from larq_ensemble import pretrained
from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.models import layer_graph
from larq_ensemble.network.storage import account
from larq_ensemble.progress import listening
from larq_ensemble.runs import load_run
from larq_ensemble.trained import open_trained
from larq_ensemble.training.commands.evaluate import command
from larq_ensemble.training.distillation import teacher_logits
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.evaluation import evaluate, member_logits
from larq_ensemble.training.frontier import frontier


@pytest.fixture(scope="module")
def ensemble(backbone, few, recipe, tmp_path_factory):
    """Three untrained members that strong noise has made different."""
    out = tmp_path_factory.mktemp("runs") / "voting"
    untrained = recipe.override(epochs=0, jitter=0.4)
    run, _ = train_ensemble(
        backbone, out, members=3, scheme="voting", recipe=untrained, data=few, verbose=0
    )
    return load_run(run.path)


@pytest.fixture(scope="module")
def logits(ensemble, digits):
    """[3, 599, 10], through Keras's own means."""
    model = keras.models.load_model(ensemble.path / "model.keras")
    outputs = model.predict(DATASETS["digits"].normalization(digits[1].images), verbose=0)
    return np.stack(outputs[:3]).astype(np.float64)


def recomputed(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of soft voting, example by example."""
    members = len(logits)
    powers = np.exp(logits - logits.max(2, keepdims=True))
    probabilities = (powers / powers.sum(2, keepdims=True)).mean(0)
    top1, top5, nll, brier, gaps = [], [], [], [], []
    bins = {}
    for row, label in zip(probabilities, labels):
        rank = np.sum(row > row[label])
        top1.append(rank == 0)
        top5.append(rank < 5)
        nll.append(-np.log(row[label]))
        brier.append(sum((p - (index == label)) ** 2 for index, p in enumerate(row)))
        gaps.append((row.max(), (rank == 0) - row.max()))
        bins.setdefault(int(np.ceil(row.max() * 15)), []).append((rank == 0, row.max()))
    ece = sum(
        abs(sum(correct for correct, _ in rows) - sum(confidence for _, confidence in rows))
        for rows in bins.values()
    ) / len(labels)
    gaps.sort(key=lambda pair: pair[0])
    n, over = divmod(len(labels), 15)  # the first bins have one image more
    ends = np.cumsum([0] + [n + 1] * over + [n] * (15 - over))
    adaptive = sum(abs(sum(gap for _, gap in gaps[a:b])) for a, b in itertools.pairwise(ends))
    differing = [
        np.mean(logits[a].argmax(1) != logits[b].argmax(1))
        for a, b in itertools.combinations(range(members), 2)
    ]
    return {
        "members": members,
        "top1": 100 * np.mean(top1),
        "top5": 100 * np.mean(top5),
        "nll": np.mean(nll),
        "ece": ece,
        "adaptive_ece": adaptive / len(labels),
        "brier": np.mean(brier),
        "disagreement": np.mean(differing) if differing else 0,
    }


def test_metrics_for_each_number_of_members(ensemble, logits, digits):
    told = []
    with listening(lambda work: told.append((work.what, work.done, work.total))):
        result = evaluate(ensemble)
    assert ("evaluating", 599, 599) in told
    assert (result["dataset"], result["split"], result["samples"]) == ("digits", "test", 599)
    assert len(result["by_members"]) == 3
    for members, row in enumerate(result["by_members"], start=1):
        assert row == pytest.approx(recomputed(logits[:members], digits[1].labels), abs=1e-4)
    assert result["by_members"][2].items() <= result.items()
    # Members that all say the same would prove little.
    assert result["disagreement"] > 0.05


def test_members_with_inputs_of_their_own_see_the_same_images(stem_backbone, digits, tmp_path):
    """As a Keras file, which is no run but says what members share."""
    dataset = DATASETS["digits"]
    one, many = (
        build_ensemble(
            *(stem_backbone.model, 2), scheme="voting", jitter=0.4,
            independent_inputs=independent, normalization=dataset.normalization,
        )
        for independent in (False, True)
    )  # fmt: skip
    paths = [str(tmp_path / f"{name}.keras") for name in ("one", "many")]
    results = []
    for model, path in zip((one, many), paths):
        model.save(path)
        results.append(evaluate(open_trained(path, dataset="digits"), limit=50)["by_members"])
    assert results[0] == [pytest.approx(row, abs=1e-4) for row in results[1]]

    points = frontier([open_trained(paths[0], dataset="digits")], tmp_path / "out", limit=50)
    size = account(layer_graph(stem_backbone.model), members=2)
    assert points[1].bytes == -(-size.total_bits // 8) < 2 * points[0].bytes
    assert points[1].label == "voting, M = 2"

    images = dataset.normalization(digits[1].images[:5])
    taught = tf.nn.softmax(teacher_logits(many)(images))
    np.testing.assert_allclose(taught, one(images)[-1], atol=1e-5)


def test_only_the_first_members_of_some_images(ensemble, logits, digits):
    result = evaluate(ensemble, members=2, limit=50)
    expected = recomputed(logits[:2, :50], digits[1].labels[:50])
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert result["samples"] == 50
    assert len(result["by_members"]) == 1


def test_the_validation_split_is_what_pretraining_held_out(backbone, ensemble, few):
    held_out = few.load(DATASETS["digits"], backbone.config.seed).validation
    logits = member_logits(ensemble.model, held_out, DATASETS["digits"])
    result = evaluate(ensemble, split="validation")
    assert result["samples"] == len(held_out) == 8
    assert result["nll"] == pytest.approx(recomputed(logits, held_out.labels)["nll"], abs=1e-4)


def test_a_backbone_is_an_ensemble_of_one(backbone, digits):
    result = evaluate(backbone, limit=64)
    assert result["members"] == 1
    assert result["disagreement"] == 0
    logits = backbone.model(DATASETS["digits"].normalization(digits[1].images[:64])).numpy()
    expected = recomputed(logits[None].astype(np.float64), digits[1].labels[:64])
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("members", [0, 4, -1])
def test_members_out_of_range(ensemble, members, no_data):
    unbuilt = load_run(ensemble.path)
    with pytest.raises(EnsembleError, match=f"`members` must be from 1 to 3 .*, got {members}"):
        evaluate(unbuilt, members=members)
    assert "model" not in vars(unbuilt)  # which takes a while of a large network


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar100", "`dataset` 'cifar100' has other classes than the run, which was .* on 10"),
        ("cifar10", r"`dataset` 'cifar10' has images of \[32, 32, 3\], but .* takes \[8, 8, 1\]"),
        ("mnist", "Unknown dataset 'mnist'. Known: cifar10, cifar100, digits"),
    ],
)
def test_a_dataset_that_does_not_fit(ensemble, name, message):
    with pytest.raises(EnsembleError, match=message):
        evaluate(ensemble, dataset=name)
    with pytest.raises(EnsembleError, match=message):
        evaluate(ensemble, dataset_name=name)  # as it was called


def test_no_validation_data(backbone):
    config = dataclasses.replace(backbone.config, data={**backbone.config.data, "validation": 0.0})
    with pytest.raises(EnsembleError, match="held out no validation data"):
        evaluate(dataclasses.replace(backbone, config=config), split="validation")


def test_logits_that_are_not_finite_are_no_predictions(ensemble, digits):
    """NaN would count as a prediction of class 0."""
    model = load_run(ensemble.path).model
    weight = model.own_layers(1)[-1].weights[-1]
    weight.assign(weight * np.nan)
    with pytest.raises(EnsembleError, match="logits of member 1 are not all finite"):
        member_logits(model, digits[1].first(8), DATASETS["digits"])


@pytest.mark.parametrize("name", [*pretrained.names()[:1], "network.tflite"])
def test_the_command_says_what_a_name_is(name, monkeypatch):
    """The network in Keras: its file is calibrated, and a device runs that."""
    row = dict.fromkeys(
        ("top1", "top5", "nll", "ece", "adaptive_ece", "brier", "disagreement"), 0.5
    )
    result = {"samples": 9, "split": "test", "dataset": "cifar10", "own_data": True}
    result["by_members"] = [{"members": 1, **row}]
    monkeypatch.setattr("larq_ensemble.training.evaluation.evaluate", lambda *_, **__: result)
    monkeypatch.setattr("larq_ensemble.training.commands.evaluate._opened", lambda *_: None)
    printed = CliRunner().invoke(command, [name]).output
    assert f"{name}: 9 test images" in printed
    assert ("without the calibration of its file" in printed) == (name != "network.tflite")
