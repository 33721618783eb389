"""`larq-ensemble pretrained`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import OutputFile
from larq_ensemble.console.reporting import json_option, reporting


@click.command("pretrained", short_help="Trained networks that come with the package.")
@click.argument("name", required=False, metavar="[NAME]")
@click.option(
    "--out", type=OutputFile(), metavar="F.tflite", help="Write the network's .tflite file there."
)
@json_option
def command(name: str | None, out: str | None, json_target: str | None) -> None:
    """List the trained networks of the package; with NAME show the card of one.

    The card says what the network was trained on and how, its accuracy by the number of members
    with intervals, its calibration, bytes and instructions. Every command takes a name where it
    takes a run, a Keras file or a .tflite file. Needs no TensorFlow.

    \b
    Examples:
      larq-ensemble pretrained
      larq-ensemble pretrained NAME
      larq-ensemble pretrained NAME --out network.tflite
      larq-ensemble predict NAME photo.png
      larq-ensemble train --pretrained NAME --members 4 --out runs/fusion
    """
    if out is not None and name is None:
        raise click.UsageError("--out needs the NAME of a network.")
    from larq_ensemble import pretrained
    from larq_ensemble.files import write_bytes
    from larq_ensemble.pretrained.cards import markdown, overview

    with reporting(json_target) as report:
        if name is None:
            cards = [pretrained.shipped(each).card for each in pretrained.names()]
            report.result = {"networks": cards}
            columns, rows = overview(cards)
            report.table("Networks that come with larq-ensemble", columns, rows)
            report.line("The card of one: larq-ensemble pretrained NAME")
            return
        network = pretrained.shipped(name)
        report.result = network.card
        if out is None:
            report.markdown(markdown(network.card))
        else:
            write_bytes(out, network.tflite.read_bytes())
            report.result = {**network.card, "tflite": out}
            report.line(f"Wrote {out}, {network.tflite.stat().st_size:,} bytes.")
