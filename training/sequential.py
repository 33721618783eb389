"""Training of an ensemble member by member: activations and optimizer take the memory of one.

Each member is a network by itself, trained with `fit` in a directory of its own in the run:

    member_2/model.keras    the trained member: it is never trained again
    member_2/result.json    its weight in the combination, and its speed
    member_2/log.csv, tensorboard/, checkpoints/    while and as it was trained

At the end their own layers are put together to the ensemble, and the run's `log.csv` holds the
rows of all members.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from larq_ensemble.data.datasets import Dataset, Split, Splits
from larq_ensemble.ensembles.building import (
    build_ensemble,
    build_member,
    copy_weights,
    own_layers,
    own_name,
)
from larq_ensemble.ensembles.fused_activations import one_pass_network
from larq_ensemble.ensembles.schemes import (
    SCHEMES,
    AdaBoost,
    Adversarial,
    SampleWeights,
    member_output,
)
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import replacing, write_text
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import Run
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.metrics import top_k_accuracy
from larq_ensemble.training.adversarial import AdversarialTraining
from larq_ensemble.training.boosting import PseudoResidualLoss, boosted_accuracy, zero_head
from larq_ensemble.training.fit import Course, set_seed
from larq_ensemble.training.graphs import free_networks, temporary_graphs
from larq_ensemble.training.job import fit_images
from larq_ensemble.training.pipeline import evaluation_batches
from larq_ensemble.training.recipes import Recipe


@dataclass
class InTurn:
    """Trains members independently, each on its own loss.

    # Arguments
        backbone: the pretrained network.
        dataset: what it was trained on.
        members: M, the most members.
        arguments: of `build_member`, those that are the same for all: sharing, scheme, jitter,
            dropout, initial, seed.
        independent_data: each member its own order and augmentation of the images.
        shrinkage: for boosting.
        patience: ends after so many members in a row without a better validation accuracy, and
            leaves those out; `None`: never.
    """

    backbone: keras.Model
    dataset: Dataset
    members: int
    arguments: dict[str, Any]
    recipe: Recipe
    independent_data: bool = False
    shrinkage: float = 1.0
    patience: int | None = None
    verbose: int | str = "auto"
    run: Run = field(init=False)
    splits: Splits = field(init=False)

    def train(self, run: Run, splits: Splits) -> tuple[keras.Model, float | None]:
        """Trains the members that the run does not hold yet.

        # Returns
            The ensemble, and the images a second of one member's training.
        """
        self.run, self.splits = run, splits
        results: list[dict[str, Any]] = []
        validation: list[np.ndarray] = []
        accuracies: list[float] = []
        for member in range(self.members):
            part = self._part(member)
            result = part.finished_result()
            if result is None:
                self._say(f"Member {member + 1} of {self.members}")
                network, result = self._train_member(member)
            else:
                network = part.model
            results.append(result)
            if len(self.splits.validation):
                validation.append(self._logits(network, self.splits.validation))
                accuracies.append(self._validation_top1(validation, results))
                self._say(
                    f"Member {member + 1} of {self.members} is trained: validation top-1 of the "
                    f"ensemble so far {accuracies[-1]:.2f} %"
                )
            del network  # so that the next member's training finds its memory free
            best = int(np.argmax(accuracies)) if accuracies else member
            if self.patience is not None and member - best >= self.patience:
                results = results[: best + 1]
                self._say(
                    f"Stopped: {self.patience} in a row without improvement. The ensemble has the "
                    f"first {len(results)} members, not {self.members}."
                )
                break
        self._write_log(len(results))
        speeds = [result["images_per_second"] for result in results]
        known = [speed for speed in speeds if speed is not None]
        return self._assemble(results), float(np.mean(known)) if known else None

    def _start(self, member: int) -> keras.Model:
        """The network of a member as its training starts."""
        return build_member(self.backbone, member, **self.arguments)

    def _objective(self, member: int, network: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        """What `fit` trains to train the network: a model, and its loss and metrics."""
        return one_pass_network(network), {
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        }

    def _sample_weights(self, member: int) -> SampleWeights | None:
        """How much each image counts: a function to [1, batch], as `Scheme.sample_weights`."""
        of_all = SCHEMES[self.arguments["scheme"]].sample_weights(
            self.members, len(self.splits.train), self.arguments["seed"]
        )
        if of_all is None:
            return None
        return lambda indices, seed: of_all(indices, seed)[member : member + 1]

    def _schedule(self, member: int) -> dict[str, Any]:
        """Recipe, first epoch of the data, and form of the learning rate of a member's `fit`."""
        return {"recipe": self.recipe}

    def _weight(self, member: int, network: keras.Model) -> float | None:
        """The weight of a trained member in the combination; `None`: all count the same."""
        return None

    @temporary_graphs()
    def _train_member(self, member: int) -> tuple[keras.Model, dict[str, Any]]:
        part = self._part(member)
        free_networks()  # the members before
        seed = int(np.random.default_rng([self.arguments["seed"], member]).integers(2**31))
        set_seed(seed, self.recipe.dropout)
        network = self._start(member)
        sample_weights = self._sample_weights(member)
        speed = fit_images(
            network,
            self.splits,
            self.dataset,
            run=part,
            objective=lambda network: self._objective(member, network),
            seed=seed if self.independent_data else self.arguments["seed"],
            verbose=self.verbose,
            outputs=() if sample_weights is None else (member_output(member),),
            sample_weights=sample_weights,
            **self._schedule(member),
        )
        result = {"weight": self._weight(member, network), "images_per_second": speed}
        part.save_model(network)
        part.save_result(result)
        shutil.rmtree(part.checkpoints_path, ignore_errors=True)
        return network, result

    def _part(self, member: int) -> Run:
        """The directory of a member, as a run in the run."""
        return Run(self.run.path / member_output(member), self.run.config)

    def _assemble(self, results: list[dict[str, Any]]) -> keras.Model:
        """The ensemble of the members trained so far."""
        ensemble = build_ensemble(
            self.backbone,
            len(results),
            **{**self.arguments, "initial": "pretrained", "jitter": 0.0},
            weights=_weights(results),
        )
        for member in range(len(results)):
            copy_weights(self._part(member).model, ensemble)
        return ensemble

    def _logits(self, network: keras.Model, data: Split) -> np.ndarray:
        # Eagerly: a graph for each member costs more than it saves, and TensorFlow warns of many.
        batches = evaluation_batches(data, self.dataset)
        return np.concatenate([network(images, training=False).numpy() for images, _ in batches])

    def _validation_top1(self, logits: list[np.ndarray], results: list[dict[str, Any]]) -> float:
        probabilities = combine(np.stack(logits), self.arguments["scheme"], _weights(results))
        return top_k_accuracy(probabilities, self.splits.validation.labels, k=1)

    def _write_log(self, members: int) -> None:
        lines: list[str] = []
        for member in range(members):
            with open(self._part(member).log_path, newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            if not lines:
                lines.append(",".join(["member", *header]))
            lines += [",".join([str(member), *row]) for row in rows]
        write_text(self.run.log_path, "\n".join(lines) + "\n")

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)


