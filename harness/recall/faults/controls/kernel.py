"""Our Triton kernel, each with one tile configuration alone."""

from __future__ import annotations

from harness.recall.faults.registry import pinned_control

pinned_control("kernel-16x16", "Our kernel with square tiles of 16.", "16x16x4x1")
pinned_control("kernel-64x32", "Our kernel with tiles taller than wide.", "64x32x4x2")
pinned_control("kernel-32x64", "Our kernel with tiles wider than tall.", "32x64x4x2")
