"""From one pretrained backbone to an ensemble whose members share its frozen layers.

Algorithm 1 of the paper, and where each of its steps is:

1. initialize M members from the pretrained weights: `build_ensemble`;
2. freeze what is shared: `build_ensemble` (`trainable = False` on the shared layers);
3. train the rest: `Model.fit`;
4. get the weights, remove the overlap: a shared layer is one object in the model, so saving the
   model stores its weights once.

```python
ensemble = build_ensemble(backbone, members=4)
ensemble.compile("adam", **compile_arguments(ensemble))
ensemble.fit(images, labels)
ensemble.save("ensemble.keras")
```
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from larq_ensemble import layers as _layers  # noqa: F401 (so that Keras can load them)
from larq_ensemble.errors import EnsembleError
from larq_ensemble.functional import classifier, layer_graph, map_references
from larq_ensemble.keras import keras, tf
from larq_ensemble.schemes import SCHEMES, Scheme, member_output
from larq_ensemble.sharing import Sharing, shared_layers

_RANDOM_LAYERS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)


@keras.utils.register_keras_serializable("larq_ensemble")
class Combine(keras.layers.Layer):
    """Combines the members' logits to the probabilities of the ensemble.

    # Arguments
        scheme: the scheme's name.

    # Input shape
        A list of M tensors [n, classes].

    # Output shape
        [n, classes].
    """

    def __init__(self, scheme: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scheme = SCHEMES[scheme]

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        # Keras hands the one input of a loaded single-member ensemble over without its list.
        return self.scheme.combine(inputs if isinstance(inputs, (list, tuple)) else [inputs])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scheme": self.scheme.name}


def build_ensemble(
    backbone: keras.Model,
    members: int,
    *,
    sharing: Sharing = "fusion",
    scheme: str = "fusion",
    jitter: float | None = None,
    dropout: float | None = None,
    independent_inputs: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds an ensemble of M members from a pretrained classifier (paper, Algorithm 1).

    Layers that `sharing` names are one frozen layer object, called by every member; those that
    depend on no member's own layer (the stem) run once. Every other layer is copied for each
    member, with the pretrained weights, under the name `member_{i}_{name}`. The backbone itself
    is left as it is.

    # Arguments
        backbone: a functional Keras or Larq classifier that ends in a Dense layer.
        members: M, at least 1.
        sharing: which layers are shared, see `larq_ensemble.sharing`.
        scheme: how members are trained and combined, see `larq_ensemble.schemes`.
        jitter: noise on each member's batch norm, so that members differ: scale * (1 + jitter *
            N(0, 1)) and offset + jitter * N(0, 1). Without batch norm of its own, a member's
            linear layer gets noise of `jitter` times its weights' standard deviation, and
            without that, all its weights do. `None`: the scheme's default.
        dropout: a new rate for the members' Dropout layers; `None` keeps theirs.
        independent_inputs: one input a member, for members that see different batches.
        seed: of the noise.

    # Returns
        A functional Keras model. Outputs: `member_0` to `member_{M-1}`, the logits [n, classes],
        and `ensemble`, the combined probabilities [n, classes]; for nested fusion between them
        `first_1` to `first_{M-1}`, the probabilities of the first so many members. Inputs: the
        backbone's, or one each, `member_{i}_{name}`.

    # Raises
        EnsembleError: for a member count below 1, a model that can't be made an ensemble, or a
            policy that leaves members nothing of their own.
    """
    if not isinstance(members, (int, np.integer)) or isinstance(members, bool) or members < 1:
        raise EnsembleError(f"`members` must be a whole number from 1 on, got {members!r}.")
    chosen: Scheme = SCHEMES[scheme]
    if independent_inputs and not chosen.independent:
        raise EnsembleError(
            f"Independent inputs do not go with the scheme {scheme!r}: it trains all members "
            "on one loss, so they must see the same batch."
        )
    if jitter is not None and not jitter >= 0:
        raise EnsembleError(f"`jitter` must be at least 0, got {jitter}.")
    backbone = classifier(backbone)
    shared = shared_layers(sharing, layer_graph(backbone), backbone)
    own = {layer.name for layer in backbone.layers if layer.weights} - shared
    if not own:
        raise EnsembleError(
            "`sharing` leaves the members nothing of their own, so all would be equal: share "
            "less, for example with the policy 'all_frozen'."
        )
    common = frozenset() if independent_inputs else _common_prefix(backbone, shared)
    config = _members_config(backbone.get_config(), members, shared, common)
    if dropout is not None:
        _set_dropout(config, dropout)
    branches = keras.Model.from_config(config)
    logits = [
        keras.layers.Activation("linear", name=member_output(member))(output)
        for member, output in enumerate(branches.outputs)
    ]
    combined = [
        Combine(scheme, name=output)(logits[:count])
        for output, count in chosen.combinations(members).items()
    ]
    ensemble = keras.Model(branches.inputs, [*logits, *combined], name=f"{backbone.name}_ensemble")
    for layer in backbone.layers:
        copies = (
            [layer.name]
            if layer.name in shared | common
            else [own_name(member, layer.name) for member in range(members)]
        )
        for name in copies:
            ensemble.get_layer(name).set_weights(layer.get_weights())
    for name in shared:
        ensemble.get_layer(name).trainable = False
    _add_jitter(ensemble, members, chosen.jitter if jitter is None else jitter, seed)
    return ensemble


