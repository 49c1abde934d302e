"""The learnt classifier: a second opinion on the pixel checkers that shares no code with them."""

from __future__ import annotations

import ast
import inspect
import random
from collections import Counter

import numpy as np
import pytest

from videogen.data.stage import attributes, render, rungs
from videogen.evaluation.stage import check, classifier
from videogen.evaluation.stage.classifier import (
    ATTRIBUTES,
    RUNG,
    WEIGHTS,
    classify,
    load_classifier,
    make_examples,
    plain_spec,
    prepare,
    save,
    train,
)


def compare(num_clips: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """How often the classifier agrees with the checkers, and how often it is right, on fresh true renders."""
    model, vocabulary, generator = load_classifier(), rungs()[RUNG], random.Random(seed)
    agrees: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for _ in range(num_clips):
        spec = plain_spec(generator, vocabulary)
        frames = render([spec])[0].add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy()
        answers = classify(model, frames)
        asked = attributes(spec) | {"camera": [list(spec.camera[0])]}
        for name, verdict in check(frames, 12.0, asked, vocabulary).items():
            if name not in ATTRIBUTES:
                continue
            answer, seen = answers[name], verdict.seen
            if name == "camera":
                answer = [[] if answer == "Static shot" else [answer]]
            elif name == "actor":
                answer = [answer]
            agrees[name] += answer == seen
            right[name] += answers[name] == (asked["camera"][0][0] if name == "camera" else asked[name])
    return agrees, right


def test_it_agrees_with_the_checkers():
    agrees, right = compare(6, seed=1)
    assert min(agrees[name] for name in ATTRIBUTES) >= 5
    assert min(right[name] for name in ATTRIBUTES) >= 5


@pytest.mark.slow
def test_it_agrees_on_200_fresh_renders():
    agrees, right = compare(200, seed=2)
    assert min(agrees[name] for name in ATTRIBUTES) >= 0.97 * 200, agrees
    assert min(right[name] for name in ATTRIBUTES) >= 0.97 * 200, right


def test_it_shares_no_code_with_the_checkers():
    tree = ast.parse(inspect.getsource(classifier))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    assert not [name for name in modules if name.startswith("videogen.evaluation")]


def test_weights_are_small():
    assert WEIGHTS.stat().st_size <= 300_000


def test_training_and_saving_work(tmp_path):
    examples = make_examples(8, seed=3)
    model = train(examples, epochs=1, seed=3, batch_size=4)
    save(model, tmp_path / "weights.safetensors")
    again = load_classifier(tmp_path / "weights.safetensors")
    frames = np.zeros((17, 96, 96, 3), np.uint8)
    assert set(classify(again, frames)) == set(ATTRIBUTES)


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"`frames` must be uint8 \[17, H, W, 3\]"):
        prepare(np.zeros((9, 96, 96, 3), np.uint8))
