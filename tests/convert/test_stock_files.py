"""Files for stock runtimes compute on LiteRT what the files for LCE compute on LCE."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.cli import main
from larq_ensemble.convert import convert_file, cut_file, file_conversion, inspect_file
from larq_ensemble.convert.conversion import convert_ensemble
from larq_ensemble.convert.inspection import problems_of
from larq_ensemble.convert.passes import shared_trunk
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.legalization import FILTERS
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.calibration import calibrate
from larq_ensemble.runtime.file import read_ensemble, with_metadata

from .conftest import MEAN, STD, Converted, pixels

litert = pytest.importorskip("ai_edge_litert.interpreter")

FOLDER = Path(__file__).parents[1] / "data"
#: Each layout and format with each form of the filters that it has to do with.
CASES = pytest.mark.parametrize(
    ("name", "filters"),
    [
        *(("indexed", "int8"), ("indexed", "1bit"), ("compact", "int8")),
        *(("subgraphs", "int8"), ("subgraphs", "1bit"), ("branches", "int8")),
    ],
)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The stock form of a file in `tests/data`, made once."""
    folder = tmp_path_factory.mktemp("stock")

    @functools.cache
    def made(name: str, filters: str) -> Path:
        path = folder / f"{name}-{filters}.tflite"
        convert_file(FOLDER / f"{name}.tflite", path, filters=filters)
        return path

    return made


