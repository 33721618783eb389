"""The option that names a network."""

from __future__ import annotations

import click

from larq_ensemble.network.architectures import MODELS

#: The networks that have a name, for help.
NAMES = (
    f"{', '.join(name for name, model in MODELS.items() if model.binary)}, or the real-valued twin "
    "of one, such as resnet20_real, or resnet20_relu, deploynet8_relu and deploynet9_relu, "
    "real-valued as usual"
)

model_option = click.option(
    "--model",
    "model_name",
    default="resnet20",
    show_default=True,
    help=f"{NAMES}.",
)
