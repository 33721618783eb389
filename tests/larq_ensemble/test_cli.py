import importlib
import inspect
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from larq_ensemble import __version__
from larq_ensemble.cli import COMMANDS, cli, main
from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.runs import RunConfig, create_run, load_run
from larq_ensemble.training.recipes import RECIPES

ROOT = Path(__file__).parents[2]

# Runs command after command in one process: importing TensorFlow is what takes the time.
SESSION = """
import json, sys
from larq_ensemble.cli import main
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
MODELS.register("tiny", Architecture(residual_block, (4,), (1,)))
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        if end.code and arguments != ["evaluate", "damaged"]:
            raise
        print("exit code", end.code, file=sys.stderr)
"""

TRAIN = [
    *["--recipe", "short", "--epochs", "1", "--batch-size", "16"],
    *["--limit-train", "40", "--limit-test", "24"],
]
JOB = {
    "pretrain": ["--model", "tiny", "--out", "backbone", *TRAIN],
    "train": ["--pretrained", "backbone", "--members", "2", "--out", "fusion", *TRAIN],
    "evaluate": [
        *["fusion", "--limit-test", "24", "--trust", "--ood", "noise"],
        *["--shift", "fog,pixelate", "--severities", "1,5", "--plot", "trust"],
    ],
    "storage": ["--classes", "10", "--members", "2"],
    "convert": ["fusion", "--out", "ensemble.tflite"],
    "inspect": ["ensemble.tflite"],
    "export": ["ensemble.tflite", "--out", "source", "--no-count"],
    "verify": ["ensemble.tflite", "--run", "fusion", "--samples", "20"],
    "calibrate": ["ensemble.tflite", "--mean-members", "1.5", "--limit-test", "24"],
    "predict": ["ensemble.tflite", "image.png", "--members", "1"],
    "benchmark": ["ensemble.tflite", "--run", "fusion", "--repetitions", "2"],
    "tune": [
        *["--pretrained", "backbone", "--members", "1", "--trials", "1", "--epochs-max", "1"],
        *["--batch-size", "16", "--limit-train", "40", "--recipe", "short", "--out", "tuned"],
    ],
    "reproduce": ["table1", "--out", "figures"],
    "frontier": ["backbone", "fusion", "--out", "frontier", "--limit-test", "24"],
    "pretrained": [],
}
#: They have tests of their own: demo takes long, and web downloads LiteRT.js.
NOT_IN_JOB = {"demo", "web"}

