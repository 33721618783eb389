"""Keras ensembles of a backbone: building, schemes, execution, saving.

Importing it registers the layers of an ensemble for `keras.models.load_model`.
"""

from __future__ import annotations

from larq_ensemble.ensembles.building import build_ensemble, build_member, copy_weights
from larq_ensemble.ensembles.ensemble import Ensemble, as_ensemble
from larq_ensemble.ensembles.existing import ensemble_of
from larq_ensemble.ensembles.fused_models import fused_network
from larq_ensemble.ensembles.saving import load_ensemble
from larq_ensemble.ensembles.schemes import SCHEMES, Scheme
from larq_ensemble.ensembles.sequential import fit_members

__all__ = [
    "SCHEMES",
    "Ensemble",
    "Scheme",
    "as_ensemble",
    "build_ensemble",
    "build_member",
    "copy_weights",
    "ensemble_of",
    "fit_members",
    "fused_network",
    "load_ensemble",
]