def litert_logits(path: Path, images: np.ndarray, members: int) -> np.ndarray:
    """As an app computes them: by LiteRT alone, by signature, after the trunk if there is one."""
    model = litert.Interpreter(model_path=str(path))
    inputs = {key: value["inputs"] for key, value in model.get_signature_list().items()}

    def run(key: str, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return model.get_signature_runner(key)(**{name: known[name] for name in inputs[key]})

    logits = np.empty((members, len(images)), object)
    for number, image in enumerate(images):
        known = {"image": image[np.newaxis].astype(np.float32)}
        known |= run("prefix", known) if "prefix" in inputs else {}
        for member in range(members):
            keys = (f"rest_{member}", "rest", f"member_{member}", "serving_default")
            key = next(key for key in keys if key in inputs)
            outputs = run(key, {**known, "member": np.array([member], np.int32)})
            logits[member, number] = outputs.get("logits", outputs.get(f"logits_{member}"))[0]
    return np.array(logits.tolist())


@CASES
def test_litert_gives_the_logits_of_lce(name: str, filters: str, stock: Any) -> None:
    """Those that LCE gave when the files were made."""
    with np.load(FOLDER / f"{name}.npz") as answers:
        images, expected = answers["images"], answers["logits"]
    ours = litert_logits(stock(name, filters), images, len(expected))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


@CASES
def test_only_the_operators_differ(name: str, filters: str, stock: Any) -> None:
    path, source = stock(name, filters), FOLDER / f"{name}.tflite"
    assert problems_of(path) == []
    before, after = (read(each.read_bytes()) for each in (source, path))
    operators = {op.name for graph in after.graphs for op in graph.operators}
    assert not any(operator.startswith("Lce") for operator in operators)
    assert [signature(graph) for graph in after.graphs] == [signature(g) for g in before.graphs]
    metadata, of_source = (read_ensemble(each).metadata.to_dict() for each in (path, source))
    assert (metadata.pop("target"), metadata.pop("filters")) == ("litert", filters)
    assert metadata.pop("sha256") != of_source.pop("sha256")
    assert metadata == of_source


def signature(graph: Any) -> Any:
    return graph.signature.key, *(
        {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        for tensors in (graph.signature.inputs, graph.signature.outputs)
    )


@CASES
def test_every_byte_has_a_purpose(name: str, filters: str, stock: Any) -> None:
    before, after = (inspect_file(p) for p in (FOLDER / f"{name}.tflite", stock(name, filters)))
    assert sum(after.categories.values()) == after.bytes == stock(name, filters).stat().st_size
    assert after.binary_filter_copies == 1
    assert len(after.binary_filters) == len(before.binary_filters)
    bits, padding = (before.categories[key] for key in ("binary_filters", "filter_padding"))
    stored = after.categories["binary_filters"]
    assert stored == 8 * bits if filters == "int8" else bits <= stored <= bits + padding
    assert after.categories["filter_padding"] == after.categories["unpacked_filters"] == 0
    # Members' values of four bits stay bits.
    has_bits = filters == "1bit" or after.metadata["precision"] == "compact"
    assert (after.categories["unpacking"] > 0) == has_bits
    for category in ("stem", "shortcuts", "activations", "heads"):
        # Biases of zeros may stand for another layer's.
        assert after.categories[category] == pytest.approx(before.categories[category], abs=128)
    assert after.arena_bytes.keys() == before.arena_bytes.keys()


@CASES
def test_cut_to_fewer_members(name: str, filters: str, stock: Any, tmp_path: Path) -> None:
    """By cutting the stock file, and by converting fewer members."""
    path, whole = tmp_path / "two.tflite", stock(name, filters)
    with np.load(FOLDER / f"{name}.npz") as answers:
        images = answers["images"][:2]
    expected = litert_logits(whole, images, 2)
    cut_file(whole, path, 2)
    assert read_ensemble(path).metadata.target == "litert"
    assert litert_logits(path, images, 2).tobytes() == expected.tobytes()
    if name != "indexed":  # conversions take most of the time
        return
    report = convert_file(FOLDER / f"{name}.tflite", path, filters=filters, members=2)
    assert report.to_dict()["filters"] == filters
    np.testing.assert_allclose(litert_logits(path, images, 2), expected, rtol=1e-5, atol=1e-5)


def test_calibrated_like_others(stock: Any, tmp_path: Path) -> None:
    path = tmp_path / "calibrated.tflite"
    shutil.copy(stock("indexed", "1bit"), path)
    images = pixels(40, (8, 8, 3))
    calibrate(path, images, np.arange(40) % 5, mean_members=2)
    metadata = read_ensemble(path).metadata
    assert metadata.cascade is not None
    assert (metadata.target, metadata.filters) == ("litert", "1bit")


def test_counts_of_instructions_stay_with_the_file_that_was_counted(tmp_path: Path) -> None:
    file = read_ensemble(FOLDER / "indexed.tflite")
    counts = {"cortex-a76, litert delegate": {"image": 1, "member": 2}}
    counted = tmp_path / "counted.tflite"
    counted.write_bytes(
        with_metadata(file.data, dataclasses.replace(file.metadata, instructions=counts))
    )
    convert_file(counted, tmp_path / "stock.tflite")
    assert read_ensemble(counted).metadata.instructions == counts
    assert read_ensemble(tmp_path / "stock.tflite").metadata.instructions == {}


def test_of_an_ensemble(fusion: Converted, tmp_path: Path) -> None:
    """The same bytes as by way of the file for LCE."""
    direct, later = tmp_path / "direct.tflite", tmp_path / "later.tflite"
    report = convert_ensemble(
        fusion.model, direct, mean=MEAN, std=STD, target="litert", filters="1bit",
        class_names=[f"class {i}" for i in range(7)], dataset="test",
    )  # fmt: skip
    assert (report.target, report.filters) == ("litert", "1bit")
    assert report.agreement is not None
    assert max(report.agreement.deviation) < 1e-3
    convert_file(fusion.path, later, filters="1bit")
    assert direct.read_bytes() == later.read_bytes()
    images = pixels(3, (16, 16, 3))
    expected = np.stack(fusion.logits(images))
    np.testing.assert_allclose(litert_logits(direct, images, 3), expected, rtol=1e-3, atol=1e-3)


def test_members_whose_graphs_differ_keep_their_trunk(tmp_path: Path) -> None:
    """One member's operators stand in another order."""
    source = read_ensemble(FOLDER / "subgraphs.tflite")
    module = read(source.data)
    for graph in module.graphs[:1]:
        first, second = graph.operators[:2]
        graph.rebuild([second, first, *graph.operators[2:]])
    path, out = tmp_path / "odd.tflite", tmp_path / "stock.tflite"
    path.write_bytes(write_ensemble(module, source.metadata))
    assert shared_trunk.trunk_of(read(path.read_bytes())) is not None
    convert_file(path, out)
    assert read_ensemble(out).trunk is not None
    with np.load(FOLDER / "subgraphs.npz") as answers:
        images, expected = answers["images"][:1], answers["logits"][:, :1]
    np.testing.assert_allclose(litert_logits(out, images, 3), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "tpu"}, "Unknown target 'tpu'"),
        ({"filters": "4bit"}, "Unknown filters '4bit'"),
        ({"target": "lce", "filters": "int8"}, "`filters` 'int8' needs `target='litert'`"),
        ({"target": "lce"}, "was written for `target='lce'`"),
        ({"members": 9}, "`members` must be a whole number from 1 to 3"),
    ],
)
def test_arguments_that_cant_be(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=message):
        convert_file(FOLDER / "indexed.tflite", tmp_path / "out.tflite", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["lce", "litert"])
