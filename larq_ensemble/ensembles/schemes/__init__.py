"""How members are trained and combined: one class per scheme.

| scheme | trained on | combined by |
|---|---|---|
| `fusion` | one loss, of the combination | softmax of the mean logits |
| `nested_fusion` | combination of the first m, all m at once | softmax of the mean logits |
| `sampled_nested_fusion` | the same, one random m a step | softmax of the mean logits |
| `voting` | each member its own loss | mean of the softmaxes |
| `hard_voting` | each member its own loss | share of the members' votes |
| `bagging` | each member its own bootstrap sample of the data | mean of the softmaxes |
| `batch_bagging` | each member its own part of each batch | mean of the softmaxes |
| `boosting` | sequentially, each the residual of those before it | softmax of the summed logits |
| `soft_boosting` | together, each the residual of those before it | softmax of the summed logits |
| `snapshot` | sequentially, each a cycle of one cyclic learning rate | mean of the softmaxes |
| `fast_geometric` | the same, up from a minimum and down again | mean of the softmaxes |
| `adversarial` | sequentially, each on images changed against it too | mean of the softmaxes |
| `adaboost` | sequentially, each on the errors of those before | weighted mean of the softmaxes |
| `stochastic_rounding` | sequentially, each on filters rounded at random | mean of the softmaxes |
"""

from __future__ import annotations

from larq_ensemble.ensembles.schemes.adaboost import AdaBoost
from larq_ensemble.ensembles.schemes.adversarial import Adversarial
from larq_ensemble.ensembles.schemes.bagging import Bagging, BatchBagging
from larq_ensemble.ensembles.schemes.base import Scheme, Stage
from larq_ensemble.ensembles.schemes.boosting import Boosting, SoftBoosting
from larq_ensemble.ensembles.schemes.fusion import Fusion, NestedFusion, SampledNestedFusion
from larq_ensemble.ensembles.schemes.snapshot import FastGeometric, Snapshot
from larq_ensemble.ensembles.schemes.stochastic_rounding import StochasticRounding
from larq_ensemble.ensembles.schemes.voting import HardVoting, Voting
from larq_ensemble.registry import Registry

__all__ = ["SCHEMES", "Scheme", "Stage"]

SCHEMES: Registry[Scheme] = Registry("scheme")
for _scheme in (
    Fusion(),
    NestedFusion(),
    SampledNestedFusion(),
    Voting(),
    HardVoting(),
    Bagging(),
    BatchBagging(),
    Boosting(),
    SoftBoosting(),
    Snapshot(),
    FastGeometric(),
    Adversarial(),
    AdaBoost(),
    StochasticRounding(),
):
    SCHEMES.register(_scheme.name, _scheme)
