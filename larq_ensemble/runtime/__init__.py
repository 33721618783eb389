"""Running a converted ensemble; imports neither TensorFlow nor Keras."""

from larq_ensemble.runtime.interpreter import EnsembleInterpreter

__all__ = ["EnsembleInterpreter"]
