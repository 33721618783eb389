"""What a run is called on the frontier, and on which cores its file is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from larq_ensemble import Normalization, ensemble_of
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.runs import RunConfig
from larq_ensemble.trained import open_trained
from larq_ensemble.training.points import read_points

from .conftest import load

file_points = load("file_points")
FILE = Path("network.tflite")


def config(kind: str = "ensemble", name: str = "resnet20", width: float = 1.0, **ensemble: Any):
    ensemble["shared_layers"] = ["conv1"] if ensemble.get("sharing") == "fusion" else []
    return RunConfig(kind, {"name": name, "width": width}, {}, {}, 0, ensemble=ensemble)


@pytest.mark.parametrize(
    ("run", "kind", "name"),
    [
        (config(sharing="fusion"), "shared", "ResNet-20, shared filters"),
        (config(sharing="none"), "separate", "ResNet-20, separate members"),
        (config(sharing="none", initial="random"), "benn", "ResNet-20, BENN"),
        (config("backbone"), "single", "ResNet-20"),
        (config("backbone", width=1.5), "wider", "ResNet-20 x 1.5"),
        (config("backbone", "resnet20_relu", 0.5), "float", "ResNet-20 with ReLU, float"),
    ],
)
def test_what_a_run_is(run, kind, name) -> None:
    assert file_points.kind_of(run) == kind
    model = run.model
    assert file_points.series(model["name"], model["width"], kind) == name
    assert file_points.curve_of(run, kind) == name


@pytest.mark.parametrize(("shared_layers", "kind"), [([], "separate"), (["conv"], "shared")])
def test_an_ensemble_that_keras_saved_is_called_as_its_file(shared_layers, kind) -> None:
    of_file = RunConfig(
        "ensemble",
        {"name": "two of them", "source": "/somewhere/two of them.keras"},
        {},
        {},
        0,
        ensemble={"shared_layers": shared_layers},
    )
    assert file_points.kind_of(of_file) == kind
    assert file_points.curve_of(of_file, kind) == "two of them"


def test_members_that_see_the_image_mirrored() -> None:
    """Without training they are one network on both images."""
    trained, untrained, plain = config(mirror=True), config(mirror=True), config()
    trained.recipe["epochs"], untrained.recipe["epochs"] = 3, 0
    found = [file_points.views(run) for run in (trained, untrained, plain)]
    assert found == [", mirrored", ", both images", ""]
    untrained.ensemble["shared_layers"] = ["conv1"]
    assert file_points.kind_of(untrained) == "single"
    assert file_points.kind_of(trained) == "separate"


def test_one_network_on_both_images_is_no_ensemble(tmp_path) -> None:
    """Of what Keras saved the layers tell it."""
    image = keras.Input((4, 4, 1))
    networks = [
        keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image))) for _ in "12"
    ]
    found = []
    for models in (networks[:1], networks):
        normalization = Normalization.raw(1)
        ensemble_of(models, mirror=True, normalization=normalization).save(tmp_path / "e.keras")
        run = open_trained(tmp_path / "e.keras")
        is_one = run.model.is_one_network
        found.append((is_one, file_points.kind_of(run.config, is_one=is_one)))
    assert found == [(True, "single"), (False, "separate")]


class FirstColumn:
    """In place of a file of one member: logits are the three channels of the first pixel."""

    def predict_logits(self, images: np.ndarray) -> np.ndarray:
        return images[None, :, 0, 0, :]


def test_one_file_on_both_images() -> None:
    """By hand: of three images of two pixels, two are right by the sum of the pixels' channels."""
    file = FirstColumn()
    images = np.array(
        [[[[1, 0, 0], [0, 0, 3]]], [[[0, 2, 0], [0, 0, 1]]], [[[5, 0, 0], [0, 4, 0]]]]
    )
    point = {
        "members": 1, "trained_members": 1, "top1": 0.0, "bytes": 1000, "macs": 7,
        "instructions": {"cortex-a72": 110},
    }  # fmt: skip
    logits = file.predict_logits(images)
    both = file_points.on_both_images(point, logits, file, images, np.array([2, 1, 1]))
    assert both == {
        "members": 2, "trained_members": 2, "top1": pytest.approx(200 / 3), "bytes": 1000,
        "macs": 14, "instructions": {"cortex-a72": 220},
    }  # fmt: skip


