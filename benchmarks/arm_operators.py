"""Where a member's arm64 instructions go, by operator.

The graph of the first member is cut after each of its operators, and each cut is counted. The
share of an operator is what it adds to the cut before. The cost of returning an output falls on
neighbouring operators (RESHAPE may then cost nothing, and the next operator more). So the shares of
small operators are rough; the sum is exact.

Needs a counter of instructions, see `arm_cost.py`, and calls it once per operator.

    python benchmarks/arm_operators.py --counter COUNTER --kernel indirect ensemble.tflite
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import click
from arm_cost import KERNELS, instructions

from larq_ensemble.cli import run_command
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.runtime.file import read_ensemble, with_one_subgraph

#: LCE's binding can't hand their types out; what they take falls on the operator behind them.
_HIDDEN = {"BITCAST"}


@click.command()
@click.argument("file", metavar="F.tflite")
@click.option("--counter", required=True, metavar="PATH", help="The program that counts.")
@click.option("--kernel", type=click.Choice(KERNELS), default="default", show_default=True)
@click.option("--xnnpack", is_flag=True, help="Hand float operators to XNNPACK.")
@json_option
def main(file: str, counter: str, kernel: str, xnnpack: bool, json_target: str | None) -> None:
    """Count the arm64 instructions of each operator of a member's complete graph."""
    with reporting(json_target) as report:
        ensemble = read_ensemble(file)
        graph = with_one_subgraph(ensemble.data, ensemble.graphs[0].index)
        operators = [op.name for op in read(graph).graph.operators]
        of_name: Counter[str] = Counter()
        before = 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "cut.tflite")
            for place, name in enumerate(operators):
                if name in _HIDDEN:
                    continue
                path.write_bytes(cut_behind(graph, place))
                count = instructions(counter, path, kernel, xnnpack)
                of_name[name] += count - before
                report.line(f"{place + 1}/{len(operators)} {name}: {count - before:,}")
                before = count
        report.result = {"instructions": before, "operators": of_name}
        report.table(
            f"{file}: arm64 instructions of a member, {kernel} kernel",
            ["operator", "count", "instructions", "%"],
            [
                [name, operators.count(name), f"{count:,}", f"{100 * count / before:.1f}"]
                for name, count in of_name.most_common()
            ],
        )


def cut_behind(graph: bytes, place: int) -> bytes:
    """A file of one graph, of which only the first operators are left, up to that at `place`.

    Its output is that of the last one; what that does not read stays, and runs.
    """
    module = read(graph)
    only = module.graph
    only.rebuild(only.operators[: place + 1])
    only.outputs = [only.operators[-1].outputs[0]]
    only.signature, module.metadata = None, {}
    return write(module)


if __name__ == "__main__":
    run_command(main)
