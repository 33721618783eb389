"""Run directories: what comes back, and what each kind of damage says."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.pretrained import names
from larq_ensemble.runs import RunConfig, create_run, load_run, open_run, package_versions
from larq_ensemble.trained import open_trained

from .conftest import images

CONFIG = RunConfig(
    kind="backbone",
    model={
        "name": "tiny",
        "input_shape": (8, 8, 3),
        "prelu_gradient": "zero",
        "revision": 2,
    },
    dataset={"name": "none", "classes": 3},
    recipe={"epochs": 2, "lr": 0.1},
    seed=5,
    versions={"larq": "0"},
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny) -> Path:
    """A finished run; not to be changed."""
    run = create_run(tmp_path_factory.mktemp("runs") / "run", CONFIG)
    run.save_model(tiny)
    run.save_result({"test_top1": 1.5})
    return run.path


def copy_of(run: Path, target: Path) -> Path:
    target.mkdir()
    for file in run.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_run_comes_back(saved: Path, tiny) -> None:
    run = load_run(saved)
    assert run.config.to_json() == json.loads(json.dumps(CONFIG.to_json()))
    np.testing.assert_array_equal(run.model(images()), tiny(images()))
    assert run.model is run.model
    assert json.loads(run.result_path.read_text()) == {"test_top1": 1.5}
    assert run.digest == hashlib.sha256((saved / "model.keras").read_bytes()).hexdigest()
    assert sorted(file.name for file in saved.iterdir()) == [
        "config.json",
        "model.keras",
        "result.json",
    ]


def test_the_optimizer_is_not_saved(tmp_path, saved: Path) -> None:
    run = create_run(tmp_path / "run", CONFIG)
    model = load_run(saved).model
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    run.save_model(model)
    assert abs(run.model_path.stat().st_size - (saved / "model.keras").stat().st_size) < 1000


def test_no_run_there(tmp_path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"\x89PNG")
    for path, message in (
        (tmp_path, r"No run at .* \(no config.json there\)"),
        (tmp_path / "nothing.keras", r"No run at .* \(there is no such file or directory\)"),
        (file, "photo.png' is a file that can't be taken here"),
    ):
        wrote = rf"{message}: give .*`larq-ensemble train` wrote"
        with pytest.raises(EnsembleError, match=rf"{wrote}\.$"):  # it takes no names
            load_run(path)
        with pytest.raises(EnsembleError, match=rf"{wrote}, a file that Keras .*: {names()[0]}"):
            open_trained(path)


def test_a_network_of_the_package_is_no_run() -> None:
    with pytest.raises(EnsembleError, match=r"comes with the package, .*\.open_trained` opens"):
        load_run(names()[0])


def test_a_run_that_cannot_be_looked_at(tmp_path) -> None:
    with pytest.raises(EnsembleError, match=r"^The run '.*' can't be read \(File name too long\)"):
        load_run(tmp_path / ("x" * 300))


def test_a_run_of_another_kind(saved: Path) -> None:
    assert load_run(saved, kind="backbone").config.kind == "backbone"
    with pytest.raises(
        EnsembleError, match=r"is of kind 'backbone', but 'ensemble' is needed.*train"
    ):
        load_run(saved, kind="ensemble")


def test_an_unfinished_run(tmp_path) -> None:
    run = create_run(tmp_path / "run", CONFIG)
    with pytest.raises(EnsembleError, match=r"has no model\.keras: .* Resume it"):
        _ = load_run(run.path).model


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_truncated_weights(tmp_path, saved: Path, kept: float) -> None:
    path = copy_of(saved, tmp_path / "run") / "model.keras"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(EnsembleError, match=r"model\.keras' can't be read .*truncated or damaged"):
        _ = load_run(path.parent).model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1, "kin', "is not JSON .*truncated or damaged"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds list, not an object"),
        ('{"format": 2, "kind": "backbone"}', "is not a configuration of format 1"),
        ('{"format": 1, "kind": "backbone"}', "is not a complete configuration"),
        (json.dumps({**CONFIG.to_json(), "kind": "cat"}), "has kind 'cat', expected one of"),
    ],
)
def test_damaged_configurations(tmp_path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(EnsembleError, match=message):
        load_run(tmp_path)


def test_a_configuration_that_is_no_text(tmp_path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EnsembleError, match="is not JSON"):
        load_run(tmp_path)


def test_nothing_is_overwritten(tmp_path, saved: Path) -> None:
    run = copy_of(saved, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(
        EnsembleError, match=r"`out` .*run' holds a run already: go on with `resume=True`"
    ):
        create_run(run, CONFIG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(EnsembleError, match=r"`out` .*other' holds other files"):
            create_run(tmp_path / "other", CONFIG, resume=resume)
        with pytest.raises(EnsembleError, match=r"`out` .* is a file"):
            create_run(tmp_path / "other" / "thesis.tex", CONFIG, resume=resume)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_an_empty_directory_will_do(tmp_path) -> None:
    assert load_run(create_run(tmp_path, CONFIG).path).config.seed == 5


def test_resuming_with_the_same_arguments(tmp_path) -> None:
    create_run(tmp_path / "run", CONFIG)
    newer = dataclasses.replace(CONFIG, versions={"larq": "1"})
    assert create_run(tmp_path / "run", newer, resume=True).path == tmp_path / "run"
    assert create_run(tmp_path / "new", CONFIG, resume=True).path.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "started with seed = 5, not 6"),
        ({"recipe": {"epochs": 3, "lr": 0.1}}, r"started with recipe\.epochs = 2, not 3"),
        ({"recipe": {"epochs": 2}}, r"started with recipe\.lr = 0\.1, not None"),
        ({"kind": "ensemble"}, "started with kind = 'backbone', not 'ensemble'"),
        ({"ensemble": {"members": 3}}, r"started with ensemble\.members = None, not 3"),
    ],
)
def test_resuming_with_other_arguments(tmp_path, change: dict, message: str) -> None:
    path = create_run(tmp_path / "run", CONFIG).path
    before = (path / "config.json").read_bytes()
    with pytest.raises(EnsembleError, match=message):
        create_run(path, dataclasses.replace(CONFIG, **change), resume=True)
    assert (path / "config.json").read_bytes() == before


def test_the_network_of_a_run_of_before(tmp_path, saved: Path) -> None:
    """Its configuration has no mark: it was trained with revision 1 and Keras's PReLU."""
    path = copy_of(saved, tmp_path / "run") / "config.json"
    old = json.loads(path.read_text())
    del old["model"]["revision"], old["model"]["prelu_gradient"]
    path.write_text(json.dumps(old))
    of_before = {**CONFIG.model, "revision": 1, "prelu_gradient": "zero"}
    assert load_run(path.parent).config.model == json.loads(json.dumps(of_before))
    with pytest.raises(EnsembleError, match=r"started with model\.revision = 1, not 2"):
        create_run(path.parent, CONFIG, resume=True)
    assert create_run(path.parent, dataclasses.replace(CONFIG, model=of_before), resume=True)
    assert json.loads(path.read_text()) == old