# What the programs that call these commands rely on.
RESULT_KEYS = {
    "pretrain": {"test_top1", "epochs", "images_per_second"},
    "train": {"test_top1", "member_top1", "backbone_top1", "images_per_second"},
    "evaluate": {
        *("top1", "top5", "nll", "ece", "adaptive_ece", "brier", "disagreement", "members"),
        *("trust", "ood", "shift", "png", "svg"),
    },
    "storage": {"blocks", "paper_bits", "total_bits", "shared_bits", "member_bits"},
    "convert": {"bytes", "theory_bytes", "ratio", "layout", "seconds"},
    "inspect": {
        "bytes",
        "theory_bytes",
        "categories",
        "ops",
        "binary_filter_copies",
        "metadata",
    },
    "verify": {
        "member_argmax_agreement",
        "ensemble_argmax_agreement",
        "flip_rate",
        "samples",
    },
    "calibrate": {"temperatures", "thresholds", "mean_members", "top1", "frontier"},
    "predict": {"predictions"},
    "benchmark": {"latency_ms", "relative"},
    "tune": {"recipe", "best", "trials"},
    "reproduce": {"name", "points", "equal", "csv", "png", "svg"},
    "frontier": {"points", "csv", "png", "svg"},
    "export": {"files", "bytes", "flash", "arena_bytes", "macs", "instructions", "agreement"},
    "pretrained": {"networks"},
}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder in which every command has run with `--json -`, and the finished process.

    The first command there fails once TensorFlow is imported.
    """
    folder = tmp_path_factory.mktemp("job")
    damaged = create_run(
        folder / "damaged", RunConfig("ensemble", {}, DATASETS["digits"].constants(), {}, seed=0)
    )
    damaged.model_path.write_bytes(b"PK\x03\x04")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    commands = [["evaluate", "damaged"]]
    commands += [[name, *arguments, "--json", "-"] for name, arguments in JOB.items()]
    done = subprocess.run(
        [sys.executable, "-c", SESSION, json.dumps(commands)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def copied(job, to: Path) -> Path:
    """A copy of that folder with some damaged files."""
    shutil.copytree(job[0], to, dirs_exist_ok=True)
    shutil.copytree(to / "fusion", to / "truncated")
    os.truncate(to / "truncated" / "model.keras", 5000)
    shutil.copytree(to / "fusion", to / "truncated_config")
    os.truncate(to / "truncated_config" / "config.json", 100)
    (to / "empty").mkdir()
    (to / "text.txt").write_text("neither an image nor a model")
    return to


@pytest.fixture
def folder(job, tmp_path, monkeypatch):
    """Such a copy, as the working directory."""
    monkeypatch.chdir(copied(job, tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def shared_copy():
    """The path and the contents of the copy that tests share; empty where there is none."""
    return {}


@pytest.fixture
def untouched(job, shared_copy, tmp_path_factory, monkeypatch):
    """Such a copy, as the working directory, that fails a test which changes anything in it.

    Tests share it, because to make it takes longer than most of them. After a change the next test
    gets a new one.
    """
    if not shared_copy:
        path = copied(job, tmp_path_factory.mktemp("untouched"))
        shared_copy.update(path=path, contents=contents(path))
    path, before = shared_copy["path"], shared_copy["contents"]
    monkeypatch.chdir(path)
    yield
    after = contents(path)
    if after != before:
        shared_copy.clear()
    assert after == before


@pytest.fixture
def call(capfd):
    """Runs the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return end.value.code or 0, *capfd.readouterr()

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_what_a_network_starts_from_says_which_it_is(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = ["pretrain", "--dataset", "digits", "--epochs", "0"]
    assert call(*job, "--model", "deploynet9", "--width", "0.25", "--out", "many")[0] == 0
    code, printed, _ = call(*job, "--from-backbone", "many", "--out", "few")
    assert code == 0
    assert "deploynet9 on digits" in printed
    many, few = (load_run(name).config.model for name in ("many", "few"))
    assert few == many
    assert few["width"] == 0.25
    # A network of the user's has no width, and has to be named.
    (tmp_path / "mine.py").write_text(
        "import larq_ensemble.keras as k\n\n\ndef small(input_shape, classes):\n"
        "    image = k.keras.Input(input_shape)\n"
        "    x = k.keras.layers.Flatten()(image)\n"
        "    return k.keras.Model(image, k.keras.layers.Dense(classes)(x))\n"
    )
    assert call(*job, "--model", "mine:small", "--out", "mine")[0] == 0
    refused = call(*job, "--model", "mine:small", "--from-backbone", "many", "--out", "new")[2]
    assert "--from-backbone 'many' can't start 'small': its name is 'deploynet9'" in refused
    refused = call(*job, "--from-backbone", "mine", "--out", "new")[2]
    assert "'mine' is of a network of yours: give that as --model, too." in refused


def test_json_of_every_command_is_all_there_is_on_standard_output(job):
    assert JOB.keys() == RESULT_KEYS.keys() == COMMANDS.keys() - NOT_IN_JOB
    _, done = job
    rest, decoder, results = done.stdout, json.JSONDecoder(), {}
    for name in JOB:
        results[name], end = decoder.raw_decode(rest)
        rest = rest[end:].lstrip()
    assert rest == ""
    for name, result in results.items():
        assert RESULT_KEYS[name] <= result.keys(), name
    assert results["pretrain"]["epochs"] == 1
    assert len(results["train"]["member_top1"]) == results["evaluate"]["members"] == 2
    assert results["evaluate"]["top1"] == pytest.approx(results["train"]["test_top1"])
    assert results["convert"]["bytes"] == results["inspect"]["bytes"]
    # Temperatures and thresholds came to the file after that.
    assert results["convert"]["bytes"] < (job[0] / "ensemble.tflite").stat().st_size
    assert results["verify"]["samples"] == 20
    ((prediction,), members) = results["predict"]["predictions"], results["predict"]["members"]
    assert members == 1
    assert prediction["image"] == "image.png"
    assert results["reproduce"]["equal"] is True
    # What people read went to standard error instead.
    assert "loss:" in done.stderr
    assert "disagreement" in done.stderr


def test_help_of_every_command_imports_nothing_heavy():
    code = """
import sys
from larq_ensemble.cli import COMMANDS, main
numpy = ["convert", "predict"]  # they import the runtime, which needs it
for name in [*(COMMANDS.keys() - numpy), *numpy, None]:
    try:
        main([name, "-h"] if name else ["--help"])
    except SystemExit as end:
        assert not end.code, (name, end.code)
    assert "numpy" not in sys.modules or name in [*numpy, None], name
heavy = {"tensorflow", "tf_keras", "keras", "larq", "sklearn", "tensorflow_datasets", "PIL"}
print("heavy:", heavy & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith("heavy: set()\n")


def test_the_module_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "larq_ensemble", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"larq-ensemble, version {__version__}\n"


def test_the_overview_lists_every_command(call):
    status, out, _ = call("--help")
    assert status == 0
    assert [line.split()[0] for line in out.split("Commands:")[1].strip().splitlines()] == list(
        COMMANDS
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_how_to_call(call, name):
    status, out, err = call(name, "--help")
    assert (status, err) == (0, "")
    assert f"Usage: larq-ensemble {name} " in out
    assert f"  larq-ensemble {name}" in out.split("Examples:")[1]
    assert "--json FILE" in out
    if name in ("verify", "benchmark"):  # they compare what is installed
        assert "[default: all that are installed]" in " ".join(out.split())


def test_the_whole_job_of_the_help_takes_minutes(call):
    """Every command is there, and its options train on fewer images than an epoch of CIFAR has."""
    out = call("--help")[1]
    lines = re.findall(r"^ *larq-ensemble (\w+) (.*)$", out, re.MULTILINE)
    assert {name for name, _ in lines} == JOB.keys() - {
        *("storage", "inspect", "export", "calibrate", "tune", "reproduce", "frontier"),
        "pretrained",
    }
    given = {}
    for name, arguments in lines:
        command = cli.get_command(click.Context(cli), name)
        given[name] = command.make_context(name, arguments.split()).params
    images = len(load_digits().images)
    recipes = RECIPES[given["pretrain"]["recipe_name"]](10)
    assert given["pretrain"]["dataset_name"] == "digits"
    assert given["pretrain"]["epochs"] is None
    assert recipes.pretrain.epochs * images < 50_000
    assert given["train"]["recipe_name"] == given["pretrain"]["recipe_name"]
    assert recipes.retrain.epochs * given["train"]["members"] * images < 50_000
    # Each takes what those before it wrote.
    assert given["train"]["pretrained"] == given["pretrain"]["out"]
    runs = [given["evaluate"]["run"], given["convert"]["source"], given["verify"]["run"]]
    assert {*runs} == {given["train"]["out"]}
    files = [given[name]["tflite"] for name in ("verify", "predict", "benchmark")]
    assert {*files} == {given["convert"]["out"]}


def test_help_names_everything_that_is_registered(call):
    from larq_ensemble.ensembles.schemes import SCHEMES
    from larq_ensemble.network.architectures import MODELS
    from larq_ensemble.network.sharing import POLICIES
    from larq_ensemble.training.recipes import RECIPES

    for command, registries in {
        "pretrain": (MODELS, DATASETS, RECIPES),
        "train": (SCHEMES, POLICIES, RECIPES),
        "storage": (MODELS, POLICIES),
    }.items():
        words = set(re.findall(r"\w+", call(command, "--help")[1]))
        for registry in registries:
            missing = {name.removesuffix("_real") for name in registry} - words - {"stem", "tiny"}
            assert not missing, f"{command} --help"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nothing", "No such command 'nothing'"),
        ("pretrain", "Missing option '--out'"),
        ("pretrain --out new --epochs many", "'many' is not a whole number"),
        ("pretrain --out new --epochs -1", "-1 is not in the range x>=0"),
        ("pretrain --out new --limit-train 1", "1 is not in the range x>=2"),
        ("pretrain --out new --seed -1", "-1 is not in the range"),
        ("pretrain --out new --seed 4294967296", "4294967296 is not in the range"),
        ("pretrain --out new --lr -1", "-1.0 is not in the range x>=0"),
        ("pretrain --out new --rate 1", "No such option"),
        ("pretrain --out new --temperature 2", "--distill-weight and --temperature need --teacher"),
        ("train --pretrained backbone --out new --members 0", "0 is not in the range 1<=x<=1000"),
        (
            "train --pretrained backbone --out new --prefix-weights 1,many",
            "'1,many' is not a list of numbers such as 1,4,9",
        ),
        ("evaluate fusion --members 0", "0 is not in the range x>=1"),
        ("evaluate", "Missing argument 'RUN|F.keras|F.tflite|NAME'"),
        ("predict ensemble.tflite image.png --members 0", "0 is not in the range x>=1"),
        ("predict ensemble.tflite", "Missing argument 'IMAGE...'"),
        ("predict ensemble.tflite image.png --power-mode turbo", "power-saver"),
        ("calibrate ensemble.tflite --accuracy-loss 1 --mean-members 2", "not both"),
        ("benchmark ensemble.tflite --members 0", "'0' is not a list of whole numbers from 1 on"),
        ("convert fusion", "Missing option '--out'"),
        ("reproduce table1", "Missing option '--out'"),
        ("reproduce table1 --out new --epochs 3", "counted, not trained: leave out --epochs"),
        ("reproduce table1 --out new --recipe short", "counted, not trained: leave out --recipe"),
        ("reproduce table1 --out new --seed 1", "counted, not trained: leave out --seed"),
        (
            "pretrain --out new --epochs 0 --limit-train 9",
            "--limit-train has no effect: a run of 0",
        ),
        (
            "pretrain --out new --epochs 0 --augment rand",
            "--augment has no effect: a run of 0",
        ),
        (
            "train --pretrained backbone --recipe short --out new --epochs 0 --data-dir empty",
            "--data-dir has no effect: a run of 0",
        ),
        ("reproduce fig7b --out new --members 2,x", "'2,x' is not a list of whole numbers"),
    ],
)
def test_usage_errors_are_one_line_and_exit_with_2(call, untouched, arguments, message):
    status, out, err = call(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("larq-ensemble: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert "--help" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # No run, or not the right one.
        ("evaluate missing", "No run at 'missing'"),
        ("evaluate empty", "No run at 'empty'"),
        ("evaluate text.txt", "'text.txt' is a file that can't be taken here: give a directory"),
        ("evaluate truncated", "model.keras' can't be read"),
        ("evaluate truncated_config", "config.json' is not JSON"),
        ("train --pretrained missing --out new", "No run at 'missing'"),
        ("train --pretrained fusion --out new", "is of kind 'ensemble', but 'backbone' is needed"),
        ("pretrain --from-real missing --out new", "No run at 'missing'"),
        ("pretrain --from-real fusion --out new", "is of kind 'ensemble', but 'backbone' is"),
        (
            "pretrain --model resnet20 --from-real backbone --out new",
            "--from-real 'backbone' is not the real-valued twin of 'resnet20'",
        ),
        (
            "pretrain --model resnet20 --from-backbone backbone --out new",
            "--from-backbone 'backbone' can't start 'resnet20': its name is 'tiny', not 'resnet20'",
        ),
        ("pretrain --teacher missing --out new", "No run at 'missing'"),
        ("pretrain --teacher fusion --dataset cifar10 --out new", "has input_shape = [8, 8, 1]"),
        ("convert missing --out ensemble.tflite", "No run at 'missing'"),
        ("convert missing.keras --out ensemble.tflite", "No run at 'missing.keras', and no file"),
        ("convert truncated --out ensemble.tflite", "model.keras' can't be read"),
        ("verify ensemble.tflite --run missing", "No run at 'missing'"),
        # Unknown names.
        ("pretrain --model vgg --out new --epochs 0", "Unknown model 'vgg'. Known: "),
        ("pretrain --dataset mnist --out new", "Unknown dataset 'mnist'. Known: cifar10, "),
        ("pretrain --recipe long --out new", "Unknown recipe 'long'. Known: paper, short, small"),
        (
            "train --pretrained backbone --recipe short --scheme s --out new",
            "Unknown scheme 's'. Known: ",
        ),
        (
            "train --pretrained backbone --recipe short --in-turn --out new",
            "go with the scheme 'fusion'",
        ),
        (
            "train --pretrained backbone --recipe short --patience 2 --out new",
            "--patience does not go with",
        ),
        (
            "train --pretrained backbone --recipe short --initial random --out new",
            "needs the sharing 'none'",
        ),
        (
            "train --pretrained backbone --recipe short --sharing s --out new",
            "Unknown sharing 's'. Known: ",
        ),
        ("frontier backbone missing --out new", "No run at 'missing'"),
        (
            "tune --pretrained backbone --out tuned",
            "--out 'tuned' holds a search already: go on with --r",
        ),
        ("tune --pretrained fusion --out new", "is of kind 'ensemble', but 'backbone' is needed"),
        ("train --pretrained backbone --recipe r.json --out new", "recipe file 'r.json' can't be"),
        ("reproduce fig1 --out new", "Unknown table or figure 'fig1'. Known: boosting, "),
        ("reproduce fig6 --out new --dataset mnist", "Unknown dataset 'mnist'. Known: cifar10, "),
        ("pretrain --distribute tpu --out new", "Unknown distribute 'tpu'. Known: mirrored, m"),
        ("evaluate fusion --dataset mnist", "Unknown dataset 'mnist'. Known: cifar10, "),
        ("storage --model vgg", "Unknown model 'vgg'. Known: "),
        ("storage --sharing s", "Unknown sharing 's'. Known: "),
        # Values out of range, data that do not fit or are not there.
        (
            "evaluate fusion --dataset cifar100",
            "--dataset 'cifar100' has other classes than the run, which was trained on 10",
        ),
        (
            "evaluate ensemble.tflite --dataset cifar100",
            "--dataset 'cifar100' has other classes than the file, which was trained on 10",
        ),
        ("evaluate fusion --members 3", "--members must be from 1 to 2"),
        (
            "predict ensemble.tflite image.png --members 3",
            "--members must be a whole number from 1 to 2",
        ),
        (
            "predict ensemble.tflite image.png --members 2 --power-mode balanced",
            "Give one of --members, --max-latency-ms and --power-mode",
        ),
        ("calibrate ensemble.tflite --mean-members 3", "--mean-members must be from 1 to 2"),
        ("calibrate text.txt", "text.txt"),
        ("pretrain --out new --width 0.01", "--width 0.01 leaves a stage without channels"),
        (
            "pretrain --out new --distribute multiworker",
            "--distribute multiworker needs the environment variable TF_CONFIG",
        ),
        ("evaluate fusion --dataset cifar10 --data-dir missing", "has images of [32, 32, 3], but"),
        ("evaluate fusion --normalization raw", "--normalization 'raw' is for Keras files"),
        # Files that are none.
        ("inspect text.txt", "text.txt"),
        ("inspect missing.tflite", "missing.tflite"),
        ("verify text.txt --run fusion", "text.txt"),
        ("predict text.txt image.png", "text.txt"),
        ("benchmark text.txt", "text.txt"),
        ("benchmark ensemble.tflite --members 1,3", "from 1 to 2"),
        ("benchmark ensemble.tflite --run missing", "No run at 'missing'"),
        ("predict ensemble.tflite text.txt", "text.txt"),
        ("predict ensemble.tflite missing.png", "missing.png"),
        # Places that are taken or can't be written to.
        (
            "pretrain --out backbone --epochs 0",
            "--out 'backbone' holds a run already: go on with --resume",
        ),
        ("pretrain --out text.txt --epochs 0", "--out 'text.txt' is a file"),
        ("pretrain --out . --epochs 0", "--out '.' holds other files"),
        ("pretrain --out new.png", "--out 'new.png' is the name of a file"),
        ("pretrain --out text.txt/new", "--out 'text.txt/new' can't be written ('"),
        ("tune --pretrained backbone --out new.tflite", "--out 'new.tflite' is the name of a file"),
        ("frontier backbone --out text.txt", "--out 'text.txt' is a file"),
        ("reproduce table1 --out new.csv", "--out 'new.csv' is the name of a file"),
        ("demo --out text.txt", "--out 'text.txt' is a file"),
        # Options that have no effect.
        ("pretrain --out new --data-dir empty", "--data-dir 'empty' has no effect: digits comes"),
        (
            "pretrain --out new --model resnet20_real --pad-values 1",
            "--pad-values 1.0 is for binary convolutions, and 'resnet20_real' has none",
        ),
        (
            "pretrain --out new --model resnet20_real --estimator ste_sign",
            "--estimator 'ste_sign' is for binary convolutions",
        ),
        (
            "train --pretrained backbone --recipe short --out fusion",
            "--out 'fusion' holds a run already",
        ),
        ("pretrain --out new --json missing/r.json", "--json 'missing/r.json' can't be written"),
        ("evaluate fusion --json empty", "--json 'empty' can't be written"),
    ],
)
def test_other_errors_are_one_line_and_exit_with_1(call, untouched, arguments, message):
    status, out, err = call(*arguments.split())
    assert (status, out) == (1, "")
    assert err.startswith("larq-ensemble: error: ")
    assert err.count("\n") == 1, err
    assert message in err


def test_a_warning_is_one_line_and_names_the_option(call, folder):
    code, _, err = call("predict", "ensemble.tflite", "image.png", "--max-latency-ms", "1e-9")
    assert code == 0
    assert re.fullmatch(r"larq-ensemble: warning: One run takes .* of --max-latency-ms\.\n", err)


def test_threads_are_bounded_by_the_processors(call, folder):
    code, _, err = call("predict", "ensemble.tflite", "image.png", "--threads", "3000000000")
    assert code == 0
    assert re.fullmatch(
        r"larq-ensemble: warning: --threads is 3000000000, but this process may use (\d+) "
        r"processors?: it runs with --threads \1\.\n",
        err,
    )


def recorded(monkeypatch, function):
    """The arguments of each call of a function, which still does what it does."""
    module, _, name = function.rpartition(".")
    original, calls = getattr(importlib.import_module(module), name), []

    def record(*given, **named):
        calls.append(inspect.signature(original).bind(*given, **named).arguments)
        return original(*given, **named)

    monkeypatch.setattr(function, record)
    return calls


def test_calibrate_does_what_its_options_say(call, folder, monkeypatch):
    opened = recorded(monkeypatch, "larq_ensemble.runtime.EnsembleInterpreter")
    fitted = recorded(monkeypatch, "larq_ensemble.runtime.calibration.fit")
    arguments = ["calibrate", "ensemble.tflite", "--limit-test", "24", "--json", "result.json"]
    options = ["--threads", "2", "--accuracy-loss", "1.5", "--plot", "curve"]
    for backend in ("lce", "litert"):
        assert call(*arguments, *options, "--backend", backend)[0] == 0
        result = json.loads((folder / "result.json").read_text())
        assert (result["backend"], result["test_images"]) == (backend, 24)
        assert {name: opened[-1][name] for name in ("threads", "backend")} == {
            "threads": 2,
            "backend": backend,
        }
        assert (fitted[-1]["accuracy_loss"], fitted[-1]["mean_members"]) == (1.5, None)
    assert (result["png"], result["svg"]) == ("curve.png", "curve.svg")
    Image.open("curve.png").verify()
    # Where it is not known what training held out, the seed cuts the test split in two.
    monkeypatch.setattr("larq_ensemble.training.file_data.split_of_training", lambda metadata: None)
    cut = recorded(monkeypatch, "larq_ensemble.training.file_data.halves")
    assert call(*arguments, "--dataset", "digits", "--seed", "7", "--mean-members", "2")[0] == 0
    assert cut[0]["seed"] == 7
    assert (fitted[-1]["accuracy_loss"], fitted[-1]["mean_members"]) == (None, 2)


def test_tensorflow_does_not_warn_of_retracing(call, caplog):
    call("storage")
    logger = logging.getLogger("tensorflow")
    logger.warning("5 out of the last 12 calls to %s triggered tf.function retracing.", "predict")
    logger.warning("Another warning.")
    assert caplog.messages == ["Another warning."]


def test_names_from_outside_reach_the_terminal_as_text(call):
    _, out, err = call("inspect", "no\x1b[31m\n[red]:cat:.tflite")
    assert out == ""
    assert r"no\x1b[31m\n[red]:cat:.tflite" in err
    assert err.count("\n") == 1


def test_a_terminal_without_umlauts_and_a_reader_that_leaves():
    """In one process of its own: its standard output is what matters."""
    code = (
        "import sys; from larq_ensemble import cli; from larq_ensemble.console import reporting\n"
        "cli.cli.main = lambda *a, **k: reporting.Report().table('ü', ['ü'], [['ü']])\n"
        "try:\n    cli.main([])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(r"\xfc") == 3

    command = f"{sys.executable} -m larq_ensemble storage --classes 10 | head -n 1"
    done = subprocess.run(
        command, shell=True, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout == "resnet20, 10 classes, sharing fusion, by block\n"
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", ["reproduce table1 --out new", "frontier a --out new"])
def test_a_missing_library_is_told_before_the_work(call, folder, monkeypatch, arguments):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in [name for name in sys.modules if name.endswith("plots")]:
        monkeypatch.delitem(sys.modules, module)
    status, out, err = call(*arguments.split())
    assert (status, out) == (1, "")
    assert "matplotlib" in err
    assert not (folder / "new").exists()


def test_an_error_after_tensorflow_was_imported_is_one_line_too(job):
    """In the process's first command, because TensorFlow greets when it is first imported."""
    error, *_ = job[1].stderr.split("exit code 1\n")
    assert error.startswith("larq-ensemble: error: ")
    assert "damaged/model.keras' can't be read" in error
    assert error.count("\n") == 1


def test_resuming_a_finished_run_prints_its_result(call, folder):
    result = json.loads((folder / "fusion" / "result.json").read_text())
    before = contents(folder / "fusion")
    arguments = [*JOB["train"], "--resume", "--json", "again.json"]
    status, out, _ = call("train", *arguments)
    assert status == 0
    assert json.loads((folder / "again.json").read_text()) == result
    assert f"{result['test_top1']:.2f}" in out
    assert contents(folder / "fusion") == before


def test_a_recipe_file_says_what_no_option_does(call, folder):
    recipe = json.loads((folder / "tuned" / "recipe.json").read_text())
    recipe |= {"scheme": "voting", "sharing": "c2", "keep_pretrained": True, "mirror": True}
    recipe["retrain"] |= {"lr": 0.0123, "jitter": 0.3}
    (folder / "r.json").write_text(json.dumps(recipe))
    arguments = ["--pretrained", "backbone", "--members", "3", "--epochs", "0"]
    given = ["--sharing", "c1", "--lr", "0.5", "--keep-pretrained", "2"]
    for out, options in {"a": [], "b": given}.items():
        status, _, err = call("train", *arguments, "--recipe", "r.json", "--out", out, *options)
        assert status == 0
        assert "'backbone' was trained without" in err  # digits aren't mirrored
    a, b = (json.loads((folder / out / "config.json").read_text()) for out in "ab")
    for config, sharing, lr, kept in ((a, "c2", 0.0123, 1), (b, "c1", 0.5, 2)):
        assert config["ensemble"]["scheme"] == "voting"
        assert config["ensemble"]["sharing"] == sharing
        assert config["ensemble"]["keep_pretrained"] == kept
        assert config["ensemble"]["mirror"] is True
        assert (config["recipe"]["lr"], config["recipe"]["jitter"]) == (lr, 0.3)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (
            KeyboardInterrupt("It is saved: repeat this with `resume=True` to go on."),
            130,
            "Interrupted. It is saved: repeat this to go on.",  # storage has no --resume
        ),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device."),
        (
            ModuleNotFoundError("No module named 'larq'", name="larq"),
            1,
            "No module named 'larq': install what this command needs: in",
        ),
        (  # calibrate needs it for digits, also where there is no TensorFlow
            ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets"),
            1,
            "No module named 'sklearn': install it with `pip install scikit-learn`.",
        ),
    ],
)
def test_what_happens_from_outside_is_told_in_a_line(call, monkeypatch, error, code, message):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr("larq_ensemble.network.architectures.trace_model", fail)
    status, out, err = call("storage")
    assert (status, out) == (code, "")
    # After Ctrl-C, click ends the terminal's line with ^C first.
    assert err.lstrip("\n").startswith(f"larq-ensemble: error: {message}")
    assert err.strip("\n").count("\n") == 0


