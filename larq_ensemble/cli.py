"""The command line: finds a command by name and turns errors into one line and an exit code.

Warnings are one line, too.

`COMMANDS` names the module of each command. A module is imported when its command is called, and
imports heavy packages inside its functions, so `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from larq_ensemble import __version__
from larq_ensemble.console.messages import in_options
from larq_ensemble.console.reporting import visible
from larq_ensemble.errors import EnsembleError, install_command

#: The commands in the order of `--help`, each with the module that holds it as `command`.
COMMANDS = {
    "demo": "larq_ensemble.demo",
    "pretrained": "larq_ensemble.pretrained.commands.pretrained",
    "pretrain": "larq_ensemble.training.commands.pretrain",
    "train": "larq_ensemble.training.commands.train",
    "evaluate": "larq_ensemble.training.commands.evaluate",
    "storage": "larq_ensemble.network.commands.storage",
    "convert": "larq_ensemble.convert.commands.convert",
    "inspect": "larq_ensemble.convert.commands.inspect",
    "verify": "larq_ensemble.convert.commands.verify",
    "calibrate": "larq_ensemble.training.commands.calibrate",
    "predict": "larq_ensemble.runtime.commands.predict",
    "benchmark": "larq_ensemble.convert.commands.benchmark",
    "web": "larq_ensemble.convert.commands.web",
    "export": "larq_ensemble.convert.commands.export",
    "reproduce": "larq_ensemble.training.paper.commands.reproduce",
    "frontier": "larq_ensemble.training.commands.frontier",
    "tune": "larq_ensemble.training.commands.tune",
}


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end. What it leaves unfinished can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class LazyGroup(click.Group):
    """A group that imports commands lazily and translates library messages into options."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[name]).command

    def invoke(self, context: click.Context) -> Any:
        def in_words(message: object) -> str:
            command = self.get_command(context, context.invoked_subcommand or "")
            return in_options(str(message), command) if command else str(message)

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            _say("larq-ensemble", "warning", in_words(message))

        try:
            with warnings.catch_warnings():
                warnings.showwarning = show
                return super().invoke(context)
        except EnsembleError as error:
            raise click.ClickException(in_words(error)) from error
        except KeyboardInterrupt as stop:
            # Commands without --resume always resume.
            stop.args = (in_words(stop).replace(" with `resume=True`", ""),)
            raise


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="larq-ensemble")
@click.pass_context
def cli(context: click.Context) -> None:
    """Shared-filter ensembles of binarized neural networks, from training to ARM.

    \b
    A whole job in some minutes, on handwritten digits:
      larq-ensemble pretrain --dataset digits --recipe short --out runs/backbone
      larq-ensemble train --pretrained runs/backbone --recipe short --out runs/fusion
      larq-ensemble evaluate runs/fusion
      larq-ensemble convert runs/fusion --out ensemble.tflite
      larq-ensemble verify ensemble.tflite --run runs/fusion
      larq-ensemble predict ensemble.tflite photo.png --members 2
      larq-ensemble benchmark ensemble.tflite --members 1,2,4

    photo.png is an image of yours. Without --recipe short, training takes the paper's 400 and 200
    epochs.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line: exits 0 on success, 2 on a usage error, 1 on any other error."""
    run_command(cli, arguments, "larq-ensemble")


def run_command(
    command: click.Command, arguments: list[str] | None = None, program: str = ""
) -> None:
    """Runs a command and exits, as `main` does: an error is one line on stderr.

    # Arguments
        command: the command, that of a script for example.
        arguments: of the command; `None`: those of the process.
        program: its name in messages; empty: the name of the script.
    """
    program = program or os.path.basename(sys.argv[0])
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no `ü`, or a file name that is no UTF-8, is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    # TensorFlow's start-up messages would hide the error message.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A command may build several models; TensorFlow takes them for one that is traced repeatedly.
    logging.getLogger("tensorflow").addFilter(_is_not_of_retracing)
    with _stopping_on_signals():
        _run(command, arguments, program)


def _run(command: click.Command, arguments: list[str] | None, program: str) -> None:
    def fail(message: str, status: int) -> None:
        _say(program, "error", message)
        sys.exit(status)

    try:
        status = command.main(arguments, prog_name=program, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else program
        message = error.format_message()
        for kind, plain in _NUMBERS.items():
            message = message.replace(f"is not a valid {kind} range", f"is not a {plain}")
        end = "" if message.endswith((".", "?")) else "."
        fail(f"{message}{end} See `{path} --help`.", 2)
    except click.exceptions.Abort as abort:
        stop = abort.__cause__
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        fail(f"{_ENDED.get(number, 'Interrupted')}. {stop or ''}", 128 + number)
    except click.ClickException as error:
        fail(error.format_message(), 1)
    except EnsembleError as error:  # of a script: those of our commands are translated already
        fail(in_options(str(error), command), 1)
    except ModuleNotFoundError as error:
        fail(f"{error}: install {_missing(error)}.", 1)
    except ImportError as error:
        fail(str(error), 1)
    except OSError as error:  # A full disk, a folder without permission, a closed pipe.
        fail(f"{error}.", 1)
    sys.exit(status if isinstance(status, int) else 0)


#: Numbers with a range, by click's name of what is none.
_NUMBERS = {"integer": "whole number", "float": "number"}

#: By the module, packages of the extra `train` that have wheels where it can't be installed.
_EVERYWHERE = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}


def _missing(error: ModuleNotFoundError) -> str:
    """What a command needs, and how to install it."""
    package = _EVERYWHERE.get((error.name or "").partition(".")[0])
    if package is not None:
        return f"it with `pip install {package}`"
    return f"what this command needs: {install_command('train')}"


#: Signals that end a process, those that this system has, and what is said of them.
_ENDED = {
    getattr(signal, name): text
    for name, text in (
        ("SIGINT", "Interrupted"),
        ("SIGTERM", "Terminated"),
        ("SIGHUP", "The terminal was closed"),
    )
    if hasattr(signal, name)
}


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """Makes the first signal raise `Stopped`. A second one ends the process at once."""
    before = {number: signal.getsignal(number) for number in _ENDED}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in changed:
            signal.signal(each, signal.SIG_DFL)
        changed.clear()
        raise Stopped(number)

    changed = [
        number
        for number, handler in before.items()
        # One that is ignored stays so, as under nohup.
        if handler in (signal.SIG_DFL, signal.default_int_handler)
        and threading.current_thread() is threading.main_thread()
    ]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


def _is_not_of_retracing(record: logging.LogRecord) -> bool:
    return "tf.function retracing" not in record.getMessage()


def _say(program: str, kind: str, message: str) -> None:
    print(f"{program}: {kind}: {visible(' '.join(message.split()))}", file=sys.stderr)
