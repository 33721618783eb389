"""The search itself, with trainings that are a formula; `test_cli` trains for real.

At most six trials: from the seventh on, each proposal costs KerasTuner many seconds.
"""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions, Origin
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError, SettingsError
from larq_ensemble.files import write_text
from larq_ensemble.locks import locked
from larq_ensemble.training import tuning
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.recipes import Recipe, TunedRecipe
from larq_ensemble.training.tuning import Search, tune


@pytest.fixture
def search():
    data = DataOptions(limit_train=80, limit_test=0)
    return Search(2, 5, ("fusion", "voting"), ("fusion", "c2"), data, recipe="short")


@pytest.fixture
def trainings(monkeypatch):
    """The trainings asked for, each a dictionary; what they reach is a formula of the settings.

    `trainings.stop_at` names the one that Ctrl-C interrupts. Before each of them the networks of
    the one before are freed, here only on paper: among all that tests load that takes 0.2 s.
    """

    class Trainings(list):
        stop_at = None
        freed = 0

    asked = Trainings()

    def free():
        asked.freed += 1

    def train(backbone, out, *, recipe, scheme, sharing, **arguments):
        assert asked.freed == len(asked) + 1
        asked.append({"out": out.name, "scheme": scheme, "sharing": sharing, "recipe": recipe})
        assert arguments["resume"] is True
        assert arguments["data"].limit_test == 0
        if len(asked) == asked.stop_at:
            raise KeyboardInterrupt
        distance = abs(math.log(recipe.lr / 3e-3)) + (scheme == "voting") + (sharing == "c2")
        return None, {"validation_top1": 90 - 5 * distance, "test_top1": None}

    monkeypatch.setattr(tuning, "free_networks", free)
    monkeypatch.setattr(tuning, "train_ensemble", train)
    return asked


def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened(
    backbone, search, trainings, tmp_path
):
    told = []
    expected = tune(backbone, tmp_path / "a", search, trials=5, progress=told.append)
    uninterrupted = list(trainings)
    assert len(uninterrupted) == 5
    assert told[0].startswith("1 of 5: ")
    assert told[-1].startswith("5 of 5: validation top-1 ")

    for stop_at in (1, 4):  # in the very first trial, and later
        trainings.clear()
        trainings.freed, trainings.stop_at = 0, stop_at
        out = tmp_path / f"b{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            tune(backbone, out, search, trials=5, progress=told.append)
        trainings.stop_at = None
        actual = tune(backbone, out, search, trials=5, resume=True, progress=told.append)
        # The trial in progress is taken up again, the others are not.
        again = uninterrupted[stop_at - 1]
        assert trainings == [*uninterrupted[:stop_at], again, *uninterrupted[stop_at:]]
        assert actual[0] == expected[0]
    assert tune(backbone, out, search, trials=5, resume=True)[0] == expected[0]
    assert len(trainings) == 6
    tune(backbone, out, search, trials=6, resume=True, progress=told.append)
    assert len(trainings) == 7


def test_the_best_trial_becomes_the_recipe(backbone, search, trainings, tmp_path):
    best, trials = tune(backbone, tmp_path, search, trials=6)
    assert len(trials) == 6
    for trial, training in zip(trials, trainings, strict=True):
        assert (trial.scheme, trial.sharing) == (training["scheme"], training["sharing"])
        assert (trial.lr, trial.epochs) == (training["recipe"].lr, training["recipe"].epochs)
        assert 1 <= trial.epochs <= 5
        assert 3e-4 <= trial.lr <= 3e-2
        assert 0 <= trial.dropout <= 0.5
        assert 0.01 <= trial.jitter <= 0.5
        assert training["recipe"].batch_size == 128
    winner = max(trials, key=lambda trial: trial.validation_top1)
    assert best.tuned["trial"] == winner.number
    assert (best.scheme, best.sharing) == (winner.scheme, winner.sharing)
    assert best.retrain == trainings[winner.number - 1]["recipe"]
    assert TunedRecipe.read(tmp_path / "recipe.json") == best


@pytest.fixture
def asked(trainings, monkeypatch):
    """The named arguments that each trial is trained with, in their order."""
    named_arguments, train = [], tuning.train_ensemble

    def recorded(*run, **named):
        named_arguments.append(named)
        return train(*run, **named)

    monkeypatch.setattr(tuning, "train_ensemble", recorded)
    return named_arguments


