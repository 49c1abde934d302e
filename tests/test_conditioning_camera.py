import pytest
import torch

from videogen.conditioning.camera import (
    CAMERA_ALIASES,
    CAMERA_AXES,
    CAMERA_CHINESE,
    CAMERA_COMMANDS,
    CAMERA_DIM,
    camera_text,
    camera_vectors,
    parse_camera,
)


def column(name: str) -> int:
    return CAMERA_AXES.index(name)


def test_fifteen_commands_in_order_with_chinese():
    assert len(CAMERA_COMMANDS) == 15 and CAMERA_DIM == 9
    assert CAMERA_COMMANDS[:4] == ("Truck left", "Truck right", "Pan left", "Pan right")
    assert CAMERA_CHINESE["Zoom in"] == "变焦推近" and CAMERA_CHINESE["Pan left"] == "左摇"
    assert CAMERA_CHINESE["Truck left"] == "左移" and CAMERA_CHINESE["Pedestal up"] == "上升"
    assert len(set(CAMERA_CHINESE.values())) == 15


@pytest.mark.parametrize("name", CAMERA_COMMANDS)
def test_every_spelling_of_a_command(name):
    for spelling in (name, name.upper(), name.lower(), name.replace(" ", "_"), CAMERA_CHINESE[name]):
        plan = parse_camera(f"a fox [ {spelling} ] runs")
        assert plan.segments == ((name,),)
        assert plan.notes == ()
        assert plan.prompt_without_brackets == "a fox runs"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Push out", "Pull out"),
        ("rise", "Pedestal up"),
        ("lower", "Pedestal down"),
        ("pull back", "Pull out"),
        ("Follow", "Tracking shot"),
        ("static", "Static shot"),
    ],
)
def test_alias_is_read_and_noted(spelling, name):
    plan = parse_camera(f"a fox [{spelling}]")
    assert plan.segments == ((name,),)
    assert plan.notes == (f"camera command [{spelling}] was read as [{name}].",)


def test_aliases_name_known_commands():
    assert set(CAMERA_ALIASES.values()) <= set(CAMERA_COMMANDS)
    assert all(alias == alias.casefold() for alias in CAMERA_ALIASES)


def test_together_and_in_sequence():
    plan = parse_camera("A fox [Push in], then it jumps [Pan left, Pedestal up].")
    assert plan.segments == (("Push in",), ("Pan left", "Pedestal up"))
    assert plan.prompt_without_brackets == "A fox, then it jumps."
    plan = parse_camera("一只狐狸【左摇，上升】，然后【变焦推近】。")
    assert plan.segments == (("Pan left", "Pedestal up"), ("Zoom in",))
    assert plan.prompt_without_brackets == "一只狐狸，然后。"


def test_prompt_without_command_is_left_alone():
    plan = parse_camera("  a fox ,  in  snow ")
    assert plan.prompt_without_brackets == "a fox ,  in  snow" and plan.segments == ()


def test_trailing_comma_goes_with_its_bracket():
    assert parse_camera("a fox jumps in the snow, [Pan left]").prompt_without_brackets == "a fox jumps in the snow"
    assert parse_camera("[Pan left], a fox").prompt_without_brackets == "a fox"


def test_more_than_three_and_repeats_are_noted():
    plan = parse_camera("[Pan left,Tilt up,Zoom in,Shake] fox")
    assert len(plan.segments[0]) == 4 and "at most 3" in plan.notes[0]
    plan = parse_camera("[Pan left,pan left] fox")
    assert plan.segments == (("Pan left",),) and "counts once" in plan.notes[0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("[Pam left] fox", r"\[Pam left\] is unknown; the nearest is \[Pan left\]"),
        ("[变焦推进] fox", r"the nearest is \[Zoom in\]"),
        ("[Pan left,Pan right] fox", r"contradict each other, got \[Pan left\] with \[Pan right\]"),
        ("[Push in,Pull out] fox", "contradict"),
        ("[Static shot,Shake] fox", r"got \[Static shot\] with \[Shake\]"),
        ("[] fox", "empty camera command"),
        ("[Pan left,] fox", "empty camera command"),
        ("[Pan left fox", "close every camera bracket"),
        ("Pan left] fox", "close every camera bracket"),
    ],
)
def test_bad_commands(prompt, message):
    with pytest.raises(ValueError, match=message):
        parse_camera(prompt)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_text_round_trip(language):
    segments = (("Pan left", "Pedestal up"), ("Static shot",), ("Zoom out",))
    assert parse_camera(camera_text(segments, language)).segments == segments
    assert camera_text(()) == ""
    assert camera_text(segments) == "[Pan left,Pedestal up] [Static shot] [Zoom out]"


def test_text_refuses_what_it_cannot_write():
    with pytest.raises(ValueError, match="must each name a command"):
        camera_text(((),))
    with pytest.raises(ValueError, match="`language`"):
        camera_text((("Shake",),), "fr")


def test_vectors_signs_and_specified():
    assert torch.equal(camera_vectors((), 17), torch.zeros(5, 9))
    static = camera_vectors((("Static shot",),), 17)
    assert torch.equal(static[:, :8], torch.zeros(5, 8)) and bool((static[:, 8] == 1).all())
    vectors = camera_vectors((("Pan left", "Pedestal up"),), 17)
    assert vectors.dtype == torch.float32 and vectors.shape == (5, 9)
    assert bool((vectors[:, column("pan")] == -1).all()) and bool((vectors[:, column("pedestal")] == 1).all())
    for right, left in (("Truck right", "Truck left"), ("Push in", "Pull out"), ("Tilt up", "Tilt down")):
        plus, minus = camera_vectors(((right,),), 5), camera_vectors(((left,),), 5)
        assert torch.equal(plus[:, :8], -minus[:, :8]) and plus[:, :8].sum() == 2
    assert len({tuple(camera_vectors(((name,),), 1)[0].tolist()) for name in CAMERA_COMMANDS}) == 15


def test_vectors_in_sequence_share_the_clip():
    vectors = camera_vectors((("Pan left",), ("Pan right",)), 17)  # [5, 9]
    assert vectors[:, column("pan")].tolist() == [-1.0, -1.0, -0.5, 1.0, 1.0]  # frame 8 of 5..8 pans right already
    coarse = camera_vectors((("Pan left",), ("Pan right",)), 33, 8)  # [5, 9]
    assert coarse[:, column("pan")].tolist() == [-1.0, -1.0, -0.75, 1.0, 1.0]  # frame 16 of 9..16
    assert bool((vectors[:, 8] == 1).all())
    half = camera_vectors(((), ("Shake",)), 17)
    assert half[0].abs().sum() == 0 and half[4, column("shake")] == 1


def test_vectors_refuse_a_length_off_the_grid():
    with pytest.raises(ValueError, match="`num_frames` must be 1 plus a multiple of 4, got 80; use 77 or 81"):
        camera_vectors((), 80)
