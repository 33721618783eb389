"""The tutorials: a notebook is the page of its name, and the page's cells run."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from larq_ensemble.cli import main
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.deploynet import deploy_block
from larq_ensemble.network.architectures.resnet import norm_stem

jupytext = pytest.importorskip("jupytext", reason="the extra dev is not installed")

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = sorted(TUTORIALS.glob("*.md"))


def cells(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_notebook_is_the_page(page):
    """`make notebooks` makes it."""
    assert cells(page.with_suffix(".ipynb")) == cells(page)


@pytest.fixture
def run_line(monkeypatch):
    """Runs a line of a shell cell in this process: TensorFlow is imported once."""

    def run(line: str) -> None:
        program, *arguments = shlex.split(line)
        if program == "python":
            with monkeypatch.context() as patch:
                patch.setattr(sys, "argv", arguments)
                runpy.run_path(ROOT / arguments[0], run_name="__main__")
            return
        assert program == "larq-ensemble"
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, line

    return run


def test_photos(run_line, monkeypatch, tmp_path, capsys):
    """On fewer images, a network of two blocks that sees each some times, and two members."""
    few = {
        "make_photos": ["--images", "40"],
        "pretrain": ["--epochs", "6", "--batch-size", "8", "--json", "backbone.json"],
        "train": ["--epochs", "1", "--batch-size", "8", "--prefix-weights", "1,16"],
        "evaluate": ["--json", "ensemble.json"],
    }
    small = Architecture(
        deploy_block, (32, 32), (1, 1), stem=norm_stem, stem_conv=(4, 2), pad_values=1.0
    )
    monkeypatch.setitem(MODELS._entries, "deploynet9", small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    commands = []
    for kind, source in cells(TUTORIALS / "photos.md"):
        if kind == "markdown":
            continue
        source = source.replace("members 4", "members 2").replace("members=4", "members=2")
        if not source.startswith("%%bash\n"):
            exec(source, {})
            continue
        for line in source.replace("\\\n", "").splitlines()[1:]:
            words = line.split()
            command = words[1] if words[0] == "larq-ensemble" else Path(words[1]).stem
            run_line(shlex.join([*words, *few.get(command, [])]))
            commands.append(command)
    assert commands[:5] == ["make_photos", "pretrain", "train", "convert", "calibrate"]
    assert {"predict", "evaluate"} <= {*commands}
    config = json.loads(Path("runs/photos/backbone/config.json").read_text())
    assert config["model"]["name"] == "deploynet9"
    assert config["recipe"]["source"].startswith("ours, for few images")
    # Chance is 33 %; 24 test images have a standard error of 10 points.
    assert json.loads(Path("backbone.json").read_text())["test_top1"] > 55
    assert json.loads(Path("ensemble.json").read_text())["top1"] > 55
    out = capsys.readouterr().out
    assert "folder:photos" in out
    assert "ball" in out


def test_larq_network(monkeypatch, tmp_path, capsys):
    """Larq's own network, trained for a shorter time, and two members of it."""
    less = {
        "epochs=8": "epochs=4",
        "epochs=3": "epochs=1",
        "members=4": "members=2",
        "(1, 2, 4)": "(1, 2)",
    }
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for kind, source in cells(TUTORIALS / "larq-network.md"):
        if kind == "code":
            for ours, tested in less.items():
                source = source.replace(ours, tested)
            exec(source, names)
    # Chance is 10 %.
    assert (names["probabilities"].argmax(axis=1) == names["test_labels"]).mean() > 0.7
    assert (names["classes"] == names["test_labels"]).mean() > 0.7
    assert names["verification"].ensemble_argmax_agreement == 1
    assert Path("digits.npz").exists()
    assert "same class as Keras: 100.0%" in capsys.readouterr().out
