"""The backbone and its text encoder at small size: conditions, windows, routers, checkpoints, sizes."""

import inspect
import json
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from videogen.conditioning.camera import CAMERA_AXES
from videogen.data.stage.render import ACTOR, CAMERA_SPEED
from videogen.models.embeddings import (
    NUM_CAMERA_MOVES,
    TokenPosition,
    camera_displacement,
    frame_visibility,
    pool_text,
    rotary_tables,
    scenery_positions,
    screen_positions,
)
from videogen.models.text_encoder import TextEncoder
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.models.transformer import STANDARD_CAMERA_SPEEDS, VideoTransformer
from videogen_kernels.modulated_norm import modulated_norm

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "models" / "tiny.yaml"
WEIGHTS = ROOT / "videogen" / "assets" / "weights" / "tiny"
SMALL = {
    "latent_channels": 4,
    "width": 32,
    "num_heads": 2,
    "head_dim": 16,
    "mixers": ["linear", "softmax", "linear", "softmax"],
    "feed_forwards": ["dense", "moe", "moe", "dense"],
    "cross_attention_layers": [0, 2],
    "text_width": 24,
    "dense_hidden": 32,
    "expert_hidden": 16,
    "shared_hidden": 16,
    "num_experts": 4,
}


def make_model(seed=0, **changes):
    """A small model whose zero-initialised parts are filled, so that everything has an influence."""
    torch.manual_seed(seed)
    model = VideoTransformer(**{**SMALL, **changes})
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_inputs(batch=2, frames=3, kinds=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kinds = kinds or [0] + [1] * (frames - 1)
    mask = torch.arange(5)[None] < torch.tensor([[5], [3]] * batch)[:batch]
    return {
        "hidden_states": torch.randn(batch, 4, len(kinds), 4, 4, generator=generator),
        "timestep": torch.rand(batch, len(kinds), generator=generator),
        "encoder_hidden_states": torch.randn(batch, 5, 24, generator=generator),
        "encoder_attention_mask": mask,
        "frame_times": torch.arange(len(kinds)) * 0.5,
        "frame_kinds": torch.tensor(kinds),
        "camera": torch.randn(batch, len(kinds), 9, generator=generator),
    }


def run(model, inputs, **changes):
    with torch.no_grad():
        return model(**{**inputs, **changes}).sample


def test_fresh_model_predicts_a_clean_latent_of_zero():
    torch.manual_seed(0)
    inputs = make_inputs()
    inputs["timestep"][0, 0] = 0.01  # below the smallest noise level that is divided by
    velocity = run(VideoTransformer(**SMALL), inputs)
    sigma = inputs["timestep"].clamp_min(0.05)[:, None, :, None, None]
    torch.testing.assert_close(velocity, inputs["hidden_states"] / sigma)


@pytest.mark.parametrize("name", ["timestep", "encoder_hidden_states", "frame_times", "camera", "hidden_states"])
def test_every_condition_reaches_the_output(name):
    model, inputs = make_model(), make_inputs()
    changed = inputs[name].clone()
    changed[..., -1] += 0.3
    assert not torch.allclose(run(model, inputs), run(model, inputs, **{name: changed}), atol=1e-5)


@pytest.mark.parametrize("camera_speeds", [None, STANDARD_CAMERA_SPEEDS], ids=["screen", "scenery"])
def test_each_item_has_positions_of_its_own_camera(camera_speeds):
    model, inputs = make_model(camera_speeds=camera_speeds), make_inputs()
    together = run(model, inputs)
    for item in range(2):
        one = slice(item, item + 1)
        shared = ("frame_times", "frame_kinds")
        alone = {name: value if name in shared else value[one] for name, value in inputs.items()}
        torch.testing.assert_close(run(model, alone), together[one], atol=1e-5, rtol=1e-4)


def test_camera_speeds_are_six_or_none():
    with pytest.raises(ValueError, match="`camera_speeds` must be 6 numbers"):
        VideoTransformer(**SMALL, camera_speeds=[0.2])
    with pytest.raises(ValueError, match="`camera_speeds` must be 6 numbers"):
        VideoTransformer(**SMALL, camera_speeds=[])


def test_weights_of_another_version_are_refused(tmp_path):
    make_model(camera_speeds=STANDARD_CAMERA_SPEEDS).save_pretrained(tmp_path)
    assert VideoTransformer.from_pretrained(tmp_path, output_loading_info=True)[1]["missing_keys"] in ([], set())
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["token_position.scenery_row.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no token_position\.scenery_row\.weight; train anew"):
        VideoTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [2, 3, 4], ids=["guide", "reference_1", "reference_2"])