def run_of(name: str, recipe: dict[str, Any] | None = None, seed: int = 0, **ensemble: str) -> Any:
    """A run of two members; its digest is its name."""
    settings = {"members": 2, "scheme": "fusion", "sharing": "fusion", **ensemble}
    model = {"name": "resnet20", "width": 1.0}
    data = {"split_seed": seed}
    config = RunConfig("ensemble", model, {}, recipe or {}, 0, data=data, ensemble=settings)
    return SimpleNamespace(path=Path(name), digest=name * 16, config=config)


def test_a_single_network_of_ones_own_has_no_kind() -> None:
    config = run_of("a").config
    own = replace(config, kind="backbone", model={"name": "photos", "source": "photos.keras"})
    with pytest.raises(EnsembleError, match="'photos' is a single network of your own"):
        file_points.kind_of(own)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Points of runs as if measured, written and read again; the n-th has n % right."""
    calls: list[int] = []

    def one(self: Any, run: Any) -> Any:
        calls.append(1)
        values = {"model": "resnet20", "seed": run.config.seed, "samples": self.limit or 100}
        yield {
            "name": "ResNet-20, shared filters", "kind": "shared", "members": 2,
            "trained_members": 2, "top1": float(len(calls)), **values,
        }  # fmt: skip

    monkeypatch.setattr(file_points.Measuring, "_measured", one)

    def points(*runs: Any, limit: int | None = None) -> dict[str, list[tuple[float, int]]]:
        measuring = file_points.Measuring(tmp_path, "test", None, limit, (), None, None)
        path = measuring.write("cifar100", [p for run in runs for p in measuring.points(run)])
        found: dict[str, list[tuple[float, int]]] = {}
        for point in read_points([path]):
            found.setdefault(point.label, []).append((point.top1, point.seeds))
        return found

    return points


def test_ensembles_that_are_called_the_same_keep_their_points(measured) -> None:
    ours, nested = run_of("a"), run_of("b", scheme="nested_fusion")
    name = "ResNet-20, shared filters"
    expected = {name: [(1, 1)], f"{name}, nested_fusion": [(2, 1)]}
    assert measured(ours, nested) == expected
    assert measured(ours) == expected
    # With few images the same run is another point.
    assert measured(ours, limit=10) == {**expected, name: [(1, 1), (3, 1)]}


def test_backbones_of_several_seeds_are_averaged_and_other_settings_are_not(measured) -> None:
    name = "ResNet-20, shared filters"
    seeds = [run_of(digest, seed=seed, backbone=digest) for seed, digest in enumerate("abc")]
    assert measured(*seeds) == {name: [(2, 3)]}
    assert measured(run_of("d", {"lr": 1.0}, seed=1)) == {name: [(2, 3), (4, 1)]}
    # Of another teacher or of a longer pretraining a run doesn't say more than that it is another.
    assert measured(run_of("e", {"lr": 1.0}, seed=1)) == {name: [(2, 3), (4, 1), (5, 1)]}


def test_points_of_before_are_replaced_by_those_of_the_same_network(measured, tmp_path) -> None:
    measured(run_of("a"), run_of("b"))
    path = tmp_path / "points.json"
    content = json.loads(path.read_text())
    for point in content["points"]:
        for name in ("run", "settings", "split_seed"):
            del point[name]
    path.write_text(json.dumps(content))
    measured(run_of("a"))
    points = json.loads(path.read_text())["points"]
    assert [(point["top1"], point.get("run")) for point in points] == [(2, None), (1, "a" * 16)]


def test_counts_of_other_cores_stay(tmp_path) -> None:
    def written(**counts: int) -> dict[str, int]:
        measuring = file_points.Measuring(tmp_path, "test", None, None, (), None, None)
        point = {"name": "a", "kind": "int8", "run": "a", "top1": 5, "instructions": counts}
        (point,) = json.loads(measuring.write("cifar100", [point]).read_text())["points"]
        return point["instructions"]

    assert written(a72=7) == {"a72": 7}
    assert written(m4=8) == {"a72": 7, "m4": 8}
    assert written() == {"a72": 7, "m4": 8}
    assert written(a72=6) == {"a72": 6, "m4": 8}


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """On an A72 and two microcontrollers, with counts of this test in place of the emulators'."""
    row = {"instructions_once": 10, "instructions_member": 100}
    exported = SimpleNamespace(
        costs={
            "cortex-m4": SimpleNamespace(image=20, member=200),
            "cortex-m55": SimpleNamespace(image=30, member=300),
        }
    )
    int8 = {"costs": {"cortex-m4": {"instructions": 4}, "cortex-m55": {"instructions": 5}}}
    monkeypatch.setattr(file_points, "litert_row", lambda *_: row)
    monkeypatch.setattr(file_points, "export_file", lambda *_, **__: exported)
    monkeypatch.setattr(file_points, "int8_row", lambda *_: int8)
    monkeypatch.setattr(file_points.emulation, "check_tools", lambda: None)
    monkeypatch.setattr(file_points, "kernel_sources", lambda clone: [])

    cores = ("cortex-m4", "cortex-a72", "cortex-m55")
    return file_points.Measuring(Path(), "test", None, None, cores, None, "clone")


