"""Every command on data and a network of one's own, and on files that Keras saved."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.cli import main
from larq_ensemble.console.reporting import Report
from larq_ensemble.convert.conversion import convert_run, validation_split
from larq_ensemble.data.datasets import DataOptions, Dataset
from larq_ensemble.data.opening import open_dataset
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runs import load_run
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.trained import open_trained
from larq_ensemble.training.commands.options import print_data
from larq_ensemble.training.distillation import Distillation
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.evaluation import evaluate
from larq_ensemble.training.frontier import frontier
from larq_ensemble.training.pretrain import pretrain
from larq_ensemble.training.recipes import Recipe

NAMES = ["cat", "dog", "emu"]
NETWORKS = """
from larq_ensemble.keras import keras, lq


@keras.utils.register_keras_serializable("networks_of_a_user")
class Scaled(keras.layers.Layer):
    def call(self, x):
        return x * 2


def small(input_shape, classes):
    image = keras.Input(input_shape)
    x = keras.layers.Conv2D(3, 3, strides=2, use_bias=False)(image)
    x = Scaled()(keras.layers.BatchNormalization()(x))
    x = lq.layers.QuantConv2D(
        4, 2, input_quantizer="ste_sign", kernel_quantizer="ste_sign",
        kernel_constraint="weight_clip", use_bias=False,
    )(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(image, keras.layers.Dense(classes, "softmax")(keras.layers.Flatten()(x)))
"""
RECIPE = ["--recipe", "short", "--batch-size", "16"]


def arrays():
    """20 images of each class, brighter from class to class."""
    labels = np.arange(60) % 3
    noise = np.random.default_rng(0).integers(0, 100, (60, 8, 8, 1))
    return (noise + 70 * labels[:, None, None, None]).astype(np.uint8), labels


def called(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def result_of(*arguments: object) -> dict:
    assert called(*arguments, "--json", "result.json") == 0
    return json.loads(Path("result.json").read_text())


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with `set.npz`, the runs `backbone` and `ensemble`, and files made of them."""
    folder = tmp_path_factory.mktemp("own")
    before = os.getcwd()
    os.chdir(folder)
    Path("networks_of_mine.py").write_text(NETWORKS)
    images, labels = arrays()
    np.savez("set.npz", images=images, labels=labels, class_names=NAMES)
    assert (
        called(
            *["pretrain", "--model", "networks_of_mine:small", "--dataset", "npz:set.npz"],
            *["--epochs", 1, "--out", "backbone", "--json", "pretrained.json", *RECIPE],
        )
        == 0
    )
    assert (
        called(
            *["train", "--pretrained", "backbone", "--members", 2, "--epochs", 0],
            *["--out", "ensemble", *RECIPE],
        )
        == 0
    )
    assert called("convert", "ensemble", "--out", "ensemble.tflite") == 0
    load_run("ensemble").model.save("ensemble.keras")
    load_run("backbone").model.save("backbone.h5")
    os.chdir(before)
    yield folder
    sys.path.remove(str(folder))
    del sys.modules["networks_of_mine"]


@pytest.fixture(autouse=True)
def folder(job, monkeypatch):
    monkeypatch.chdir(job)
    return job


def test_pretrain_counts_the_images_and_records_where_everything_is_from(job):
    result = json.loads(Path("pretrained.json").read_text())
    # Of 60 images 12 are the test split, and of the other 48 a tenth is held out.
    assert {part: sum(counts) for part, counts in result["class_counts"].items()} == {
        "train": 43, "validation": 5, "test": 12,
    }  # fmt: skip
    config = load_run("backbone").config
    assert config.model["source"] == "networks_of_mine:small"
    assert config.architecture is None
    assert config.dataset["class_names"] == NAMES
    assert config.dataset["source"]["spec"] == f"npz:{job / 'set.npz'}"
    assert load_run("ensemble").config.model == config.model


def test_rare_classes_are_told_unless_weights_make_up_for_them(capsys):
    dataset = Dataset.from_arrays(*arrays(), class_names=NAMES)
    for rarest, is_weighted, is_told in ((6, False, True), (7, False, False), (6, True, False)):
        counts = {"train": [19, rarest, 9], "test": [1, 1, 1]}
        print_data(Report(), dataset, counts, is_weighted=is_weighted)
        assert ("3.2 times as many training images" in capsys.readouterr().out) == is_told
    print_data(Report(), dataset, {"train": [9, 0, 9]}, is_weighted=False)
    out = capsys.readouterr().out
    assert "Classes without training images: 1 of 3." in out
    assert "times as many" not in out


def test_the_options_of_images_reach_the_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, _ = arrays()
    for index in range(30):
        path = tmp_path / "photos" / NAMES[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index, ..., 0]).resize((12, 10)).save(path)
    path.write_bytes(b"no image")
    arguments = [
        *[
            "pretrain",
            "--model",
            "networks_of_mine:small",
            "--dataset",
            f"folder:{tmp_path / 'photos'}",
        ],
        *["--image-size", "8x9", "--color", "rgb", "--test-share", 0.5, "--epochs", 0],
        *["--out", tmp_path / "run"],
    ]
    assert called(*arguments) == 1
    assert "--skip-damaged" in capsys.readouterr().err
    assert called(*arguments, "--skip-damaged") == 0
    config = load_run(tmp_path / "run").config
    assert config.dataset["source"]["images"] == {
        "image_size": [8, 9], "channels": 3, "damaged": "skip", "test_share": 0.5, "split_seed": 0
    }  # fmt: skip
    assert (config.dataset["name"], config.dataset["class_names"]) == ("folder:photos", NAMES)
    assert load_run(tmp_path / "run").model.input_shape == (None, 8, 9, 3)


