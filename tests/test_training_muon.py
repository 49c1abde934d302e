import pytest
import torch
from tiny_models import tiny_transformer
from torch import nn

from videogen.training.ema import ExponentialMovingAverage
from videogen.training.muon import Muon, orthogonalize, split_parameters


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (2, 8, 40)], ids=str)
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape), dtype=torch.float32))
    assert values.shape == (shape[0], min(shape[1:]))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_zero_matrices_stay_zero():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 6)).float(), torch.zeros(2, 4, 6))


def test_a_stack_of_experts_is_updated_like_separate_matrices():
    torch.manual_seed(0)
    start, grads = torch.randn(4, 6, 10), [torch.randn(4, 6, 10) for _ in range(3)]
    grads[1][2] = 0  # an expert without tokens
    stack = nn.Parameter(start.clone())
    singles = [nn.Parameter(matrix.clone()) for matrix in start]
    optimizers = Muon([stack], lr=0.02, weight_decay=0.1), Muon(singles, lr=0.02, weight_decay=0.1)
    for grad in grads:
        stack.grad = grad.clone()
        for single, part in zip(singles, grad, strict=True):
            single.grad = part.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(stack.detach(), torch.stack([single.detach() for single in singles]))
    assert not torch.equal(stack[0], start[0])


def test_agrees_with_torch_on_matrices():
    torch.manual_seed(0)
    start = torch.randn(12, 20)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        Muon([mine], lr=0.02, momentum=0.9, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        mine.grad = torch.randn(12, 20)
        theirs.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # The updates themselves are bfloat16: 0.02 * 0.2 * sqrt(20) * 2**-8 per step.
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"matrices or stacks of matrices, got the shape \[5\]"):
        Muon([nn.Parameter(torch.zeros(5))])


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    model = tiny_transformer(mixers=["linear"], feed_forwards=["moe"])
    names = {id(param): name for name, param in model.named_parameters()}
    hidden, decayed, plain = ([names[id(param)] for param in group] for group in split_parameters(model))
    assert sorted(hidden + decayed + plain) == sorted(names.values())
    assert {"blocks.0.mixer.to_out.weight", "blocks.0.feed_forward.w_in"} <= set(hidden)
    assert {"blocks.0.feed_forward.router.weight", "proj_in.weight", "proj_out.weight"} <= set(decayed)
    assert {"blocks.0.mixer.norm_query", "proj_in.bias", "frame_embedding.kind.weight"} <= set(plain)


def test_average_follows_early_and_slows_down_later():
    model = nn.Linear(1, 1, bias=False)
    ema = ExponentialMovingAverage(model, max_decay=0.999)
    assert ema.decay(1) < 0.01 < ema.decay(10) < ema.decay(100) < ema.decay(100_000) == 0.999
    with torch.no_grad():
        model.weight.fill_(5.0)
    ema.update(1)
    assert ema.average[0].item() == pytest.approx(5.0, abs=0.1)


def test_average_is_applied_and_taken_back_bit_exactly():
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    ema = ExponentialMovingAverage(model)
    with torch.no_grad():
        model.weight.add_(0.1)
    live = model.weight.detach().clone()
    with ema.applied():
        assert torch.equal(model.weight, ema.average[0])
        assert not torch.equal(model.weight, live)
    assert torch.equal(model.weight, live)
