"""From one pretrained backbone to an ensemble whose members share its frozen layers.

Algorithm 1 of the paper, and where each of its steps is:

1. initialize M members from the pretrained weights: `build_ensemble`;
2. freeze what is shared: `build_ensemble` (`trainable = False` on the shared layers);
3. train the rest: `Ensemble.fit`, for sequential schemes `larq_ensemble.fit_members`;
4. get the weights, remove the overlap: a shared layer is one object in the model, so its weights
   are saved once.

```python
ensemble = build_ensemble(backbone, members=4)
ensemble.compile("adam")
ensemble.fit(images, labels)
ensemble.save("ensemble.keras")
```
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from larq_ensemble import constraints as _constraints  # noqa: F401 (so that Keras can load them)
from larq_ensemble import layers as _layers  # noqa: F401
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.combine import Combine
from larq_ensemble.ensembles.ensemble import Ensemble, own_layers
from larq_ensemble.ensembles.names import member_output, own_name
from larq_ensemble.ensembles.schemes import SCHEMES, Scheme
from larq_ensemble.errors import EnsembleError, check_seed, check_whole, is_number
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import (
    built_by_their_calls,
    classifier,
    map_references,
    rebuilt,
    with_head_bias_apart,
)
from larq_ensemble.models.graph import Sharing, layer_graph, shared_layers
from larq_ensemble.models.weights import check_weights
from larq_ensemble.network.sharing import binary_layers, has_own_head_bias, notes
from larq_ensemble.progress import tracked
from larq_ensemble.runtime.combination import are_weights

Initial = Literal["pretrained", "random"]

_RANDOM_LAYERS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)


def build_ensemble(
    backbone: keras.Model,
    members: int,
    *,
    sharing: Sharing = "fusion",
    scheme: str = "fusion",
    jitter: float | None = None,
    dropout: float | None = None,
    initial: Initial = "pretrained",
    independent_inputs: bool = False,
    weights: Sequence[float] | None = None,
    normalization: Normalization | None = None,
    seed: int = 0,
) -> Ensemble:
    """Builds an ensemble of M members from a pretrained classifier (paper, Algorithm 1).

    Each layer that `sharing` selects is one frozen layer object, which every member calls. The
    shared trunk, the layers before the first own layer of a member, runs once. Every other layer is
    copied for each member, with the pretrained weights, under the name `member_{i}_{name}`. The
    backbone itself stays unchanged.

    # Arguments
        backbone: a functional Keras or Larq classifier that ends in a Dense layer.
        members: M, at least 1.
        sharing: which layers are shared, see `larq_ensemble.network.sharing`; of what may surprise
            about a policy for this network (`notes` there) it warns.
        scheme: how members are trained and combined, see `larq_ensemble.ensembles.schemes`.
        jitter: noise on each member's batch norm, so that members differ: scale * (1 + jitter *
            N(0, 1)) and offset + jitter * N(0, 1). If members have no batch norm of their own,
            their linear layers get noise of `jitter` times the standard deviation of the weights,
            and if they have none either, all their weights do. Constraints are applied afterwards.
            `None`: the scheme's default; 0 for random members.
        dropout: a new rate for the members' Dropout layers, of which the backbone needs one;
            `None`: unchanged.
        initial: `"pretrained"`: members start from the backbone's weights; `"random"`: each from
            weights that the layers' initializers draw anew, which needs the sharing `"none"`.
        independent_inputs: one input per member, for members that see different batches.
        weights: the positive weight of each member in the combination; `None`: all equal.
        normalization: from pixels to the backbone's input, see `Ensemble.normalization`. The
            ensemble keeps it for conversion. `None`: not known.
        seed: of the noise, and of random members.

    # Returns
        An `Ensemble`, not compiled. Outputs: `member_0` to `member_{M-1}`, the logits [n, classes];
        for nested fusion `first_1` to `first_{M-1}`, the probabilities of the first m members; and
        `ensemble`, the probabilities of all. Input: the backbone's, or with `independent_inputs`
        one per member, `member_{i}_{name}`.

    # Raises
        EnsembleError: for a member count below 1, a model that can't be made an ensemble, or a
            policy that leaves members nothing of their own.
    """
    members = check_whole("members", members, 1)
    if weights is not None:
        weights = _checked_weights(weights, members)
    if independent_inputs and not SCHEMES[scheme].independent:
        raise EnsembleError(
            f"`independent_inputs` does not go with the scheme {scheme!r}, whose members must see "
            "the same batch: leave it out."
        )
    branches = _build_branches(
        backbone,
        range(members),
        sharing=sharing,
        scheme=SCHEMES[scheme],
        jitter=jitter,
        dropout=dropout,
        initial=initial,
        independent_inputs=independent_inputs,
        seed=seed,
    )
    logits, precision = branches.outputs, branches.outputs[0].dtype.name
    combined = [
        Combine(scheme, None if weights is None else weights[:count], name=output, dtype=precision)(
            logits[:count]
        )
        for output, count in SCHEMES[scheme].combinations(members).items()
    ]
    ensemble = Ensemble(branches.inputs, [*logits, *combined], name=f"{branches.name}_ensemble")
    ensemble.normalization = normalization
    return ensemble


def build_member(
    backbone: keras.Model,
    member: int,
    *,
    sharing: Sharing = "fusion",
    scheme: str = "fusion",
    jitter: float | None = None,
    dropout: float | None = None,
    initial: Initial = "pretrained",
    seed: int = 0,
) -> keras.Model:
    """Builds the network of one member alone, with the initial weights of `build_ensemble`.

    Its layers have the same names as in the ensemble, so `copy_weights` can copy them there.

    # Arguments
        member: its number, from 0 on.
        backbone, sharing, scheme, jitter, dropout, initial, seed: as for `build_ensemble`.

    # Returns
        A functional Keras model: image -> logits [n, classes], the output `member_{i}`.

    # Raises
        EnsembleError: as `build_ensemble`.
    """
    branches = _build_branches(
        backbone,
        [member],
        sharing=sharing,
        scheme=SCHEMES[scheme],
        jitter=jitter,
        dropout=dropout,
        initial=initial,
        independent_inputs=False,
        seed=seed,
    )
    return keras.Model(branches.inputs, branches.outputs[0], name=member_output(member))


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of every layer of `source` to the layer of `target` with its name.

    For models of the same backbone: from an ensemble with independent inputs to one with a
    single input, or from one member to the ensemble.
    """
    for layer in source.layers:
        if layer.weights:
            target.get_layer(layer.name).set_weights(layer.get_weights())