def test_guides_and_references_are_seen_by_every_video_frame(kind):
    """Even by softmax anchors alone, and beyond their window."""
    model = make_model(mixers=["softmax"] * 4, window=1)
    inputs = make_inputs(kinds=[0, 1, 1, 1, 1, kind])
    changed = inputs["hidden_states"].clone()
    changed[:, :, -1] += 1.0
    difference = (run(model, inputs) - run(model, inputs, hidden_states=changed)).abs().amax((0, 1, 3, 4))
    assert (difference > 1e-5).all()
    other = torch.tensor([0, 1, 1, 1, 1, {2: 1, 3: 4, 4: 3}[kind]])
    assert not torch.allclose(run(model, inputs), run(model, inputs, frame_kinds=other), atol=1e-5)


def test_visibility_is_a_window_plus_the_always_visible():
    visible = frame_visibility(torch.tensor([0, 1, 1, 1, 1, 2]), window=1)
    expected = [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 1],
        [1, 1, 1, 1, 0, 1],
        [1, 0, 1, 1, 1, 1],
        [1, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]
    assert visible.int().tolist() == expected
    assert frame_visibility(torch.tensor([0, 1, 1]), window=2) is None
    assert frame_visibility(torch.tensor([0, 1, 1, 3, 4]), window=2) is None
    assert frame_visibility(torch.tensor([0, 1, 1, 1, 1]), window=None) is None


def test_one_anchor_does_not_carry_a_change_beyond_its_window():
    model = make_model(mixers=["softmax"], feed_forwards=["moe"], cross_attention_layers=[0], window=1)
    inputs = make_inputs(kinds=[0, 1, 1, 1, 1])
    changed = inputs["hidden_states"].clone()
    changed[:, :, 4] += 1.0
    before, after = run(model, inputs), run(model, inputs, hidden_states=changed)
    torch.testing.assert_close(before[:, :, 1:3], after[:, :, 1:3])
    assert not torch.allclose(before[:, :, 3], after[:, :, 3], atol=1e-5)
    assert not torch.allclose(before[:, :, 0], after[:, :, 0], atol=1e-5)  # the first frame sees everything


def test_batch_equals_singles_and_permutes():
    model, inputs = make_model(), make_inputs(batch=3)
    together = run(model, inputs)
    per_clip = [name for name, value in inputs.items() if name not in ("frame_times", "frame_kinds")]
    singles = [run(model, inputs, **{name: inputs[name][i : i + 1] for name in per_clip}) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(singles), atol=1e-4, rtol=1e-4)
    order = torch.tensor([2, 0, 1])
    permuted = run(model, inputs, **{name: inputs[name][order] for name in per_clip})
    torch.testing.assert_close(permuted, together[order], atol=1e-4, rtol=1e-4)


def test_masked_text_changes_nothing_and_no_text_is_finite():
    model, inputs = make_model(), make_inputs()
    text = inputs["encoder_hidden_states"].clone()
    text[1, 3:] = 100.0  # masked
    torch.testing.assert_close(run(model, inputs), run(model, inputs, encoder_hidden_states=text))
    none = torch.zeros(2, 5, dtype=torch.bool)
    assert run(model, inputs, encoder_attention_mask=none).isfinite().all()


def test_convolution_stays_inside_its_frame():
    model = make_model(mixers=["linear"], feed_forwards=["dense"], cross_attention_layers=[])
    mixer = model.blocks[0].mixer
    value = torch.randn(1, 3 * 16, 32)
    positions = screen_positions(4, 4)
    cos, sin = rotary_tables(torch.zeros(3), torch.zeros(3, dtype=torch.long), *positions, 16, 100.0, 1.0)
    with torch.no_grad():
        # Without attention between tokens, a change in one frame must not reach another.
        mixer.to_beta.weight.zero_()
        mixer.to_beta.bias.fill_(-100.0)
        changed = value.clone()
        changed[:, :16] += 1.0
        difference = (mixer(value, cos, sin, (3, 4, 4)) - mixer(changed, cos, sin, (3, 4, 4))).abs().amax((0, 2))
    assert (difference[:16] > 0).all() and (difference[16:] == 0).all()


