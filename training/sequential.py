"""Sequential training in a run directory.

Each member has its own directory in the run:

    member_2/model.keras    the trained member
    member_2/result.json    its weight in the combination, and its speed
    member_2/log.csv, tensorboard/, checkpoints/    logs and state of its training

At the end the ensemble is assembled from the members' own layers, and the run's `log.csv` gets the
rows of all members.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.data.datasets import Dataset, Split, Splits
from larq_ensemble.data.streams import reading
from larq_ensemble.ensembles.names import member_output
from larq_ensemble.ensembles.schemes.base import SampleWeights
from larq_ensemble.ensembles.sequential import SequentialTraining, combination_weights
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.files import replacing, write_text
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import Run
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.metrics import top_k_accuracy
from larq_ensemble.training.fit import read_log, set_seed
from larq_ensemble.training.job import fit_images
from larq_ensemble.training.memory import free_networks, temporary_graphs
from larq_ensemble.training.pipeline import evaluation_batches
from larq_ensemble.training.recipes import Recipe


class RunTraining(SequentialTraining):
    """Trains the members of a run by a recipe, each in its own directory in the run.

    # Arguments
        run: the run directory.
        splits: the data.
        dataset: the data set of the splits.
        class_weights: float32 [classes], of the training images in the loss; `None`: all 1. Where
            the scheme reweights, they are the sample weights of the first member, and those of the
            others follow from them.
        recipe: of each member, or of all where the scheme splits the epochs.
        independent_data: each member its own order and augmentation of the images.
        verbose: as for `keras.Model.fit`.
        backbone, members, arguments, options: as for `SequentialTraining`.
    """

    def __init__(
        self,
        backbone: keras.Model,
        members: int,
        arguments: dict[str, Any],
        *,
        run: Run,
        splits: Splits,
        dataset: Dataset,
        recipe: Recipe,
        class_weights: np.ndarray | None = None,
        independent_data: bool = False,
        verbose: int | str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(
            backbone,
            members,
            arguments,
            # The network sees (x / 255 - mean) / std.
            pixel_range=1 / np.asarray(dataset.normalization.std, np.float32),
            normalization=dataset.normalization,
            say=(lambda text: print(text, flush=True)) if verbose else lambda text: None,
            **options,
        )
        self.run, self.splits, self.dataset, self.recipe = run, splits, dataset, recipe
        self.class_weights = class_weights
        self.independent_data, self.verbose = independent_data, verbose
        self._validation: list[np.ndarray] = []

    def finished(self, member: int) -> dict[str, Any] | None:
        part = self._part(member)
        result = part.finished_result()
        if result is not None:  # a kill may come between the result and this
            shutil.rmtree(part.checkpoints_path, ignore_errors=True)
        return result

    def load(self, member: int) -> keras.Model:
        return self._part(member).model

    def save(self, member: int, network: keras.Model, result: dict[str, Any]) -> None:
        part = self._part(member)
        part.save_model(network)
        part.save_result(result)
        shutil.rmtree(part.checkpoints_path, ignore_errors=True)

    @temporary_graphs()
    def train_member(self, member: int) -> tuple[keras.Model, dict[str, Any]]:
        free_networks()  # the members before
        set_seed(self._seed(member), self.recipe.dropout)
        return super().train_member(member)

    def fit(self, member: int, network: keras.Model) -> dict[str, Any]:
        epochs = self.scheme.member_epochs(self.recipe.epochs, self.members)
        sample_weights = self._sample_weights(member)
        streams: dict[str, Any] = {}
        if self.scheme.subsamples:
            streams = {"part": sample_weights}
        elif sample_weights is not None:
            streams = {"outputs": (member_output(member),), "sample_weights": sample_weights}
        speed = fit_images(
            network,
            self.splits,
            self.dataset,
            run=self._part(member),
            recipe=dataclasses.replace(self.recipe, epochs=epochs),
            objective=lambda network: self.scheme.objective(network, self.stage(member)),
            seed=self._seed(member) if self.independent_data else self.arguments["seed"],
            verbose=self.verbose,
            # A scheme that continues also continues the stream of images.
            first_epoch=member * epochs if self.scheme.continues else 0,
            learning_rate=self.scheme.learning_rate,
            class_weights=None if self.scheme.reweights else self.class_weights,
            **streams,
        )
        return {"images_per_second": speed}

    def _seed(self, member: int) -> int:
        return int(np.random.default_rng([self.arguments["seed"], member]).integers(2**31))

    def _sample_weights(self, member: int) -> SampleWeights | None:
        """The sample weights of a member, [1, batch], as `Scheme.sample_weights`."""
        if self.scheme.reweights:
            table = tf.constant(self._weights_for(member), tf.float32)
            return lambda indices, seed: tf.gather(table, indices)[tf.newaxis]
        of_all = self.scheme.sample_weights(
            self.members, len(self.splits.train), self.arguments["seed"]
        )
        if of_all is None:
            return None
        return lambda indices, seed: of_all(indices, seed)[member : member + 1]

    def adaptive_weight(self, member: int, network: keras.Model) -> float:
        data = self.splits.train
        wrong = self._logits(network, data).argmax(axis=-1) != data.labels
        weight, following = self.scheme.reweighted(
            self._weights_for(member), wrong, self.dataset.classes
        )
        with replacing(self._part(member).path / "next_sample_weights.npy") as temporary:
            np.save(temporary, following)
        return weight

    def _weights_for(self, member: int) -> np.ndarray:
        if not member:
            if self.class_weights is None:
                return np.ones(len(self.splits.train))
            return self.class_weights[self.splits.train.labels].astype(np.float64)
        path = self._part(member - 1).path / "next_sample_weights.npy"
        try:
            weights = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(path, member - 1, first_line(error)) from error
        if weights.shape != (len(self.splits.train),):
            raise self._damaged(path, member - 1, f"its shape is {weights.shape}")
        return weights

    def _damaged(self, path: Path, member: int, reason: str) -> EnsembleError:
        return EnsembleError(
            f"{str(path)!r} can't be read ({reason}): delete {str(self._part(member).path)!r} and "
            "resume, to train this member again."
        )

    def accuracy(
        self, member: int, network: keras.Model, results: Sequence[dict[str, Any]]
    ) -> float | None:
        data = self.splits.validation
        if not len(data):
            return None
        self._validation.append(self._logits(network, data))
        probabilities = combine(
            np.stack(self._validation), self.scheme.name, combination_weights(results)
        )
        return top_k_accuracy(probabilities, data.labels, k=1)

    def _logits(self, network: keras.Model, data: Split) -> np.ndarray:
        # Eagerly: a graph for each member costs more than it saves, and TensorFlow warns of many.
        batches = evaluation_batches(data, self.dataset)
        with reading():
            logits = [network(images, training=False).numpy() for images, _ in batches]
        return np.concatenate(logits)

    def _part(self, member: int) -> Run:
        """The directory of a member, as a run in the run."""
        return Run(self.run.path / member_output(member), self.run.config)

    def write_log(self, members: int) -> None:
        """Writes the rows of the first members' logs to that of the run."""
        lines: list[str] = []
        for member in range(members):
            header, *rows = read_log(self._part(member).log_path) or [[]]
            if header and not lines:
                lines.append(",".join(["member", *header]))
            lines += [",".join([str(member), *row]) for row in rows]
        write_text(self.run.log_path, "".join(line + "\n" for line in lines))