def _build_branches(
    backbone: keras.Model,
    members: Sequence[int],
    *,
    sharing: Sharing,
    scheme: Scheme,
    jitter: float | None,
    dropout: float | None,
    initial: Initial,
    independent_inputs: bool,
    seed: int,
) -> keras.Model:
    """The networks of these members in one model: image -> the logits of each."""
    seed = check_seed(seed)
    if jitter is not None and not (is_number(jitter) and jitter >= 0):
        raise EnsembleError(f"`jitter` must be at least 0, and finite, got {jitter!r}.")
    if dropout is not None and not (is_number(dropout) and 0 <= dropout < 1):
        raise EnsembleError(f"`dropout` must be at least 0 and below 1, got {dropout!r}.")
    backbone = classifier(backbone)
    check_weights(backbone)
    head = backbone.outputs[0].node.layer.name
    if has_own_head_bias(sharing):
        backbone = with_head_bias_apart(backbone)
    graph = layer_graph(backbone)
    shared = shared_layers(sharing, backbone)
    if scheme.rounded:
        shared -= binary_layers(graph)
    own = {layer.name for layer in backbone.layers if layer.weights} - shared
    if not own:
        raise EnsembleError(
            "`sharing` leaves the members nothing of their own, so all would be equal: share "
            "less, for example with the policy 'all_frozen'."
        )
    if len(members) > 1:
        for note in notes(sharing, graph):
            warnings.warn(note, stacklevel=1)  # at one place, so that each is shown once
    _check_initial(initial, shared, scheme)
    trunk = frozenset() if independent_inputs else _trunk(backbone, shared)
    _check_names(shared | trunk, members, scheme)
    config = built_by_their_calls(backbone.get_config())
    config = _members_config(config, members, shared, trunk)
    if dropout is not None:
        _set_dropout(config, dropout)
    config["layers"] = _TrackedLayers(config["layers"])
    branches = rebuilt(backbone, config)
    layers = {layer.name: layer for layer in branches.layers}  # get_layer goes through all of them
    for name in shared:
        layers[name].set_weights(backbone.get_layer(name).get_weights())
        layers[name].trainable = False
    if jitter is None:
        jitter = scheme.jitter if initial == "pretrained" else 0.0
    for member in members:
        start = backbone if initial == "pretrained" else _reinitialized(backbone, seed, member)
        for name in own:
            layers[own_name(member, name)].set_weights(start.get_layer(name).get_weights())
        members_own = own_layers(branches, member)
        _add_jitter(members_own, jitter, np.random.default_rng([seed, member]))
        scheme.initialize(
            members_own,
            layers[own_name(member, head)] if head in own else None,
            np.random.default_rng([seed, member, 1]),
        )
    # In mixed precision, losses and combinations need logits in full precision.
    precision = "float64" if branches.outputs[0].dtype == tf.float64 else "float32"
    logits = [
        keras.layers.Activation("linear", dtype=precision, name=member_output(member))(output)
        for member, output in zip(members, branches.outputs)
    ]
    return keras.Model(branches.inputs, logits, name=backbone.name)


