"""bfloat16 for NumPy, which lacks it: Triton's interpreter stores its raw bits as uint16."""

from __future__ import annotations

from typing import Any

import numpy as np


def widen(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the float32 values of bfloat16 `bits` (uint16); exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def truncate(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bfloat16 bits of float32 `values`, rounded toward zero; NaN stays NaN."""
    bits = values.view(np.uint32)
    return _keep_nan((bits >> np.uint32(16)).astype(np.uint16), values)


def narrow(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bfloat16 bits of float32 `values`, rounded to nearest even; overflow gives inf, NaN stays NaN."""
    bits = np.atleast_1d(values).view(np.uint32)
    half_minus_odd = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    rounded = ((bits + half_minus_odd) >> np.uint32(16)).astype(np.uint16)
    return _keep_nan(rounded.reshape(np.shape(values)), values)


def _keep_nan(bits: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `bits` with the quiet NaN wherever `values` is NaN: the payload may be only in the bits cut off."""
    nan = np.isnan(values)
    return np.where(nan, np.uint16(0x7FC0), bits) if nan.any() else bits
