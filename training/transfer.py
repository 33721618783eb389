"""Starting a network from trained weights: of its real-valued twin, or of a backbone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from larq_ensemble.data.datasets import DataOptions, Dataset
from larq_ensemble.data.opening import check_cut
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models import layer_graph
from larq_ensemble.network.architectures import MODELS
from larq_ensemble.network.graph import Role
from larq_ensemble.trained import Trained, is_own
from larq_ensemble.training.distillation import Distillation


class StartedNetwork(NamedTuple):
    """What a network is that starts from trained weights, where its settings don't say it.

    # Arguments
        name: its architecture; `None` if there is no source, or it is of a network of the user's.
        width: what multiplies its channels.
        pad_values: what pads binary convolutions; `None`: the architecture's.
    """

    name: str | None
    width: float
    pad_values: float | None


def started_network(real: Trained | None, backbone: Trained | None) -> StartedNetwork:
    """The network of a backbone, or the binarized one of a real-valued twin or of a first stage.

    # Arguments
        real, backbone: the runs to start from.
    """
    source = backbone or real
    if source is None or source.config.architecture is None:
        return StartedNetwork(None, 1.0, None)
    name, model = source.config.architecture, source.config.model
    if backbone or "binarize" in model:
        return StartedNetwork(name, model["width"], model["pad_values"])
    return StartedNetwork(name.removesuffix("_real"), model["width"], None)


def check_twin(run: Trained, model: dict[str, Any]) -> None:
    """Checks that a run is of the real-valued twin of a network, or of its first stage.

    # Arguments
        run: the run to start from.
        model: arguments of `build_model`.

    # Raises
        EnsembleError: if it is of another network.
    """
    if run.config.architecture is None or "source" in model:
        raise EnsembleError(
            f"`from_real` {str(run.path)!r} can't start {model['name']!r}: only networks that "
            "larq-ensemble builds have a real-valued twin. Start from trained weights by giving "
            "their Keras file as `model`."
        )
    if not MODELS[model["name"]].binary:
        raise EnsembleError(
            f"`from_real` {str(run.path)!r} starts a binarized network from its real-valued twin, "
            f"whose name ends in _real, and {model['name']!r} is real-valued: give "
            "`from_backbone`, or another `model`."
        )
    same = {key: model[key] for key in ("input_shape", "classes", "width", "revision")}
    twin = {"name": f"{model['name']}_real", **same}
    is_first_stage = "binarize" in run.config.model and "binarize" not in model
    if is_first_stage:
        twin |= {"name": model["name"], "pad_values": model["pad_values"]}
    for key, value in twin.items():
        if (given := run.config.model[key]) != value:
            raise EnsembleError(
                f"`from_real` {str(run.path)!r} is not the "
                f"{'first stage' if is_first_stage else 'real-valued twin'} of "
                f"{model['name']!r}: its {key} is {given!r}, not {value!r}. Pretrain "
                f"{twin['name']!r} with the same arguments first."
            )


def check_backbone(run: Trained, model: dict[str, Any]) -> None:
    """Checks that a run is of a network whose weights another can start from.

    Classes, height and width may differ.

    # Arguments
        run: the run to start from.
        model: arguments of `build_model`.

    # Raises
        EnsembleError: if it is of another network, or takes images of other channels.
    """
    of_run = run.config.model
    keys = ("name", "width", "revision", "pad_values")  # a network that is not ours has a name only
    compared = {key: (of_run.get(key), model.get(key)) for key in keys}
    compared["`binarize`"] = (of_run.get("binarize", "all"), model.get("binarize", "all"))
    compared["channels"] = (of_run["input_shape"][-1], model["input_shape"][-1])
    for key, (given, expected) in compared.items():
        if given != expected:
            advice = " For data of your own choose `channels`: grey has 1, rgb has 3."
            raise EnsembleError(
                f"`from_backbone` {str(run.path)!r} can't start {model['name']!r}: its {key} is "
                f"{given!r}, not {expected!r}. Classes and image size may differ, the rest has to "
                f"be the same.{advice if key == 'channels' else ''}"
            )


def split_seed(sources: Iterable[Trained], dataset: Dataset, data: DataOptions, seed: int) -> int:
    """The seed that cuts the validation split of a run that learns from others.

    None of them may have been trained on what it holds out, so it takes their seed.

    # Arguments
        sources: the runs that it starts from or learns from.
        dataset, data, seed: of the new run.

    # Returns
        The split seed of the sources on the same data set; without any, `seed`.

    # Raises
        EnsembleError: if a source was trained on what the new run would hold out, or may have been,
            as a Keras file, or on what is its test split.
    """
    same = [run for run in sources if is_own(run, dataset)]
    for run in same:
        check_cut(dataset, run.config.dataset, f"the run {str(run.path)!r}")
    known = [run for run in same if run.config.held_out_is_known]
    seeds = {run.config.split_seed for run in known}
    if len(seeds) > 1:
        raise EnsembleError(
            "The runs that this one starts and learns from held out different images for "
            "validation: pretrain them with the same `seed`."
        )
    for run in known:
        if data.validation > (held_out := run.config.data["validation"]):
            raise EnsembleError(
                f"`validation` {data.validation} would hold out images that the run "
                f"{str(run.path)!r} was trained on: at most {held_out}, what it held out."
            )
    if data.validation and len(known) < len(same):
        unknown = next(run for run in same if not run.config.held_out_is_known)
        path = str(unknown.path)
        way_out = (
            f"make a run of it by `pretrain` with `model` {path!r}, its `normalization` and 0 "
            "`epochs`, and give that"
            if unknown.config.kind == "backbone"
            else "make a run of its backbone by `pretrain` with 0 `epochs`, and train the ensemble "
            "from that"
        )
        raise EnsembleError(
            f"`validation` {data.validation} may hold out images that {path!r} was trained on: "
            "nobody knows what the training of a Keras file held out. Give `validation` 0. Or, if "
            f"it never saw these images, {way_out}."
        )
    return seeds.pop() if seeds else seed


def start_from_real(model: keras.Model, real: keras.Model) -> dict[str, list[str]]:
    r"""Copies the weights of a real-valued network into its binarized twin, layer by layer.

    So also those of a network with binary activations and real-valued filters, the first of two
    stages, into the one with binary filters, the second.

    A layer takes the weights of the layer of the same name if all shapes agree. Others keep their
    own, such as an RSign, which the twin lacks. A latent weight goes through its constraint, for
    `weight_clip`

    \\( w = \max(-1, \min(1, w_\text{real})) \\),

    outside of which the straight-through estimator passes no gradient. It is not scaled: then
    sign(w) mean(|w|) is the best binary approximation of the real filter (Rastegari et al. 2016,
    section 3.1), and |w|, the distance of a weight from changing its sign, is of the size that the
    usual initializers give it.

    # Arguments
        model: the network to start.
        real: its trained twin.

    # Returns
        `{"copied", "not_copied"}`: names of the layers of `model` with weights.

    # References
        - Rastegari et al. 2016, [XNOR-Net](https://arxiv.org/abs/1603.05279).
        - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278), section 3.3, and Liu et
          al. 2020, [ReActNet](https://arxiv.org/abs/2003.03488): binarized networks start from
          real-valued ones.
        - Martinez et al. 2020, [Training binary neural networks with real-to-binary
          convolutions](https://arxiv.org/abs/2003.11535), section 4.2: the two stages.
    """
    return _copy_weights(model, real)


def start_from_backbone(model: keras.Model, backbone: keras.Model) -> dict[str, list[str]]:
    """Copies the weights of a trained backbone into the same network for other images and classes.

    Convolutions, batch norm and activation parameters have no image size, so all layers take the
    weights of the layer of the same name, but the head: its classes are others, and it keeps its
    own.

    # Arguments
        model: the network to start.
        backbone: the trained one.

    # Returns
        As `start_from_real`.

    # Raises
        EnsembleError: if another layer than the head can't take the weights.

    # References
        - Yosinski et al. 2014, [How transferable are features in deep neural
          networks?](https://arxiv.org/abs/1411.1792)
    """
    heads = {name for name, role in layer_graph(model).roles.items() if role is Role.HEAD}
    names = _copy_weights(model, backbone, but=heads)
    if missing := [name for name in names["not_copied"] if name not in heads]:
        raise EnsembleError(
            f"`from_backbone` has no weights of the same shape for {', '.join(missing[:3])}: give "
            "a trained network of the same layers."
        )
    return names


def _copy_weights(
    model: keras.Model, source: keras.Model, *, but: Collection[str] = ()
) -> dict[str, list[str]]:
    """Layer by layer, through the constraints of `model`; the names of what it copied and not."""
    sources = {layer.name: layer.get_weights() for layer in source.layers if layer.name not in but}
    names: dict[str, list[str]] = {"copied": [], "not_copied": []}
    for layer in model.layers:
        if not layer.weights:
            continue
        values = sources.get(layer.name, [])
        if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
            names["not_copied"].append(layer.name)
            continue
        for weight, value in zip(layer.weights, values):
            weight.assign(weight.constraint(value) if weight.constraint is not None else value)
        names["copied"].append(layer.name)
    return names


@dataclass(frozen=True)
class Sources:
    """The trained networks that a backbone starts from or learns from.

    # Arguments
        from_real, from_backbone, distillation: as for `larq_ensemble.training.pretrain.pretrain`.

    # Raises
        EnsembleError: for two networks to start from.
    """

    from_real: Trained | None
    from_backbone: Trained | None
    distillation: Distillation | None

    def __post_init__(self) -> None:
        if self.from_real is not None and self.from_backbone is not None:
            raise EnsembleError(
                "`from_real` and `from_backbone` both say which weights to start from: give one."
            )

    @property
    def runs(self) -> dict[str, Trained]:
        """The runs there are, by argument."""
        teacher = None if self.distillation is None else self.distillation.teacher
        runs = {
            "from_backbone": self.from_backbone, "from_real": self.from_real, "teacher": teacher
        }  # fmt: skip
        return {name: run for name, run in runs.items() if run is not None}

    def check(self, model: dict[str, Any]) -> None:
        """Checks that they fit a network.

        # Arguments
            model: what the run records of the network.

        # Raises
            EnsembleError: if one doesn't.
        """
        if self.from_backbone is not None:
            check_backbone(self.from_backbone, model)
        if self.from_real is not None:
            check_twin(self.from_real, model)
        if self.distillation is not None:
            self.distillation.check_teaches(model)

    def to_json(self) -> dict[str, Any]:
        """What a run records of them."""
        of_teacher = {} if self.distillation is None else self.distillation.to_json()
        return of_teacher | {name: run.digest for name, run in self.runs.items()}

    def start(self, network: keras.Model) -> dict[str, Any]:
        """Gives a network the weights to start from; returns which, by argument."""
        if self.from_backbone is not None:
            return {"from_backbone": start_from_backbone(network, self.from_backbone.model)}
        if self.from_real is not None:
            return {"from_real": start_from_real(network, self.from_real.model)}
        return {}
