"""Cases: what they are, how they become tensors, and the Hypothesis strategies that draw them."""

from strategies.case import AttentionCase, Features, TensorSpec
from strategies.draw import attention_cases
from strategies.geometry import Geometry
from strategies.history import calls_before
from strategies.tensors import Problem, build, checksum

__all__ = [
    "AttentionCase",
    "Features",
    "Geometry",
    "Problem",
    "TensorSpec",
    "attention_cases",
    "build",
    "calls_before",
    "checksum",
]
