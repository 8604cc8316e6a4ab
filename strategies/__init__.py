"""Cases, their tensors, and the Hypothesis strategies that draw them."""

from strategies.case import AttentionCase, Features
from strategies.draw import attention_cases
from strategies.geometry import Geometry
from strategies.history import calls_before
from strategies.limits import Limits
from strategies.tensor_spec import TensorSpec
from strategies.tensors import Problem, build, checksum

__all__ = [
    "AttentionCase",
    "Features",
    "Geometry",
    "Limits",
    "Problem",
    "TensorSpec",
    "attention_cases",
    "build",
    "calls_before",
    "checksum",
]
