"""Training on a machine that has JAX, but no TensorFlow.

TensorFlow trains on a GPU as it is. This is for machines with an accelerator where it can't be
installed. It takes three steps:

1. Here, `export` compiles an epoch of a training to StableHLO and writes it to a folder, with the
   initial values of its variables and the images. Network, losses, optimizer, augmentation and
   evaluation are those of Keras's `fit`: nothing is written twice.
2. There, `run.py`, which the folder has a copy of, runs the epochs. It needs JAX and NumPy only.
3. Here, the training is resumed: `finish` makes a checkpoint of the result, and the run goes on as
   any other whose last epoch is over.

```python
with under_jax("step"):  # the first time it writes the folder, and raises `Exported`
    pretrain("resnet20", "cifar100", "runs/backbone", recipe=recipe, resume=True)
```
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import user_path
from larq_ensemble.training.job import Fitting, fitted_by
from larq_ensemble.training.under_jax.export import export
from larq_ensemble.training.under_jax.finish import finish
from larq_ensemble.training.under_jax.run import CHECKPOINT


class Exported(Exception):
    """The training was written to a folder, and is to be run there."""


@contextlib.contextmanager
def under_jax(folder: str | os.PathLike[str]) -> Iterator[None]:
    """The training within the block is run under JAX.

    Without a result in the folder it is written there. With a result the run is finished.

    # Arguments
        folder: of the exported training.

    # Raises
        Exported: when the training has been written.
        EnsembleError: for a training that can't be exported, which leaves no run, and for a result
            of another training or one that lacks epochs.
    """
    path = user_path(folder)

    def fit(fitting: Fitting) -> float | None:
        if (path / CHECKPOINT).is_file():
            return finish(fitting, path)
        try:
            export(fitting, path)
        except EnsembleError:
            run = fitting.run
            if not (run.checkpoints_path.exists() or run.log_path.exists()):
                run.config_path.unlink()  # the command is repeated with other arguments
            raise
        raise Exported(
            f"The training is in {str(path)!r}. Run `python {path / 'run.py'}` where JAX is, bring "
            f"{str(path / CHECKPOINT)!r} back, and repeat this with `resume=True`."
        )

    with fitted_by(fit):
        yield
