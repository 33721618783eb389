"""The tool that puts networks into the package: what it says of a run, without training one."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from larq_ensemble import EnsembleError, pretrained
from larq_ensemble.runs import Run, RunConfig, create_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools" / "pretrained")
    import ship

    return ship


def finished(path: Path, kind: str = "backbone", **config) -> Run:
    """A run directory whose model is no more than its name."""
    model = {"name": "deploynet9", "width": config.pop("width", 1.0)}
    data = {"name": "x", "augmentation": {}}
    run = create_run(path, RunConfig(kind, model, data, {}, seed=0, **config))
    run.model_path.write_text(path.name)
    run.result_path.write_text('{"test_top1": 50.0}')
    return run


def test_the_trainings_that_led_to_a_run_come_in_order(ship, tmp_path):
    twin = finished(tmp_path / "twin")
    backbone = finished(tmp_path / "backbone", transfer={"from_real": twin.digest})
    ensemble = finished(
        tmp_path / "ensemble",
        "ensemble",
        ensemble={"members": 8, "scheme": "nested_fusion", "backbone": backbone.digest},
    )
    stages = ship._stages(ensemble, [backbone, twin])
    assert [stage["digest"] for stage in stages] == [
        run.digest for run in (twin, backbone, ensemble)
    ]
    assert stages[0]["result"] == {"test_top1": 50.0}
    assert ship._name(ensemble) == "x-deploynet9-nested8"
    with pytest.raises(EnsembleError, match=f"builds on a run .* {twin.digest}"):
        ship._stages(ensemble, [backbone])
    other = finished(tmp_path / "other", width=2.0)
    assert ship._name(other) == "x-deploynet9-w2"
    with pytest.raises(EnsembleError, match=r"doesn't build on .*other"):
        ship._stages(ensemble, [backbone, twin, other])


def test_the_trainings_of_a_shipped_network_are_on_its_card(ship, tmp_path):
    teacher = pretrained.shipped("cifar100-resnet20").card
    run = finished(tmp_path / "run", transfer={"teacher": teacher["run_hash"]})
    *taught, own = ship._stages(run, [])
    assert taught == teacher["training"]
    assert own["digest"] == run.digest


def test_results_that_are_there_are_not_computed_again(ship, tmp_path, monkeypatch):
    calls = []

    def run(arguments: list[str], **_: bool) -> None:
        calls.append(arguments)
        Path(arguments[-1]).write_text('{"top1": 50.0}')

    monkeypatch.setattr(ship.cli, "main", run)
    results = ship.Results(tmp_path, {"RUN": "runs/fusion"})
    for _ in range(2):
        assert results.of("verify", ["verify", "RUN"]) == {"top1": 50.0}
    assert calls == [["verify", "runs/fusion", "--json", str(tmp_path / "verify.json")]]


def test_results_of_another_run_or_of_other_options_are_refused(ship, tmp_path):
    results = ship.Results(tmp_path, {})
    for _ in range(2):
        results.check_of(run="a" * 8, heads="int8")
    with pytest.raises(EnsembleError, match=r"has results of .*'aaaaaaaa'.*would be of .*'bbbb"):
        results.check_of(run="b" * 8, heads="int8")
    with pytest.raises(EnsembleError, match=r"'heads': 'float32'.*name another folder"):
        results.check_of(run="a" * 8, heads="float32")
    (tmp_path / "made_of.json").rename(tmp_path / "verify.json")
    with pytest.raises(EnsembleError, match="has results of an unknown run"):
        results.check_of(run="a" * 8, heads="int8")


def test_bytes_of_the_cut_files_are_measured_and_keep_their_date(ship, tmp_path):
    name = "cifar100-deploynet8-w0.75-nested4"
    of_package = pretrained.shipped(name)
    network = pretrained.Shipped(name, tmp_path)
    shutil.copyfile(of_package.tflite, network.tflite)
    card = copy.deepcopy(of_package.card)
    cut = card["files"]["tflite"].pop("cut")
    ship._write_card(network, card)
    ship._measure_cuts(network)
    measured = json.loads(network.card_path.read_text())["files"]["tflite"]["cut"]
    assert measured["bytes"] == cut["bytes"]
    assert measured["bytes"][-1] == network.tflite.stat().st_size

    card["files"]["tflite"]["cut"] = {**cut, "date": "2001-02-03"}
    ship._write_card(network, card)
    before = network.card_path.read_text()
    ship._measure_cuts(pretrained.Shipped(name, tmp_path))
    assert network.card_path.read_text() == before


def test_options_without_a_run_are_refused(ship):
    done = CliRunner().invoke(ship.main, ["--results", "somewhere"])
    assert (done.exit_code, "--results has no effect without RUN" in done.output) == (2, True)
    done = CliRunner().invoke(ship.main, ["--from", "somewhere"])
    assert (done.exit_code, "--from has no effect without RUN" in done.output) == (2, True)


def test_nothing_is_removed_before_what_replaces_it_is_there(ship, tmp_path, monkeypatch):
    of_package = pretrained.shipped("cifar100-resnet20")
    network = pretrained.Shipped("cifar100-resnet20", tmp_path)
    paths = [network.card_path, network.weights_path, network.tflite]
    for path in paths:
        shutil.copyfile(of_package.card_path.parent / path.name, path)
    monkeypatch.setattr(pretrained, "shipped", lambda name: network)
    done = CliRunner().invoke(ship.main, [str(tmp_path), "--remove", network.name])
    assert (done.exit_code, "RUN needs --results" in done.output) == (2, True)
    assert all(path.is_file() for path in paths)


def test_a_row_of_the_table(ship):
    row = {"members": 2, "top1": 75.0, "ece": 0.2, "nll": 0.7}
    found = {
        "evaluate": {"samples": 4, "by_members": [row]},
        "evaluate-calibrated": {"samples": 4, "by_members": [{**row, "ece": 0.1, "nll": 0.6}]},
    }
    (both,) = ship._by_members(found)
    # Wilson's interval of 3 of 4, by its formula with z = 1.959964.
    z = 1.959964
    centre = (0.75 + z**2 / 8) / (1 + z**2 / 4)
    half = z / (1 + z**2 / 4) * np.sqrt(0.75 * 0.25 / 4 + z**2 / 64)
    assert both["low"] / 100 == pytest.approx(centre - half, rel=1e-6)
    assert both["high"] / 100 == pytest.approx(centre + half, rel=1e-6)
    assert {**both, **row} == both
    assert (both["calibrated_ece"], both["calibrated_nll"]) == (0.1, 0.6)
