"""The command line: finds a command by name and turns errors into one line and an exit code.

Warnings are one line, too.

`COMMANDS` names the module of each command. A module is imported when its command is called, and
imports heavy packages inside its functions, so `--help` answers at once.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import warnings
from typing import Any

import click

from larq_ensemble import __version__
from larq_ensemble.console.messages import in_options
from larq_ensemble.console.reporting import visible
from larq_ensemble.errors import EnsembleError, install_command

#: The commands in the order of `--help`, each with the module that holds it as `command`.
COMMANDS = {
    "demo": "larq_ensemble.demo",
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
    "reproduce": "larq_ensemble.training.paper.commands.reproduce",
    "frontier": "larq_ensemble.training.commands.frontier",
    "tune": "larq_ensemble.training.commands.tune",
}


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
            _say("warning", in_words(message))

        try:
            with warnings.catch_warnings():
                warnings.showwarning = show
                return super().invoke(context)
        except EnsembleError as error:
            raise click.ClickException(in_words(error)) from error


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
    A whole job, step by step:
      larq-ensemble pretrain --model resnet20 --dataset cifar100 --out runs/backbone
      larq-ensemble train --pretrained runs/backbone --members 4 --out runs/fusion
      larq-ensemble evaluate runs/fusion
      larq-ensemble convert runs/fusion --out ensemble.tflite
      larq-ensemble verify ensemble.tflite --run runs/fusion
      larq-ensemble predict ensemble.tflite image.png --members 2
      larq-ensemble benchmark ensemble.tflite --members 1,2,4
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line: exits 0 on success, 2 on a usage error, 1 on any other error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no `ü`, or a file name that is no UTF-8, is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    # TensorFlow's start-up messages would hide the error message.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A command may build several models; TensorFlow takes them for one that is traced repeatedly.
    logging.getLogger("tensorflow").addFilter(_is_not_of_retracing)
    try:
        status = cli.main(arguments, prog_name="larq-ensemble", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "larq-ensemble"
        _fail(f"{error.format_message()} See `{command} --help`.", 2)
    except click.exceptions.Abort:
        _fail("Interrupted.", 130)
    except click.ClickException as error:
        _fail(error.format_message(), 1)
    except ModuleNotFoundError as error:
        _fail(f"{error}: install what this command needs: {install_command('train')}.", 1)
    except ImportError as error:
        _fail(str(error), 1)
    except OSError as error:  # A full disk, a folder without permission, a closed pipe.
        _fail(f"{error}.", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _is_not_of_retracing(record: logging.LogRecord) -> bool:
    return "tf.function retracing" not in record.getMessage()


def _fail(message: str, status: int) -> None:
    _say("error", message)
    sys.exit(status)


def _say(kind: str, message: str) -> None:
    print(f"larq-ensemble: {kind}: {visible(' '.join(message.split()))}", file=sys.stderr)