def test_every_trial_keeps_the_pretrained_network(backbone, search, asked, tmp_path):
    kept = replace(search, schemes=("nested_fusion",), keep_pretrained=1)
    best, _ = tune(backbone, tmp_path / "kept", kept, trials=2)
    tune(backbone, tmp_path / "not", search, trials=1)
    assert [training["keep_pretrained"] for training in asked] == [1, 1, 0]
    assert TunedRecipe.read(tmp_path / "kept" / "recipe.json") == best
    assert best.keep_pretrained == 1
    for changes in ({"schemes": ("boosting",)}, {"members": 1}, {"keep_pretrained": 2}):
        impossible = replace(kept, **changes)
        with pytest.raises(EnsembleError, match="`keep_pretrained`"):
            tune(backbone, tmp_path / "new", impossible, trials=1)
    assert not (tmp_path / "new").exists()


def test_every_trial_sees_mirrored_images(backbone, search, asked, tmp_path):
    mirrored = replace(search, mirror=True)
    best, _ = tune(backbone, tmp_path / "mirrored", mirrored, trials=2)
    plain, _ = tune(backbone, tmp_path / "not", search, trials=1)
    assert [training["mirror"] for training in asked] == [True, True, False]
    assert TunedRecipe.read(tmp_path / "mirrored" / "recipe.json") == best
    assert best.mirror
    assert not plain.mirror
    with pytest.raises(EnsembleError, match="with `mirror` = None, not True"):
        tune(backbone, tmp_path / "not", mirrored, trials=2, resume=True)
    with pytest.raises(EnsembleError, match="`mirror` shows every second member"):
        tune(backbone, tmp_path / "new", replace(mirrored, members=1), trials=1)
    assert not (tmp_path / "new").exists()


def test_a_search_of_before_keep_pretrained_goes_on(backbone, search, trainings, tmp_path):
    tune(backbone, tmp_path, search, trials=1)
    assert "keep_pretrained" not in json.loads((tmp_path / "search.json").read_text())
    with pytest.raises(EnsembleError, match="`keep_pretrained`"):
        tune(backbone, tmp_path, replace(search, keep_pretrained=True), trials=2, resume=True)
    path = tmp_path / "search.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "keep_pretrained": True}))
    with pytest.raises(EnsembleError, match="with `keep_pretrained` = True, not None"):
        tune(backbone, tmp_path, search, trials=2, resume=True)


def test_seeds_decide_what_is_tried(backbone, search, trainings, tmp_path):
    settings = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _, trials = tune(backbone, tmp_path / name, replace(search, seed=seed), trials=2)
        settings.append([(trial.lr, trial.jitter) for trial in trials])
    assert settings[0] == settings[1] != settings[2]


def test_a_trial_that_diverges_fails_alone(backbone, search, monkeypatch, tmp_path):
    def train(backbone, out, **arguments):
        if out.name == "1":
            return None, {"validation_top1": 30.0}
        raise SettingsError("Training has diverged: the loss is nan.")

    monkeypatch.setattr(tuning, "free_networks", lambda: None)
    monkeypatch.setattr(tuning, "train_ensemble", train)
    best, trials = tune(backbone, tmp_path / "some", search, trials=6)
    assert best.tuned["trial"] == 2
    assert [trial.validation_top1 for trial in trials] == [None, 30.0, None, None, None, None]
    assert "Training has diverged" in trials[0].failure
    monkeypatch.setattr(
        tuning, "train_ensemble", lambda backbone, out, **_: train(backbone, out.parent)
    )
    with pytest.raises(EnsembleError, match=r"Every trial failed, the last with .*diverged"):
        tune(backbone, tmp_path / "none", search, trials=2)


@pytest.mark.parametrize(
    "error", [EnsembleError("Can't write (No space left)."), OSError(28, "No space left on device")]
)
def test_other_errors_end_the_search_and_their_trial_is_repeated(
    backbone, search, trainings, monkeypatch, tmp_path, error
):
    train = tuning.train_ensemble

    def fail(*arguments, **named):
        raise error

    tune(backbone, tmp_path, search, trials=1)
    monkeypatch.setattr(tuning, "train_ensemble", fail)
    with pytest.raises(type(error), match="No space left"):
        tune(backbone, tmp_path, search, trials=3, resume=True)
    trainings.freed -= 1  # before the one that failed
    monkeypatch.setattr(tuning, "train_ensemble", train)
    _, done = tune(backbone, tmp_path, search, trials=3, resume=True)
    assert [training["out"] for training in trainings] == ["0", "1", "2"]
    assert all(trial.validation_top1 is not None for trial in done)


