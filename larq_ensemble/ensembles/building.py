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

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from larq_ensemble import constraints as _constraints  # noqa: F401 (so that Keras can load them)
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.combine import Combine
from larq_ensemble.ensembles.ensemble import Ensemble, own_layers
from larq_ensemble.ensembles.names import kept_name, member_output, own_name
from larq_ensemble.ensembles.schemes import SCHEMES, Scheme
from larq_ensemble.errors import EnsembleError, SettingsError, check_seed, check_whole, is_number
from larq_ensemble.keras import keras, tf
from larq_ensemble.layers import Mirror
from larq_ensemble.models.classifier import (
    classifier,
    last_with_weights,
    with_head_bias_apart,
    with_mirror,
)
from larq_ensemble.models.copying import Change, copied_layer, copied_network
from larq_ensemble.models.functional import (
    boundary,
    run_functional,
    with_training,
)
from larq_ensemble.models.graph import Sharing, layer_graph, shared_layers
from larq_ensemble.models.limits import warn_of_limits
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
    keep_pretrained: int = 0,
    mirror: bool = False,
    independent_inputs: bool = False,
    weights: Sequence[float] | None = None,
    normalization: Normalization | None = None,
    seed: int = 0,
) -> Ensemble:
    """Builds an ensemble of M members from a pretrained classifier (paper, Algorithm 1).

    Each layer that `sharing` selects is one frozen layer object, which every member calls. The
    shared trunk, the layers before the first own layer of a member, runs once. Every other layer is
    copied for each member, with the pretrained weights, under the name `member_{i}_{name}`, and is
    trained, whether or not it is frozen in the backbone: what is to stay as it is must be shared.
    The backbone itself stays unchanged.

    A shared layer keeps its name, unless an ensemble gives such a name itself (`ensemble`,
    `member_{i}`, `member_{i}_{...}`, `first_{m}`): then `shared_` comes before it.

    Layers are copied by their own classes, so none has to be registered, and a `Lambda` keeps its
    function. Only saving and loading need a registration, as for any Keras model. A layer without
    weights that can't be copied, as without `get_config`, is called by all members.

    # Arguments
        backbone: a functional or sequential Keras or Larq classifier, see
            `larq_ensemble.models.classifier`.
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
        keep_pretrained: how many members, from the first on, are the backbone itself and stay as
            they are: all their layers are frozen and always infer, also in training, so batch norms
            keep their statistics and Dropout drops nothing. The others are trained to go with them.
            0, 1 (or `True`), or 2 with `mirror`: the backbone on the image and on the mirrored one,
            which together are better than either, with nothing trained. One member alone is then
            as good as the backbone, for devices that change the number of members as they run. For
            schemes that train members together.
        mirror: every second member, those of odd numbers, sees the image mirrored, in training and
            after it. Such members err less alike, and take no bytes but the order of the columns.
            It is for images whose class doesn't change when they are mirrored, and for backbones
            that were trained with mirrored ones. There is no shared trunk then: each member
            computes the first layers too.
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
            policy that leaves members nothing of their own, or nothing to train. It warns of a
            network that is known not to convert, see `larq_ensemble.models.limits`.
    """
    members = check_whole("members", members, 1)
    if weights is not None:
        weights = checked_weights(weights, members)
    if independent_inputs and not SCHEMES[scheme].independent:
        raise EnsembleError(
            f"`independent_inputs` does not go with the scheme {scheme!r}, whose members must see "
            "the same batch: leave it out."
        )
    kept = check_kept(keep_pretrained, members, initial, SCHEMES[scheme], mirror=mirror)
    branches = _build_branches(
        backbone,
        range(members),
        sharing=sharing,
        scheme=SCHEMES[scheme],
        jitter=jitter,
        dropout=dropout,
        initial=initial,
        mirror=mirror,
        independent_inputs=independent_inputs,
        seed=seed,
        untouched=range(kept),
    )
    warn_of_limits(classifier(backbone), stacklevel=2)
    return assembled(branches, scheme, weights=weights, normalization=normalization)


