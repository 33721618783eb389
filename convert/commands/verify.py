"""`larq-ensemble verify`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import (
    INPUT,
    LIMITED,
    TFLITE,
    data_dir_option,
    dataset_option,
    normalization_option,
)
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.runtime.commands.options import compared_backends_option


@click.command("verify", short_help="Keras against the interpreter on test images.")
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.option(
    "--run",
    type=INPUT,
    required=True,
    metavar="RUN|F.keras|NAME",
    help="The run, or the Keras file, that the file comes from.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    metavar="N",
    help=f"Of the test images {LIMITED}  [default: all]",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the interpreter."
)
@compared_backends_option
@dataset_option
@normalization_option
@data_dir_option
@json_option
def command(
    tflite: str,
    run: str,
    samples: int | None,
    threads: int,
    backend: str | None,
    dataset: str | None,
    normalization: str | None,
    data_dir: str | None,
    json_target: str | None,
) -> None:
    """Compare the predicted classes of a run and of the file converted from it.

    Float rounding now and then flips a sign inside the network, so classes are compared, not
    logits: the share of test images for which Keras and the interpreter predict the same class.
    Without --backend every back end that is installed is compared.

    \b
    Examples:
      larq-ensemble verify ensemble.tflite --run runs/fusion
      larq-ensemble verify ensemble.tflite --run runs/fusion --samples 500 --json -
      larq-ensemble verify ensemble.tflite --run ensemble.keras --dataset folder:photos
    """
    from larq_ensemble.runtime.file import read_ensemble
    from larq_ensemble.trained import data_of, open_trained

    with reporting(json_target) as report:
        read_ensemble(tflite)  # refuse a bad file before loading TensorFlow and the data
        loaded = open_trained(run, dataset=dataset, data_dir=data_dir, normalization=normalization)
        import numpy as np

        from larq_ensemble.convert.conversion import trained_ensemble
        from larq_ensemble.convert.verification import check_same, verify
        from larq_ensemble.data.datasets import DataOptions
        from larq_ensemble.ensembles import as_ensemble
        from larq_ensemble.runtime import EnsembleInterpreter

        model = as_ensemble(trained_ensemble(loaded))
        # Before the data are looked for, which may be a download.
        check_same(model, EnsembleInterpreter(tflite, backend=backend), tflite, loaded.digest)
        data = data_of(loaded, dataset, data_dir, to_evaluate=True)
        options = DataOptions(data_dir, validation=0.0, limit_test=samples)
        test = options.load(data, loaded.config.seed).test
        verification = verify(
            model,
            tflite,
            np.asarray(test.images),
            test.labels,
            mean=loaded.normalization.mean,
            std=loaded.normalization.std,
            threads=threads,
            backend=backend,
            run_hash=loaded.digest,
        )
        report.result = {**verification.to_dict(), "dataset": data.name}
        backends = verification.backends
        report.table(
            f"{tflite} against {run}, {verification.samples:,} test images of {data.name}",
            ["network", *(f"{name} same class %" for name in backends)],
            [
                *(
                    [f"member {member}", *(100 * share for share in shares)]
                    for member, shares in enumerate(
                        zip(*(found.member_argmax_agreement for found in backends.values()))
                    )
                ),
                [
                    "ensemble",
                    *(100 * found.ensemble_argmax_agreement for found in backends.values()),
                ],
            ],
        )
        report.line(
            f"Ensemble's top-1: Keras {verification.keras_top1:.2f} %, "
            + "; ".join(
                f"{name} ({found.kernel}) {found.tflite_top1:.2f} %, predictions of single members "
                f"that differ {100 * found.flip_rate:.3f} %"
                for name, found in backends.items()
            )
            + "."
        )
