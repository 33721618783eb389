"""Instructions that products of signs take on cores without a population count, by several ways.

    python benchmarks/binary_products.py --write docs/microcontrollers.md

`binary_products.c` computes a 3x3 convolution with as many output as input channels, padded with
zeros, and QEMU counts its instructions. The exported kernel is counted from the map to the sums, on
a map of 8x8 pixels, with all that its border takes. The other ways start from a window that was
gathered already, and ignore the border: what they take in a network is more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from page import made_by, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import CommaSeparated
from larq_ensemble.convert import emulation
from larq_ensemble.convert.targets import c

SOURCE = Path(__file__).with_suffix(".c")
KERNELS = Path(c.__file__).parent / "kernels"
WAYS = ("each word", "three words merged", "Harley-Seal", "table of bytes", "**exported kernel**")
CHANNELS = (16, 32, 64, 128, 256)
#: Of the map in binary_products.c.
_PIXELS = 8 * 8
BEGIN = "<!-- binary products: by benchmarks/binary_products.py -->"
END = "<!-- end of binary products -->"


def instructions_per_word(cpu: str) -> list[list[float]]:
    """For each way, by the number of channels: instructions for 32 products."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [*emulation.FLAGS, f"-I{KERNELS}"]
        elf = emulation.build([SOURCE], Path(folder, "products.elf"), cpu, flags=flags)
        _, counts = emulation.count(elf, cpu)
    by_way = [counts[i :: len(WAYS)] for i in range(len(WAYS))]
    pixels = [1] * (len(WAYS) - 1) + [_PIXELS]
    return [
        [
            count / (pixels[way] * channels * 9 * channels / 32)
            for count, channels in zip(of_way, CHANNELS, strict=True)
        ]
        for way, of_way in enumerate(by_way)
    ]


def table(cpus: Sequence[str]) -> str:
    """The Markdown table of the page."""
    header = ["core", "way", *(f"{channels} channels" for channels in CHANNELS)]
    rows = [
        [cpu, way, *(f"{count:.1f}" for count in counts)]
        for cpu in cpus
        for way, counts in zip(WAYS, instructions_per_word(cpu), strict=True)
    ]
    return markdown_table(header, rows)


@click.command(help=__doc__)
@click.option(
    "--cpus",
    type=CommaSeparated("cores", click.Choice(list(emulation.BOARDS)), "cores such as cortex-m4"),
    default="cortex-m4,cortex-m55",
    show_default=True,
    help="Cores.",
)
@write_option
def main(cpus: Sequence[str], page: Path | None) -> None:
    text = f"{table(cpus)}\n\n{made_by('benchmarks/binary_products.py')}"
    click.echo(text)
    if page is not None:
        write_between(page, BEGIN, END, text)


if __name__ == "__main__":
    run_command(main)