def assembled(
    branches: Branches,
    scheme: str,
    *,
    weights: Sequence[float] | None,
    normalization: Normalization | None,
) -> Ensemble:
    """The ensemble of members whose branches are built; arguments as for `build_ensemble`."""
    logits = branches.logits
    combined = [
        Combine(
            scheme,
            None if weights is None else weights[:count],
            name=output,
            dtype=logits[0].dtype.name,
        )(logits[:count])
        for output, count in SCHEMES[scheme].combinations(len(logits)).items()
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
    mirror: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds the network of one member alone, with the initial weights of `build_ensemble`.

    Its layers have the same names as in the ensemble, so `copy_weights` can copy them there.

    # Arguments
        member: its number, from 0 on.
        backbone, sharing, scheme, jitter, dropout, initial, mirror, seed: as for `build_ensemble`.

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
        mirror=mirror,
        independent_inputs=False,
        seed=seed,
    )
    return keras.Model(branches.inputs, branches.logits[0], name=member_output(member))


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
    mirror: bool,
    independent_inputs: bool,
    seed: int,
    untouched: Collection[int] = (),
) -> Branches:
    """The networks of these members, with their initial weights; `untouched` ones are frozen."""
    check_is_no_ensemble(backbone)
    check_adds_nothing(backbone)
    seed = check_seed(seed)
    if jitter is not None and not (is_number(jitter) and jitter >= 0):
        raise EnsembleError(f"`jitter` must be at least 0, and finite, got {jitter!r}.")
    if dropout is not None and not (is_number(dropout) and 0 <= dropout < 1):
        raise EnsembleError(f"`dropout` must be at least 0 and below 1, got {dropout!r}.")
    backbone = classifier(backbone)
    check_weights(backbone)
    head = last_with_weights(backbone)
    if has_own_head_bias(sharing):
        backbone = with_head_bias_apart(backbone)
    graph = layer_graph(backbone)
    shared = shared_layers(sharing, backbone)
    if scheme.rounded:
        shared -= binary_layers(graph)
    own = {layer.name for layer in backbone.layers if layer.weights} - shared
    if not own:
        raise SettingsError(
            "`sharing` leaves the members nothing of their own, so all would be equal: share "
            "less, for example with the policy 'all_frozen'."
        )
    if len(members) > 1:
        for note in notes(sharing, graph):
            warnings.warn(note, stacklevel=1)  # at one place, so that each is shown once
    _check_initial(initial, shared, scheme)
    if dropout:
        _check_dropout(dropout, backbone)
    if mirror:
        backbone = with_mirror(backbone)
    branches = Branches.of(
        backbone,
        members,
        shared,
        independent_inputs=independent_inputs,
        dropout=dropout,
        inferring=untouched,
    )
    if jitter is None:
        jitter = scheme.jitter if initial == "pretrained" else 0.0
    for member in members:
        start = backbone if initial == "pretrained" else _reinitialized(backbone, seed, member)
        branches.set_own_weights(member, start)
        members_own = own_layers(branches.network, member)
        if mirror and member % 2:
            reverse_columns(members_own)
        if not any(layer.trainable_weights for layer in members_own):
            raise SettingsError(
                "`sharing` leaves the members nothing to train: their own layers "
                f"({', '.join(sorted(own))}) have no trainable weights. Share less."
            )
        if member in untouched:
            for layer in members_own:
                layer.trainable = False
            continue
        _add_jitter(members_own, jitter, np.random.default_rng([seed, member]))
        scheme.initialize(
            members_own,
            None if head is None else branches.own[member].get(head),
            np.random.default_rng([seed, member, 1]),
        )
    return branches