def test_a_run_is_resumed_wherever_its_data_are_now(capsys, tmp_path):
    again = [
        "pretrain",
        "--model",
        "networks_of_mine:small",
        "--epochs",
        1,
        "--out",
        "backbone",
        *RECIPE,
    ]
    os.link("set.npz", tmp_path / "moved.npz")
    assert called(*again, "--resume", "--dataset", f"npz:{tmp_path / 'moved.npz'}") == 0
    images, labels = arrays()
    np.savez(tmp_path / "set.npz", images=images[::-1], labels=labels, class_names=NAMES)
    capsys.readouterr()
    assert called(*again, "--resume", "--dataset", f"npz:{tmp_path / 'set.npz'}") == 1
    assert "can't be resumed: it was started with dataset." in capsys.readouterr().err


def test_evaluate_takes_the_data_from_the_run_or_says_that_they_are_others(capsys, tmp_path):
    own = result_of("evaluate", "ensemble")
    assert (own["dataset"], own["own_data"], own["samples"]) == ("npz:set.npz", True, 12)
    images, labels = arrays()
    other = tmp_path / "other.npz"
    np.savez(other, images=255 - images, labels=labels, class_names=NAMES)
    capsys.readouterr()
    result = result_of("evaluate", "ensemble", "--dataset", f"npz:{other}", "--members", 1)
    assert (result["dataset"], result["own_data"]) == ("npz:other.npz", False)
    out, err = capsys.readouterr()
    assert "npz:other.npz, which it was not trained on" in out
    assert "warning: --dataset 'npz:other.npz' is not what 'ensemble' was trained on" in err
    # What its training held out is among its own data only.
    capsys.readouterr()
    arguments = ["--dataset", f"npz:{other}", "--split", "validation"]
    assert called("evaluate", "ensemble", *arguments) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "held out is among its own data, which 'npz:other.npz' is not: take the test" in told
    trust = result_of("evaluate", "ensemble", "--dataset", f"npz:{other}", "--trust")["trust"]
    assert trust["fitted_on"] == "half of the test split"
    # As an object, too.
    dataset = Dataset.from_arrays(images, labels, class_names=NAMES)
    with pytest.warns(UserWarning, match="'arrays' is not what 'ensemble' was trained on"):
        assert evaluate(load_run("ensemble"), dataset=dataset)["samples"] == 12


