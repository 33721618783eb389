"""Bytes and memory of files for stock runtimes, beside those of the files for LCE.

    python benchmarks/stock_files.py ensemble.tflite other.tflite

Converts each file, as `larq-ensemble convert F.tflite --target litert` does with each of its
`--filters`. The arena is the estimate of `larq-ensemble inspect` for a member: of the complete
graph, or of the rest after the shared trunk, whichever takes more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import INPUT


@click.command()
@click.argument("files", type=INPUT, nargs=-1, required=True, metavar="F.tflite...")
def main(files: tuple[str, ...]) -> None:
    """Print the table of sizes."""
    from larq_ensemble.convert import convert_file, inspect_file
    from larq_ensemble.legalization import FILTERS

    print(f"{'file':32}{'form':>8}{'bytes':>12}{'to LCE':>8}{'to bound':>10}{'arena':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            sizes = Path(file).stat().st_size
            stock = {filters: Path(folder, filters) for filters in FILTERS}
            for filters, path in stock.items():
                convert_file(file, path, filters=filters)
            for form, path in {"lce": Path(file), **stock}.items():
                inspection = inspect_file(path)
                arena = max(inspection.arena_bytes.values())
                print(
                    f"{Path(file).stem[-32:]:32}{form:>8}{inspection.bytes:>12,}"
                    f"{inspection.bytes / sizes:>8.3f}"
                    f"{inspection.bytes / (inspection.lower_bound_bytes or 1):>10.3f}{arena:>12,}",
                    flush=True,
                )


if __name__ == "__main__":
    run_command(main)