@dataclass(frozen=True)
class Branches:
    """The networks of some members of an ensemble, on the layers that they share.

    # Attributes
        name: of the backbone.
        inputs: the image, or one of each member.
        logits: of each member, [n, classes], named `member_{i}`.
        kept: the layers that all members use, by their names in the backbone.
        own: of each member its own layers, by their names in the backbone.
        network: inputs -> the outputs of the members' last layers.
    """

    name: str
    inputs: list[Any]
    logits: list[Any]
    kept: dict[str, keras.layers.Layer]
    own: dict[int, dict[str, keras.layers.Layer]]
    network: keras.Model

    @classmethod
    def of(
        cls,
        backbone: keras.Model,
        members: Sequence[int],
        shared: frozenset[str],
        *,
        independent_inputs: bool = False,
        dropout: float | None = None,
        inferring: Collection[int] = (),
    ) -> Branches:
        """Branches with the backbone's weights in the shared layers, which are frozen.

        Every other layer is each member's own, with new weights, and is trained whether or not it
        is frozen in the backbone.

        # Arguments
            backbone: from the image to the logits.
            members: their numbers.
            shared: the names of the layers with weights that members share.
            independent_inputs, dropout: as for `build_ensemble`.
            inferring: the members whose own layers infer also when the network trains.
        """
        trunk = frozenset() if independent_inputs else _trunk(backbone, shared)
        names = {layer.name for layer in backbone.layers}
        kept = {
            layer.name: _copied(layer, kept_name(layer.name, names))
            for layer in backbone.layers
            if layer.name in shared | trunk
        }
        first = [layer for layer in backbone.layers if layer.name in trunk]
        rest = [layer for layer in backbone.layers if layer.name not in trunk]
        taken = boundary(backbone, first, rest)
        image = backbone.inputs[0]
        inputs: list[Any] = []
        features: list[Any] = []
        if first:
            inputs = [kept[image.node.layer.name].output]
            features = run_functional(first, {image.ref(): inputs[0]}, taken, _calls_of(kept))
        own: dict[int, dict[str, keras.layers.Layer]] = {}
        outputs = []
        for member in tracked(members, "building the members", unit="member"):
            own[member] = {
                layer.name: _copied(
                    layer, own_name(member, layer.name), _members_own(member, dropout)
                )
                for layer in rest
                if layer.name not in kept
            }
            if not first:
                features = [own[member][image.node.layer.name].output]
                inputs += features
            known = {tensor.ref(): value for tensor, value in zip(taken, features)}
            call = _calls_of(kept | own[member], own[member] if member in inferring else ())
            outputs += run_functional(rest, known, backbone.outputs, call)
        for name in shared:
            kept[name].set_weights(backbone.get_layer(name).get_weights())
            kept[name].trainable = False
        # In mixed precision, losses and combinations need logits in full precision.
        precision = "float64" if outputs[0].dtype == tf.float64 else "float32"
        logits = [
            keras.layers.Activation("linear", dtype=precision, name=member_output(member))(output)
            for member, output in zip(members, outputs)
        ]
        return cls(backbone.name, inputs, logits, kept, own, keras.Model(inputs, outputs))

    def set_own_weights(self, member: int, source: keras.Model) -> None:
        """Gives a member's own layers the weights of a network with the backbone's layers."""
        for name, layer in self.own[member].items():
            if layer.weights:
                layer.set_weights(source.get_layer(name).get_weights())


def check_is_no_ensemble(model: Any) -> None:
    """# Raises
    EnsembleError: if the model is an ensemble, where a single network is needed.
    """
    if isinstance(model, Ensemble):
        raise EnsembleError(
            f"The model {model.name!r} is an ensemble already: give a single network, such as its "
            f"member `.member(i)`, i from 0 to {model.members - 1}."
        )


def check_adds_nothing(model: Any) -> None:
    """# Raises
    EnsembleError: if `add_loss` or `add_metric` of the model was called, which nothing that is
        built from its outputs would have.
    """
    parts = (model, *model.submodules) if isinstance(model, keras.Model) else ()
    for part in parts:
        kind = type(part).__name__
        adds_loss = isinstance(part, keras.Model) and part._callable_losses
        if kind in ("AddLoss", "AddMetric") or adds_loss:
            what = "metric" if kind == "AddMetric" else "loss"
            raise EnsembleError(
                f"The model {model.name!r} has a {what} of its own, by `add_{what}`, which the "
                f"ensemble would not have: call `self.add_{what}` in a layer's `call` instead, or "
                "build the ensemble of keras.Model(model.inputs, model.outputs), which is the "
                "model without."
            )