class _TrackedLayers(list[dict[str, Any]]):
    """The layers of a configuration; each pass over them tells how far it is.

    Keras takes no callback while it makes a model, but it goes through this list.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:
        layers = super().__iter__()
        return tracked(layers, "building the members", unit="layer", total=len(self))


def _checked_weights(weights: object, members: int) -> tuple[float, ...]:
    """# Raises
    EnsembleError: if they aren't one positive, finite number per member.
    """
    numbers = [*weights] if isinstance(weights, Iterable) else []
    checked = tuple(float(weight) for weight in numbers if is_number(weight))
    if len(numbers) != members or not are_weights(checked, members):
        raise EnsembleError(
            f"`weights` must be {members} positive, finite numbers, one per member, got {weights}."
        )
    return checked


def _check_names(kept: Iterable[str], members: Sequence[int], scheme: Scheme) -> None:
    """# Raises
    EnsembleError: if a layer that all members use has a name like those that tell what is a
        member's own, or the name of an output.
    """
    outputs = {*map(member_output, members), *scheme.combinations(max(members) + 1)}
    prefixes = tuple(own_name(member, "") for member in members)
    for name in kept:
        if name in outputs or name.startswith(prefixes):
            raise EnsembleError(
                f"The layer {name!r} has a name that an ensemble gives to outputs, or to layers "
                "of one member: build the backbone with another `name` for it."
            )


def _check_initial(initial: str, shared: Collection[str], scheme: Scheme) -> None:
    if initial not in ("pretrained", "random"):
        raise EnsembleError(f"`initial` must be 'pretrained' or 'random', got {initial!r}.")
    if initial == "random" and scheme.rounded:
        raise EnsembleError(
            f"`initial` 'random' does not go with the scheme {scheme.name!r}, which rounds the "
            "backbone's weights: use 'pretrained'."
        )
    if initial == "random" and shared:
        raise EnsembleError(
            "`initial` 'random' needs the sharing 'none': members that share pretrained layers "
            "start from the pretrained weights."
        )


def _reinitialized(backbone: keras.Model, seed: int, member: int) -> keras.Model:
    """The backbone with new random weights, which depend on (seed, member) only."""
    seeds = np.random.default_rng([seed, member, 2])

    def seeded(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: {**item, "config": {**item["config"], "seed": int(seeds.integers(2**31))}}
            if key.endswith("_initializer") and "seed" in ((item or {}).get("config") or {})
            else seeded(item)
            for key, item in value.items()
        }

    config = built_by_their_calls(backbone.get_config())
    layers = [{**layer, "config": seeded(layer["config"])} for layer in config["layers"]]
    return rebuilt(backbone, {**config, "layers": layers})


def _trunk(backbone: keras.Model, shared: frozenset[str]) -> frozenset[str]:
    """The shared trunk: the layers whose output is the same for every member."""
    differing = {
        layer.name
        for layer in backbone.layers
        if layer.name not in shared and (layer.weights or isinstance(layer, _RANDOM_LAYERS))
    }
    return layer_graph(backbone).independent_of(differing)


def _members_config(
    config: dict[str, Any], members: Sequence[int], shared: Iterable[str], trunk: Iterable[str]
) -> dict[str, Any]:
    """The functional configuration of the members' branches, from that of one network.

    A layer of `trunk` keeps its calls. A layer of `shared` is called by each member in turn. Every
    other layer becomes M layers, each with the calls of one member.
    """
    names = {layer["name"] for layer in config["layers"]}
    calls = {layer["name"]: max(1, len(layer["inbound_nodes"])) for layer in config["layers"]}

    def reference(branch: int, member: int) -> Callable[[str, int, int], list[Any]]:
        def change(name: str, call: int, tensor: int) -> list[Any]:
            if name in trunk:
                return [name, call, tensor]
            if name in shared:
                return [name, branch * calls[name] + call, tensor]
            return [own_name(member, name), call, tensor]

        return change

    layers = []
    for layer in config["layers"]:
        name = layer["name"]
        if name in trunk:
            layers.append(copy.deepcopy(layer))
            continue
        nodes = [
            map_references(layer["inbound_nodes"], names, reference(branch, member))
            for branch, member in enumerate(members)
        ]
        if name in shared:
            layers.append({**copy.deepcopy(layer), "inbound_nodes": [*itertools.chain(*nodes)]})
            continue
        for branch, member in enumerate(members):
            new = {**copy.deepcopy(layer), "inbound_nodes": nodes[branch]}
            new["name"] = new["config"]["name"] = own_name(member, name)
            if new["config"].get("seed") is not None:  # else all members would draw the same
                new["config"]["seed"] += member
            layers.append(new)

    def ends(references_: Any) -> list[Any]:
        found = [
            map_references(references_, names, reference(branch, member))
            for branch, member in enumerate(members)
        ]
        flat = [item for member_ends in found for item in member_ends]
        return [item for index, item in enumerate(flat) if item not in flat[:index]]

    return {
        **config,
        "layers": layers,
        "input_layers": ends(config["input_layers"]),
        "output_layers": ends(config["output_layers"]),
    }


def _set_dropout(config: dict[str, Any], rate: float) -> None:
    layers = [layer for layer in config["layers"] if layer["class_name"] == "Dropout"]
    if rate and not layers:
        raise EnsembleError(
            f"`dropout` {rate} has no effect: the backbone has no Dropout layer. Leave it out, or "
            "give the backbone one."
        )
    for layer in layers:
        layer["config"]["rate"] = rate


def _add_jitter(
    own: Sequence[keras.layers.Layer], jitter: float, generator: np.random.Generator
) -> None:
    """Noise on the layers of one member, see `build_ensemble`."""
    if not jitter:
        return
    norms = [layer for layer in own if isinstance(layer, keras.layers.BatchNormalization)]
    affine = [layer for layer in norms if layer.scale or layer.center]
    for layer in affine:
        if layer.scale:
            noise = generator.standard_normal(layer.gamma.shape)
            _assign(layer.gamma, layer.gamma.numpy() * (1 + jitter * noise))
        if layer.center:
            noise = generator.standard_normal(layer.beta.shape)
            _assign(layer.beta, layer.beta.numpy() + jitter * noise)
    if affine:
        return
    heads = [layer for layer in own if isinstance(layer, keras.layers.Dense)]
    for layer in heads or own:
        for weight in layer.trainable_weights:
            value = weight.numpy()
            noise = generator.standard_normal(value.shape)
            _assign(weight, value + jitter * (value.std() or 1.0) * noise)


def _assign(weight: tf.Variable, value: np.ndarray) -> None:
    """Assigns a value and applies the weight's constraint, as optimizers do."""
    weight.assign(value)
    if weight.constraint is not None:
        weight.assign(weight.constraint(weight))