def test_a_training_that_diverges_or_has_nothing_to_train_says_that_its_settings_do_it(
    backbone, search, tmp_path, recipe
):
    for options, message in (
        ({"recipe": recipe.override(lr=1e30)}, "diverged"),
        ({"sharing": "re:.*"}, "leaves the members nothing of their own"),
        ({"scheme": "snapshot", "members": 2, "recipe": recipe.override(epochs=3)}, "epochs"),
    ):
        arguments = {"members": 1, "recipe": recipe, "data": search.data, **options}
        with pytest.raises(SettingsError, match=message):
            train_ensemble(backbone, tmp_path / "run", **arguments, verbose=0)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_schemes_that_split_their_epochs_get_multiples_of_m(backbone, search, trainings, tmp_path):
    split = replace(search, members=3, schemes=("snapshot", "fast_geometric"), epochs_max=8)
    best, trials = tune(backbone, tmp_path / "split", split, trials=6)
    asked = [training["recipe"].epochs for training in trainings]
    assert {*asked} == {3, 6}
    assert [trial.epochs for trial in trials] == asked
    assert best.retrain.epochs in asked
    short = replace(split, epochs_max=2)
    with pytest.raises(EnsembleError, match=r"`epochs_max` 2 is too few .* 3 members: give 3 or"):
        tune(backbone, tmp_path / "short", short, trials=1)
    assert not (tmp_path / "short").exists()


def test_searches_do_not_mix(backbone, search, trainings, tmp_path):
    tune(backbone, tmp_path / "s", search, trials=1)
    with pytest.raises(
        EnsembleError, match=r"`out` .*s' holds a search already: go on with `resume=True`"
    ):
        tune(backbone, tmp_path / "s", search, trials=1)
    with pytest.raises(EnsembleError, match="was started with `members` = 2, not 3"):
        tune(backbone, tmp_path / "s", replace(search, members=3), trials=1, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    for resume in (False, True):
        with pytest.raises(
            EnsembleError, match=r"`out` .*other' holds other files, but no search \(sea"
        ):
            tune(backbone, tmp_path / "other", search, trials=1, resume=resume)
    with pytest.raises(EnsembleError, match=r"`out` .*file' is a file: give the name of a folder"):
        tune(backbone, tmp_path / "other" / "file", search, trials=1)
    with pytest.raises(EnsembleError, match=re.escape("Unknown scheme 'stacking'. Known: ")):
        tune(backbone, tmp_path / "new", replace(search, schemes=("stacking",)), trials=1)
    with pytest.raises(EnsembleError, match=re.escape("Unknown sharing 'all'. Known: ")):
        tune(backbone, tmp_path / "new", replace(search, sharing=("all",)), trials=1)
    nothing = replace(search, data=DataOptions(validation=0.0, limit_train=80))
    with pytest.raises(EnsembleError, match="held out no validation data"):
        tune(backbone, tmp_path / "new", nothing, trials=1)
    assert not (tmp_path / "new").exists()


def test_a_search_goes_on_with_its_data_and_normalization_only(
    backbone, search, trainings, tmp_path
):
    def photos(fingerprint, spec="folder:photos"):
        origin = Origin(spec, ImageOptions(), fingerprint)
        return replace(DATASETS["digits"], origin=origin)

    def scaled(mean):
        constants = {**backbone.config.dataset, "mean": [mean]}
        return replace(backbone, config=replace(backbone.config, dataset=constants))

    def resume(out, trained=backbone, **options):
        tune(trained, tmp_path / out, search, trials=2, resume=True, **options)

    tune(scaled(0.0), tmp_path / "scaled", search, trials=1)
    with pytest.raises(EnsembleError, match=r"started with `dataset.mean` = \[0.0\], not \[0.5\]"):
        resume("scaled", scaled(0.5))
    resume("scaled", scaled(0.0))
    tune(backbone, tmp_path / "photos", search, trials=1, dataset=photos("a"))
    with pytest.raises(EnsembleError, match=r"with `dataset.fingerprint` = a, not b"):
        resume("photos", dataset=photos("b"))
    with pytest.raises(EnsembleError, match=r"with `dataset.fingerprint` = a, not None"):
        resume("photos")
    resume("photos", dataset=photos("a", "folder:moved"))
    assert len(trainings) == 4


def test_a_search_of_before_its_data_were_written_down_goes_on(
    backbone, search, trainings, tmp_path
):
    tune(backbone, tmp_path, search, trials=1)
    written = json.loads((tmp_path / "search.json").read_text())
    del written["dataset"]
    (tmp_path / "search.json").write_text(json.dumps(written))
    tune(backbone, tmp_path, search, trials=2, resume=True)
    assert len(trainings) == 2


def test_too_few_images_to_hold_any_out_is_what_the_error_says(backbone, search, tmp_path):
    """A tenth of four images is none, although the run held out a tenth of its own."""
    few = replace(search, data=replace(search.data, limit_train=4))
    with pytest.raises(
        EnsembleError, match=r"Of `limit_train=4` images the validation share 0\.1 .* give more"
    ):
        tune(backbone, tmp_path / "search", few, trials=1)
    assert not (tmp_path / "search").exists()


def test_trials_have_the_recipe_of_the_day_the_search_began(backbone, search, trainings, tmp_path):
    """The paper's recipe had no epsilon of its own once, and the run of a first trial says so."""
    paper = replace(search, recipe="paper")
    out = tmp_path / "search"
    tune(backbone, out, paper, trials=1, progress=lambda line: None)
    first = json.loads((backbone.path / "config.json").read_text())
    first["recipe"] = {**trainings[0]["recipe"].to_json()}
    for name in ("epsilon", "decay", "drop_remainder"):
        del first["recipe"][name]
    write_text(out / "trials" / "0" / "config.json", json.dumps(first))
    tune(backbone, out, paper, trials=2, resume=True, progress=lambda line: None)
    epsilons = [training["recipe"].epsilon for training in trainings]
    assert epsilons == [1e-8, 1e-7]
    assert TunedRecipe.read(out / "recipe.json").retrain.epsilon == 1e-7


@pytest.mark.parametrize("text", ["", "[]", '{"start_order": [', "{}"])
@pytest.mark.parametrize("name", ["search.json", "search/oracle.json", "search/trial_0/trial.json"])
def test_damaged_files_of_a_search_are_named(
    backbone, search, trainings, tmp_path, monkeypatch, name, text
):
    monkeypatch.setattr(tuning, "_check_validation", lambda *arguments: None)
    tune(backbone, tmp_path, search, trials=1, progress=lambda line: None)
    (tmp_path / name).write_text(text)
    with pytest.raises(EnsembleError) as error:
        tune(backbone, tmp_path, search, trials=1, resume=True)
    if name == "search.json" and text == "{}":
        assert "was started with `members` = None" in str(error.value)
        return
    assert "search" in str(error.value)
    assert "damaged" in str(error.value)
    assert "search again with another `out`" in str(error.value)


def test_a_search_has_one_writer_and_says_what_is_saved(backbone, search, trainings, tmp_path):
    trainings.stop_at = 1
    with pytest.raises(KeyboardInterrupt, match=r"saved in .*: repeat this with `resume=True`"):
        tune(backbone, tmp_path, search, trials=1)
    with locked(tmp_path), pytest.raises(EnsembleError, match="is being written by process"):
        tune(backbone, tmp_path, search, trials=1, resume=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"retrain": {"epochs": 1}})])
