"""Mixture of experts: routing by hand, grouped = loop, gradients, empty and overfull experts, nothing dropped."""

import pytest
import torch
import torch.nn.functional as F

from videogen_kernels import moe


def make_weights(num_experts=4, width=16, hidden=8, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w_in = torch.randn(num_experts, width, 2 * hidden, generator=generator, dtype=dtype) / width**0.5
    w_out = torch.randn(num_experts, hidden, width, generator=generator, dtype=dtype) / hidden**0.5
    return w_in, w_out


def make_routing(tokens, num_experts=4, top_k=2, kind="random", seed=1):
    generator = torch.Generator().manual_seed(seed)
    if kind == "one_takes_all":
        indices = torch.stack([torch.full((tokens,), 2), torch.full((tokens,), 3)], 1)[:, :top_k]
    elif kind == "empty_expert":
        indices = torch.rand(tokens, num_experts - 1, generator=generator).topk(top_k).indices  # the last gets none
    else:
        indices = torch.rand(tokens, num_experts, generator=generator).topk(top_k).indices
    return indices, torch.rand(tokens, top_k, generator=generator)


def test_route_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    indices, weights = moe.route(logits, None, 2)
    assert indices.tolist() == [[0, 2]]
    scores = torch.sigmoid(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(weights[0], scores / scores.sum())

    indices, weights = moe.route(logits, torch.tensor([0.0, 0.0, 0.0, 10.0]), 2)
    assert indices.tolist() == [[3, 0]]  # the bias chooses ...
    scores = torch.sigmoid(torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(weights[0], scores / scores.sum())  # ... and does not weigh


def test_route_is_float32_and_passes_gradients_to_chosen_scores_only():
    logits = torch.randn(5, 6).bfloat16().requires_grad_()
    indices, weights = moe.route(logits, torch.zeros(6), 3)
    assert weights.dtype == torch.float32
    weights[:, 0].sum().backward()
    chosen = torch.zeros(5, 6, dtype=torch.bool).scatter(1, indices, True)
    assert (logits.grad[~chosen] == 0).all() and (logits.grad[chosen] != 0).any()
    assert torch.autograd.gradcheck(
        lambda t: moe.route(t, None, 2)[1], torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize("tokens", [1, 63, 1000])
@pytest.mark.parametrize("kind", ["random", "empty_expert", "one_takes_all"])
def test_grouped_equals_loop_with_every_gradient(tokens, kind):
    indices, weights = make_routing(tokens, kind=kind)
    results = []
    for backend in ("reference", "grouped_mm"):
        torch.manual_seed(0)
        leaves = [torch.randn(tokens, 16), *make_weights(), weights.clone()]
        leaves = [t.requires_grad_() for t in leaves]
        x, w_in, w_out, expert_weights = leaves
        out = moe.experts(x, w_in, w_out, indices, expert_weights, backend=backend)
        (out * torch.linspace(-1, 1, 16)).sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
    unused = set(range(4)) - set(indices.flatten().tolist())
    assert all((results[1][2][expert] == 0).all() for expert in unused)


def test_experts_by_hand_and_gradcheck():
    w_in, w_out = make_weights(dtype=torch.float64, width=4, hidden=3)
    x = torch.randn(5, 4, dtype=torch.float64)
    indices, weights = make_routing(5)
    weights = weights.double()
    out = moe.experts(x, w_in, w_out, indices, weights)
    for token in range(5):
        expected = torch.zeros(4, dtype=torch.float64)
        for choice in range(2):
            expert = indices[token, choice]
            gate, up = (x[token] @ w_in[expert]).chunk(2)
            expected += weights[token, choice] * ((F.silu(gate) * up) @ w_out[expert])
        torch.testing.assert_close(out[token], expected)
    leaves = [t.requires_grad_() for t in (x, w_in, w_out, weights)]
    assert torch.autograd.gradcheck(lambda a, b, c, d: moe.experts(a, b, c, indices, d), leaves)


def test_nothing_is_dropped_and_a_token_does_not_depend_on_the_others():
    """Experts that return their input, weights that sum to 1: the output is the input. Alone = in the batch."""
    tokens, (indices, _) = 50, make_routing(50)
    w_in, w_out = make_weights()
    x = torch.randn(tokens, 16)
    weights = torch.full((tokens, 2), 0.5)
    same_in, same_out = w_in[:1].expand(4, -1, -1), w_out[:1].expand(4, -1, -1)
    dense = moe.swiglu(x @ w_in[0]) @ w_out[0]
    torch.testing.assert_close(moe.experts(x, same_in, same_out, indices, weights), dense, atol=1e-5, rtol=1e-4)
    assert moe.tokens_per_expert(indices, 4).sum() == tokens * 2

    together = moe.experts(x, w_in, w_out, indices, weights)
    alone = torch.cat([moe.experts(x[i : i + 1], w_in, w_out, indices[i : i + 1], weights[:1]) for i in range(tokens)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    order = torch.randperm(tokens)
    torch.testing.assert_close(moe.experts(x[order], w_in, w_out, indices[order], weights), together[order])


def test_non_contiguous_bfloat16_and_autocast():
    w_in, w_out = make_weights()
    indices, weights = make_routing(40)
    x = torch.randn(16, 40).T
    exact = moe.experts(x, w_in, w_out, indices, weights, backend="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = moe.experts(x, w_in, w_out, indices, weights)
    assert low.dtype == torch.float32
    loop = moe.experts(x.bfloat16(), w_in.bfloat16(), w_out.bfloat16(), indices, weights, backend="reference")
    assert (low - exact).abs().max() <= 2 * (loop.float() - exact).abs().max() + 1e-3


def test_swiglu_gradcheck():
    assert torch.autograd.gradcheck(moe.swiglu, torch.randn(3, 8, dtype=torch.float64, requires_grad=True))


def test_losses_of_uniform_and_collapsed_routing():
    logits = torch.zeros(8, 4)
    uniform = torch.arange(8)[:, None] % 4
    assert moe.load_balancing_loss(logits, uniform).item() == pytest.approx(1.0)
    collapsed = torch.full((8, 4), -20.0)
    collapsed[:, 1] = 20.0
    assert moe.load_balancing_loss(collapsed, torch.ones(8, 1, dtype=torch.long)).item() == pytest.approx(4.0, rel=1e-3)
    assert moe.router_z_loss(logits).item() == pytest.approx(torch.tensor(4.0).log().item() ** 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moe.route(torch.zeros(3, 4), None, 5), "`top_k` must lie in 1..4"),
        (lambda: moe.route(torch.zeros(3, 4), torch.zeros(3), 2), "`bias` must be"),
        (lambda: moe.experts(torch.zeros(3, 5), *make_weights(), *make_routing(3)), "`x` must be"),
        (lambda: moe.experts(torch.zeros(3, 16), *make_weights(), *make_routing(4)), "`expert_indices` must be"),
        (
            lambda: moe.experts(torch.zeros(3, 5), *make_weights(width=5), *make_routing(3), backend="grouped_mm"),
            "multiples of 16 bytes",
        ),
    ],
    ids=["top_k", "bias", "width", "indices", "alignment"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
