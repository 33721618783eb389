"""`larq-ensemble web`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import INPUT, TFLITE, OutputFolder
from larq_ensemble.console.reporting import json_option, reporting


@click.command("web", short_help="A page that runs a .tflite file in a browser.")
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.option("--out", type=OutputFolder(), required=True, help="Folder of the page.")
@click.option(
    "--images",
    type=INPUT,
    multiple=True,
    metavar="PATH",
    help="A sample image that the page offers, or a folder of them; may be given several times.",
)
@click.option(
    "--runtime",
    type=INPUT,
    metavar="DIR",
    help="Folder of LiteRT.js's two archives, as `npm pack` writes them  [default: downloaded "
    "once, 12 MB]",
)
@click.option(
    "--serve",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Then serve the page on this machine, until Ctrl-C.",
)
@json_option
def command(
    tflite: str,
    out: str,
    images: tuple[str, ...],
    runtime: str | None,
    serve: int | None,
    json_target: str | None,
) -> None:
    """Write a page that classifies images, or what a camera sees, in a browser.

    The page is a folder of static files, which any web server can serve. It runs the file on
    LiteRT.js; a file for Larq Compute Engine becomes one of builtin operators first.

    \b
    Examples:
      larq-ensemble web ensemble.tflite --out page --serve 8000
      larq-ensemble web ensemble.tflite --out page --images photos/
      python -m http.server --directory page
    """
    from larq_ensemble.convert.web.page import write_page
    from larq_ensemble.convert.web.serving import serving

    with reporting(json_target) as report:
        page = write_page(tflite, out, images=images, runtime=runtime, say=report.line)
        report.result = page.to_dict()
        report.line(
            f"{page.path}: {page.images} sample images, {page.tflite_bytes:,} bytes of the "
            f"ensemble, {page.bytes:,} bytes in all."
        )
        if serve is None:
            report.line(f"Serve it: python -m http.server --directory {out}")
    if serve is not None:
        with serving(out, serve) as server:
            click.echo(f"http://localhost:{serve}/ until Ctrl-C.", err=True)
            server.serve_forever()