@pytest.mark.parametrize("network", ["ensemble", "ensemble.tflite"])
def test_images_of_some_classes_are_evaluated_by_the_names_of_these(network, capsys, tmp_path):
    images, labels = arrays()
    emus_and_cats = labels != NAMES.index("dog")
    images, labels = images[emus_and_cats], labels[emus_and_cats]
    renumbered = (labels == NAMES.index("cat")).astype(int)
    some = tmp_path / "some.npz"
    halves = {"x_train": images, "y_train": renumbered, "x_test": images, "y_test": renumbered}
    np.savez(some, **halves, class_names=["emu", "cat"])
    result = result_of("evaluate", network, "--dataset", f"npz:{some}")
    assert "has 2 of the 3 classes" in capsys.readouterr().err
    assert (result["samples"], result["own_data"]) == (40, False)
    predicted = EnsembleInterpreter("ensemble.tflite").predict(images)
    predicted = predicted[:, : len(NAMES)].argmax(axis=1)
    assert result["top1"] == pytest.approx(100 * np.mean(predicted == labels), abs=2.5)
    assert abs(result["top1"] - 100 * np.mean(predicted == renumbered)) > 10
    verified = result_of(
        "verify", "ensemble.tflite", "--run", "ensemble", "--dataset", f"npz:{some}"
    )
    assert (verified["samples"], verified["keras_top1"]) == (
        40,
        pytest.approx(result["top1"], abs=3),
    )
    # Training and calibration are for all classes.
    training = ["train", "--pretrained", "backbone", "--out", tmp_path / "some"]
    for command in (training, ["calibrate", "ensemble.tflite"]):
        assert called(*command, "--dataset", f"npz:{some}") == 1
        assert "npz:some.npz' has other classes than" in capsys.readouterr().err
    np.savez(some, **halves, class_names=["emu", "cow"])
    assert called("evaluate", network, "--dataset", f"npz:{some}") == 1
    told = capsys.readouterr().err
    assert "doesn't know: 'cow'. It knows 3: 'cat', 'dog', 'emu'. Leave the others out." in told


def test_a_limit_draws_from_all_classes(tmp_path):
    """The first test images of a folder are all of the first class."""
    images, labels = arrays()
    order = np.argsort(labels, kind="stable")
    in_order = images[order], labels[order]
    run = load_run("ensemble")
    dataset = Dataset.from_arrays(*in_order, test=in_order, class_names=NAMES)
    drawn = DataOptions(limit_test=12).load(dataset, 0).test
    assert set(drawn.labels) == {0, 1, 2}
    pair = np.asarray(drawn.images), drawn.labels
    few = Dataset.from_arrays(*in_order, test=pair, class_names=NAMES)
    with pytest.warns(UserWarning, match="is not what"):
        limited, expected = (
            evaluate(run, dataset=each, limit=limit) for each, limit in ((dataset, 12), (few, None))
        )
    assert limited == expected
    # What earlier versions kept is of the first ones.
    kept = tmp_path / "evaluations" / f"{run.digest[:16]}-test-4.json"
    kept.parent.mkdir()
    kept.write_text('{"first": "ones"}')
    points = frontier([run], tmp_path, limit=4, progress=lambda line: None)
    assert [point.samples for point in points] == [4, 4]