@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGTERM, "Terminated."), (signal.SIGHUP, "The terminal was")]
)
def test_signals_that_end_a_process_are_told_too(call, monkeypatch, number, message):
    def killed(*arguments, **named):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as stop:
            assert signal.getsignal(number) == signal.SIG_DFL  # a second one ends at once
            stop.args = ("Saved: repeat this with `resume=True`.",)
            raise

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(each, signal.getsignal(each)) for each in numbers]
    signal.signal(number, signal.SIG_DFL)  # nohup has it ignored
    monkeypatch.setattr("larq_ensemble.network.architectures.trace_model", killed)
    status, out, err = call("storage")
    for each, handler in before:
        signal.signal(each, handler)
    assert (status, out) == (128 + number, "")
    assert err.lstrip("\n").startswith(f"larq-ensemble: error: {message}")
    assert err.rstrip().endswith("Saved: repeat this.")


def test_a_signal_that_is_ignored_stays_so(call, monkeypatch):
    """As nohup has it."""
    seen = []
    monkeypatch.setattr(
        "larq_ensemble.network.architectures.trace_model",
        lambda *_, **__: seen.append(signal.getsignal(signal.SIGHUP)) or 1 / 0,
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.raises(ZeroDivisionError):
        call("storage")
    assert seen == [signal.SIG_IGN] == [signal.signal(signal.SIGHUP, before)]


def test_without_a_command_comes_the_overview(call):
    status, out, err = call()
    assert (status, out) == (2, "")
    assert all(name in err for name in COMMANDS)
    assert len(err.splitlines()) > len(COMMANDS)