def test_each_core_has_its_counter(measuring) -> None:
    a72 = {"cortex-a72": (10, 100)}
    binarized = {"cortex-m4": (20, 200), "cortex-m55": (30, 300)}
    assert measuring._counts(FILE, None) == a72 | binarized
    int8 = {"cortex-m4": (0, 4), "cortex-m55": (0, 5)}
    assert measuring._counts(FILE, "int8") == a72 | int8
    assert measuring._counts(FILE, "int4") == a72


def test_counts_are_taken_again_by_another_delegate_or_clone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(file_points.emulation, "check_tools", lambda: None)
    library, clone = tmp_path / "delegate.so", tmp_path / "clone"
    source = clone / "Source/ConvolutionFunctions/arm_convolve_s8.c"
    header = clone / "Include/arm_nnsupportfunctions.h"
    for file in (library, source, header):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    calls: list[int] = []
    monkeypatch.setattr(
        file_points.Measuring, "_measured", lambda self, run: calls.append(1) or [{}]
    )

    def measured(*cores: str) -> int:
        """How many measurements there were, when all is measured that has to be."""
        tools = str(library), str(clone)
        file_points.Measuring(tmp_path, "test", None, None, cores, *tools).points(run_of("a"))
        return len(calls)

    assert [measured(), measured("cortex-a72"), measured("cortex-m4")] == [1, 2, 3]
    library.write_text("2")
    assert [measured(), measured("cortex-m4"), measured("cortex-a72")] == [3, 3, 4]
    for before, file in ((4, source), (5, header)):
        file.write_text("2")
        found = [measured(), measured("cortex-a72"), measured("cortex-m4")]
        assert found == [before, before, before + 1]


def test_what_cmsis_nn_has_no_kernel_for_has_no_count(measuring, monkeypatch) -> None:
    def refused(*_: Any) -> None:
        raise file_points.NoKernelError("PRELU of int8 can't be written for CMSIS-NN.")

    monkeypatch.setattr(file_points, "int8_row", refused)
    assert [*measuring._counts(FILE, "int8")] == ["cortex-a72"]


def test_what_is_missing_is_said_before_anything_is_measured(monkeypatch) -> None:
    def missing() -> None:
        raise file_points.emulation.EmulationError("apt-get install qemu-system-arm")

    monkeypatch.setattr(file_points.emulation, "check_tools", missing)
    rest = (Path(), "test", None, None)
    with pytest.raises(EnsembleError, match=r"`cmsis_nn` is missing.*cortex-m4.*git clone"):
        file_points.Measuring(*rest, ("cortex-m4",), None, None)
    with pytest.raises(EnsembleError, match="'clone', which holds no CMSIS-NN"):
        file_points.Measuring(*rest, ("cortex-m4",), None, "clone")
    monkeypatch.setattr(file_points, "kernel_sources", lambda clone: [])
    with pytest.raises(EnsembleError, match="qemu"):
        file_points.Measuring(*rest, ("cortex-m4",), None, "clone")
    file_points.Measuring(*rest, ("cortex-a72",), None, None)
