"""The gradients of the truth are those of the definition, and what a query may not see never reaches them."""

import torch
from hypothesis import given

from oracles import float64, gradients64
from strategies import AttentionCase, Problem, attention_cases, build

BACKWARD = AttentionCase(operation="forward_backward")


def by_autograd(problem: Problem) -> tuple[torch.Tensor, ...]:
    """dQ, dK, dV by torch's autograd of a plain float64 formula; rows that see no key are left out of it."""
    q, k, v = leaves = [
        t.double().nan_to_num(0.0, 0.0, 0.0).requires_grad_() for t in (problem.q, problem.k, problem.v)
    ]
    k, v = (tensor.repeat_interleave(problem.group, 1) for tensor in (k, v))
    S = problem.scale * (q @ k.mT)
    visible = problem.visible()
    visible = torch.ones_like(S, dtype=torch.bool) if visible is None else visible.expand_as(S)
    has_keys = visible.any(-1, keepdim=True)
    S = S.masked_fill(~visible & has_keys, -torch.inf)
    O = torch.where(has_keys, S.softmax(-1) @ v, 0.0)
    LSE = torch.where(has_keys, S.logsumexp(-1, keepdim=True), 0.0).squeeze(-1)
    dLSE = torch.zeros_like(LSE) if problem.dLSE is None else problem.dLSE.double()
    return torch.autograd.grad((O, LSE), leaves, (problem.dO.double(), dLSE))


@given(case=attention_cases(gradients="only", max_work=1 << 12, max_length=200, history=False))
def test_the_formula_is_what_autograd_makes_of_the_definition(case):
    if case.geometry.Nk == 0:
        return
    problem = build(case)
    truth = float64(problem)
    found = gradients64(problem, truth)
    for got, want in zip((found.dQ, found.dK, found.dV), by_autograd(problem), strict=True):
        size = want.abs().max().item() if want.numel() else 0.0
        spread = truth.S.abs().max().item() if truth.S.numel() else 0.0
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-13 * (1 + spread) * (1 + size) * case.geometry.d)
