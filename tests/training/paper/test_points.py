"""Tables and figures against counts done by hand."""

import csv
import dataclasses
import subprocess
import sys

import pytest

from larq_ensemble.cli import main
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_csv
from larq_ensemble.runs import Run, RunConfig
from larq_ensemble.training.paper import points
from larq_ensemble.training.paper.figures import FIGURES, AccuracyFigure
from larq_ensemble.training.paper.library import RunLibrary
from larq_ensemble.training.paper.plots import draw
from larq_ensemble.training.paper.points import OURS, Point, counted_points, trained_points
from larq_ensemble.training.plots import save

# Binary 3x3 filters, 1 bit per weight, and 1x1 shortcuts, 32 bits.
LAYER_1 = 6 * 9 * 16 * 16
LAYER_2 = 9 * 16 * 32 + 5 * 9 * 32 * 32 + 32 * 16 * 32
LAYER_3 = 9 * 32 * 64 + 5 * 9 * 64 * 64 + 32 * 32 * 64
STEM = 32 * 9 * 3 * 16
FILTERS = STEM + LAYER_1 + LAYER_2 + LAYER_3
LINEAR = 32 * 64 * 100


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_1(by_origin):
    ours, theirs = by_origin(counted_points("table1"))
    assert ours == theirs
    assert list(ours.values()) == [
        STEM, LAYER_1, LAYER_2, LAYER_3, 20_480, FILTERS + 20_480, LINEAR, FILTERS + LINEAR,
    ]  # fmt: skip


def test_table_2(by_origin):
    ours, theirs = by_origin(counted_points("table2"))
    assert ours == theirs
    bits = [  # 3x3 filters of 64, 128, 256 and 512 channels, and 1x1 shortcuts between them
        32 * 9 * 3 * 64,
        4 * 9 * 64 * 64,
        9 * 64 * 128 + 3 * 9 * 128 * 128 + 32 * 64 * 128,
        9 * 128 * 256 + 3 * 9 * 256 * 256 + 32 * 128 * 256,
        9 * 256 * 512 + 3 * 9 * 512 * 512 + 32 * 256 * 512,
        32 * 512 * 10,
    ]
    assert bits == [55_296, 147_456, 778_240, 3_112_960, 12_451_840, 163_840]
    assert list(ours.values()) == [*bits, sum(bits)]


def test_figure_7b(by_origin):
    ours, theirs = by_origin(counted_points("fig7b"))
    assert ours == theirs
    for members in (2, 4, 6, 8, 10):
        assert ours["shared filters (fusion)", members] == FILTERS + members * LINEAR
        assert ours["independent filters (none)", members] == members * (FILTERS + LINEAR)
    assert len(ours) == 10
    assert {p.members for p in counted_points("fig7b", members=[3])} == {3}


def test_the_csv_says_of_each_value_what_it_is(tmp_path):
    write_csv(tmp_path / "t.csv", counted_points("fig7b", members=[2]))
    ours, theirs, *_ = read_csv(tmp_path / "t.csv")
    assert ours["origin"] == "ours"
    assert theirs["origin"] == "paper"
    assert "10.7717/peerj-cs.924" in theirs["source"]
    for row in (ours, theirs):
        assert (row["name"], row["model"], row["classes"]) == ("fig7b", "resnet20", "100")
        assert (row["sharing"], row["members"]) == ("fusion", "2")
        assert (row["quantity"], row["value"], row["unit"]) == ("weights", "772608", "bits")


@pytest.mark.parametrize(("name", "values"), [("table1", 8), ("table2", 7), ("fig7b", 10)])
def test_counted_figures_need_no_tensorflow(tmp_path, name, values):
    program = (
        "import sys; from larq_ensemble.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'tensorflow', 'tf_keras', 'larq', 'keras'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "reproduce", name, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("set()\n")
    assert " NO " not in done.stdout
    assert done.stdout.count(" yes ") == values
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert len(read_csv(tmp_path / f"{name}.csv")) == 2 * values


def test_unknown_names_list_the_known():
    with pytest.raises(
        EnsembleError, match=r"Unknown table or figure 'fig1'\. Known: fig5a, fig5b"
    ):
        counted_points("fig1")


def test_trained_figures_cannot_be_counted():
    assert isinstance(FIGURES["fig6"], AccuracyFigure)
    with pytest.raises(EnsembleError, match="'fig6' has to be trained"):
        counted_points("fig6")


def test_on_another_data_set_there_is_nothing_of_the_paper(small, tmp_path, monkeypatch):
    def trained(self, path, recipe, what, train, twin=None):
        run = Run(path, RunConfig("backbone", {}, {"name": "digits", "classes": 10}, {}, 0))
        return run, {"test_top1": 50.0, "epochs": recipe.epochs}

    monkeypatch.setattr(RunLibrary, "_get", trained)
    points = trained_points("fig6", tmp_path, dataclasses.replace(small, dataset="digits"))
    assert {(p.origin, p.dataset, p.classes) for p in points} == {("ours", "digits", 10)}
    assert {p.scheme for p in points if p.scheme} == {"fusion", "voting", "bagging", "boosting"}
    paths = save(draw(FIGURES["fig6"], points), tmp_path / "fig6")
    assert "data set digits" in paths[1].read_text()
    assert "Kim et al." not in paths[1].read_text()


def test_by_default_the_paper_decides_which_members_there_are(small, tmp_path, monkeypatch):
    asked = []

    def trained(self, path, recipe, what, train, twin=None):
        assert self._total == 31
        asked.append(path.name)
        run = Run(path, RunConfig("backbone", {}, {"name": "cifar100", "classes": 100}, {}, 0))
        return run, {"test_top1": 50.0, "epochs": recipe.epochs}

    monkeypatch.setattr(RunLibrary, "_get", trained)
    trained_points("fig9", tmp_path, dataclasses.replace(small, recipe="paper"))
    counts = [name.split("-m")[1].split("-")[0] for name in asked if name.startswith("fusion")]
    assert counts == ["2", "4", "6"] * 2  # the paper ran out of memory above
    assert asked[-2:] == ["backbone", "bagging-fusion-m10-1epochs"]
    assert asked.count("backbone") == 4  # ReActNet's starts from the real-valued one
    assert len(asked) == 4 + 2 * (3 + 5 + 5) + 1


def test_the_table_says_that_ours_is_of_another_data_set(tmp_path, monkeypatch, capsys) -> None:
    point = Point(
        "fig5a", OURS, "top1", 50.0, "%", "fusion", "resnet20", "run", "digits", members=2
    )
    monkeypatch.setattr(points, "trained_points", lambda *_, **__: [point])
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "fig5a", "--dataset", "digits", "--out", str(tmp_path)])
    assert not end.value.code
    assert "ResNet-20 on CIFAR-10 (here on digits)\n" in capsys.readouterr().out