def test_files_that_are_no_recipe(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(EnsembleError, match=r"r\.json' is not a recipe file"):
        TunedRecipe.read(tmp_path / "r.json")
    with pytest.raises(EnsembleError, match=r"missing\.json' can't be read \(No such file"):
        TunedRecipe.read(tmp_path / "missing.json")


def test_a_recipe_file_with_a_value_out_of_range_says_which(tmp_path):
    retrain = Recipe(epochs=1, batch_size=1, lr=0.1, dropout=0.0, source="test").to_json()
    values = {"scheme": "fusion", "sharing": "fusion", "retrain": retrain}
    for wrong, message in (
        ({"retrain": {**retrain, "lr": -1}}, "`lr` must be at least 0, got -1"),
        ({"keep_pretrained": 2.9}, "`keep_pretrained` must be a whole number from 0 to 2, got 2.9"),
        ({"keep_pretrained": 3}, "`keep_pretrained` must be a whole number from 0 to 2, got 3"),
        ({"keep_pretrained": None}, "`keep_pretrained` must be a whole number from 0 to 2"),
        ({"mirror": "false"}, "`mirror` must be true or false, got 'false'"),
    ):
        (tmp_path / "r.json").write_text(json.dumps({**values, **wrong}))
        with pytest.raises(EnsembleError, match=rf"r\.json': {message}"):
            TunedRecipe.read(tmp_path / "r.json")


def test_a_network_that_is_not_ours_keeps_its_dropout_or_has_its_rate_searched(backbone, search):
    model = {"name": "theirs", "source": "module:theirs", "digest": ""}
    theirs = replace(backbone, config=replace(backbone.config, model=model))
    assert "dropout" in search.space().values
    space = search.space(dropout=False)
    assert "dropout" not in space.values
    recipe = search.recipe_for(theirs, {**space.values, "scheme": "fusion"})
    assert recipe.dropout is None
    assert search.recipe_for(theirs, {**space.values, "dropout": 0.3}).dropout == 0.3
