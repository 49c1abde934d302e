"""torch.compile sees through the operators as they run on a CPU: one graph each, outputs and gradients unchanged."""

import pytest
import torch

from videogen_kernels import moe
from videogen_kernels.mixers import cross_mixer, linear_mixer, softmax_mixer
from videogen_kernels.modulated_norm import gated_residual, modulated_norm, rms_norm


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


COS, SIN = normal(12, 8).cos(), normal(12, 8).sin()
ONES = torch.ones(16)
CONV = normal(32, 1, 3, 3)
INDICES, WEIGHTS = normal(12, 4).topk(2).indices, normal(12, 2).sigmoid()
CASES = {
    "modulated_norm": (lambda x, scale, shift: modulated_norm(x, scale, shift), (1, 6, 8), (1, 3, 8), (1, 3, 8)),
    "gated_residual": (lambda x, branch, gate: gated_residual(x, branch, gate), (1, 6, 8), (1, 6, 8), (1, 3, 8)),
    "rms_norm": (rms_norm, (2, 3, 8), (8,)),
    "linear_mixer": (
        lambda x, gate: linear_mixer(x, gate, ONES, ONES, ONES, CONV, COS, SIN, (3, 2, 2)),
        (1, 12, 4, 2, 16),
        (1, 12, 2),
    ),
    "softmax_mixer": (lambda x: softmax_mixer(x, ONES, ONES, COS, SIN), (1, 12, 3, 2, 16)),
    "cross_mixer": (lambda x, text: cross_mixer(x, text, ONES, ONES), (1, 12, 2, 16), (1, 5, 2, 2, 16)),
    "experts": (
        lambda x, w_in, w_out: moe.experts(x, w_in, w_out, INDICES, WEIGHTS),
        (12, 16),
        (4, 16, 16),
        (4, 8, 16),
    ),
    "route": (lambda logits: moe.route(logits, None, 2)[1], (12, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_one_graph_with_the_same_gradients(name):
    function, *shapes = CASES[name]
    leaves = [normal(*shape).requires_grad_() for shape in shapes]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    results = []
    for call in (function, compiled):
        out = call(*leaves)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