@pytest.mark.parametrize("feed_forward", ["dense", "moe"])
@pytest.mark.parametrize("mixer", ["linear", "softmax"])
def test_gradients_reach_every_parameter_also_under_autocast(mixer, feed_forward):
    model = make_model(mixers=[mixer] * 2, feed_forwards=[feed_forward] * 2, cross_attention_layers=[1]).train()
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = model(**make_inputs(), return_router_losses=True)
        (output.sample.float().square().mean()).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing
        assert (output.load_balancing_loss is None) == (feed_forward == "dense")
    exact = run(model.eval(), make_inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = run(model, make_inputs())
    assert (low - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_router_counts_and_bias_moves_towards_balance():
    model = make_model().train()
    model.reset_expert_load()
    model(**make_inputs())
    load = model.expert_load()
    assert load.shape == (2, 4)
    torch.testing.assert_close(load.sum(-1), torch.ones(2))
    router = model.routers()[0]
    router.bias[0] = 1.0  # too attractive
    model(**make_inputs())
    model.update_router_bias(0.1)
    assert router.bias[0] == pytest.approx(0.9) and router.choices.sum() == 0
    for _ in range(30):
        model(**make_inputs())
        model.update_router_bias(0.05)
    model.reset_expert_load()
    model.eval()(**make_inputs())
    assert model.expert_load().min() > 0.25 / 4


def test_router_stays_float32_through_cast_save_and_load(tmp_path):
    model = make_model().to(torch.bfloat16)
    reference = make_model()
    router = model.routers()[0]
    assert router.weight.dtype == router.bias.dtype == torch.float32
    assert torch.equal(router.weight, reference.routers()[0].weight)  # not rounded on the way either
    assert model.blocks[1].feed_forward.w_in.dtype == torch.bfloat16
    inputs = make_inputs()
    low = run(model, inputs)
    assert low.isfinite().all()

    router.bias.copy_(torch.arange(4) * 1e-3)
    model.save_pretrained(tmp_path)
    loaded = VideoTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).eval()
    assert loaded.routers()[0].weight.dtype == loaded.routers()[0].bias.dtype == torch.float32
    assert torch.equal(loaded.routers()[0].bias, router.bias)
    assert torch.equal(run(loaded, inputs), run(model, inputs))


def test_save_and_load_give_equal_outputs(tmp_path):
    model, inputs = make_model(), make_inputs()
    model.save_pretrained(tmp_path)
    loaded = VideoTransformer.from_pretrained(tmp_path).eval()
    assert dict(loaded.config) == {**dict(model.config), "_name_or_path": str(tmp_path)} or all(
        loaded.config[key] == model.config[key] for key in SMALL
    )
    assert torch.equal(run(loaded, inputs), run(model, inputs))


@pytest.mark.parametrize(
    ("section", "network"),
    [("transformer", VideoTransformer), ("text_encoder", TextEncoder), ("vae", CausalVideoAutoencoder)],
)
def test_defaults_the_tiny_configuration_and_the_shipped_weights_agree(section, network):
    defaults = {name: parameter.default for name, parameter in inspect.signature(network).parameters.items()}
    shipped = json.loads((WEIGHTS / section / "config.json").read_text())
    shipped = {name: value for name, value in shipped.items() if not name.startswith("_")}
    if section == "transformer":  # the default stays what weights from before there was a choice have, and do not name
        assert defaults["camera_speeds"] is None
        defaults["camera_speeds"] = STANDARD_CAMERA_SPEEDS
    if section == "text_encoder":
        defaults["vocab_size"] = BytePairTokenizer.from_pretrained(WEIGHTS / "tokenizer").vocab_size
    # Every other argument is written, so that a new default changes no old weights.
    assert shipped == json.loads(json.dumps(defaults))
    assert yaml.safe_load(TINY.read_text()).get(section, shipped) == shipped  # the video tokenizer has no section there


def test_tiny_keeps_its_limits_and_twins_exist():
    config = yaml.safe_load(TINY.read_text())
    with init_empty_weights():
        transformer = VideoTransformer(**config["transformer"])
        text = TextEncoder(**config["text_encoder"])
        dense = VideoTransformer(**{**config["transformer"], "feed_forwards": ["dense"] * 8})
        softmax = VideoTransformer(**{**config["transformer"], "mixers": ["softmax"] * 8, "window": None})
    assert next(transformer.parameters()).is_meta
    text_parameters = sum(p.numel() for p in text.parameters())
    total = sum(p.numel() for p in transformer.parameters()) + text_parameters
    active = transformer.num_parameters_active() + text_parameters
    assert total <= 10_000_000 and active <= 4_000_000
    assert config["text_encoder"]["width"] == config["transformer"]["text_width"]
    # The dense twin has as many active parameters but for the routers.
    assert 0 <= transformer.num_parameters_active() - sum(p.numel() for p in dense.parameters()) <= 5 * 8 * 192
    assert not any("to_beta" in name for name, _ in softmax.named_parameters())


def test_patches_and_other_sizes_run():
    model = make_model(patch_size=2)
    inputs = make_inputs()
    inputs["hidden_states"] = torch.randn(2, 4, 3, 6, 10)
    assert run(model, inputs).shape == (2, 4, 3, 6, 10)
    one = make_inputs(frames=1)
    assert run(make_model(), one).shape == (2, 4, 1, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixers": ["linear"]}, "`feed_forwards` must name one"),
        ({"mixers": ["linear", "conv", "linear", "softmax"]}, "'linear' and 'softmax', got 'conv'"),
        ({"cross_attention_layers": [4]}, "`cross_attention_layers` must lie in 0..3"),
        ({"camera_dim": 5}, "`camera_dim` must be at least 6"),
    ],
)
def test_bad_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        VideoTransformer(**{**SMALL, **change})


