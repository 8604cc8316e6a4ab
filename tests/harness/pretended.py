"""A CUDA device that is none: its tensors lie in the CPU's memory and are told apart by their storage."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda")
MOVES = (Tensor.to, Tensor.cpu)
MIXES = (Tensor.copy_,)
"""What CUDA too does across devices."""


class PretendedCuda(TorchFunctionMode):
    """While it is entered, tensors may be made on CUDA and moved there, into memory of their own.

    What is made of them is there too, and an operation on tensors of both devices raises, as it does where there are
    two. calls: how many operations ran there.
    """

    def __init__(self):
        super().__init__()
        self.calls = 0
        self._storages = {}  # kept, as the name of one that is gone would be given to another

    def backward(self, run):
        """Autograd's engine, `run`, whose gradients lie where its outputs do: it tells no mode what it makes."""

        def marked(roots, *rest, **others):
            gradients = run(roots, *rest, **others)
            return self._marked(gradients) if self.has(roots[0]) else gradients

        return marked

    def has(self, value):
        """Whether it is a tensor on the device."""
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._storages

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return CUDA if self.has(args[0]) else torch.device("cpu")
        if func == Tensor.is_cuda.__get__:
            return self.has(args[0])
        if func in MOVES:
            return self._moved(func, *args, **kwargs)
        is_here = self._is_among(func, (args, kwargs))
        if kwargs.get("device") is not None:
            is_here, kwargs["device"] = torch.device(kwargs["device"]).type == "cuda", "cpu"
        result = func(*args, **kwargs)
        self.calls += is_here
        return self._marked(result) if is_here else result

    def _is_among(self, func, given):
        """Whether the tensors given lie on the device. Raises RuntimeError where some do and others do not."""
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        if func is Tensor.numpy and self.has(tensors[0]):
            raise TypeError("A tensor on CUDA has no NumPy array.")
        places = {self.has(tensor) for tensor in tensors if tensor.dim() or self.has(tensor)}
        if len(places) == 2 and func not in MIXES:
            raise RuntimeError(f"{func.__name__} was given tensors on two devices.")
        return self.has(tensors[0]) if func in MIXES else True in places

    def _moved(self, func, tensor, *args, **kwargs):
        place = kwargs.pop("device", None) if func is Tensor.to else "cpu"
        rest = [each for each in args if isinstance(each, torch.dtype)]
        for each in args:
            place = each if isinstance(each, str | torch.device) else place
        was_here = self.has(tensor)
        is_here = was_here if place is None else torch.device(place).type == "cuda"
        copy = {"copy": True} if is_here != was_here else {}
        moved = tensor.to("cpu", *rest, **(kwargs | copy))
        self.calls += is_here or was_here
        return self._marked(moved) if is_here else moved

    def _marked(self, result):
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._storages[storage._cdata] = storage
        return result
