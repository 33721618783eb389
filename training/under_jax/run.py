"""Trains under JAX what `larq-ensemble pretrain --jax` or `train --jax` wrote.

    python step/run.py                          # goes on where it stopped, if it did
    python step/run.py --minutes 9              # stops in time; call it again to go on
    python step/run.py seed0 seed1 --out DIR    # one training after the other

It needs JAX and NumPy. The result is checkpoint.npz in the folder of the training, or NAME.npz in
DIR. Bring it to that folder on the machine with TensorFlow and resume the training there.

The same training gives the same result whether it was stopped or not, as far as the device is
deterministic. The images' order depends on seed and epoch only, all else on seed and step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
CHECKPOINT = "checkpoint.npz"
#: The arguments of an epoch: the data, what is drawn for it, and then what it captures.
DATA = ("train_images", "train_labels", "validation_images", "validation_labels")
DRAWN = ("order", "seed", "epoch")

#: (state, order, epoch) -> (figures, new state).
Epoch = Callable[[Any, np.ndarray, int], "tuple[Sequence[Any], Any]"]


@dataclass
class Progress:
    """How far a training is.

    # Arguments
        training: `"training"` of its manifest.
        state: the values of the variables, by key.
        rows: the figures of each finished epoch, by name.
        seconds: that the epochs took, but for the first one of each call, which compiles.
        timed: how many epochs that were.
        device: what ran it, with the versions of JAX.
    """

    training: str
    state: dict[str, np.ndarray]
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    timed: int = 0
    device: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes a checkpoint, whole or not at all."""
        rest = {name: value for name, value in vars(self).items() if name != "state"}
        text = json.dumps(rest)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, progress=np.array(text), **self.state)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """What `save` wrote."""
        with np.load(path) as arrays:
            state = {name: arrays[name] for name in arrays.files}
        return cls(state=state, **json.loads(str(state.pop("progress"))))

    @classmethod
    def begin(cls, folder: Path, manifest: dict[str, Any], checkpoint: Path) -> Progress:
        """From the checkpoint, or without one from the initial values in the folder.

        # Raises
            SystemExit: if the checkpoint is of another training.
        """
        if not checkpoint.is_file():
            with np.load(folder / "values.npz") as values:
                state = {key: values[key] for key in manifest["state"]}
            return cls(manifest["training"], state)
        progress = cls.load(checkpoint)
        if progress.training != manifest["training"]:
            sys.exit(f"{checkpoint} is not of the training in {folder}: move one of them away")
        return progress


def order_of(seed: int, epoch: int, inputs: int, images: int) -> np.ndarray:
    """The order of the images in an epoch, int32 [inputs, images]."""
    orders = [
        np.random.default_rng([seed, epoch, stream]).permutation(images) for stream in range(inputs)
    ]
    return np.stack(orders).astype(np.int32)


def train(
    manifest: dict[str, Any],
    epoch_function: Epoch,
    progress: Progress,
    checkpoint: Path,
    *,
    seconds: float = float("inf"),
    save_every: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = print,
) -> bool:
    """Trains to the last epoch, or as long as there is time.

    # Arguments
        seconds: from now on; an epoch that would take longer is not begun.
        save_every: seconds between two checkpoints.

    # Returns
        Whether all epochs are trained.

    # Raises
        FloatingPointError: if a figure is not finite; the last checkpoint is of before.
    """
    started = saved = now = clock()
    state: Any = [progress.state[key] for key in manifest["state"]]
    epochs, taken = manifest["epochs"], 0.0

    def save() -> None:
        progress.state = {key: np.asarray(value) for key, value in zip(manifest["state"], state)}
        progress.save(checkpoint)

    for number in range(first := len(progress.rows), epochs):
        if now - started + taken > seconds:
            break
        order = order_of(manifest["seed"], number, manifest["inputs"], manifest["images"])
        values, state = epoch_function(state, order, number)
        row = {name: float(value) for name, value in zip(manifest["figures"], values)}
        now, before = clock(), now
        taken = now - before
        if not np.isfinite(list(row.values())).all():
            raise FloatingPointError(f"epoch {number + 1} has diverged: {row}")
        progress.rows.append(row)
        say(line(row, number + 1, epochs, taken))
        if number == first:
            taken = 0.0  # it compiled, and the next one won't
        else:
            progress.seconds, progress.timed = progress.seconds + taken, progress.timed + 1
        if now - saved > save_every:
            save()
            saved = clock()
    save()
    return len(progress.rows) == epochs


