"""Points of the frontier: what the file of a run gets right, and what it costs.

Binarized networks are converted with int8 heads and compact vectors, real-valued ones to int8 and
to 4-bit filters. If those saw mirrored images in training, they also run on both images, as
binarized ones do by `train --members 2 --mirror --epochs 0`. Instructions of an image are counted
on emulated cores, by the fastest way that this project knows to run the file there:

- Cortex-A: LiteRT (tools/arm/count.py), for binarized networks with the delegate;
- Cortex-M: the C of `larq-ensemble export`, or for int8 CMSIS-NN (cmsis_nn.py). A network with an
  operator that CMSIS-NN has no kernel for, and one with 4-bit filters, has no count there.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arm_cost import WHEELS_DELEGATE, litert_row
from cmsis_nn import Kernels, NoKernelError, kernel_sources
from microcontrollers import int8_row

from larq_ensemble.convert import emulation
from larq_ensemble.convert.export import export_file
from larq_ensemble.data.datasets import limit_key
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import file_digest, read_json, write_text
from larq_ensemble.network.architectures import MODELS
from larq_ensemble.network.compute import count_macs
from larq_ensemble.training.plots import TITLES

#: How the files of binarized networks store what members own; without a visible loss
#: (docs/reports/deployment.md).
_FORMAT: dict[str, Any] = {"heads": "int8", "precision": "compact"}
#: What the name of a curve says of one network that runs on the image and on the mirrored one.
BOTH_IMAGES = ", both images"
#: Which points a run has; another name where they change, so that those of before aren't taken.
_POINTS = "one"
#: Real-valued networks by the end of their names.
VARIANTS = {"real": "twin", "relu": "with ReLU"}


@dataclass(frozen=True)
class Measuring:
    """How files are measured.

    # Arguments
        folder: for files and points.
        split, data_dir, limit: of the images.
        cores: to count instructions on, such as `"cortex-a72"` and `"cortex-m4"`.
        delegate: the library for aarch64, or `None`: that of the wheel in the userland.
        cmsis_nn: the folder of a clone; needed with a Cortex-M.

    # Raises
        EnsembleError: if something is missing that counts instructions.
    """

    folder: Path
    split: str
    data_dir: str | None
    limit: int | None
    cores: tuple[str, ...]
    delegate: str | None
    cmsis_nn: str | None

    def __post_init__(self) -> None:
        if not self._boards:
            return
        if self.cmsis_nn is None:
            raise EnsembleError(
                f"`cmsis_nn` is missing: int8 networks on a {self._boards[0]} need the folder of a "
                "clone, git clone https://github.com/ARM-software/CMSIS-NN"
            )
        kernel_sources(Path(self.cmsis_nn))
        emulation.check_tools()

    @property
    def _boards(self) -> list[str]:
        return [core for core in self.cores if core in emulation.BOARDS]

    def _tools(self) -> list[str]:
        """A digest of the delegate and of CMSIS-NN, as far as they count."""
        if not self.cores:
            return []
        files = []
        if len(self._boards) < len(self.cores):
            files.append(Path(self.delegate or WHEELS_DELEGATE))
        if self._boards and self.cmsis_nn is not None:
            clone = Path(self.cmsis_nn)
            files += [*kernel_sources(clone), *sorted((clone / "Include").glob("*.h"))]
        digests = [file_digest(file) for file in files if file.is_file()]
        return [hashlib.sha256(" ".join(digests).encode()).hexdigest()[:8]]

    def points(self, run: Any) -> list[dict[str, Any]]:
        """Points of a run; those of before if nothing has changed."""
        source = run.config.dataset.get("source")  # of data of one's own
        limit = limit_key(self.limit, is_own=source is not None)
        images = [] if limit is None else [str(limit)]
        images += [] if source is None else [source["fingerprint"][:8]]
        known = [_POINTS, run.digest[:16], self.split, *images, *self.cores, *self._tools()]
        path = self.folder / "points" / f"{'-'.join(known)}.json"
        if not path.is_file():
            write_text(path, json.dumps({"points": [*self._measured(run)]}, indent=2) + "\n")
        points = read_json(path, "delete it")["points"]
        return [{**point, **training_of(run)} for point in points]

    def _measured(self, run: Any) -> Iterator[dict[str, Any]]:
        from larq_ensemble.convert.conversion import convert_run
        from larq_ensemble.convert.quantization import float_logits, quantize_run
        from larq_ensemble.runtime import EnsembleInterpreter

        network = run.config.model
        name, width = network["name"], network.get("width", 1.0)
        epochs = run.config.recipe.get("epochs")
        model = name if epochs is None else f"{name}, width {width:g}, {epochs} epochs"
        common = {"model": model, "seed": run.config.seed}
        path = self.folder / "files" / f"{run.path.name}-{run.digest[:8]}.tflite"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_one = run.config.kind == "ensemble" and run.model.is_one_network
        kind = kind_of(run.config, is_one=is_one)
        images, labels = self._images(run)
        if kind != "float":
            convert_run(run, path, **_FORMAT)
            logits = EnsembleInterpreter(path).predict_logits(images)
            yield from (
                {
                    "name": curve_of(run.config, kind),
                    "kind": kind,
                    **common,
                    **point,
                }
                for point in self._file(path, logits, labels, run)
            )
            return
        classes = float_logits(run.model, run.normalization, images).argmax(-1)
        in_floats = {"float_top1": 100 * float((classes == labels).mean())}
        for weights in ("int8", "int4"):
            file = path.with_suffix(f".{weights}.tflite")
            quantize_run(run, file, weights=weights, data_dir=self.data_dir)
            found = {"kind": weights, **common}
            interpreter = EnsembleInterpreter(file)
            logits = interpreter.predict_logits(images)
            (point,) = self._file(file, logits, labels, run, weights)
            yield {"name": series(name, width, weights), **found, **in_floats, **point}
            if run.config.dataset.get("augmentation", {}).get("flip"):
                both = on_both_images(point, logits, interpreter, images, labels)
                yield {"name": series(name, width, weights) + BOTH_IMAGES, **found, **both}

    def _images(self, run: Any) -> tuple[Any, Any]:
        import numpy as np

        from larq_ensemble.training.subject import subject_of

        data = subject_of(run, data_dir=self.data_dir).split(self.split, self.limit)
        return np.asarray(data.images), data.labels

    def _file(
        self, path: Path, logits: Any, labels: Any, run: Any, weights: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """A file cut to its first members, for each number of them.

        # Arguments
            logits: of all members.
            weights: of a real-valued network, `"int8"` or `"int4"`.
        """
        from larq_ensemble.convert.cutting import cut_file
        from larq_ensemble.convert.memory import arenas_bytes
        from larq_ensemble.models import layer_graph
        from larq_ensemble.runtime import EnsembleInterpreter
        from larq_ensemble.runtime.combination import combine

        ensemble = EnsembleInterpreter(path)
        counts = self._counts(path, weights)
        macs = count_macs(layer_graph(run.model if run.config.kind == "backbone"
                                      else run.model.member(0))).total  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            for m in range(1, ensemble.max_members + 1):
                cut = Path(folder, f"{m}.tflite")
                classes = combine(logits[:m], ensemble.scheme, ensemble.weights).argmax(-1)
                yield {
                    "members": m,
                    "trained_members": ensemble.max_members,
                    "top1": 100 * float((classes == labels).mean()),
                    "samples": len(labels),
                    "bytes": cut_file(path, cut, m).bytes,
                    "ram_bytes": arenas_bytes(cut),
                    "macs": m * macs,
                    "instructions": {
                        core: once + m * member for core, (once, member) in counts.items()
                    },
                }

    def _counts(self, path: Path, weights: str | None) -> dict[str, tuple[int, int]]:
        """By core the instructions of an image: once, and of a member after that."""
        counts = {}
        for core in self.cores:
            if core not in emulation.BOARDS:
                kernel = "builtin" if weights else "delegate"
                row = litert_row(str(path), core, kernel, None if weights else self.delegate)
                counts[core] = row["instructions_once"], row["instructions_member"]
        boards = self._boards
        with tempfile.TemporaryDirectory() as folder:
            if boards and weights is None:
                costs = export_file(path, folder, cpus=boards).costs
                counts |= {cpu: (cost.image, cost.member) for cpu, cost in costs.items()}
            elif boards and weights == "int8":
                counts |= self._counts_by_cmsis_nn(path, boards, folder)
        return counts

    def _counts_by_cmsis_nn(
        self, path: Path, boards: Sequence[str], folder: str
    ) -> dict[str, tuple[int, int]]:
        assert self.cmsis_nn is not None
        kernels = Kernels(Path(self.cmsis_nn), Path(folder))
        try:
            costs = int8_row(str(path), kernels, boards)["costs"]
        except NoKernelError:
            return {}
        return {cpu: (0, cost["instructions"]) for cpu, cost in costs.items()}

    def write(self, dataset: str, points: Sequence[dict[str, Any]]) -> Path:
        """Adds points to those of the folder, in place of the same ones of before."""
        path = self.folder / "points.json"
        before = read_json(path, "delete it") if path.is_file() else {}
        if before and (before["dataset"], before["split"]) != (dataset, self.split):
            raise EnsembleError(
                f"{str(path)!r} is of the {before['split']} split of {before['dataset']}: choose "
                "another folder for other images."
            )

        def values(point: dict[str, Any], *names: str) -> tuple[Any, ...]:
            return tuple(point.get(name) for name in names)

        # Points of earlier versions don't name their run; other networks may be called the same.
        named = ("run", "kind", "members", "samples")
        unnamed = ("name", "model", "members", "trained_members", "seed", "samples", "top1")
        again = {values(point, *unnamed) for point in points}
        kept: dict[tuple[Any, ...], dict[str, Any]] = {}
        for point in [*before.get("points", []), *points]:
            if "run" in point or values(point, *unnamed) not in again:
                key = values(point, *(named if "run" in point else unnamed))
                counted = kept.get(key, {}).get("instructions", {})  # on other cores
                kept[key] = {**point, "instructions": {**counted, **point.get("instructions", {})}}
        content = {
            "dataset": dataset,
            "split": self.split,
            "made_by": "benchmarks/alternatives.py",
            "date": str(datetime.date.today()),
            "points": [*kept.values()],
        }
        write_text(path, json.dumps(content, indent=2) + "\n")
        return path


def on_both_images(
    point: Mapping[str, Any], logits: Any, interpreter: Any, images: Any, labels: Any
) -> dict[str, Any]:
    """The point of a file that runs on the image as it is and on the mirrored one.

    For twice the work and no more bytes, like two members with the same weights.

    # Arguments
        point, logits: of the images as they are; logits [1, n, classes].
        interpreter: of the file.
        images: uint8 [n, height, width, channels].
        labels: [n].
    """
    both = logits + interpreter.predict_logits(images[:, :, ::-1])
    return {
        **point,
        "members": 2,
        "trained_members": 2,
        "top1": 100 * float((both[0].argmax(-1) == labels).mean()),
        "macs": 2 * point["macs"],
        "instructions": {core: 2 * count for core, count in point["instructions"].items()},
    }


def training_of(run: Any) -> dict[str, Any]:
    """What tells a run from others whose points are called the same.

    # Returns
        `run`, its digest; `settings`, a digest of how it was trained, but for seeds and for the
        runs that it builds on, whose digests change with their seeds; `split_seed`; of an ensemble
        `scheme` and `sharing`, if they are not `fusion`, and `kept`, how many members are the
        pretrained network, if there are such.
    """
    config = run.config
    of_ensemble = ("scheme", "sharing")
    settings = {
        "recipe": _without(config.recipe, "source"),
        "data": _without(config.data, "split_seed", "limit_test"),
        "ensemble": _without(config.ensemble, "backbone", "members", "shared_layers", *of_ensemble),
        "transfer": {
            name: None if isinstance(value, str) else value
            for name, value in config.transfer.items()
        },
        "augmentation": config.dataset.get("augmentation"),
        "precision": config.precision,
    }
    text = json.dumps(settings, sort_keys=True)
    return {
        "run": run.digest[:16],
        "settings": hashlib.sha256(text.encode()).hexdigest()[:8],
        "split_seed": config.split_seed,
        **{
            name: config.ensemble[name]
            for name in of_ensemble
            if config.ensemble.get(name, "fusion") != "fusion"
        },
        **({"kept": int(kept)} if (kept := config.ensemble.get("keep_pretrained")) else {}),
    }


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def kind_of(config: Any, *, is_one: bool = False) -> str:
    """What the network of a run is, a kind of `larq_ensemble.training.points.KINDS`.

    One network on both images is no ensemble: what members give is to be seen beside it.

    # Arguments
        config: of the run.
        is_one: of an ensemble: `Ensemble.is_one_network`.
    """
    name, width = config.model["name"], config.model.get("width", 1.0)
    if is_one or views(config) == BOTH_IMAGES:
        return "single"
    if config.kind == "ensemble":
        if config.ensemble["shared_layers"]:
            return "shared"
        return "benn" if config.ensemble.get("initial") == "random" else "separate"
    if "source" in config.model:
        raise EnsembleError(
            f"{name!r} is a single network of your own, whose kind nobody knows: give an ensemble, "
            "or a run of a network of `build_model`."
        )
    if not MODELS[name].binary:
        return "float"
    return "wider" if width > 1 else "single"


def curve_of(config: Any, kind: str) -> str:
    """The name of the curve of a binarized network: of a Keras file the file's own."""
    model = config.model
    if "source" in model:
        return str(model["name"])
    return series(model["name"], model.get("width", 1.0), kind) + views(config)


def views(config: Any) -> str:
    """What the name of an ensemble's curve says of the images that its members see."""
    if not config.ensemble.get("mirror"):
        return ""
    return ", mirrored" if config.recipe.get("epochs") else BOTH_IMAGES


def series(model: str, width: float, kind: str) -> str:
    """The name of the curve that a network's points are on."""
    base, _, variant = model.partition("_")
    title = TITLES.get(base, base)
    if variant:
        return f"{title} {VARIANTS[variant]}, {kind}"
    wide = "" if width == 1 else f" x {width:g}"
    ending = {
        "shared": ", shared filters",
        "separate": ", separate members",
        "benn": ", BENN",
        "single": "",
        "wider": "",
    }
    return f"{title}{wide}{ending[kind]}"