def own_name(member: int, layer: str) -> str:
    """The name of a member's own copy of a backbone's layer."""
    return f"member_{member}_{layer}"


def compile_arguments(
    ensemble: keras.Model, prefix_weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """`loss`, `loss_weights` and `metrics` for `Model.compile`, as the scheme demands.

    # Arguments
        ensemble: what `build_ensemble` returned.
        prefix_weights: for nested fusion, see `larq_ensemble.schemes.NestedFusion`.

    # Raises
        EnsembleError: for weights that do not go with the scheme or the number of members.
    """
    view = EnsembleView(ensemble)
    scheme = view.scheme
    if prefix_weights is not None:
        scheme = scheme.with_prefix_weights(prefix_weights)
    return {
        "loss": scheme.losses(view.members),
        "loss_weights": scheme.loss_weights(view.members),
        "metrics": {
            output: keras.metrics.SparseCategoricalAccuracy(name="accuracy")
            for output in scheme.combinations(view.members)
        },
    }


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of every layer of `target` from the layer of `source` with its name.

    For ensembles of the same backbone, for example from one with independent inputs to one with
    a single input.
    """
    for layer in target.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


class EnsembleView:
    """What is where in an ensemble, read off the Keras model alone.

    So an ensemble that Keras saved and loaded needs nothing else to be converted or evaluated.

    # Arguments
        model: what `build_ensemble` returned, or a copy that Keras loaded.

    # Attributes
        members: M.
        scheme: the `Scheme`.
        classes: number of logits.

    # Raises
        EnsembleError: if `model` is no ensemble.
    """

    def __init__(self, model: keras.Model) -> None:
        last = model.layers[-1] if getattr(model, "layers", None) else None
        if not isinstance(last, Combine) or len(model.outputs) < 2:
            raise EnsembleError(
                f"The model {getattr(model, 'name', model)!r} is not an ensemble: give one that "
                "`build_ensemble` returned."
            )
        self.model = model
        self.scheme: Scheme = last.scheme
        self.members = sum(not isinstance(tensor.node.layer, Combine) for tensor in model.outputs)
        self.classes = int(model.outputs[-1].shape[-1])

    def member(self, member: int) -> keras.Model:
        """The network of one member: image -> logits. Its layers are the ensemble's."""
        self._check(member)
        inputs = self.model.inputs
        return keras.Model(
            inputs[member] if len(inputs) > 1 else inputs[0],
            self.model.outputs[member],
            name=member_output(member),
        )

    def own_layers(self, member: int) -> list[keras.layers.Layer]:
        """The layers that only this member uses and that hold weights."""
        self._check(member)
        prefix = own_name(member, "")
        return [
            layer for layer in self.model.layers if layer.weights and layer.name.startswith(prefix)
        ]

    def shared_layers(self) -> list[keras.layers.Layer]:
        """The layers that all members use and that hold weights."""
        own = {id(layer) for member in range(self.members) for layer in self.own_layers(member)}
        return [layer for layer in self.model.layers if layer.weights and id(layer) not in own]

    def _check(self, member: int) -> None:
        if not 0 <= member < self.members:
            raise EnsembleError(
                f"`member` must be from 0 to {self.members - 1} in this ensemble of "
                f"{self.members}, got {member}."
            )


def _common_prefix(backbone: keras.Model, shared: frozenset[str]) -> frozenset[str]:
    """The layers whose output is the same for every member: they run once."""
    common: set[str] = set()
    for node in layer_graph(backbone):
        layer = backbone.get_layer(node.name)
        fixed = node.name in shared or (not layer.weights and not isinstance(layer, _RANDOM_LAYERS))
        if fixed and all(source in common for source in node.inputs):
            common.add(node.name)
    return frozenset(common)


def _members_config(
    config: dict[str, Any], members: int, shared: Iterable[str], common: Iterable[str]
) -> dict[str, Any]:
    """The functional configuration of M branches from that of one network.

    A layer in `common` keeps its calls, one in `shared` gets those of all members one after the
    other, and every other layer becomes M layers with one member's calls each.
    """
    names = {layer["name"] for layer in config["layers"]}
    calls = {layer["name"]: max(1, len(layer["inbound_nodes"])) for layer in config["layers"]}

    def reference(member: int) -> Callable[[str, int, int], list[Any]]:
        def change(name: str, call: int, tensor: int) -> list[Any]:
            if name in common:
                return [name, call, tensor]
            if name in shared:
                return [name, member * calls[name] + call, tensor]
            return [own_name(member, name), call, tensor]

        return change

    layers = []
    for layer in config["layers"]:
        name = layer["name"]
        if name in common:
            layers.append(copy.deepcopy(layer))
            continue
        nodes = [
            map_references(layer["inbound_nodes"], names, reference(member))
            for member in range(members)
        ]
        if name in shared:
            layers.append({**copy.deepcopy(layer), "inbound_nodes": [*itertools.chain(*nodes)]})
            continue
        for member in range(members):
            new = {**copy.deepcopy(layer), "inbound_nodes": nodes[member]}
            new["name"] = new["config"]["name"] = own_name(member, name)
            layers.append(new)

    def ends(references_: Any) -> list[Any]:
        found = [map_references(references_, names, reference(member)) for member in range(members)]
        flat = [item for member_ends in found for item in member_ends]
        return [item for index, item in enumerate(flat) if item not in flat[:index]]

    return {
        **config,
        "layers": layers,
        "input_layers": ends(config["input_layers"]),
        "output_layers": ends(config["output_layers"]),
    }


def _set_dropout(config: dict[str, Any], rate: float) -> None:
    if not 0 <= rate < 1:
        raise EnsembleError(f"`dropout` must be at least 0 and below 1, got {rate}.")
    for layer in config["layers"]:
        if layer["class_name"] == "Dropout":
            layer["config"]["rate"] = rate


def _add_jitter(ensemble: keras.Model, members: int, jitter: float, seed: int) -> None:
    if not jitter:
        return
    view = EnsembleView(ensemble)
    for member in range(members):
        generator = np.random.default_rng([seed, member])
        own = view.own_layers(member)
        norms = [layer for layer in own if isinstance(layer, keras.layers.BatchNormalization)]
        affine = [layer for layer in norms if layer.scale or layer.center]
        heads = [layer for layer in own if isinstance(layer, keras.layers.Dense)]
        for layer in affine:
            if layer.scale:
                noise = generator.standard_normal(layer.gamma.shape)
                layer.gamma.assign(layer.gamma.numpy() * (1 + jitter * noise))
            if layer.center:
                noise = generator.standard_normal(layer.beta.shape)
                layer.beta.assign(layer.beta.numpy() + jitter * noise)
        if affine:
            continue
        for layer in heads or own:
            for weight in layer.trainable_weights:
                value = weight.numpy()
                noise = generator.standard_normal(value.shape)
                weight.assign(value + jitter * (value.std() or 1.0) * noise)