def test_the_frontier_evaluates_again_when_the_data_have_changed(tmp_path):
    images, labels = arrays()
    run, spec = load_run("ensemble"), f"npz:{tmp_path / 'new.npz'}"

    def top1(images: np.ndarray, number: int) -> list[float]:
        np.savez(tmp_path / "new.npz", images=images, labels=labels, class_names=NAMES)
        points = frontier([run], tmp_path, dataset=spec, progress=lambda line: None)
        assert len([*(tmp_path / "evaluations").iterdir()]) == number
        return [point.top1 for point in points]

    with pytest.warns(UserWarning, match="is not what"):
        before = top1(255 - images, 1)
    assert top1(255 - images, 1) == before
    with pytest.warns(UserWarning, match="is not what"):
        after = top1(images // 2, 2)
    with pytest.warns(UserWarning, match="is not what"):
        assert after == [row["top1"] for row in evaluate(run, dataset=spec)["by_members"]]


def test_the_frontier_evaluates_a_keras_file_on_each_of_its_data(tmp_path):
    images, labels = arrays()
    for name, pixels in (("one", images), ("other", 255 - images)):
        np.savez(tmp_path / f"{name}.npz", images=pixels, labels=labels, class_names=NAMES)
    for name in ("one", "other"):
        file = open_trained("ensemble.keras", dataset=f"npz:{tmp_path / name}.npz")
        points = frontier([file], tmp_path / "out", progress=lambda line: None)
        assert [point.top1 for point in points] == [
            row["top1"] for row in evaluate(file)["by_members"]
        ]
        unknown = open_trained("ensemble.keras")
        spec = f"npz:{tmp_path / name}.npz"
        again = frontier([unknown], tmp_path / "out", dataset=spec, progress=lambda line: None)
        assert [point.top1 for point in again] == [point.top1 for point in points]


def test_a_keras_file_is_not_compared_with_points_on_other_data(tmp_path):
    points = [{"name": "a", "kind": "int8", "top1": 50.0, "bytes": 9}]
    (tmp_path / "points.json").write_text(json.dumps({"dataset": "digits", "points": points}))
    file = open_trained("ensemble.keras")
    named = {"results": [tmp_path / "points.json"], "progress": lambda line: None}
    with pytest.raises(EnsembleError, match=r"`dataset` 'npz:set\.npz' is not 'digits', on which"):
        frontier([file], tmp_path / "out", dataset="npz:set.npz", **named)


def test_the_frontier_evaluates_a_keras_file_again_with_another_normalization(tmp_path):
    images, labels = arrays()
    np.savez(tmp_path / "set.npz", images=images, labels=labels, class_names=NAMES)
    for named in ("0..1", "raw"):
        file = open_trained(
            "backbone.h5", dataset=f"npz:{tmp_path / 'set.npz'}", normalization=named
        )
        (point,) = frontier([file], tmp_path / "out", progress=lambda line: None)
        assert point.top1 == evaluate(file)["top1"]
    assert len([*(tmp_path / "out/evaluations").iterdir()]) == 2


def test_a_converted_file_finds_its_data_again_without_a_path(capsys, tmp_path):
    metadata = EnsembleInterpreter("ensemble.tflite").metadata
    assert metadata.class_names == (*NAMES,)
    assert str(Path.cwd()) not in metadata.to_json().decode()
    assert called("calibrate", "ensemble.tflite") == 1
    assert "files hold no paths: say where the data are, as --dataset" in capsys.readouterr().err
    result = result_of("calibrate", "ensemble.tflite", "--dataset", "npz:set.npz")
    assert (result["validation_images"], result["test_images"]) == (5, 12)
    assert result["held_out"]
    # Others of these classes have no images that the training held out.
    images, labels = arrays()
    np.savez(tmp_path / "other.npz", images=images[::-1], labels=labels[::-1], class_names=NAMES)
    spec = f"npz:{tmp_path / 'other.npz'}"
    result = result_of("calibrate", "ensemble.tflite", "--dataset", spec)
    assert (result["validation_images"], result["test_images"]) == (6, 6)
    assert not result["held_out"]


def test_a_training_that_held_nothing_out_is_calibrated_on_half_of_the_test_images(tmp_path):
    run = load_run("ensemble")
    config = dataclasses.replace(run.config, data={**run.config.data, "validation": 0.0})
    convert_run(dataclasses.replace(run, config=config), tmp_path / "none.tflite")
    result = result_of("calibrate", tmp_path / "none.tflite", "--dataset", "npz:set.npz")
    assert (result["validation_images"], result["test_images"]) == (6, 6)
    assert not result["held_out"]


def test_data_that_are_cut_otherwise_are_refused(tmp_path):
    other = open_dataset("npz:set.npz", images=ImageOptions(test_share=0.5))
    for network in (load_run("ensemble"), EnsembleInterpreter("ensemble.tflite")):
        with pytest.raises(EnsembleError, match=r"`test_share` 0\.5 .* its training had 0\.2"):
            evaluate(network, dataset=other)
    recipe = Recipe(epochs=0, batch_size=16, lr=1e-3, dropout=None, source="test")
    with pytest.raises(EnsembleError, match=r"`test_share` 0\.5 .* the run 'backbone' was trained"):
        pretrain(
            *["networks_of_mine:small", other, tmp_path / "new"],
            recipe=recipe,
            from_backbone=load_run("backbone"),
        )
    run = load_run("ensemble")
    data = {**run.config.dataset, "source": other.constants()["source"]}
    half = dataclasses.replace(run, config=dataclasses.replace(run.config, dataset=data))
    with pytest.raises(EnsembleError, match=r"other test images.* \(0\.2, 0\) .* \(0\.5, 0\)"):
        frontier([run, half], tmp_path)
    file = open_trained("ensemble.keras")  # whose data are cut by the default
    with pytest.raises(EnsembleError, match=r"other test images.* \(0\.5, 0\) .* \(0\.2, 0\)"):
        frontier([half, file], tmp_path, dataset="npz:set.npz")
    # A teacher, too, whatever is held out for validation.
    backbone = load_run("backbone")
    taught = {**backbone.config.dataset, "source": other.constants()["source"]}
    teacher = dataclasses.replace(
        backbone, config=dataclasses.replace(backbone.config, dataset=taught)
    )
    with pytest.raises(EnsembleError, match=r"`test_share` 0\.2 .* its training had 0\.5"):
        train_ensemble(
            backbone,
            tmp_path / "taught",
            members=2,
            recipe=dataclasses.replace(recipe, epochs=1),
            data=DataOptions(validation=0.0),
            distillation=Distillation(teacher),
        )


def test_all_images_may_be_for_training(capsys, tmp_path):
    """`--test-share 0`: there is nothing to measure on, and nothing to score a calibration on."""
    no_test = ["--pretrained", tmp_path / "backbone", "--members", 2, "--epochs", 1]
    assert (
        called(
            *["pretrain", "--model", "networks_of_mine:small", "--dataset", "npz:set.npz"],
            *["--test-share", 0, "--epochs", 0, "--out", tmp_path / "backbone", *RECIPE],
        )
        == 0
    )
    result = result_of("train", *no_test, "--out", tmp_path / "ensemble", *RECIPE)
    assert (result["test_top1"], result["member_top1"]) == (None, None)
    assert re.search(r"ensemble +│ +- ", capsys.readouterr().out)

    file = tmp_path / "ensemble.tflite"
    assert called("convert", tmp_path / "ensemble", "--out", file) == 0
    before = file.read_bytes()
    assert called("calibrate", file, "--dataset", "npz:set.npz") == 1
    assert "have no test images to score the calibration on" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_data_that_are_not_where_they_were(capsys, tmp_path):
    os.rename("set.npz", tmp_path / "set.npz")
    try:
        assert called("evaluate", "ensemble") == 1
        assert "If they moved, say where they are now, as --dataset" in capsys.readouterr().err
        assert called("evaluate", "ensemble", "--dataset", f"npz:{tmp_path / 'set.npz'}") == 0
        assert "not trained on" not in capsys.readouterr().out
    finally:
        os.rename(tmp_path / "set.npz", "set.npz")


def test_verify_and_predict_and_frontier():
    assert result_of("verify", "ensemble.tflite", "--run", "ensemble")["samples"] == 12
    Image.fromarray(arrays()[0][0, ..., 0]).save("image.png")
    (prediction,) = result_of("predict", "ensemble.tflite", "image.png")["predictions"]
    assert prediction["name"] in NAMES
    runs = [load_run(run) for run in ("backbone", "ensemble")]
    points = frontier(runs, "front", progress=lambda line: None)
    # Stem 27 x 32 bits, binary filter 48 bits, folded batch norms 2 x (3 + 4) x 32 bits, head
    # 16 x 3 and bias 3 of 32 bits.
    alone, own = 27 * 32 + 48 + (14 + 51) * 32, (14 + 51) * 32
    assert [point.bytes for point in points] == [
        -(-bits // 8) for bits in (alone, alone, alone + own)
    ]


def test_a_run_says_its_classes_itself(capsys):
    arguments = ["convert", "ensemble", "--dataset", "npz:none.npz", "--out", "x.tflite"]
    assert called(*arguments) == 2
    assert "--dataset has no effect on a run, which knows its" in capsys.readouterr().err


def test_data_without_training_images_train_nothing(tmp_path):
    images, labels = arrays()
    empty = tmp_path / "empty.npz"
    np.savez(empty, x_train=images[:0], y_train=labels[:0], x_test=images, y_test=labels)
    recipe = Recipe(epochs=1, batch_size=16, lr=1e-3, dropout=None, source="test")
    named = {"members": 2, "recipe": recipe, "dataset": f"npz:{empty}"}
    with pytest.raises(EnsembleError, match="No training data is left"):
        train_ensemble(load_run("backbone"), tmp_path / "run", **named)


def test_a_keras_file_stands_for_a_run(capsys):
    spec = ["--dataset", "npz:set.npz"]
    result = result_of("evaluate", "ensemble.keras", *spec)
    assert result["by_members"] == evaluate(load_run("ensemble"))["by_members"]
    result_of("convert", "ensemble.keras", *spec, "--out", "keras.tflite")
    assert EnsembleInterpreter("keras.tflite").metadata.class_names == (*NAMES,)
    assert result_of("verify", "keras.tflite", "--run", "ensemble.keras", *spec)["samples"] == 12
    result = result_of("calibrate", "keras.tflite", *spec)
    assert (result["validation_images"], result["test_images"]) == (6, 6)
    for arguments, message in (
        (["evaluate", "ensemble.keras"], "doesn't say what data it is for: give --dataset"),
        (["evaluate", "ensemble.keras", *spec, "--split", "validation"], "held out is not known"),
        (["calibrate", "keras.tflite"], "Give data as --dataset, whose test split is cut"),
        (["evaluate", "backbone.h5", *spec], "give --normalization, one of raw, 0..1"),
        (
            ["evaluate", "ensemble.keras", *spec, "--normalization", "raw"],
            "--normalization 'raw' contradicts that of the network",
        ),
        (["evaluate", "ensemble", "--normalization", "raw"], "is for Keras files"),
        (
            ["tune", "--pretrained", "ensemble.keras", "--out", "t"],
            "'backbone' is needed: give a single network",
        ),
        (
            ["evaluate", "ensemble.keras", "--dataset", "digits"],
            "'ensemble.keras', which was trained on",
        ),
    ):
        capsys.readouterr()
        assert called(*arguments) == 1
        assert message in capsys.readouterr().err


def test_an_ensemble_of_a_keras_file_is_that_of_its_run():
    recipe = Recipe(epochs=0, batch_size=16, lr=1e-3, dropout=None, source="test")
    data = DataOptions(validation=0.1)
    mean, std = (load_run("backbone").config.dataset[key][0] for key in ("mean", "std"))
    file = open_trained("backbone.h5", dataset="npz:set.npz", normalization=f"{mean}/{std}")
    run, _ = train_ensemble(file, "of_file", members=2, recipe=recipe, data=data)
    expected, _ = train_ensemble(
        load_run("backbone"), "of_run", members=2, recipe=recipe, data=data
    )
    for ours, theirs in zip(run.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert run.config.ensemble["backbone"] == file.digest != expected.config.ensemble["backbone"]
    assert run.config.dataset["mean"] == pytest.approx([mean])
    # What it held out the Keras file may have been trained on.
    assert not run.config.held_out_is_known
    assert expected.config.held_out_is_known
    for each, fitted_on in ((run, "half of the test split"), (expected, "validation")):
        assert evaluate(each, trust=True)["trust"]["fitted_on"] == fitted_on
    with pytest.raises(EnsembleError, match="held out is not known"):
        evaluate(run, split="validation")
    assert validation_split(run) == {}
    assert validation_split(expected) == {"seed": 0, "share": 0.1}


def test_a_keras_file_starts_a_backbone_with_the_normalization_that_is_told(tmp_path):
    dataset = Dataset.from_arrays(*arrays())
    recipe = Recipe(epochs=0, batch_size=16, lr=1e-3, dropout=None, source="test")
    out = tmp_path / "run"
    with pytest.raises(EnsembleError, match=r"'backbone.h5' doesn't say how its images were"):
        pretrain("backbone.h5", dataset, out, recipe=recipe)
    run, _ = pretrain("backbone.h5", dataset, out, recipe=recipe, normalization="-1..1", verbose=0)
    assert (run.normalization.mean, run.normalization.std) == ((0.5,), (0.5,))
    weights = load_run("backbone").model.get_weights()
    for ours, theirs in zip(run.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
