"""Tables and figures against counts done by hand."""

import csv
import dataclasses
import subprocess
import sys

import pytest

from larq_ensemble.cli import main
from larq_ensemble.console.wording import counted
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_csv
from larq_ensemble.progress import listening
from larq_ensemble.runs import Run, RunConfig
from larq_ensemble.training.paper import points
from larq_ensemble.training.paper.figures import FIGURES
from larq_ensemble.training.paper.library import RunLibrary
from larq_ensemble.training.paper.numbers import paper
from larq_ensemble.training.paper.plots import draw
from larq_ensemble.training.paper.points import (
    OURS,
    SINGLE,
    Point,
    counted_points,
    trained_points,
)
from larq_ensemble.training.plots import save

# Binary 3x3 filters, 1 bit per weight, and 1x1 shortcuts, 32 bits.
SHORTCUTS = 32 * 16 * 32 + 32 * 32 * 64
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
    last_convolutions = 3 * 9 * (16 * 16 + 32 * 32 + 64 * 64)
    of_a_member = {
        "none": FILTERS + LINEAR,
        "fusion": LINEAR,
        "all_frozen": 0,
        "c1": STEM,
        "c2": SHORTCUTS + LINEAR,
        "c3": last_convolutions + LINEAR,
    }
    assert ours == {
        (sharing, members): FILTERS + LINEAR + (members - 1) * bits
        for sharing, bits in of_a_member.items()
        for members in (2, 4, 6, 8, 10)
    }
    assert {p.members for p in counted_points("fig7b", members=[3])} == {3}


def test_the_csv_says_of_each_value_what_it_is(tmp_path):
    write_csv(tmp_path / "t.csv", counted_points("fig7b", members=[2]))
    ours, theirs, *_ = read_csv(tmp_path / "t.csv")
    assert ours["origin"] == "ours"
    assert theirs["origin"] == "paper"
    assert "10.7717/peerj-cs.924" in theirs["source"]
    for row in (ours, theirs):
        assert (row["name"], row["model"], row["classes"]) == ("fig7b", "resnet20", "100")
        assert (row["sharing"], row["members"]) == ("none", "2")
        assert (row["quantity"], row["value"], row["unit"]) == ("weights", "1135616", "bits")


def test_counted_figures_need_no_tensorflow(tmp_path):
    """All in one process: most of the time goes into importing Matplotlib."""
    figures = {"table1": 8, "table2": 7, "fig7b": 30}
    program = (
        "import sys; from larq_ensemble.cli import main\n"
        "for name in sys.argv[2:]:\n"
        "    try: main(['reproduce', name, '--out', sys.argv[1]])\n"
        "    except SystemExit as end: assert not end.code\n"
        "    print({'tensorflow', 'tf_keras', 'larq', 'keras'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, *figures], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *outputs, rest = done.stdout.split("set()\n")
    assert rest == ""
    for output, (name, values) in zip(outputs, figures.items(), strict=True):
        assert " NO " not in output
        assert output.count(" yes ") == values
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
        assert len(read_csv(tmp_path / f"{name}.csv")) == 2 * values


def test_unknown_names_list_the_known():
    with pytest.raises(
        EnsembleError, match=r"Unknown table or figure 'fig1'\. Known: boosting, fig5a, fig5b"
    ):
        counted_points("fig1")


def test_trained_figures_cannot_be_counted():
    with pytest.raises(EnsembleError, match="'fig6' has to be trained"):
        counted_points("fig6")


NAMES = {
    "ResNet-20": "resnet20",
    "ResNet-18": "resnet18",
    "Bi-Real-Net-18": "birealnet18",
    "ReActNet-10": "reactnet10",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
}


@pytest.mark.parametrize("name", ["fig5a", "fig5b", "fig6", "fig7a", "fig8", "fig9"])
def test_a_figure_is_what_the_caption_says(name):
    """Such as "CIFAR-100, ResNet-18: fusion, voting, bagging"."""
    place, curves = paper()["figures"][name].split(": ")
    dataset, model, *_ = place.split(", ")
    expected = {curve.split(" (")[0] for curve in curves.split(", ")}
    figure = FIGURES[name]
    assert {curve.label for curve in figure.curves} == expected
    for curve in figure.curves:
        assert (curve.model, curve.dataset) == (NAMES[model], NAMES[dataset])
        assert curve.members == (2, 4, 6, 8, 10)
        # In the paper's library members of voting and bagging iterate over the data by themselves.
        assert curve.own_data == (curve.label in ("voting", "bagging"))
    assert figure.title.startswith(f"Fig. {name.removeprefix('fig')}: ")
    assert f"{model} on {dataset}" in figure.title


def test_figure_7b_has_the_curves_of_7a():
    assert FIGURES["fig7b"].curves == FIGURES["fig7a"].curves


@pytest.fixture
def asked(monkeypatch):
    """The run directories that are asked for, in place of training them."""
    asked = []

    def trained(self, path, recipe, what, train, same_origin, *, epochs):
        asked.append(path.name)
        dataset = {"name": self._settings.dataset or "cifar100", "classes": 10}
        return Run(path, RunConfig("backbone", {}, dataset, {}, 0)), {
            "test_top1": 50.0,
            "epochs": recipe.epochs,
        }

    monkeypatch.setattr(RunLibrary, "_get", trained)
    return asked


def test_on_another_data_set_there_is_nothing_of_the_paper(small, tmp_path, asked):
    points = trained_points("fig5a", tmp_path, dataclasses.replace(small, dataset="digits"))
    assert {(p.origin, p.dataset, p.classes) for p in points} == {("ours", "digits", 10)}
    assert {p.scheme for p in points if p.scheme} == {"fusion", "voting", "batch_bagging"}
    paths = save(draw(FIGURES["fig5a"], points), tmp_path / "fig5a")
    assert "data set digits" in paths[1].read_text()
    assert "Kim et al." not in paths[1].read_text()


def test_the_progress_counts_epochs_in_words_that_have_a_plural(small, tmp_path, asked):
    units = set()
    with listening(lambda work: units.add(counted(2, work.unit))):
        trained_points("fig5a", tmp_path, small)
    assert units == {"2 network epochs"}


def test_by_default_the_paper_decides_which_members_there_are(small, by_origin, tmp_path, asked):
    points = trained_points("fig9", tmp_path, dataclasses.replace(small, recipe="paper"))
    assert asked == [
        "backbone",  # the real-valued one, which ReActNet's starts from
        "backbone",
        *(f"fusion-fusion-m{m}-1epochs" for m in (2, 4, 6, 8, 10)),
        *(f"voting-fusion-m{m}-1epochs-owndata" for m in (2, 4, 6, 8, 10)),
        *(f"batch_bagging-fusion-m{m}-1epochs-owndata" for m in (2, 4, 6, 8, 10)),
    ]
    ours, theirs = by_origin(points)
    assert len(ours) == 1 + 15
    assert theirs == {(SINGLE, 1): 66.69, ("bagging", 10): 70.29}


def test_boosting_has_no_ten_members(small, by_origin, tmp_path, asked):
    ours, theirs = by_origin(trained_points("boosting", tmp_path, small))
    assert [m for _, m in ours] == [1, 2, 4, 6, 8]
    assert theirs["boosting", 8] == 37.84
    assert ours.keys() == theirs.keys()


def test_the_table_says_that_ours_is_of_another_data_set(tmp_path, monkeypatch, capsys) -> None:
    point = Point(
        "fig5a", OURS, "top1", 50.0, "%", "fusion", "resnet20", "run", "digits", members=2
    )
    monkeypatch.setattr(points, "trained_points", lambda *_, **__: [point])
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "fig6", "--dataset", "digits", "--out", str(tmp_path)])
    assert not end.value.code
    assert "ResNet-20 on CIFAR-10 (here on digits)\n" in capsys.readouterr().out


