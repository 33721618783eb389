"""Times the steps of a fusion training by Ensemble-PyTorch, as `fusion_steps.py` times ours.

XNOR-ResNet-20 in PyTorch, its frozen filters binarized once. It imports PyTorch, torchensemble and
NumPy only, so that it can run in an environment of its own. Variants:

- `plain`: as one writes it; sign and its gradient take several passes over memory;
- `tuned`: the fastest that we found without compiling; sign makes one pass in each direction, and
  images lie channels last;
- `compiled`: that with `torch.compile`;
- `bfloat16`: `tuned`, under `torch.autocast` to bfloat16.

    python benchmarks/fusion_steps_torch.py \
        '{"members": 4, "batch": 256, "steps": 5, "width": 1.0}' tuned
    python benchmarks/fusion_steps_torch.py --compare REFERENCE.npz
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchensemble import FusionClassifier

LEAD_IN = 2
CLASSES = 100


class PlainSign(torch.autograd.Function):
    """Sign with the clipped straight-through estimator, as its formula stands."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


class TunedSign(torch.autograd.Function):
    """The same in one pass each, but for inputs of -0.0, and gradients at exactly -1 and 1."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.copysign(torch.ones((), dtype=x.dtype), x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, -1.0, 1.0)


class BinaryConv(nn.Module):
    """Sign, then a 3x3 convolution with frozen filters that are binarized and scaled already."""

    def __init__(self, inputs: int, filters: int, strides: int, variant: str) -> None:
        super().__init__()
        self.sign = PlainSign if variant == "plain" else TunedSign
        latent = torch.randn(filters, inputs, 3, 3)
        self.register_buffer("weight", binarized(latent))
        self.strides = strides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.sign.apply(x)
        if self.strides == 1:
            return F.conv2d(x, self.weight, padding=1)
        # TensorFlow's "same" pads an even size at its end only.
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, stride=self.strides)


def binarized(latent: torch.Tensor) -> torch.Tensor:
    """sign(W) * mean(|W|), the mean of each filter (XNOR-Net)."""
    signs = torch.where(latent >= 0, 1.0, -1.0).to(latent.dtype)
    return signs * latent.abs().mean((1, 2, 3), keepdim=True)


def frozen_conv(inputs: int, filters: int, kernel: int, strides: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, filters, kernel, strides, padding=kernel // 2, bias=False)
    return conv.requires_grad_(False)


class Network(nn.Module):
    """XNOR-ResNet-20 with the names of the layers that ours has.

    # Arguments
        width: times the channels.
        variant: `"plain"`, `"tuned"`, `"compiled"` or `"bfloat16"`.
        weights: an iterator, of which every network takes the weights of one member.
    """

    def __init__(
        self,
        width: float,
        variant: str,
        weights: Iterator[dict[str, torch.Tensor]] | None = None,
    ) -> None:
        super().__init__()
        stages = [round(channels * width) for channels in (16, 32, 64)]
        self.conv1 = frozen_conv(3, stages[0], 3)
        self.conv1_bn = nn.BatchNorm2d(stages[0])
        self.blocks = []
        inputs = stages[0]
        for stage, filters in enumerate(stages, start=1):
            for index in range(3):
                name = f"layer{stage}_{index}"
                strides = 2 if stage > 1 and index == 0 else 1
                self._add_block(name, inputs, filters, strides, variant)
                self.blocks.append(name)
                inputs = filters
        self.linear = nn.Linear(inputs, CLASSES)
        if weights is not None:
            self.load_state_dict(next(weights), strict=False)
        self.cast = variant == "bfloat16"
        self.to(memory_format=memory_format(variant))
        if variant == "compiled":
            self.compile()

    def _add_block(self, name: str, inputs: int, filters: int, strides: int, variant: str) -> None:
        layers: dict[str, nn.Module] = {
            "bn1": nn.BatchNorm2d(inputs),
            "conv1": BinaryConv(inputs, filters, strides, variant),
            "prelu1": nn.PReLU(),
            "bn2": nn.BatchNorm2d(filters),
            "conv2": BinaryConv(filters, filters, 1, variant),
            "prelu2": nn.PReLU(),
            "bn3": nn.BatchNorm2d(filters),
            "prelu3": nn.PReLU(),
        }
        if strides > 1 or inputs != filters:
            layers["shortcut_conv"] = frozen_conv(inputs, filters, 1, strides)
            layers["shortcut_bn"] = nn.BatchNorm2d(filters)
        for part, layer in layers.items():
            self.add_module(f"{name}_{part}", layer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=self.cast):
            return self.logits(images).to(images.dtype)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1_bn(self.conv1(images)))
        for name in self.blocks:
            block = {part: getattr(self, f"{name}_{part}") for part in PARTS}
            y = block["prelu1"](block["conv1"](block["bn1"](x)))
            y = block["bn3"](block["prelu2"](block["conv2"](block["bn2"](y))))
            if hasattr(self, f"{name}_shortcut_conv"):
                # From the centre of the first 3x3 convolution, see `BinaryConv`.
                x = getattr(self, f"{name}_shortcut_conv")(x[:, :, 1:, 1:])
                x = getattr(self, f"{name}_shortcut_bn")(x)
            x = block["prelu3"](y + x)
        return self.linear(x.mean((2, 3)))


def memory_format(variant: str) -> torch.memory_format:
    return torch.contiguous_format if variant == "plain" else torch.channels_last


PARTS = ("bn1", "conv1", "prelu1", "bn2", "conv2", "prelu2", "bn3", "prelu3")


class Batches:
    """A data loader of batches that lie in memory; `ended` is called after each step."""

    def __init__(self, batches: list[tuple[torch.Tensor, torch.Tensor]], ended: Any) -> None:
        self.dataset = SimpleNamespace(classes=range(CLASSES))
        self._batches, self._ended = batches, ended

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self._batches:
            yield batch
            self._ended()


def train(training: dict[str, Any], variant: str) -> dict[str, Any]:
    """Trains an ensemble of networks with new weights."""
    torch.manual_seed(0)
    shape = training["batch"], 3, 32, 32
    images = torch.randn(LEAD_IN + training["steps"], *shape)
    labels = torch.randint(0, CLASSES, images.shape[:2])
    batches = [each.contiguous(memory_format=memory_format(variant)) for each in images]
    times: dict[str, Any] = {"ends": [], "start": time.perf_counter()}

    def ended() -> None:
        times["ends"].append(time.perf_counter())
        unit = 1 if sys.platform == "darwin" else 1024
        times["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    class Loader(Batches):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            times["built"] = time.perf_counter()
            return super().__iter__()

    network = {"width": training["width"], "variant": variant}
    ensemble = FusionClassifier(Network, training["members"], network, cuda=False)
    ensemble.set_optimizer("Adam", lr=5e-3)
    ensemble.fit(Loader(list(zip(batches, labels)), ended), epochs=1, save_model=False)
    return times


def compare(reference: Any) -> dict[str, Any]:
    """Computes what `reference` holds and compares, in double precision.

    # Arguments
        reference: `images`, `labels`, `logits` of every member in inference, and by member and
            layer the weights, `before/...`, and what one step of gradient descent of rate 1 makes
            of those that are trained, `after/...`.

    # Returns
        The number of weights that are trained, and the largest differences relative to the largest
        value: of the logits, and of the gradients, which are `before - after`.
    """
    torch.set_default_dtype(torch.float64)
    members, width = len(reference["logits"]), float(reference["width"])
    before, after = (
        [_state(reference, key, m) for m in range(members)] for key in ("before", "after")
    )
    images = torch.tensor(reference["images"]).permute(0, 3, 1, 2)  # This is channels last.
    batch = images, torch.tensor(reference["labels"])
    network = {"width": width, "variant": "tuned", "weights": iter(before)}
    ensemble = FusionClassifier(Network, members, network, cuda=False)
    ensemble.set_optimizer("SGD", lr=1.0)
    logits: list[torch.Tensor] = []

    class Loader(Batches):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            with torch.no_grad():
                ensemble.eval()
                logits.extend(each(batch[0]) for each in ensemble.estimators_)
                ensemble.train()
            return super().__iter__()

    ensemble.fit(Loader([batch], lambda: None), epochs=1, save_model=False)
    gradients, expected = [], []
    for trained, start, end in zip(ensemble.estimators_, before, after):
        now = {name: value for name, value in trained.named_parameters() if value.requires_grad}
        if now.keys() != end.keys():
            raise SystemExit(f"error: other weights are trained: {sorted(now.keys() ^ end.keys())}")
        gradients += [(start[name] - now[name].detach()).flatten() for name in end]
        expected += [(start[name] - end[name]).flatten() for name in end]
    expected_logits = torch.tensor(reference["logits"])
    return {
        "members": members,
        "trained": sum(map(len, gradients)),
        "logits": _difference(torch.stack(logits), expected_logits),
        "gradients": _difference(torch.cat(gradients), torch.cat(expected)),
    }


def _difference(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())


NAMES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "alpha": "weight",
    "kernel": "weight",
    "bias": "bias",
}


def _state(reference: Any, moment: str, member: int) -> dict[str, torch.Tensor]:
    """The weights of a member as PyTorch names and arranges them."""
    state = {}
    for path in reference:
        if not path.startswith((f"{moment}/shared/", f"{moment}/{member}/")):
            continue
        _, _, layer, kind = path.split("/")
        value = torch.tensor(reference[path])
        if kind == "alpha":
            value = value.flatten()
        elif kind == "kernel" and value.ndim == 2:
            value = value.T
        elif kind == "kernel":
            value = value.permute(3, 2, 0, 1)
            if value.shape[-1] == 3 and layer != "conv1":
                value = binarized(value)
        state[f"{layer}.{NAMES[kind]}"] = value
    return state


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    if sys.argv[1] == "--compare":
        with np.load(sys.argv[2]) as file:
            result = compare(dict(file))
    else:
        result = train(json.loads(sys.argv[1]), sys.argv[2])
    print(json.dumps(result))
