"""Legalized files on LiteRT give the answers that LCE gave when the files were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from larq_ensemble.errors import UnknownNameError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.legalization import FILTERS, legalize, legalized

DATA = Path(__file__).parents[2] / "data"
FILES = ("branches", "compact", "indexed", "subgraphs", "version_1")
MEMBERS = 3


def logits(model: bytes, images: np.ndarray) -> np.ndarray:
    """The logits of all members for images, by the trunk and the rests of a file if it has them."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    signatures = interpreter.get_signature_list()
    runners = {key: interpreter.get_signature_runner(key) for key in signatures}

    def of_image(image: np.ndarray) -> np.ndarray:
        known = {"image": image[np.newaxis].astype(np.float32)}
        if "prefix" in runners:
            known.update(runners["prefix"](**known))
        found = {}
        for member in range(MEMBERS):
            known["member"] = np.array([member], np.int32)
            keys = (f"rest_{member}", f"member_{member}", "rest", "serving_default")
            key = next(key for key in keys if key in runners)
            outputs = runners[key](**{name: known[name] for name in signatures[key]["inputs"]})
            found[member] = outputs.get(f"logits_{member}", outputs.get("logits"))
        return np.concatenate([found[member] for member in range(MEMBERS)])

    return np.stack([of_image(image) for image in images], axis=1)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("name", FILES)
def test_files_give_the_answers_of_lce(name: str, filters: str):
    answers = np.load(DATA / f"{name}.npz")
    model = legalized((DATA / f"{name}.tflite").read_bytes(), filters=filters)
    np.testing.assert_allclose(
        logits(model, answers["images"]), answers["logits"], rtol=1e-4, atol=1e-4
    )
    assert not any(op.name.startswith("Lce") for g in read(model).graphs for op in g.operators)


def test_unknown_filters_are_refused():
    module = read((DATA / "indexed.tflite").read_bytes())
    with pytest.raises(UnknownNameError, match=r"filters 'int4'\. Known: 1bit, int8"):
        legalize(module, filters="int4")