@pytest.fixture
def reproduce(tmp_path, asked, capsys):
    """A function that runs `reproduce fig7a` and returns what it says; nothing is trained."""

    def reproduce(*options):
        with pytest.raises(SystemExit) as end:
            main(["reproduce", "fig7a", "--out", str(tmp_path), *options])
        assert not end.value.code
        return capsys.readouterr().out

    return reproduce


def test_figures_of_other_settings_stay(reproduce, tmp_path):
    experiments = {
        "fig7a": (),
        "fig7a-short": ("--recipe", "short"),
        "fig7a-digits-short": ("--recipe", "short", "--dataset", "digits"),
        "fig7a-seed1": ("--seed", "1"),
        "fig7a-bfloat16": ("--bfloat16",),
        "fig7a-pretrain20-1epochs": ("--epochs", "1", "--pretrain-epochs", "20"),
        "fig7a-width0.5-train99-test9-validation0.1": (
            *("--width", "0.5", "--validation", "0.1"),
            *("--limit-train", "99", "--limit-test", "9"),
        ),
    }
    for name, options in experiments.items():
        output = reproduce("--members", "2", *options)
        assert f"Wrote {tmp_path / name}.csv, .png and .svg." in output
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}{suffix}" for name in experiments for suffix in (".csv", ".png", ".svg")
    }
    assert {row["seed"] for row in read_csv(tmp_path / "fig7a-seed1.csv")} == {"1", ""}


def test_points_of_other_members_stay_in_the_figure(reproduce, tmp_path):
    reproduce("--members", "2,6")
    before = read_csv(tmp_path / "fig7a.csv")
    reproduce("--members", "4")
    both = read_csv(tmp_path / "fig7a.csv")
    assert [row for row in both if row["origin"] == "paper" or row["members"] != "4"] == before
    of_fusion = [r["members"] for r in both if (r["origin"], r["label"]) == ("ours", "fusion")]
    assert of_fusion == ["2", "4", "6"]
    reproduce("--members", "2,4,6")
    assert read_csv(tmp_path / "fig7a.csv") == both
    assert len([*tmp_path.iterdir()]) == 3


def test_a_figure_of_another_experiment_gets_another_name(reproduce, tmp_path):
    """Such as one of an earlier version, whose names had no settings in them."""
    path = tmp_path / "fig7a.csv"
    for number, (options, change) in enumerate(
        [
            (("--seed", "1"), ("", "")),
            ((), (",50.0,", ",49.0,")),  # the same settings, trained otherwise
            ((), ("ours,", "theirs,,")),  # no such CSV
        ],
        start=1,
    ):
        reproduce("--members", "2", *options)
        seeds = tmp_path / "fig7a-seed1.csv"
        text = (seeds if options else path).read_text().replace(*change)
        path.write_text(text)
        path.with_suffix(".png").write_text(f"plot {number}")
        output = reproduce("--members", "4")
        moved = tmp_path / f"fig7a-before{number}.csv"
        assert f"{path} was of another experiment: it is {moved} now." in output
        assert moved.read_text() == text
        assert moved.with_suffix(".png").read_text() == f"plot {number}"
        ours = {row["members"] for row in read_csv(path) if row["origin"] == "ours"}
        assert ours == {"1", "4"}
