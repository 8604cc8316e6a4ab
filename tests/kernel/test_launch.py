"""Launching: through Triton first, then past it, and through it again where someone watches."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import triton
from triton import knobs
from triton.compiler import CompiledKernel

from kernel.call import launch
from kernel.call.launch import Launch

CUDA = torch.device("cuda", 0)
OTHER = torch.device("cuda", 1)
STREAMS = {0: 70, 1: 71}


class Compiled(CompiledKernel):
    """What Triton returns from a launch, with a launcher that writes down what it is given."""

    function, packed_metadata = "function", "metadata"

    def __init__(self, said):
        self._run = lambda *arguments: said.append(("direct", *arguments))


class Kernel:
    """A jitted function that writes its launches down."""

    def __init__(self, said, compiled):
        self.said, self.compiled = said, compiled

    def __getitem__(self, grid):
        def run(*arguments, **options):
            self.said.append(("triton", grid, *arguments, options))
            return self.compiled

        return run


@pytest.fixture
def said(monkeypatch):
    """One CUDA device is current, and a driver answers."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(launch, "on", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(triton.runtime.driver, "_active", SimpleNamespace(get_current_stream=STREAMS.get))
    return []


def bound(said, device=CUDA, compiled=True):
    return Launch(Kernel(said, Compiled(said) if compiled else None), (3, 2), (5, True), {"num_warps": 4}, device)


def test_the_first_launch_compiles_and_the_next_goes_past_triton(said):
    x = torch.zeros(1)
    once = bound(said)
    once(x, None)
    once(x, None)
    assert said[0] == ("triton", (3, 2), x, None, 5, True, {"num_warps": 4})
    assert said[1:] == [("direct", 3, 2, 1, 70, "function", "metadata", None, None, None, x.data_ptr(), None, 5, True)]


def test_another_device_is_made_the_current_one(said, monkeypatch):
    entered = []
    monkeypatch.setattr(launch, "on", lambda device: contextlib.nullcontext(entered.append(device)))
    there = bound(said, OTHER)
    there()
    there()
    assert entered == [OTHER, OTHER]
    assert said[1][4] == STREAMS[1]


@pytest.mark.parametrize("hook", ["launch_enter_hook", "launch_exit_hook"])
def test_a_profiler_sees_each_launch(said, hook):
    watched = bound(said)
    watched()
    chain = getattr(knobs.runtime, hook)
    chain.add(print)
    try:
        watched()
    finally:
        chain.remove(print)
    watched()
    assert [how for how, *_ in said] == ["triton", "triton", "direct"]


def test_what_is_not_known_goes_through_triton(said, monkeypatch):
    interpreted = bound(said, torch.device("cpu"), compiled=False)
    interpreted()
    interpreted()
    monkeypatch.setattr(launch, "DIRECT", False)
    newer = bound(said)
    newer()
    newer()
    assert [how for how, *_ in said] == ["triton"] * 4


def test_launches_are_the_same_by_what_is_bound(said):
    one, other = bound(said), bound(said)
    other.kernel = one.kernel
    one()
    assert one == other
    assert one != Launch(one.kernel, (3, 3), one.arguments, one.options, CUDA)


class Block:
    """Describes a tensor, and counts how often."""

    def __init__(self):
        self.count = 0

    def of(self, x):
        self.count += 1
        return SimpleNamespace(base=x)


def described_run(said, indices=(0, 1), **special):
    """A launcher of a kernel whose first arguments are descriptors, as Triton 3.6 makes it."""
    sizes = dict.fromkeys(launch._SPECIAL, 0) | special
    metas = [f"of {i}" for i in indices]
    return SimpleNamespace(launch=closure(lambda *x: said.append(x), set(indices), metas), **sizes)


def closure(launcher, tensordesc_indices, tensordesc_meta):
    def inner(*arguments):
        return launcher, tensordesc_indices, tensordesc_meta

    return inner


@pytest.fixture
def _triton_3_6(monkeypatch):
    from triton.backends.nvidia import driver

    monkeypatch.setattr(launch.triton, "__version__", "3.6.0")
    monkeypatch.setattr(driver, "make_tensordesc_arg", lambda x, meta: [meta, x.base.data_ptr(), object()])


@pytest.mark.usefixtures("_triton_3_6")
def test_a_descriptor_is_made_and_encoded_once_for_each_address(said):
    x, y, z = (torch.zeros(1) for _ in range(3))
    blocks = Block(), Block()
    launcher, expand = launch._expanded(described_run(said), blocks)
    first = expand((x, y, z, None))
    assert [first[0], first[1], first[3], first[4]] == ["of 0", x.data_ptr(), "of 1", y.data_ptr()]
    assert first[6:] == [z.data_ptr(), None]
    assert expand((x, y, z, None)) == first
    assert expand((z, y, z, None))[:2] == ["of 0", z.data_ptr()]
    assert [block.count for block in blocks] == [2, 1]
    launcher(1)
    assert said == [(1,)]


@pytest.mark.usefixtures("_triton_3_6")
def test_no_more_than_so_many_addresses_are_kept():
    kept = {}
    for x in [torch.zeros(1) for _ in range(launch._MOST_ADDRESSES + 1)]:
        launch._encoded(Block(), "meta", kept, x)
    assert len(kept) == 1


@pytest.mark.usefixtures("_triton_3_6")
def test_what_triton_must_launch_itself(said, monkeypatch):
    blocks = Block(), Block()
    assert launch._expanded(described_run(said, global_scratch_size=8), blocks) is None
    assert launch._expanded(described_run(said, indices=(0, 2)), blocks) is None
    assert launch._expanded(lambda *arguments: None, blocks) is None
    monkeypatch.setattr(launch.triton, "__version__", "3.7.1")
    assert launch._expanded(described_run(said), blocks) is None


def test_a_kernel_is_given_descriptors_of_its_first_tensors(said):
    x, y = torch.zeros(1), torch.zeros(1)
    once = Launch(Kernel(said, Compiled(said)), (3, 2), (5,), {}, CUDA, (Block(),))
    for _ in range(2):
        once(x, y, None)
    assert said[0] == ("triton", (3, 2), SimpleNamespace(base=x), y, None, 5, {})
    assert said[1][-4:] == (SimpleNamespace(base=x), y.data_ptr(), None, 5)


@pytest.mark.usefixtures("_triton_3_6")
def test_past_triton_the_launcher_is_given_what_triton_would_give_it(said):
    x, y = torch.zeros(1), torch.zeros(1)
    compiled = Compiled(said)
    compiled._run = described_run(said, indices=(0,))
    once = Launch(Kernel(said, compiled), (3, 2), (5,), {}, CUDA, (Block(),))
    for _ in range(2):
        once(x, y, None)
    scratch = hooks = (None, None)
    start = (3, 2, 1, 70, "function", False, False, *scratch, "metadata", None, *hooks)
    encoded = ("of 0", x.data_ptr(), said[1][len(start) + 2])
    assert said[1] == (*start, *encoded, y.data_ptr(), None, 5)
