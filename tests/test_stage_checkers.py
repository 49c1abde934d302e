"""The pixel checkers of Stage: right on true renders, never fooled by what is not there."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from videogen.data.stage import ActorSpec, ClipSpec, attributes, render, rungs, sample_spec
from videogen.evaluation.stage import check

RUNG1 = rungs()["rung1"]
BASE = ClipSpec((ActorSpec("fox", "moves left"),), "snow", "day", camera=(("Static shot",),), seed=5)


# Events and relations, of few clips, miss 0.98 (rung 3: 50 of 52 events).
RIGHT = {"rung1": 0.98, "cameras": 0.98, "rung2": 0.98, "rung3": 0.98, "rung4": 0.98}


def pixels(spec: ClipSpec) -> np.ndarray:
    return render([spec])[0].add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy()


def softened(frames: np.ndarray, sigma: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    blurred = [cv2.GaussianBlur(frame, (0, 0), sigma) + rng.normal(0, noise, frame.shape) for frame in frames]
    return np.stack([np.clip(frame, 0, 255).astype(np.uint8) for frame in blurred])


def judged(frames: np.ndarray, spec: ClipSpec, rung: str = "rung1") -> dict[str, bool]:
    return {name: verdict.right for name, verdict in check(frames, 12.0, attributes(spec), rungs()[rung]).items()}


def accuracy(rung: str, num_clips: int, seed: int, soft: bool = False) -> dict[str, float]:
    generator, rng = random.Random(seed), np.random.default_rng(seed)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for _ in range(num_clips):
        spec = sample_spec(generator, rungs()[rung], "any")
        frames = pixels(spec)
        if soft:
            frames = softened(frames, 1.2, 2.0, rng)
        for name, verdict in check(frames, 12.0, attributes(spec), rungs()[rung]).items():
            right[name] += verdict.right
            total[name] += 1
    return {name: right[name] / total[name] for name in total}


def test_fresh_renders_are_right():
    found = accuracy("rung1", 16, seed=100)
    assert set(found) == {"actor", "scene", "light", "motion", "camera", "count"}
    assert min(found.values()) >= 15 / 16, found


@pytest.mark.parametrize(
    ("attribute", "changed"),
    [
        ("actor", replace(BASE, actors=(ActorSpec("frog", "moves left"),))),
        ("scene", replace(BASE, scene="beach")),
        ("light", replace(BASE, light="sunset")),
        ("motion", replace(BASE, actors=(ActorSpec("fox", "jumps"),))),
        ("motion", replace(BASE, actors=(ActorSpec("fox", "moves right"),))),
        ("camera", replace(BASE, camera=(("Pan left",),))),
        ("camera", replace(BASE, camera=(("Zoom in",),))),
    ],
)
def test_a_change_flips_exactly_that_verdict(attribute, changed):
    assert all(judged(pixels(BASE), BASE).values())
    verdicts = judged(pixels(changed), BASE)
    assert [name for name, right in verdicts.items() if not right] == [attribute]


MOVER = ClipSpec((ActorSpec("fox", "moves left", "slow"),), "snow", "day", camera=(("Tilt up",),), seed=5)
PAIR = ClipSpec((ActorSpec("fox"), ActorSpec("whale")), "beach", "day", relation="left of", seed=8)
ENTRY = ClipSpec((ActorSpec("fox"), ActorSpec("whale")), "desert", "day", event="enters", seed=9)
NIGHTFALL = ClipSpec((ActorSpec("cow", "jumps", "fast"),), "meadow", "day", event="night falls", seed=3)


@pytest.mark.parametrize(
    ("base", "wrong", "changed"),
    [
        (MOVER, {"speed"}, replace(MOVER, actors=(ActorSpec("fox", "moves left", "fast"),))),
        (MOVER, {"camera"}, replace(MOVER, camera=(("Pedestal up",),))),
        (MOVER, {"camera"}, replace(MOVER, camera=(("Tilt up", "Zoom in"),))),
        (PAIR, {"relation"}, replace(PAIR, relation="right of")),
        (PAIR, {"motion"}, replace(PAIR, actors=(ActorSpec("fox", "spins"), ActorSpec("whale")))),
        (PAIR, {"actor", "relation"}, replace(PAIR, actors=(ActorSpec("fox"), ActorSpec("lion")))),
        (ENTRY, {"event"}, replace(ENTRY, event=None, relation="left of")),
        (ENTRY, {"event", "actor", "count"}, replace(ENTRY, event=None, actors=ENTRY.actors[:1])),
        (NIGHTFALL, {"event", "light"}, replace(NIGHTFALL, event=None)),
    ],
)
def test_a_change_flips_what_it_concerns_among_everything(base, wrong, changed):
    assert set(judged(pixels(base), base, "rung4").values()) == {True}
    verdicts = judged(pixels(changed), base, "rung4")
    assert {name for name, right in verdicts.items() if not right} == wrong


def test_an_actor_that_keeps_its_place_is_trucked_along_with_and_tracked():
    mover = ActorSpec("car", "moves left", "slow")
    spec = ClipSpec((mover,), "snow", "day", camera=(("Truck left",),), seed=4)
    assert judged(pixels(spec), spec, "rung4")["camera"]
    tracked = replace(spec, actors=(ActorSpec("car", "moves left"),), camera=(("Tracking shot",),))
    assert judged(pixels(tracked), tracked, "rung4")["camera"]
    standing = replace(tracked, actors=(ActorSpec("car"),), camera=(("Truck left",),))
    assert not judged(pixels(standing), tracked, "rung4")["camera"]


def test_tracking_may_be_one_of_two_parts():
    mover = ActorSpec("car", "moves right", "fast")
    spec = ClipSpec((mover,), "beach", "sunset", camera=(("Tilt down",), ("Tracking shot",)), seed=4)
    assert judged(pixels(spec), spec, "rung4")["camera"]
    static = replace(spec, camera=(("Tilt down",), ("Static shot",)))
    assert not judged(pixels(static), spec, "rung4")["camera"]


@pytest.mark.parametrize(
    "camera",
    [
        (("Pull out", "Zoom out", "Truck left"),),
        (("Pan left", "Zoom in", "Pedestal up"), ("Truck right",)),
        (("Zoom out", "Shake"),),
    ],
    ids=str,
)
def test_commands_that_resemble_one_another_are_told_apart(camera):
    spec = ClipSpec((ActorSpec("strawberry"),), "city", "day", camera=camera, seed=6)
    assert judged(pixels(spec), spec, "rung4")["camera"]
    fewer = replace(spec, camera=(camera[0][1:], *camera[1:]))
    assert not judged(pixels(fewer), spec, "rung4")["camera"]


def test_a_walking_crab_does_not_tremble():
    spec = ClipSpec((ActorSpec("crab", "moves left"),), "desert", "sunset", seed=7)
    assert judged(pixels(spec), spec, "rung3")["motion"]
    still = replace(spec, actors=(ActorSpec("crab"),))
    assert judged(pixels(still), still, "rung3")["motion"]
    assert not judged(pixels(still), spec, "rung3")["motion"]


def test_a_sunflower_spins_though_its_head_is_alike_all_round():
    spec = ClipSpec((ActorSpec("sunflower", "spins", "fast"),), "snow", "night", camera=(("Tilt up",),), seed=317996450)
    assert all(judged(pixels(spec), spec, "rung3").values())
    slow = replace(spec, actors=(ActorSpec("sunflower", "spins", "slow"),))
    verdicts = judged(pixels(slow), spec, "rung3")
    assert verdicts["motion"] and not verdicts["speed"]
    still = replace(spec, actors=(ActorSpec("sunflower"),))
    assert judged(pixels(still), still, "rung3")["motion"]
    assert not judged(pixels(still), spec, "rung3")["motion"]


def test_a_palm_tree_counts_beside_another_actor():
    two = ClipSpec((ActorSpec("palm tree"), ActorSpec("car")), "sea floor", "day", relation="right of", seed=11)
    assert all(judged(pixels(two), two, "rung4").values())
    one = replace(two, actors=(ActorSpec("car"),), relation=None)
    assert not judged(pixels(one), two, "rung4")["count"]


def test_a_second_actor_changes_the_count():
    two = replace(BASE, actors=(ActorSpec("fox", "stays"), ActorSpec("whale")), relation="left of")
    one = replace(BASE, actors=(ActorSpec("fox", "stays"),))
    assert not judged(pixels(two), one)["count"]
    assert judged(pixels(two), two) == dict.fromkeys(attributes(two).keys() - {"second_actor"}, True)
    assert not judged(pixels(replace(two, relation="right of")), two)["relation"]


def test_ghosts_and_vanishing_are_not_seen():
    other = replace(BASE, actors=(ActorSpec("pig", "moves left"),))
    blend = ((pixels(BASE).astype(int) + pixels(other)) // 2).astype(np.uint8)
    assert not judged(blend, BASE)["actor"]
    assert not judged(blend, other)["actor"]
    vanished = pixels(BASE)
    vanished[9:] = pixels(replace(BASE, actors=()))[9:]
    assert not judged(vanished, BASE)["actor"]
    assert not judged(pixels(replace(BASE, actors=())), BASE)["actor"]


ENTERS_AT_THE_EDGE = ClipSpec(  # in its first frame only an arm of it is seen, which a tiny one resembles
    (ActorSpec("eggplant"), ActorSpec("cactus")), "space", camera=(("Truck right",),), event="enters", seed=870012003
)
ENTERS_TREMBLING = ClipSpec(
    (ActorSpec("bell"), ActorSpec("crab")),
    "sea floor",
    camera=(("Pedestal down", "Zoom out", "Shake"),),
    event="enters",
    seed=2136831917,
)
ENTERS_UNDER_A_LIKE_SKY = ClipSpec(  # a patch of sky resembles it before it comes in
    (ActorSpec("ice cream"), ActorSpec("jellyfish")), "forest", camera=(("Zoom in",),), event="enters", seed=544384250
)
ENTERS_WITH_A_HOLE = ClipSpec(  # the sea shows through the curve of its tail
    (ActorSpec("avocado"), ActorSpec("shark")), "beach", camera=(("Pull out",),), event="enters", seed=121337960
)
SPINS_BESIDE = ClipSpec(  # upright for a moment only
    (ActorSpec("crab", "spins"), ActorSpec("mushroom")),
    "city",
    "night",
    relation="left of",
    camera=(("Zoom in",),),
    seed=1373237779,
)
SPINS_FAST_BESIDE = ClipSpec(
    (ActorSpec("crab", "spins", "fast"), ActorSpec("strawberry")),
    "snow",
    relation="right of",
    camera=(("Truck right",),),
    seed=623170906,
)


@pytest.mark.parametrize(
    ("spec", "other"),
    [
        (ENTERS_AT_THE_EDGE, "palm tree"),
        (ENTERS_TREMBLING, "octopus"),
        (ENTERS_UNDER_A_LIKE_SKY, "octopus"),
        (ENTERS_WITH_A_HOLE, "whale"),
        (SPINS_BESIDE, "ladybug"),
        (SPINS_FAST_BESIDE, "octopus"),
    ],
)
def test_second_actors_that_are_hard_to_see_are_seen_and_no_others(spec, other):
    assert set(judged(pixels(spec), spec, "rung4").values()) == {True}
    hard = next(
        index for index, actor in enumerate(spec.actors) if actor.name in ("cactus", "crab", "jellyfish", "shark")
    )
    kept = spec.actors[1 - hard]
    alone = pixels(replace(spec, actors=(kept,), event=None, relation=None))
    seen = judged(alone, spec, "rung4")
    assert not seen["actor"] and not seen["count"] and not seen.get("event") and not seen.get("relation")
    actors = [replace(actor, name=other) if index == hard else actor for index, actor in enumerate(spec.actors)]
    changed = pixels(replace(spec, actors=tuple(actors)))
    assert not judged(changed, spec, "rung4")["actor"]
    whole = pixels(spec)
    vanished = np.concatenate([whole[:12], alone[12:]])
    assert not judged(vanished, spec, "rung4")["actor"]
    blend = ((whole.astype(int) + changed) // 2).astype(np.uint8)
    assert not judged(blend, spec, "rung4")["actor"]


def test_noise_and_shuffled_frames_are_wrong():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (17, 96, 96, 3), dtype=np.uint8)
    verdicts = check(noise, 12.0, attributes(BASE), RUNG1)
    assert not any(verdict.right for verdict in verdicts.values())
    assert all(verdict.seen is None for verdict in verdicts.values())
    for spec in (BASE, replace(BASE, actors=(ActorSpec("fox", "stays"),), camera=(("Pan left",),))):
        verdicts_of_shuffled = judged(pixels(spec)[rng.permutation(17)], spec)
        assert not (verdicts_of_shuffled["motion"] and verdicts_of_shuffled["camera"])


def test_a_frozen_clip_does_not_move():
    frozen = np.repeat(pixels(BASE)[:1], 17, 0)
    verdicts = check(frozen, 12.0, attributes(BASE), RUNG1)
    assert verdicts["motion"].seen == "stays"
    assert verdicts["camera"].right


def test_blur_of_a_tokenizer_is_forgiven():
    frames = softened(pixels(BASE), 1.2, 2.0, np.random.default_rng(1))
    assert all(judged(frames, BASE).values())


def test_frames_of_a_wrong_kind_are_refused():
    with pytest.raises(ValueError, match="`frames` must be uint8"):
        check(np.zeros((17, 96, 96, 3), np.float32), 12.0, {}, RUNG1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rung", "clips"),
    [
        ("rung1", 500),
        ("cameras", 250),
        ("rung2", 250),
        ("rung3", 250),
        ("rung4", 500),
    ],
)
def test_fresh_renders_of_every_rung_are_right(rung, clips):
    found = accuracy(rung, clips, seed=int(os.environ.get("STAGE_SEED", "200")))
    assert min(found.values()) >= RIGHT[rung], found


@pytest.mark.slow
def test_150_softened_renders():
    found = accuracy("rung1", 150, seed=201, soft=True)
    assert min(found.values()) >= 0.95, found


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["rung1", "rung4"])
def test_fakes_are_wrong(rung):
    generator, rng = random.Random(7), np.random.default_rng(7)
    vocabulary = rungs()[rung]
    fooled: Counter[str] = Counter()
    clips = 60
    for _ in range(clips):
        spec = sample_spec(generator, vocabulary)
        while len(spec.actors) > 1:
            spec = sample_spec(generator, vocabulary)
        frames = pixels(spec)
        name = generator.choice([actor for actor in vocabulary.actors if actor != spec.actors[0].name])
        other = replace(spec, actors=(replace(spec.actors[0], name=name),), seed=generator.choice((spec.seed, 1)))
        blend = ((frames.astype(int) + pixels(other)) // 2).astype(np.uint8)
        fooled["blend"] += judged(blend, spec, rung)["actor"] or judged(blend, other, rung)["actor"]
        vanished = frames.copy()
        vanished[9:] = pixels(replace(spec, actors=()))[9:]
        fooled["vanish"] += judged(vanished, spec, rung)["actor"]
        if spec.actors[0].motion != "stays" or spec.camera != (("Static shot",),):
            fooled["shuffle"] += all(judged(frames[rng.permutation(17)], spec, rung).values())
        noise = rng.integers(0, 256, frames.shape, dtype=np.uint8)
        fooled["noise"] += any(judged(noise, spec, rung).values())
    assert max(fooled.values()) <= 0.02 * clips, fooled
