"""Cases: what they are, how they become tensors, and the Hypothesis strategies that draw them."""

from strategies import history as history
from strategies.case import AttentionCase, Features, Geometry, TensorSpec
from strategies.tensors import Problem, build, checksum

__all__ = ["AttentionCase", "Features", "Geometry", "Problem", "TensorSpec", "build", "checksum"]
