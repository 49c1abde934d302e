import json

import pytest
import torch
from torch import nn

from videogen.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from videogen.training.metrics import LossMeter, MetricsFile, duration
from videogen.training.muon import Muon


def test_the_last_two_checkpoints_are_kept_and_half_written_ones_ignored(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {"model": {"weight": torch.full((2,), float(step))}}, {"clips_seen": step})
    (tmp_path / ".checkpoint-00000011.1234").mkdir()  # a run that was killed while writing
    (tmp_path / "checkpoint-00000012").mkdir()
    found = list_checkpoints(tmp_path)
    assert [path.name for path in found] == ["checkpoint-00000002", "checkpoint-00000010"]
    files, state = load_checkpoint(found[-1])
    assert state == {"clips_seen": 10, "step": 10}
    assert torch.equal(files["model"]["weight"], torch.full((2,), 10.0))


def test_tied_weights_are_stored_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert set(model_tensors(model)) == {"0.weight", "0.bias", "1.bias"}


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"must fit the model, missing .*bias"):
        load_model_tensors(nn.Linear(2, 2), {"weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"`weight` is \[3, 2\], the model's \[2, 2\]"):
        load_model_tensors(nn.Linear(2, 2), {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_optimizers_go_on_bit_exactly(kind):
    def make():
        torch.manual_seed(0)
        param = nn.Parameter(torch.randn(4, 6))
        optimizer = Muon([param], lr=0.1) if kind == "muon" else torch.optim.AdamW([param], lr=0.1, fused=True)
        return param, optimizer

    def step(param, optimizer, seed):
        param.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    param, optimizer = make()
    for seed in range(2):
        step(param, optimizer, seed)
    resumed, fresh = make()
    load_optimizer_tensors(fresh, {name: t.clone() for name, t in optimizer_tensors(optimizer).items()})
    resumed.data.copy_(param.data)
    step(param, optimizer, 2)
    step(resumed, fresh, 2)
    assert torch.equal(param, resumed)


def test_metrics_after_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in (1, 2, 3)) + '{"step": 4, "lo')
    metrics = MetricsFile(path, 2)
    metrics.write({"step": 3, "loss": 1.0})
    assert metrics.read() == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]
    assert MetricsFile(path, 0).read() == []


def test_losses_are_averaged_by_task_and_noise_quarter():
    meter = LossMeter()
    meter.add("text", torch.tensor([1.0, 3.0]), torch.tensor([0.1, 0.9]))
    meter.add("image", torch.tensor([5.0]), torch.tensor([1.0]))
    assert meter.means() == {"loss_image": 5.0, "loss_quarter_1": 1.0, "loss_quarter_4": 4.0, "loss_text": 2.0}


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "1m00s"), (3725, "1h02m"), (float("inf"), "?")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