def line(row: dict[str, float], epoch: int, epochs: int, seconds: float) -> str:
    """What is printed of an epoch."""
    names = ("loss", "accuracy", "val_accuracy")
    shown = [name for name in row if name in names or name.endswith("ensemble_accuracy")]
    figures = ", ".join(f"{name} {row[name]:.4f}" for name in shown)
    left = (epochs - epoch) * seconds / 60
    return f"epoch {epoch}/{epochs}: {figures}; {seconds:.2f} s, {left:.1f} min left"


def data_file(folder: Path, name: str) -> Path:
    """The data of a training: in its folder, or beside it for several trainings."""
    return folder / name if (folder / name).is_file() else folder.resolve().parent / name


def compiled(folder: Path, manifest: dict[str, Any]) -> Epoch:
    """The exported epoch, under JAX. The data are on the device from now on."""
    import jax
    from jax.extend.core import Primitive
    from jax.interpreters import mlir
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import func

    jax.config.update("jax_enable_x64", True)  # step counters and seeds have 64 bits
    data = np.load(data_file(folder, manifest["data"]))
    values = np.load(folder / "values.npz")
    states = {key: index for index, key in enumerate(manifest["state"])}
    constants = {
        key: jax.device_put(source[key])
        for source, keys in ((data, DATA), (values, values.files))
        for key in keys
        if key not in states
    }
    shapes = [
        *(jax.core.ShapedArray((), np.dtype(kind)) for kind in manifest["figures"].values()),
        *(jax.core.ShapedArray(values[key].shape, values[key].dtype) for key in states),
    ]
    figures = len(manifest["figures"])
    module = (folder / "epoch.mlir").read_bytes()

    exported = Primitive("exported_epoch")
    exported.multiple_results = True

    def lower(context: Any, *arguments: Any) -> Any:
        source = ir.Module.parse(module)
        main = ir.SymbolTable(source.operation)["main"]
        kinds = main.type.results
        name = mlir.merge_mlir_modules(context.module_context.module, "exported_epoch", source)
        call = func.CallOp(kinds, ir.FlatSymbolRefAttr.get(name), arguments)
        return call.results[: len(shapes)]  # then what it also assigned

    exported.def_abstract_eval(lambda *_: shapes)
    mlir.register_lowering(exported, lower)

    def epoch(state: Any, constants: Any, drawn: Any) -> Any:
        arguments = [
            state[states[key]] if key in states else {**constants, **drawn}[key]
            for key in manifest["arguments"]
        ]
        outputs = exported.bind(*arguments)
        return outputs[:figures], outputs[figures:]

    jitted = jax.jit(epoch, donate_argnums=0)

    def call(state: Any, order: np.ndarray, number: int) -> Any:
        drawn = {
            "order": order,
            "seed": np.int64(manifest["seed"]),
            "epoch": np.int64(number),
        }
        return jitted(state, constants, drawn)

    return call


def device() -> dict[str, str]:
    """The device that JAX takes, and versions."""
    try:
        import jax
        import jaxlib
    except ImportError:
        sys.exit("This needs JAX: install it with the plugin for your device")
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="of this file")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop in time")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where checkpoints go")
    options = parser.parse_args(arguments)
    end = time.perf_counter() + 60 * options.minutes
    finished = True
    for folder in options.folders or [Path(__file__).parent]:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            sys.exit(f"{folder} has format {manifest['format']}: run it by the run.py in it")
        checkpoint = (
            options.out / f"{folder.resolve().name}.npz" if options.out else folder / CHECKPOINT
        )
        progress = Progress.begin(folder, manifest, checkpoint)
        progress.device = device()
        left = manifest["epochs"] - len(progress.rows)
        print(f"{folder}: {left} epochs on {progress.device}", flush=True)
        if left and not train(
            manifest,
            compiled(folder, manifest),
            progress,
            checkpoint,
            seconds=end - time.perf_counter(),
            say=lambda text: print(text, flush=True),
        ):
            finished = False
            print(f"{folder}: stopped after {len(progress.rows)} epochs; call again to go on")
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(main())
