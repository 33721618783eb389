"""Tables and figures against counts done by hand; trainings on a tiny network."""

import csv
import dataclasses
import json
import subprocess
import sys

import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_csv
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.runs import Run, RunConfig, load_run
from larq_ensemble.training.paper.figures import FIGURES, AccuracyFigure
from larq_ensemble.training.paper.library import RunLibrary, Settings
from larq_ensemble.training.paper.plots import draw
from larq_ensemble.training.paper.points import SINGLE, counted_points, trained_points
from larq_ensemble.training.plots import save
from larq_ensemble.training.recipes import RECIPES

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


def test_table_2():
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


# Trainings here cost what their tracing does: one block is enough.
ONE_BLOCK = Architecture(residual_block, (4,), (1,))


@pytest.fixture
def small(monkeypatch):
    """ResNet-20 becomes one block and CIFAR-100 the digits; settings of one epoch each."""
    monkeypatch.setitem(MODELS._entries, "resnet20", ONE_BLOCK)
    stand_in = dataclasses.replace(DATASETS["digits"], name="cifar100")
    monkeypatch.setitem(DATASETS._entries, "cifar100", stand_in)
    data = DataOptions(validation=0.0, limit_train=64, limit_test=40)
    return Settings(data, recipe="short", epochs=1, pretrain_epochs=1)


def test_what_is_finished_is_not_trained_again(small, tmp_path, epochs_begun, interrupt_at_step):
    told = []
    arguments = {"members": [1], "progress": told.append, "verbose": 0}
    # Killed while it trains the ensemble: 64 images are one step.
    longer = dataclasses.replace(small, epochs=2)
    interrupt_at_step(2)
    with pytest.raises(KeyboardInterrupt):
        trained_points("fig5b", tmp_path, longer, **arguments)
    assert epochs_begun == [0, 0, 1]
    interrupt_at_step(None)
    points = trained_points("fig5b", tmp_path, longer, **arguments)
    assert epochs_begun == [0, 0, 1, 1]
    folder = tmp_path / "runs" / "resnet20-cifar100-1epochs-seed0"
    assert told == [
        f"1 of 2: resnet20 on cifar100, 1 epochs: training, {folder}/backbone",
        "2 of 2: fusion of 1 resnet20 on cifar100, sharing fusion, 2 epochs: training, "
        f"{folder}/fusion-fusion-m1-2epochs",
        f"1 of 2: resnet20 on cifar100, 1 epochs: finished already, {folder}/backbone",
        "2 of 2: fusion of 1 resnet20 on cifar100, sharing fusion, 2 epochs: going on, "
        f"{folder}/fusion-fusion-m1-2epochs",
    ]

    # Another figure with the same runs and one more trains that one.
    others = trained_points("fig7a", tmp_path, longer, **arguments)
    assert epochs_begun == [0, 0, 1, 1, 0, 1]
    assert len(told) == 7
    assert trained_points("fig7a", tmp_path, longer, **arguments) == others
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
    assert {p.label for p in others} == {
        SINGLE, "shared filters (fusion)", "independent filters (none)"
    }  # fmt: skip
    (point,) = [p for p in points if p.origin == "ours" and p.label == "fusion"]
    assert (point.pretrain_epochs, point.epochs, point.limit_train) == (1, 2, 64)
    assert point.source == str(run.path)

    # With other settings the runs that are there are another experiment.
    wider = dataclasses.replace(longer, width=2.0)
    with pytest.raises(EnsembleError, match=r"started with model.width = 1\.0, not 2\.0"):
        trained_points("fig5b", tmp_path, wider, **arguments)
    draw(FIGURES["fig7a"], others)


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


def test_a_recipe_that_starts_from_the_real_valued_network(
    small, tmp_path, epochs_begun, monkeypatch
):
    twin = dataclasses.replace(ONE_BLOCK, binary=False)
    monkeypatch.setitem(MODELS._entries, "resnet20_real", twin)

    def two_steps(classes, model_name="resnet20", scheme="fusion"):
        from_real = not model_name.endswith("_real")
        return dataclasses.replace(short(classes, model_name, scheme), from_real=from_real)

    short = RECIPES["short"]
    monkeypatch.setitem(RECIPES._entries, "short", two_steps)
    told = []

    def backbone():
        library = RunLibrary(tmp_path, small, 2, told.append, verbose=0)
        return library.backbone("resnet20", "cifar100")[0]

    binary = backbone()
    real = load_run(tmp_path / "resnet20_real-cifar100-1epochs-seed0" / "backbone")
    assert told == [
        f"1 of 2: resnet20_real on cifar100, 1 epochs: training, {real.path}",
        f"2 of 2: resnet20 on cifar100, 1 epochs, from the real-valued: training, {binary.path}",
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