@pytest.mark.parametrize("name", ["timestep", "frame_times", "frame_kinds", "camera"])
def test_bad_inputs_are_named(name):
    inputs = make_inputs()
    inputs[name] = inputs[name][:1]
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        make_model()(**inputs)


def test_displacement_is_the_integral_of_the_camera():
    assert CAMERA_AXES[:NUM_CAMERA_MOVES] == ("truck", "pan", "push", "pedestal", "tilt", "zoom")
    kinds = torch.tensor([0, 1, 1, 1, 2, 3])
    times = torch.tensor(
        [0.0, 0.2, 0.5, 0.8, 0.35, 0.7]
    )  # a guide between two frames, a reference at a time that is ignored
    camera = torch.zeros(1, 6, 9)
    camera[0, :4, 1] = torch.tensor([1.0, 1.0, 1.0, -1.0])
    camera[0, :4, 6] = 1.0  # shaking is no move
    displacement = camera_displacement(camera, times, kinds)
    assert displacement.shape == (1, 6, 6)
    torch.testing.assert_close(displacement[0, :, 1], torch.tensor([0.0, 0.2, 0.5, 0.5, 0.35, 0.0]))
    assert not displacement[0, :, [0, 2, 3, 4, 5]].any()


def test_tokens_that_see_the_same_spot_share_their_position():
    torch.manual_seed(0)
    position = TokenPosition(16, [1.0] * 6)
    torch.nn.init.normal_(position.scenery_row.weight)
    torch.nn.init.normal_(position.scenery_column.weight)

    def at(**moves):
        names = ("truck", "pan", "push", "pedestal", "tilt", "zoom")
        displacement = torch.tensor([[[moves.get(name, 0.0) for name in names]]])
        return position(displacement, 4, 4).view(4, 4, 16)

    step = 2 / 4  # one token, in half frame heights
    rest = at()
    torch.testing.assert_close(at(pan=step)[:, :-1], rest[:, 1:])  # looking right, the scenery moves left
    torch.testing.assert_close(at(truck=-step)[:, 1:], rest[:, :-1])
    torch.testing.assert_close(at(tilt=step)[1:], rest[:-1])  # looking up, it moves down
    torch.testing.assert_close(at(pedestal=-step)[:-1], rest[1:])
    third = torch.tensor(3.0).log().item()  # three times as large: the corner of the middle shows what was within it
    torch.testing.assert_close(at(zoom=third)[::3, ::3], rest[1:3, 1:3])
    torch.testing.assert_close(at(push=third), at(zoom=third))
    with torch.no_grad():
        torch.nn.init.normal_(position.row.weight)
    assert not torch.allclose(at(tilt=step)[1:], at()[:-1])  # on the screen they are elsewhere


