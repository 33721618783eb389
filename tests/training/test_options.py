"""Every option of a training command reaches the library, as the argument that it is for."""

import functools
import importlib
import inspect

import pytest

from larq_ensemble.cli import cli, main
from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runs import Run, RunConfig, create_run
from larq_ensemble.training.distillation import Distillation
from larq_ensemble.training.recipes import Recipe
from larq_ensemble.training.tuning import Search

#: Command -> the function that it calls, and what it is called with at least.
COMMANDS = {
    "pretrain": ("pretrain.pretrain", ["--model", "resnet20", "--out", "new"]),
    "train": ("ensemble.train_ensemble", ["--pretrained", "backbone", "--out", "new"]),
    "tune": ("tuning.tune", ["--pretrained", "backbone", "--out", "new"]),
    "frontier": ("frontier.frontier", ["backbone", "--out", "new"]),
}

TAUGHT = {
    "distillation.teacher": "real",
    "distillation.weight": 0.9,
    "distillation.temperature": 4.0,
}
#: Options -> all arguments that change.
TRAINING = {
    "--epochs 3": {"recipe.epochs": 3},
    "--batch-size 5": {"recipe.batch_size": 5},
    "--lr 0.07": {"recipe.lr": 0.07},
    "--end-lr 0.002": {"recipe.end_lr": 0.002},
    "--dropout 0.35": {"recipe.dropout": 0.35},
    "--label-smoothing 0.15": {"recipe.label_smoothing": 0.15},
    "--warmup-epochs 1.5": {"recipe.warmup_epochs": 1.5},
    "--weight-decay 0.03": {"recipe.weight_decay": 0.03},
    "--limit-train 40": {"data.limit_train": 40},
    "--limit-test 24": {"data.limit_test": 24},
    "--data-dir there": {"data.data_dir": "there"},
    "--augment flip": {"augment": "flip"},
    "--class-weights balanced": {"class_weights": "balanced"},
    "--teacher real": TAUGHT,
    "--teacher real --distill-weight 0.25": {**TAUGHT, "distillation.weight": 0.25},
    "--teacher real --temperature 2.5": {**TAUGHT, "distillation.temperature": 2.5},
    "--distribute mirrored": {"distribute": "mirrored"},
    "--bfloat16": {"bfloat16": True},
    "--seed 7": {"seed": 7},
    "--resume": {"resume": True},
}
OPTIONS = {
    "pretrain": {
        **TRAINING,
        "--model deploynet9": {"model": "deploynet9"},
        "--dataset cifar10": {"dataset": "cifar10"},
        "--normalization 0..1": {"normalization": "0..1"},
        "--validation 0.3": {"data.validation": 0.3},
        "--width 0.5": {"width": 0.5},
        "--pad-values 1": {"pad_values": 1.0},
        "--estimator approx_sign": {"estimator": "approx_sign"},
        "--binarize activations": {"binarize": "activations"},
        "--prelu-gradient zero": {"prelu_gradient": "zero"},
        "--from-real real": {"from_real": "real"},
        "--from-backbone padded": {"from_backbone": "padded", "pad_values": 1.0},
        "--from-backbone padded --pad-values 0": {"from_backbone": "padded", "pad_values": 0.0},
        "--model resnet20_real --from-backbone real": {
            "model": "resnet20_real",
            "from_backbone": "real",
        },
    },
    "train": {
        **TRAINING,
        "--members 5": {"members": 5},
        "--scheme voting": {"scheme": "voting"},
        "--sharing c2": {"sharing": "c2"},
        "--independent-data": {"independent_data": True},
        "--in-turn": {"in_turn": True},
        "--initial random": {"initial": "random"},
        "--keep-pretrained": {"keep_pretrained": 1},
        "--keep-pretrained 2": {"keep_pretrained": 2},
        "--mirror": {"mirror": True},
        "--shrinkage 0.5": {"shrinkage": 0.5},
        "--patience 3": {"patience": 3},
        "--prefix-weights 1,2.5": {"prefix_weights": (1.0, 2.5)},
        "--recompute": {"recompute": True},
        "--jitter 0.4": {"recipe.jitter": 0.4},
        "--dataset digits": {"dataset": "digits"},
    },
    "tune": {
        "--members 5": {"search.members": 5},
        "--trials 6": {"trials": 6},
        "--epochs-max 8": {"search.epochs_max": 8},
        "--schemes voting,bagging": {"search.schemes": ("voting", "bagging")},
        "--sharing c1,c2": {"search.sharing": ("c1", "c2")},
        "--keep-pretrained": {"search.keep_pretrained": 1},
        "--keep-pretrained 2": {"search.keep_pretrained": 2},
        "--mirror": {"search.mirror": True},
        "--recipe short": {"search.recipe": "short"},
        "--batch-size 5": {"search.batch_size": 5},
        "--dataset digits": {"dataset": "digits"},
        "--data-dir there": {"search.data.data_dir": "there"},
        "--limit-train 40": {"search.data.limit_train": 40},
        "--seed 7": {"search.seed": 7},
        "--resume": {"resume": True},
    },
    "frontier": {
        "--dataset digits": {"dataset": "digits"},
        "--split validation": {"split": "validation"},
        "--data-dir there": {"data_dir": "there"},
        "--limit-test 24": {"limit": 24},
    },
}
#: Tested elsewhere: what is needed, is written, or isn't an argument of the same function.
ELSEWHERE = {"pretrained", "runs", "out", "json_target", "jax"}
BESIDES = {
    # Of data of one's own; the recipe changes many values.
    "pretrain": {"image_size", "color", "skip_damaged", "test_share", "recipe_name"},
    "train": {"normalization", "recipe_name"},  # the normalization is for Keras files
    "tune": {"normalization"},
    "frontier": set(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs that have a configuration, but no weights."""
    folder = tmp_path_factory.mktemp("options")
    runs = (
        ("backbone", "resnet20", 0.0),
        ("real", "resnet20_real", 0.0),
        ("padded", "resnet20", 1.0),
    )
    for run, name, pad_values in runs:
        config = RunConfig(
            kind="backbone",
            model={"name": name, "width": 1.0, "pad_values": pad_values},
            dataset=DATASETS["digits"].constants(),
            recipe={},
            seed=0,
            data={"validation": 0.2},
        )
        create_run(folder / run, config)
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    """A function from a command and its options to the arguments of the function it calls."""

    @functools.cache
    def called(command, *options):
        module, name = COMMANDS[command][0].split(".")
        module = importlib.import_module(f"larq_ensemble.training.{module}")
        signature, heard = inspect.signature(getattr(module, name)), {}

        def record(*given, **named):
            heard.update(signature.bind(*given, **named).arguments)
            raise EnsembleError("Recorded.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, record)
            patch.chdir(folder)
            with pytest.raises(SystemExit) as end:
                main([command, *COMMANDS[command][1], *options])
        assert end.value.code == 1
        assert heard, "The function was not called."
        return dict(flat(heard))

    return called


def flat(values, prefix=""):
    """Names and values of arguments, of groups of them each by its own."""
    for name, value in values.items():
        if isinstance(value, (DataOptions, Distillation, Recipe, Search)):
            yield from flat(vars(value), f"{prefix}{name}.")
        elif isinstance(value, Run):
            yield f"{prefix}{name}", value.path.name
        elif name == "dataset" and value is not None and not isinstance(value, str):
            yield f"{prefix}{name}", value.name
        elif name not in ("source", "on_data", "progress"):
            yield f"{prefix}{name}", value


@pytest.mark.parametrize(
    ("command", "options"),
    [(command, options) for command in OPTIONS for options in OPTIONS[command]],
)
def test_an_option_changes_its_argument_and_no_other(arguments, command, options):
    before, after = arguments(command), arguments(command, *options.split())
    changed = {
        name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)
    }
    assert changed == OPTIONS[command][options]


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_is_there(command):
    given = {word for options in OPTIONS[command] for word in options.split()}
    untested = {
        parameter.name
        for parameter in cli.get_command(None, command).params
        if given.isdisjoint(parameter.opts)
    }
    assert untested - ELSEWHERE == BESIDES[command]


def test_the_validation_split_is_the_one_of_the_pretrained_run(arguments):
    assert arguments("pretrain")["data.validation"] == 0.1
    assert arguments("train")["data.validation"] == 0.2
    assert arguments("tune")["search.data.validation"] == 0.2
    assert arguments("train")["backbone"] == arguments("tune")["backbone"] == "backbone"
