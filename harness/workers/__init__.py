"""Processes that run a subject's cases, so that damage to a process costs one case alone."""

from harness.workers.apart import Apart
from harness.workers.here import Here
from harness.workers.limits import WorkerLimits

__all__ = ["Apart", "Here", "WorkerLimits"]