def test_rotary_angles_are_those_of_the_spot_in_the_scenery():
    times, kinds = torch.zeros(2), torch.tensor([0, 1])

    def angles(**moves):
        names = ("truck", "pan", "push", "pedestal", "tilt", "zoom")
        displacement = torch.tensor([[[0.0] * 6, [moves.get(name, 0.0) for name in names]]])
        positions = scenery_positions(displacement, 4, 6, STANDARD_CAMERA_SPEEDS)
        tables = rotary_tables(times, kinds, *positions, 64, 100.0, 1.0)
        return torch.atan2(*reversed(tables)).view(2, 4, 6, 32)

    first, later = angles(pan=2 / 4 / STANDARD_CAMERA_SPEEDS[1])
    torch.testing.assert_close(later[:, :-1], first[:, 1:])
    first, later = angles(tilt=-2 / 4 / STANDARD_CAMERA_SPEEDS[4])
    torch.testing.assert_close(later[:-1], first[1:])
    first, later = angles(push=3.0)
    seen = [(at[:, -1] - at[:, 0]).abs().max() for at in (first, later)]
    assert seen[1] < seen[0]  # nearer: less of it is seen


def test_places_on_the_screen_are_those_of_a_camera_that_stands_still():
    times, kinds = torch.tensor([0.0, 0.3]), torch.tensor([0, 1])
    screen = rotary_tables(times, kinds, *screen_positions(3, 5), 64, 100.0, 1.0)
    still = rotary_tables(times, kinds, *scenery_positions(torch.zeros(2, 2, 6), 3, 5, [0.2] * 6), 64, 100.0, 1.0)
    assert screen[0].shape == (30, 32) and still[0].shape == (2, 30, 32)
    # Rotary positions count from anywhere: what differs is one turn for all tokens.
    turn = torch.complex(*still) * torch.complex(*screen).conj()
    torch.testing.assert_close(turn, turn[:, :1].expand_as(turn))


def test_standard_camera_speeds_are_those_of_stage():
    near = {"truck": ACTOR, "push": ACTOR, "pedestal": ACTOR, "pan": 1.0, "tilt": 1.0, "zoom": 1.0}
    expected = [CAMERA_SPEED[name] / near[name] for name in ("truck", "pan", "push", "pedestal", "tilt", "zoom")]
    torch.testing.assert_close(torch.tensor(STANDARD_CAMERA_SPEEDS), torch.tensor(expected))


def test_pooled_text_is_the_mean_of_real_tokens():
    text = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool_text(text, mask).tolist() == [[2.0], [0.0]]


def test_references_lie_before_the_clip_in_rotary_time():
    times, kinds = torch.tensor([0.0, 0.5, 0.0, 0.0]), torch.tensor([0, 1, 3, 4])
    cos, sin = rotary_tables(times, kinds, *screen_positions(1, 1), 64, 100.0, 1.0)
    angle = torch.atan2(sin, cos)[:, 5]  # a slow pair of the time axis
    assert angle[3] < angle[2] < angle[0] == 0 < angle[1]


def test_text_encoder_ignores_padding_and_saves(tmp_path):
    torch.manual_seed(0)
    model = TextEncoder(vocab_size=50, width=32, num_heads=2, num_layers=2, hidden=48).eval()
    ids = torch.randint(3, 50, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    with torch.no_grad():
        out = model(ids, mask)
        changed = ids.clone()
        changed[0, 4:] = 0
        torch.testing.assert_close(model(changed, mask)[0, :4], out[0, :4])
        torch.testing.assert_close(model(ids[:1, :4], mask[:1, :4])[0], out[0, :4], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(model(ids.flip(1), mask)[1].flip(0), out[1], atol=1e-4)  # order matters
        model.save_pretrained(tmp_path)
        assert torch.equal(TextEncoder.from_pretrained(tmp_path).eval()(ids, mask), out)


def test_scale_and_shift_are_per_frame_not_per_token():
    """The modulation of the shared projection is [B, n, 6, D]: no parameter or buffer grows with the tokens."""
    x = torch.randn(1, 6, 8)
    scale = torch.zeros(1, 2, 8)
    scale[:, 1] = 1.0
    out = modulated_norm(x, scale, torch.zeros(1, 2, 8))
    base = modulated_norm(x, torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
    torch.testing.assert_close(out[:, :3], base[:, :3])
    torch.testing.assert_close(out[:, 3:], 2 * base[:, 3:])
