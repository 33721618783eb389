"""Trainings of figures on a very small network: each is done once."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.locks import locked
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.reactnet import react_block
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.progress import Work
from larq_ensemble.runs import load_run
from larq_ensemble.training.paper.figures import FIGURES, AccuracyFigure, Curve
from larq_ensemble.training.paper.library import RunLibrary
from larq_ensemble.training.paper.plots import draw
from larq_ensemble.training.paper.points import SINGLE, trained_points
from larq_ensemble.training.recipes import RECIPES


def test_what_is_finished_is_not_trained_again(
    small, by_origin, tmp_path, monkeypatch, epochs_begun, interrupt_at_step
):
    fusion = Curve("fusion", "resnet20", "cifar100")
    bagging = Curve("bagging", "resnet20", "cifar100", scheme="batch_bagging", own_data=True)
    monkeypatch.setitem(FIGURES._entries, "one", AccuracyFigure("One", (fusion,)))
    monkeypatch.setitem(FIGURES._entries, "two", AccuracyFigure("Two", (fusion, bagging)))

    told = []
    arguments = {"members": [1], "progress": told.append, "verbose": 0}
    # Killed while it trains the ensemble: 64 images are one step.
    longer = dataclasses.replace(small, epochs=2)
    interrupt_at_step(2)
    with pytest.raises(KeyboardInterrupt):
        trained_points("one", tmp_path, longer, **arguments)
    assert epochs_begun == [0, 0, 1]
    interrupt_at_step(None)
    points = trained_points("one", tmp_path, longer, **arguments)
    assert epochs_begun == [0, 0, 1, 1]
    folder = tmp_path / "runs" / "resnet20-cifar100-1epochs-seed0"
    assert told == [
        f"1 of 2: resnet20 on cifar100, 1 epoch: training, {folder}/backbone",
        "2 of 2: fusion of 1 resnet20 on cifar100, sharing fusion, 2 epochs: training, "
        f"{folder}/fusion-fusion-m1-2epochs",
        f"1 of 2: resnet20 on cifar100, 1 epoch: finished already, {folder}/backbone",
        "2 of 2: fusion of 1 resnet20 on cifar100, sharing fusion, 2 epochs: going on, "
        f"{folder}/fusion-fusion-m1-2epochs",
    ]

    # Another figure with the same runs and one more trains that one.
    others = trained_points("two", tmp_path, longer, **arguments)
    assert epochs_begun == [0, 0, 1, 1, 0, 1]
    assert len(told) == 7
    assert trained_points("two", tmp_path, longer, **arguments) == others
    assert len(epochs_begun) == 6

    ours, theirs = by_origin(points)
    run = load_run(folder / "fusion-fusion-m1-2epochs", kind="ensemble")
    result = json.loads(run.result_path.read_text())
    single = json.loads((folder / "backbone" / "result.json").read_text())
    assert ours == {
        (SINGLE, 1): single["test_top1"],
        ("fusion", 1): result["test_top1"],
    }
    assert theirs == {
        (SINGLE, 1): 49.16,
        **{("fusion", m): v for m, v in zip((2, 4, 6, 8, 10), (51.52, 53.8, 55.0, 55.76, 56.74))},
    }
    assert {p.label for p in others} == {SINGLE, "fusion", "bagging"}
    # Its member iterates over the data by itself.
    own = load_run(folder / "batch_bagging-fusion-m1-2epochs-owndata").config.ensemble
    assert own["scheme"] == "batch_bagging"
    assert own["independent_data"] is own["in_turn"] is True
    (point,) = [p for p in points if p.origin == "ours" and p.label == "fusion"]
    assert (point.pretrain_epochs, point.epochs, point.limit_train) == (1, 2, 64)
    assert point.source == str(run.path)

    # With other settings the runs that are there are another experiment.
    wider = dataclasses.replace(longer, width=2.0)
    with pytest.raises(EnsembleError, match=r"started with model.width = 1\.0, not 2\.0"):
        trained_points("one", tmp_path, wider, **arguments)
    draw(FIGURES["two"], others)

    # Nor is a run of another backbone a point of this one.
    config_path = folder / "fusion-fusion-m1-2epochs" / "config.json"
    config = json.loads(config_path.read_text())
    config["ensemble"]["backbone"] = "0" * 64
    config_path.write_text(json.dumps(config))
    with pytest.raises(EnsembleError, match=r"started with ensemble\.backbone = '000"):
        trained_points("one", tmp_path, longer, **arguments)


@pytest.mark.parametrize(("scheme", "counts"), [("batch_bagging", [2, 1]), ("boosting", [1, 2])])
def test_members_that_are_trained_in_turn_are_trained_once_for_all_m(
    scheme, counts, small, tmp_path, monkeypatch, epochs_begun
):
    curve = Curve(scheme, "resnet20", "cifar100", scheme=scheme, own_data=True)
    monkeypatch.setitem(FIGURES._entries, "one", AccuracyFigure("One", (curve,)))
    group = "resnet20-cifar100-1epochs-seed0"
    told = []

    def train(out, counts):
        arguments = {"members": counts, "progress": told.append, "verbose": 0}
        points = trained_points("one", tmp_path / out, small, **arguments)
        return points, tmp_path / out / "runs" / group

    points, folder = train("together", counts)
    assert len(epochs_begun) == 1 + 2
    first, second = (folder / f"{scheme}-fusion-m{m}-1epochs-owndata" for m in counts)
    what = f"{scheme} of {counts[1]} resnet20 on cifar100, sharing fusion, 1 epoch"
    assert told[2:] == [
        f"{second}: 1 member of {first}",
        f"3 of 3: {what}: going on, {second}",
    ]
    assert train("together", counts)[0] == points
    assert len(epochs_begun) == 1 + 2

    # Trained by itself the second is the same, bit for bit.
    shutil.copytree(folder / "backbone", tmp_path / "alone" / "runs" / group / "backbone")
    epochs_begun.clear()
    _, folder = train("alone", counts[1:])
    assert len(epochs_begun) == counts[1]
    taken, alone = load_run(second), load_run(folder / second.name)
    assert taken.config == alone.config
    for ours, theirs in zip(taken.model.weights, alone.model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, ours.name)
    ours, theirs = (json.loads(run.result_path.read_text()) for run in (taken, alone))
    assert {**ours, "images_per_second": None} == {**theirs, "images_per_second": None}

    # A kill while members are copied: the result, which is the last file, is not there.
    library = RunLibrary(folder.parent, small, 1, told.append, 0, Work("test", "epoch", 1))
    member = folder / "new" / "member_0"
    assert library._take_over([taken], folder / "new", 1) == 1
    (member / "result.json").unlink()
    (member / "model.keras").write_text("half")
    assert library._take_over([taken], folder / "new", 1) == 1
    for name in ("result.json", "model.keras"):
        assert (member / name).read_bytes() == (second / "member_0" / name).read_bytes()
    with locked(folder / "new"), pytest.raises(EnsembleError, match="is being written by"):
        library._take_over([taken], folder / "new", 1)

    # Where somebody deleted the networks to make room, they are trained again.
    (second / "member_0" / "model.keras").unlink()
    assert library._take_over([taken], folder / "newer", 1) == 0
    assert not (folder / "newer").exists()


def test_bfloat16_where_members_share_filters_and_train_together(
    small, tmp_path, monkeypatch, epochs_begun, bfloat16
):
    # One stage of 16 channels: convolutions of fewer don't gain from it, and are refused.
    wide_enough = Architecture(residual_block, (16,), (1,))
    monkeypatch.setitem(MODELS._entries, "resnet20", wide_enough)
    # Its signs are layers of their own, so its convolutions have none to compute in bfloat16.
    monkeypatch.setitem(
        MODELS._entries,
        "reactnet10",
        Architecture(react_block, (16,), (1,), estimators=("approx_sign",)),
    )
    curves = tuple(
        Curve(scheme, model, "cifar100", scheme=scheme, sharing=sharing, own_data=own_data)
        for model, scheme, sharing, own_data in (
            ("resnet20", "fusion", "fusion", False),
            ("resnet20", "fusion", "none", False),
            ("resnet20", "voting", "fusion", True),
            ("reactnet10", "fusion", "fusion", False),
        )
    )
    monkeypatch.setitem(FIGURES._entries, "one", AccuracyFigure("One", curves))
    mixed = dataclasses.replace(small, bfloat16=True)

    def runs(settings):
        points = trained_points(
            "one", tmp_path, settings, members=[1], progress=lambda line: None, verbose=0
        )
        paths = {p.source: None for p in points if p.origin == "ours"}
        return [load_run(path).config for path in paths]

    configs = runs(mixed)
    assert [
        (config.kind, config.precision, config.ensemble.get("bfloat16", False))
        for config in configs
    ] == [
        ("backbone", "bfloat16", False),
        ("ensemble", "float32", True),
        ("ensemble", "float32", False),
        ("ensemble", "float32", False),
        ("backbone", "bfloat16", False),
        ("ensemble", "float32", False),
    ]
    assert len(epochs_begun) == 6
    assert runs(mixed) == configs
    assert len(epochs_begun) == 6
    # A figure in float32 doesn't take them for its own.
    with pytest.raises(EnsembleError, match="was started with precision = 'bfloat16'"):
        runs(small)


def test_a_recipe_that_starts_from_the_real_valued_network(
    small, one_block, tmp_path, epochs_begun, monkeypatch
):
    monkeypatch.setitem(MODELS._entries, "resnet20", one_block)
    twin = dataclasses.replace(one_block, binary=False)
    monkeypatch.setitem(MODELS._entries, "resnet20_real", twin)

    def two_steps(classes, model_name="resnet20", scheme="fusion"):
        from_real = not model_name.endswith("_real")
        return dataclasses.replace(short(classes, model_name, scheme), from_real=from_real)

    short = RECIPES["short"]
    monkeypatch.setitem(RECIPES._entries, "short", two_steps)
    told = []

    def backbone():
        library = RunLibrary(tmp_path, small, 2, told.append, 0, Work("test", "epoch", 2))
        return library.backbone("resnet20", "cifar100")[0]

    binary = backbone()
    real = load_run(tmp_path / "resnet20_real-cifar100-1epochs-seed0" / "backbone")
    assert told == [
        f"1 of 2: resnet20_real on cifar100, 1 epoch: training, {real.path}",
        f"2 of 2: resnet20 on cifar100, 1 epoch, from the real-valued: training, {binary.path}",
    ]
    assert binary.config.transfer == {"from_real": real.digest}
    assert epochs_begun == [0, 0]
    backbone()
    assert told[3].endswith(f"finished already, {binary.path}")
    assert epochs_begun == [0, 0]

    # A backbone that was trained without is another one.
    monkeypatch.setitem(RECIPES._entries, "short", short)
    with pytest.raises(EnsembleError, match="was started with transfer"):
        backbone()
