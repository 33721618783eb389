"""The commands convert, inspect, verify and predict: results, exit codes, one-line errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.cli import main
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runs import Run, load_run
from larq_ensemble.runtime import EnsembleInterpreter

from ..builder import Builder
from .conftest import digits_ensemble, randomized, saved_run, small_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, its `ensemble.tflite`, and the image `digit.png`."""
    folder = tmp_path_factory.mktemp("commands")
    saved_run(folder / "run", digits_ensemble())
    assert called("convert", folder / "run", "--out", folder / "ensemble.tflite") == 0
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(folder / "digit.png")
    return folder


def called(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def result_of(folder: Path, *arguments: Any) -> dict[str, Any]:
    path = folder / "result.json"
    assert called(*arguments, "--json", path) == 0
    return json.loads(path.read_text())


def test_convert(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.tflite"
    result = result_of(tmp_path, "convert", folder / "run", "--out", out)
    assert {"bytes", "theory_bytes", "ratio", "layout", "seconds"} <= result.keys()
    assert result["bytes"] == out.stat().st_size
    assert result["ratio"] == result["bytes"] / result["theory_bytes"]
    assert result["layout"] == "indexed"
    # Nothing in the file depends on when or where it was converted.
    assert out.read_bytes() == (folder / "ensemble.tflite").read_bytes()


def test_convert_to_fewer_bytes(folder: Path, tmp_path: Path) -> None:
    """A cut file is what a run of fewer members converts to."""
    options = ["--heads", "int8", "--precision", "compact"]
    whole, part, cut = (tmp_path / f"{name}.tflite" for name in ("whole", "part", "cut"))
    result = result_of(tmp_path, "convert", folder / "run", "--out", whole, *options)
    less = result_of(tmp_path, "convert", folder / "run", "--out", part, "--members", 1, *options)
    assert part.stat().st_size == less["bytes"] < result["bytes"]
    assert less["theory_bytes"] < result["theory_bytes"]
    assert result_of(tmp_path, "convert", whole, "--out", cut, "--members", 1)["bytes"]
    assert cut.read_bytes() == part.read_bytes()
    metadata = result_of(tmp_path, "inspect", cut)["metadata"]
    assert metadata["heads"] == "int8"
    assert metadata["precision"] == "compact"
    assert metadata["members"] == 1


def test_convert_to_another_layout(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "subgraphs.tflite"
    result = result_of(tmp_path, "convert", folder / "run", "--out", out, "--layout", "subgraphs")
    assert result["layout"] == "subgraphs"
    metadata = result_of(tmp_path, "inspect", out)["metadata"]
    assert (metadata["layout"], metadata["members"]) == ("subgraphs", 2)
    assert called("convert", folder / "run", "--out", out, "--layout", "rows") == 2


def test_a_backbone_becomes_an_ensemble_of_one(tmp_path: Path) -> None:
    saved_run(tmp_path / "run", randomized(small_backbone(size=8, channels=1, classes=10)))
    out = tmp_path / "single.tflite"
    assert called("convert", tmp_path / "run", "--out", out) == 0
    assert result_of(tmp_path, "inspect", out)["metadata"]["members"] == 1


def test_a_file_that_keras_saved(folder: Path, tmp_path: Path) -> None:
    """It says how images are normalized, as a run does."""
    load_run(folder / "run").model.save(tmp_path / "ensemble.keras")
    out = tmp_path / "ensemble.tflite"
    result = result_of(tmp_path, "convert", tmp_path / "ensemble.keras", "--out", out)
    assert result["agreement"]["members"] == [0, 1]
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    ours, of_run = (
        EnsembleInterpreter(path, kernel="default").predict_logits(images)
        for path in (out, folder / "ensemble.tflite")
    )
    np.testing.assert_array_equal(ours, of_run)


def test_inspect(folder: Path, tmp_path: Path) -> None:
    result = result_of(tmp_path, "inspect", folder / "ensemble.tflite")
    assert sum(result["categories"].values()) == result["bytes"]
    assert result["metadata"]["dataset"] == "digits"
    assert result["metadata"]["run_hash"] == Run(folder / "run", None).digest
    assert result["binary_filter_copies"] == 1


def test_inspect_strictly(folder: Path, tmp_path: Path, capsys) -> None:
    assert (
        result_of(tmp_path, "inspect", folder / "ensemble.tflite", "--strict")["verified"] is True
    )
    assert "Verified: every table" in capsys.readouterr().out
    assert "verified" not in result_of(tmp_path, "inspect", folder / "ensemble.tflite")


def test_what_nothing_is_known_of_is_no_damage_but_a_problem(tmp_path: Path, capsys) -> None:
    """No rule says what the operators CUMSUM and ROUND need."""
    build, path = Builder(), tmp_path / "unknown.tflite"
    x = build.input("image", 1, 3)
    sums = build.op("CUMSUM", x, build.constant(1, "int32"))
    path.write_bytes(write(build.module(logits=sums)))
    assert called("inspect", path) == 0
    assert "problem" not in capsys.readouterr().out
    assert called("inspect", path, "--strict") == 1
    printed = capsys.readouterr()
    (problem,) = printed.out.splitlines()
    assert "CUMSUM(float32[1, 3], int32[])" in problem
    assert "there is no rule for this operator" in problem
    assert f"{str(path)!r} has 1 problem: {problem}. Run it only if" in printed.err
    path.write_bytes(write(build.module(logits=build.op("ROUND", sums))))
    assert called("inspect", path, "--strict") == 1
    printed = capsys.readouterr()
    assert ["CUMSUM" in printed.out, "ROUND" in printed.out] == [True, True]
    assert "has 2 problems: graph 'serving_default': operator 0, CUMSUM" in printed.err


def test_verify(folder: Path, tmp_path: Path) -> None:
    arguments = ["verify", folder / "ensemble.tflite", "--run", folder / "run", "--samples", 50]
    result = result_of(tmp_path, *arguments)
    assert result["samples"] == 50
    assert min(result["member_argmax_agreement"]) >= 0.95
    assert result["ensemble_argmax_agreement"] >= 0.95
    assert result["flip_rate"] <= 0.05
    assert result["backends"].keys() == {"lce", "litert"}


@pytest.mark.parametrize("function", ["verification.verify", "benchmarking.benchmark"])
def test_comparisons_run_as_their_options_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    heard = {}

    def record(*_: Any, **named: Any) -> None:
        heard.update(named)
        raise EnsembleError("Recorded.")

    monkeypatch.setattr(f"larq_ensemble.convert.{function}", record)
    command = [function.split(".")[1], folder / "ensemble.tflite", "--run", folder / "run"]
    assert called(*command, "--threads", 2, "--backend", "litert") == 1
    assert (heard["threads"], heard["backend"]) == (2, "litert")


def test_verify_and_a_keras_file_without_a_normalization(folder: Path, tmp_path: Path) -> None:
    """It is taken from the option, as `convert` takes it."""
    ensemble = load_run(folder / "run").model
    ensemble.normalization = None
    source, file = tmp_path / "ensemble.keras", tmp_path / "ensemble.tflite"
    ensemble.save(source)
    scaled = ["--dataset", "digits", "--normalization", "0..1"]
    assert called("convert", source, "--out", file, *scaled) == 0
    result = result_of(tmp_path, "verify", file, "--run", source, "--samples", 50, *scaled)
    assert result["ensemble_argmax_agreement"] >= 0.95


def test_predict(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = folder / "digit.png"
    arguments = ["predict", folder / "ensemble.tflite", image, image, "--top", 3]
    one, two = (result_of(tmp_path, *arguments, "--members", m)["predictions"] for m in (1, 2))
    assert [prediction["image"] for prediction in one] == [str(image)] * 2
    assert one[0]["probability"] != two[0]["probability"]
    probabilities = [choice["probability"] for choice in two[0]["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(probabilities) == 3
    assert two[0]["name"] == str(two[0]["class"])
    assert "digit.png" in capsys.readouterr().out
    for backend in ("lce", "litert"):
        result = result_of(tmp_path, *arguments, "--backend", backend)
        assert result["backend"] == backend
        assert [row["class"] for row in result["predictions"]] == 2 * [two[0]["class"]]
        assert f"on {backend} ({result['kernel']})" in capsys.readouterr().out


def test_one_bad_image_does_not_cost_the_others(folder: Path, tmp_path: Path, capsys) -> None:
    good, bad, missing = folder / "digit.png", folder / "run/config.json", folder / "none.png"
    arguments = ["predict", folder / "ensemble.tflite", bad, good, missing, good]
    assert called(*arguments, "--json", tmp_path / "result.json") == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert [answer["image"] for answer in result["predictions"]] == [str(good)] * 2
    assert [error["image"] for error in result["errors"]] == [str(bad), str(missing)]
    assert "config.json' as an image" in result["errors"][0]["error"]
    printed = capsys.readouterr()
    assert printed.out.count("digit.png") == 2
    first, second, last = printed.err.splitlines()
    assert first == f"larq-ensemble: warning: {result['errors'][0]['error']}"
    assert second == f"larq-ensemble: warning: {result['errors'][1]['error']}"
    assert last.startswith("larq-ensemble: error: 2 of 4 image files can't be read")
    # If there is none to answer, there is no result.
    assert called("predict", folder / "ensemble.tflite", bad, missing, "--json", "-") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: None of the image files can be read" in printed.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["convert", "{}/none", "--out", "{}/x.tflite"], 1, "No run at"),
        (["convert", "{}/run"], 2, "--out"),
        (["convert", "{}/run", "--out", "{}"], 1, "is a directory"),
        (["convert", "{}/run", "--out", "{}/run/model.keras"], 1, "it is the network of a run"),
        (["convert", "{}/run", "--out", "{}/run/config.json"], 1, "the configuration of a run"),
        (
            ["convert", "{}/ensemble.tflite", "--target", "litert", "--out", "{}/ensemble.tflite"],
            1,
            "is what is converted, and would be lost",
        ),
        (["convert", "{}/run", "--data-dir", "{}", "--out", "{}/x"], 2, "--data-dir has no effect"),
        (["convert", "{}/run", "--out", "{}/x.tflite", "--members", "3"], 1, "from 1 to 2"),
        (["convert", "{}/ensemble.tflite", "--out", "{}/x.tflite"], 2, "--members is needed"),
        (
            ["convert", "{}/ensemble.tflite", "--out", "{}/x", "--members", "1", "--heads", "int8"],
            2,
            "--heads needs a run or a Keras file",
        ),
        (["convert", "{}/run/model.keras", "--out", "{}/x"], 1, "give --normalization, one of"),
        (["convert", "{}/digit.png", "--out", "{}/x", "--members", "1"], 1, "no .tflite model"),
        (["inspect", "{}/none.tflite"], 1, "none.tflite"),
        (["inspect", "{}/digit.png"], 1, "no .tflite model"),
        (["verify", "{}/ensemble.tflite"], 2, "--run"),
        (["verify", "{}/digit.png", "--run", "{}/run"], 1, "no .tflite model"),
        (["verify", "{}/ensemble.tflite", "--run", "{}"], 1, "No run at"),
        (["verify", "{}/ensemble.tflite", "--run", "{}/run", "--samples", "0"], 2, "--samples"),
        (["verify", "{}/ensemble.tflite", "--run", "{}/run", "--backend", "cpu"], 2, "--backend"),
        (["predict", "{}/ensemble.tflite"], 2, "IMAGE"),
        (["predict", "{}/ensemble.tflite", "{}/none.png"], 1, "none.png"),
        (["predict", "{}/ensemble.tflite", "{}/run/config.json"], 1, "as an image"),
        (
            ["convert", "{}/run", "--quantize", "int8", "--out", "{}/new.tflite"],
            1,
            "--quantize is for a single network",
        ),
        (
            ["convert", "{}/run", "--quantize", "int8", "--heads", "int8", "--out", "{}/n.tflite"],
            2,
            "--heads has no effect with --quantize",
        ),
        (
            ["convert", "{}/run", "--quantize", "int4", "--target", "lce", "--out", "{}/n.tflite"],
            2,
            "leave --target out",
        ),
        (["predict", "{}/ensemble.tflite", "{}/digit.png", "--members", "0"], 2, "--members"),
        (["predict", "{}/ensemble.tflite", "{}/digit.png", "--members", "3"], 1, "from 1 to 2"),
    ],
)
def test_errors(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert called(*(argument.format(folder) for argument in arguments)) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("larq-ensemble: error: ")
    assert message in line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_member_count(folder: Path, tmp_path: Path, capsys) -> None:
    saved_run(tmp_path / "one", digits_ensemble(1))
    assert called("verify", folder / "ensemble.tflite", "--run", tmp_path / "one") == 1
    assert "members 2 in the file, 1 in the Keras model" in capsys.readouterr().err


def test_another_network_is_refused_before_the_data_are_looked_for(
    folder: Path, tmp_path: Path, capsys
) -> None:
    saved_run(tmp_path / "one", digits_ensemble(1))
    arguments = ["--run", tmp_path / "one", "--dataset", "tfds:no_such_data"]
    assert called("verify", folder / "ensemble.tflite", *arguments) == 1
    assert "members 2 in the file, 1 in the Keras model" in capsys.readouterr().err


def test_another_training_of_the_same_network(folder: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(folder / "run", tmp_path / "again")
    run = load_run(tmp_path / "again")
    run.save_model(randomized(run.model, seed=1))
    assert called("verify", folder / "ensemble.tflite", "--run", run.path) == 1
    assert "was converted from another ensemble: training" in capsys.readouterr().err


def test_truncated_weights(folder: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    run = load_run(tmp_path / "run")
    run.model_path.write_bytes(run.model_path.read_bytes()[:2000])
    out = tmp_path / "precious.tflite"
    out.write_bytes(b"precious")
    assert called("convert", run.path, "--out", out) == 1
    assert "truncated or damaged" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
