"""Writes the test images of a data set that come with the package.

    python tools/pretrained/sample_images.py cifar100 --data-dir DIR

They are the first ones of the test split, in the order of TensorFlow Datasets.
"""

from __future__ import annotations

import click
import numpy as np

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import data_dir_option
from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.pretrained.samples import Samples, write_samples

#: Where the images are from, and their licence, for cards too.
ORIGINS = {
    name: f"{title}, a labelled part of the 80 Million Tiny Images, by Alex Krizhevsky, Vinod Nair "
    "and Geoffrey Hinton (https://www.cs.toronto.edu/~kriz/cifar.html). Its page states no licence "
    "and asks to cite: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images."
    for name, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
}


@click.command()
@click.argument("dataset", type=click.Choice(list(ORIGINS)))
@click.option("--count", type=int, default=48, show_default=True, help="A multiple of 8.")
@data_dir_option
def main(dataset: str, count: int, data_dir: str | None) -> None:
    """Write the first test images of a data set as tiles of one PNG, with their labels."""
    data = DATASETS[dataset]
    test = DataOptions(data_dir, limit_test=count).load(data, 0).test
    images, labels = np.asarray(test.images), np.asarray(test.labels)
    write_samples(Samples(dataset, images, labels, data.class_names, ORIGINS[dataset]))


if __name__ == "__main__":
    run_command(main)