class BoostingInTurn(InTurn):
    """Gradient boosting, see `larq_ensemble.ensembles.schemes.Boosting`."""

    def _start(self, member: int) -> keras.Model:
        network = super()._start(member)
        zero_head(network, member)
        return network

    def _objective(self, member: int, network: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        logits, image = network.outputs[0], network.inputs[0]
        if member:
            previous = self._assemble([{"weight": self.shrinkage}] * member)
            previous.trainable = False
            so_far = previous(image, training=False)[-1]
        else:
            so_far = tf.ones_like(logits) / logits.shape[-1]  # softmax(F_0), F_0 = 0
        model = keras.Model(image, tf.stack([logits, so_far], axis=1))
        return model, {
            "loss": PseudoResidualLoss(),
            "metrics": [boosted_accuracy(self.shrinkage)],
        }

    def _weight(self, member: int, network: keras.Model) -> float | None:
        return self.shrinkage


class SnapshotInTurn(InTurn):
    """A member at each minimum of the learning rate, see `larq_ensemble.ensembles.schemes.Snapshot`."""

    course: ClassVar[Course] = "cosine"

    def _start(self, member: int) -> keras.Model:
        network = super()._start(member)
        if member:
            previous = self._part(member - 1).model
            for layer in own_layers(network, member):
                name = layer.name.removeprefix(own_name(member, ""))
                source = previous.get_layer(own_name(member - 1, name))
                layer.set_weights(source.get_weights())
        return network

    def _schedule(self, member: int) -> dict[str, Any]:
        epochs = cycle_epochs(self.arguments["scheme"], self.recipe.epochs, self.members)
        recipe = dataclasses.replace(self.recipe, epochs=epochs)
        return {"recipe": recipe, "first_epoch": member * epochs, "course": self.course}


class FastGeometricInTurn(SnapshotInTurn):
    """Fast geometric ensembling, see `larq_ensemble.ensembles.schemes.FastGeometric`."""

    course = "triangle"


def cycle_epochs(scheme: str, epochs: int, members: int) -> int:
    """The epochs of each of the cycles of a snapshot or fast geometric ensemble.

    # Raises
        EnsembleError: if the epochs can't be split evenly.
    """
    if epochs % members:
        raise EnsembleError(
            f"The scheme {scheme!r} splits its epochs evenly among the members, and {epochs} are "
            f"no multiple of {members}: use --epochs {-(-epochs // members) * members}."
        )
    return epochs // members


class AdversarialInTurn(InTurn):
    """Training against the fast gradient sign method, see `larq_ensemble.ensembles.schemes.Adversarial`."""

    def _objective(self, member: int, network: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        trained = AdversarialTraining(network.inputs, network.outputs[0], name=network.name)
        # A step of the images, in what the network sees: (x / 255 - mean) / std.
        trained.epsilon = Adversarial.EPSILON / np.asarray(
            self.dataset.normalization.std, np.float32
        )
        _, compiled = super()._objective(member, network)
        return trained, compiled


class AdaBoostInTurn(InTurn):
    """SAMME, see `larq_ensemble.ensembles.schemes.AdaBoost`."""

    def _sample_weights(self, member: int) -> SampleWeights | None:
        table = tf.constant(self._weights_for(member), tf.float32)
        return lambda indices, seed: tf.gather(table, indices)[tf.newaxis]

    def _weight(self, member: int, network: keras.Model) -> float | None:
        data = self.splits.train
        wrong = self._logits(network, data).argmax(axis=-1) != data.labels
        alpha, following = AdaBoost().reweighted(
            self._weights_for(member), wrong, self.dataset.classes
        )
        with replacing(self._part(member).path / "next_sample_weights.npy") as temporary:
            np.save(temporary, following)
        return alpha

    def _weights_for(self, member: int) -> np.ndarray:
        if not member:
            return np.ones(len(self.splits.train))
        return np.load(self._part(member - 1).path / "next_sample_weights.npy")


#: Scheme name -> how it trains its members in turn, where not independently.
IN_TURN: dict[str, type[InTurn]] = {
    "boosting": BoostingInTurn,
    "snapshot": SnapshotInTurn,
    "fast_geometric": FastGeometricInTurn,
    "adversarial": AdversarialInTurn,
    "adaboost": AdaBoostInTurn,
}


def _weights(results: list[dict[str, Any]]) -> list[float] | None:
    weights = [result["weight"] for result in results]
    return None if None in weights else weights