def _calls_of(
    layers: Mapping[str, keras.layers.Layer], inferring: Collection[str] = ()
) -> Callable[..., Any]:
    """For `run_functional`: calls the layer of the same name, some so that they never train."""

    def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
        if layer.name in inferring:
            args, kwargs = with_training(layer, args, kwargs, False)
        return layers[layer.name](*args, **kwargs)

    return call


def _copied(
    layer: keras.layers.Layer, name: str, change: Change = lambda layer, config: config
) -> keras.layers.Layer:
    """A copy of a layer, or the layer itself if it can't be copied and has no weights."""
    try:
        return copied_layer(layer, name=name, change=change)
    except EnsembleError:
        if layer.weights or kept_name(layer.name, ()) != layer.name:
            raise
        return layer


def _members_own(member: int, dropout: float | None) -> Change:
    """The configuration of a member's copy of a layer, from that of the backbone's."""

    def change(layer: keras.layers.Layer, config: dict[str, Any]) -> dict[str, Any]:
        config = {**config}
        if "trainable" in config:
            config["trainable"] = True
        if config.get("seed") is not None:  # else all members would draw the same
            config["seed"] += member
        if dropout is not None and isinstance(layer, keras.layers.Dropout):
            config["rate"] = dropout
        return config

    return change


def checked_weights(weights: object, members: int) -> tuple[float, ...]:
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


def check_kept(
    keep_pretrained: int, members: int, initial: str, scheme: Scheme, *, mirror: bool
) -> int:
    """The number of members that stay the pretrained network; arguments as for `build_ensemble`.

    # Raises
        EnsembleError: if they can't.
    """
    if isinstance(keep_pretrained, bool):
        keep_pretrained = int(keep_pretrained)
    kept = check_whole("keep_pretrained", keep_pretrained, 0, 2)
    if not kept:
        return 0
    scheme.check(keep_pretrained=True)
    if kept > 1 and not mirror:
        raise EnsembleError(
            f"`keep_pretrained` {kept} needs `mirror`: two members that are the pretrained network "
            "are equal if both see the same image. Give 1."
        )
    if members <= kept:
        raise EnsembleError(
            f"`keep_pretrained` {kept} leaves nothing to train with `members` {members}: give at "
            f"least {kept + 1} members."
        )
    if initial != "pretrained":
        raise EnsembleError(
            f"`keep_pretrained` does not go with `initial` {initial!r}, where no member is the "
            "pretrained network: leave one of them out."
        )
    return kept


def check_mirrors(members: int) -> None:
    """# Raises
    EnsembleError: if no member would see a mirrored image.
    """
    if members < 2:
        raise EnsembleError(
            "`mirror` shows every second member the mirrored image, and there is one member: give "
            "more `members`, or leave it out."
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

    return copied_network(backbone, lambda layer, config: seeded(config))


def _trunk(backbone: keras.Model, shared: frozenset[str]) -> frozenset[str]:
    """The shared trunk: the layers whose output is the same for every member."""
    differing = {
        layer.name
        for layer in backbone.layers
        if layer.name not in shared and (layer.weights or isinstance(layer, _RANDOM_LAYERS))
    }
    return layer_graph(backbone).independent_of(differing)


def _check_dropout(rate: float, backbone: keras.Model) -> None:
    if not any(isinstance(layer, keras.layers.Dropout) for layer in backbone.layers):
        raise SettingsError(
            f"`dropout` {rate} has no effect: the backbone has no Dropout layer. Leave it out, or "
            "give the backbone one."
        )


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


def reverse_columns(own: Iterable[keras.layers.Layer]) -> None:
    """Lets a member see the mirrored image."""
    (mirror,) = (layer for layer in own if isinstance(layer, Mirror))
    mirror.columns.assign(mirror.columns.numpy()[::-1])


def _assign(weight: tf.Variable, value: np.ndarray) -> None:
    """Assigns a value and applies the weight's constraint, as optimizers do."""
    weight.assign(value)
    if weight.constraint is not None:
        weight.assign(weight.constraint(weight))
