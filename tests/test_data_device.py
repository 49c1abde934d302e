import pytest
import torch

from videogen.data import device


@pytest.mark.parametrize("low_is_fast", [True, False])
def test_precision_is_settled_by_what_is_faster(monkeypatch, low_is_fast):
    clock = iter(range(10**6))
    now = [0.0]
    multiply = torch.mm

    def timed(rows, columns):
        low = rows.dtype == torch.bfloat16
        now[0] += 1.0 if low == low_is_fast else 2.0
        next(clock)
        return multiply(rows, columns)

    monkeypatch.setattr(device.torch, "mm", timed)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])
    device.bfloat16_pays.cache_clear()
    try:
        assert device.bfloat16_pays("cpu") is low_is_fast
        assert device.settle_precision("auto", "cpu") == ("bf16" if low_is_fast else "no")
        assert next(clock) > 0  # it was measured
    finally:
        device.bfloat16_pays.cache_clear()


def test_an_asked_for_precision_and_that_of_a_resumed_run_stand():
    assert device.settle_precision("no", "cuda") == "no"
    assert device.settle_precision("bf16", "cpu") == "bf16"
    assert device.settle_precision("auto", "cpu", "bf16") == "bf16"
    assert device.settle_precision("auto", "cpu", "no") == "no"
    assert device.settle_precision("auto", "cuda") == "bf16"
