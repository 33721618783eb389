"""Tables and figures against counts done by hand; trainings on a tiny network."""

import csv
import subprocess
import sys

import pytest

from larq_ensemble.errors import EnsembleError
from training.plots import draw, save
from training.reproduction import FIGURES, AccuracyFigure, counted_points, write_csv

# Binary 3x3 filters, 1 bit a weight, and 1x1 shortcuts, 32 bits.
LAYER_1 = 6 * 9 * 16 * 16
LAYER_2 = 9 * 16 * 32 + 5 * 9 * 32 * 32 + 32 * 16 * 32
LAYER_3 = 9 * 32 * 64 + 5 * 9 * 64 * 64 + 32 * 32 * 64
STEM = 32 * 9 * 3 * 16
FILTERS = STEM + LAYER_1 + LAYER_2 + LAYER_3
LINEAR = 32 * 64 * 100


def by_origin(points):
    """{label and M: value} of ours and of the paper's."""
    return [
        {(p.label, p.members): p.value for p in points if p.origin == origin}
        for origin in ("ours", "paper")
    ]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_1():
    ours, theirs = by_origin(counted_points("table1"))
    assert ours == theirs
    assert list(ours.values()) == [
        STEM, LAYER_1, LAYER_2, LAYER_3, 20_480, FILTERS + 20_480, LINEAR, FILTERS + LINEAR,
    ]  # fmt: skip


def test_figure_7b():
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


@pytest.mark.parametrize("name", ["table1", "fig7b"])
def test_counted_figures_need_no_tensorflow(tmp_path, name):
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
    assert done.stdout.count(" yes ") == {"table1": 8, "fig7b": 10}[name]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert len(read_csv(tmp_path / f"{name}.csv")) == {"table1": 16, "fig7b": 20}[name]


def test_the_same_figure_is_the_same_file(tmp_path):
    points = counted_points("fig7b")
    for name in ("a", "b"):
        save(draw(FIGURES["fig7b"], points), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_unknown_names_list_the_known():
    with pytest.raises(
        EnsembleError, match=r"Unknown table or figure 'fig1'\. Known: fig5a, fig5b"
    ):
        counted_points("fig1")


def test_trained_figures_cannot_be_counted():
    assert isinstance(FIGURES["fig6"], AccuracyFigure)
    with pytest.raises(EnsembleError, match="'fig6' has to be trained"):
        counted_points("fig6")