def test_versions_name_the_stack() -> None:
    from larq_ensemble.keras import tf

    assert package_versions()["tensorflow"] == tf.__version__


def test_a_value_that_the_configuration_lacks_is_named(tmp_path, saved: Path) -> None:
    path = copy_of(saved, tmp_path / "run") / "config.json"
    config = load_run(path.parent).config
    assert config.dataset["classes"] == 3
    with pytest.raises(EnsembleError, match=r"'dataset' in .*config.json' lacks 'mean'"):
        config.dataset["mean"]
    assert config.ensemble.get("members", 1) == 1
    assert create_run(path.parent, CONFIG, resume=True).config.dataset == CONFIG.dataset


def test_a_run_has_one_writer(tmp_path, saved: Path) -> None:
    with contextlib.ExitStack() as training:
        run = create_run(tmp_path / "run", CONFIG, until=training)
        for resume in (False, True):
            for function in (open_run, create_run):
                with pytest.raises(EnsembleError, match=r"holds a run already|is being written by"):
                    function(run.path, CONFIG, resume=resume)
        with pytest.raises(EnsembleError, match=r"`out` '.*run' is being written by process \d+"):
            open_run(run.path, CONFIG, resume=True)
    assert open_run(run.path, CONFIG, resume=True) == run
    assert [path.name for path in run.path.iterdir()] == ["config.json"]


def test_what_a_killed_process_leaves_is_removed_and_nothing_else(tmp_path) -> None:
    """A kill before `config.json` is renamed once made the directory useless."""
    (tmp_path / ".config-0123abcd.json").write_text("{")
    (tmp_path / ".lock").write_text("process 1 on a")
    create_run(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    theirs = [".config-mine.json", ".model-0123abcd.h5", ".notes-0123abcd.txt", "log-0123abcd.csv"]
    for name in (".model-0123abcd.keras", ".log-89abcdef.csv", *theirs):
        (tmp_path / name).write_text("x")
    create_run(tmp_path, CONFIG, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["config.json", *theirs])


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "a*?", "ü ß", "lr0.01", "x" * 255, "a/"])
def test_names_of_directories(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    run = create_run(name, CONFIG)
    monkeypatch.chdir("/")
    run.save_result({"test_top1": 1.5})  # the path was relative
    assert load_run(tmp_path / name).config.seed == 5
    assert json.loads((tmp_path / name / "result.json").read_text()) == {"test_top1": 1.5}


def test_the_home_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    create_run("~/run", CONFIG)
    assert load_run("~/run").path == tmp_path / "run"
    assert not (tmp_path / "~").exists()
    # Where there is no such home, it is a name like others.
    for open_network in (load_run, open_trained):
        with pytest.raises(EnsembleError, match="'~no-such-user'"):
            open_network("~no-such-user")
    create_run("~no-such-user", CONFIG)
    assert (tmp_path / "~no-such-user/config.json").is_file()
    assert load_run("~no-such-user").config.seed == 5


def test_directories_that_can_not_be_used(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("x")
    for name, message in {
        "photo.png": "is the name of a file",
        "model.KERAS": "is the name of a file",
        "file/run": r"can't be written \(.*file' is no folder\)",
        "x" * 256: r"can't be written \(File name too long\)",
    }.items():
        with pytest.raises(EnsembleError, match=message):
            open_run(tmp_path / name, CONFIG)

    def refuse(dir: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(EnsembleError, match=rf"can't be written \('{tmp_path}': Permission denied"):
        open_run(tmp_path / "a" / "b", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_that_is_gone_is_not_created_again(tmp_path, tiny) -> None:
    run = create_run(tmp_path / "run", CONFIG)
    run.config_path.unlink()
    run.path.rmdir()
    for save in (lambda: run.save_model(tiny), lambda: run.save_result({})):
        with pytest.raises(EnsembleError, match="is gone: it was deleted or moved"):
            save()
    assert not run.path.exists()


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"a": 1', "\0"])
def test_a_damaged_result_is_none(tmp_path, saved: Path, text: str) -> None:
    run = load_run(copy_of(saved, tmp_path / "run"))
    assert run.finished_result() == {"test_top1": 1.5}
    run.result_path.write_text(text)
    assert run.finished_result() is None