def test_a_stock_file_is_converted_once(target: str, stock: Any, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=r"written for `target='litert'` .*convert\.cut_file`"):
        convert_file(stock("indexed", "int8"), tmp_path / "out.tflite", target=target)


def test_nothing_is_written_if_the_files_differ(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(file_conversion, "LIMIT", -1.0)
    with pytest.raises(
        EnsembleError, match="doesn't compute what the file for Larq Compute Engine"
    ):
        convert_file(FOLDER / "indexed.tflite", tmp_path / "out.tflite")
    assert not list(tmp_path.iterdir())


def called(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = FOLDER / "compact.tflite", tmp_path / "stock.tflite"
    arguments = ["convert", source, "--target", "litert", "--out", out, "--members", 2]
    assert called(*arguments, "--filters", "1bit", "--json", tmp_path / "result.json") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["target"], result["filters"], result["layout"]) == ("litert", "1bit", "indexed")
    assert result["bytes"] == out.stat().st_size
    assert "differ from those of" in capsys.readouterr().out
    again = ["convert", out, "--members", 1, "--target", "litert", "--out", tmp_path / "x.tflite"]
    assert called(*again, "--filters", "int8") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "--filters int8 is not how" in told
    assert "stores them, 1bit, and a cut file" in told
    assert not (tmp_path / "x.tflite").exists()
    assert called("convert", out, "--members", 1, "--out", tmp_path / "one.tflite") == 0
    assert read_ensemble(tmp_path / "one.tflite").metadata.target == "litert"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--filters", "int8"], 2, "--filters needs --target litert"),
        (["--target", "lce", "--filters", "int8"], 2, "--filters needs --target litert"),
        (["--target", "litert", "--heads", "int8"], 2, "--heads needs a run"),
        (["--target", "lce"], 1, "written for --target lce"),
        ([], 2, "--members is needed for a .tflite file, how many of its members stay, or"),
    ],
)
def test_command_errors(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", tmp_path / "out.tflite"]
    assert called("convert", FOLDER / "indexed.tflite", *out, *arguments) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_needs_no_tensorflow_and_no_lce(tmp_path: Path) -> None:
    """The machine of an app's developer may have neither."""
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'tf_keras', 'keras', 'larq', 'larq_compute_engine'):\n"
        "    sys.modules[name] = None\n"
        "from larq_ensemble.convert import convert_file\n"
        f"paths = {str(FOLDER / 'indexed.tflite')!r}, {str(tmp_path / 'out.tflite')!r}\n"
        "report = convert_file(*paths)\n"
        "assert report.agreement.deviation[0] < 1e-3"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_lce_runs_stock_files_too(stock: Any) -> None:
    with np.load(FOLDER / "indexed.npz") as answers:
        images, expected = answers["images"], answers["logits"]
    for filters in FILTERS:
        ours = EnsembleInterpreter(stock("indexed", filters)).predict_logits(images)
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)
