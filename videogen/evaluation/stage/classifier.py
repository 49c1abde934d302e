"""A small learnt classifier of Stage clips: a second opinion on the pixel checkers, with which it shares no code.

The checkers are built from the sprites and the renderer's geometry; this one knows nothing but examples. Two convolutional branches: three
reduced frames say who, where and in what light; a grid of dense optical flow (Farnebäck 2003) over the clip says how actor and camera move. It
answers in the words of one rung, for clips with one actor, one camera command and no event. It cross-checks the checkers on true renders and
never judges a model: a learnt network can be fooled, and a generator can learn to fool it.

    python -m videogen.evaluation.stage.classifier --clips 9000 --seed 1

makes the weights beside the Stage assets. B batch, P pictures, F frames.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videogen.data.files import atomic_path
from videogen.data.stage.actors import ASSETS
from videogen.data.stage.render import render, to_frames
from videogen.data.stage.vocabulary import ClipSpec, Vocabulary, rungs, sample_spec

RUNG = "rung2"
WEIGHTS = ASSETS / "classifier.safetensors"
ATTRIBUTES = ("actor", "scene", "light", "motion", "camera")
NUM_FRAMES = 17
_PICTURE, _NUM_PICTURES, _GRID = 48, 3, 16
_MIRRORED = {"left": "right", "right": "left"}


def words(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """The answers to choose from, by attribute."""
    return {
        "actor": vocabulary.actors,
        "scene": vocabulary.scenes,
        "light": vocabulary.lights,
        "motion": vocabulary.motions,
        "camera": vocabulary.cameras,
    }


def prepare(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of a clip.

    Args:
        frames: uint8 [17, H, W, 3].

    Returns:
        Pictures, float16 [3, 3, 48, 48] in -1..1, and flow, float16 [32, 16, 16]: x and y of every step in tenths of the frame's height.

    Raises:
        ValueError: Another number of frames or type.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != NUM_FRAMES:
        raise ValueError(f"`frames` must be uint8 [{NUM_FRAMES}, H, W, 3], got {frames.dtype} {frames.shape}.")
    shown = frames[np.linspace(0, NUM_FRAMES - 1, _NUM_PICTURES).round().astype(int)]
    pictures = np.stack([cv2.resize(frame, (_PICTURE, _PICTURE), interpolation=cv2.INTER_AREA) for frame in shown])
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    gray = [cv2.resize(np.sqrt(g / np.float32(255)) * 255, (96, 96)).astype(np.uint8) for g in gray]  # night is dark
    flows = []
    for before, after in itertools.pairwise(gray):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 2, 11, 2, 5, 1.1, 0)  # type: ignore[call-overload]
        flows.append(cv2.resize(flow, (_GRID, _GRID), interpolation=cv2.INTER_AREA) * (10 / 96))
    return (
        (pictures.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).astype(np.float16),
        np.stack(flows).transpose(0, 3, 1, 2).reshape(-1, _GRID, _GRID).clip(-8, 8).astype(np.float16),
    )


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ClipClassifier(nn.Module):
    """Logits of every attribute; under 150,000 parameters."""

    def __init__(self, choices: dict[str, tuple[str, ...]]) -> None:
        """`choices`: see `words`."""
        super().__init__()
        self.choices = choices
        self.look = nn.Sequential(_block(3, 24, 2), _block(24, 40, 1), _block(40, 64, 2), _block(64, 72, 2))
        self.move = nn.Sequential(_block(2 * (NUM_FRAMES - 1) + 2, 40, 1), _block(40, 40, 2), _block(40, 40, 1))
        self.move_features = nn.Sequential(nn.Linear(16 * 40, 40), nn.ReLU(), nn.Dropout(0.1))
        line = torch.linspace(-1, 1, _GRID)
        self.register_buffer("place", torch.stack(torch.meshgrid(line, line, indexing="ij")), persistent=False)
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(144 if name in ("actor", "scene", "light") else 40, len(choices[name]))
                for name in ATTRIBUTES
            }
        )

    def forward(self, pictures: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """`pictures` [B, P, 3, 48, 48], `flow` [B, 32, 16, 16] as `prepare` makes them; logits [B, number of words] by attribute."""
        batch, num_pictures = pictures.shape[:2]
        maps = self.look(pictures.flatten(0, 1))  # [B*P, 72, 6, 6]
        seen = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1)
        seen = seen.view(batch, num_pictures, -1).mean(1)
        place = self.get_buffer("place").expand(batch, -1, -1, -1)
        moved = self.move(torch.cat([flow, place], 1))  # [B, 40, 8, 8]
        moved = self.move_features(F.adaptive_avg_pool2d(moved, 4).flatten(1))
        return {name: head(seen if name in ("actor", "scene", "light") else moved) for name, head in self.heads.items()}


def load_classifier(path: str | Path = WEIGHTS) -> ClipClassifier:
    """The trained classifier, ready to answer."""
    model = ClipClassifier(words(rungs()[RUNG]))
    state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    model.load_state_dict(state)
    return model.eval()


@torch.inference_mode()
def classify(model: ClipClassifier, frames: np.ndarray) -> dict[str, str]:
    """The likeliest word of each attribute for a clip, uint8 [17, H, W, 3]; every clip gets an answer, also a senseless one."""
    pictures, flow = (torch.from_numpy(value).float()[None] for value in prepare(frames))
    return {name: model.choices[name][int(logits.argmax())] for name, logits in model(pictures, flow).items()}


def plain_spec(generator: random.Random, vocabulary: Vocabulary) -> ClipSpec:
    """A clip of what the classifier can name: one actor at normal speed or not, one camera command, no event."""
    while True:
        spec = sample_spec(generator, vocabulary, "any")
        if len(spec.actors) == 1 and spec.event is None and len(spec.camera) == 1 and len(spec.camera[0]) == 1:
            return spec


def _pixels(spec: ClipSpec) -> np.ndarray:
    return to_frames(render([spec], num_frames=NUM_FRAMES)[0])


def _answers(spec: ClipSpec, choices: dict[str, tuple[str, ...]]) -> list[int]:
    named = (spec.actors[0].name, spec.scene, spec.light, spec.actors[0].motion, spec.camera[0][0])
    return [choices[name].index(word) for name, word in zip(ATTRIBUTES, named, strict=True)]


def make_examples(num_clips: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, flow and right answers [N, 5] of fresh clips.

    Pairs that are held out from the video model are among them: a measuring instrument that never saw an actor stay while the camera zooms out
    takes it for one that spins.
    """
    generator, vocabulary = random.Random(f"stage-classifier:{seed}"), rungs()[RUNG]
    pictures, flows, answers = [], [], []
    for _ in range(num_clips):
        spec = plain_spec(generator, vocabulary)
        seen = prepare(_pixels(spec))
        pictures.append(seen[0])
        flows.append(seen[1])
        answers.append(_answers(spec, words(vocabulary)))
    return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(flows)), torch.tensor(answers)


def _mirror_of(names: Sequence[str]) -> Tensor:
    """For each word the index of its mirror image's."""
    mirrored = [" ".join(_MIRRORED.get(part, part) for part in name.split()) for name in names]
    return torch.tensor([list(names).index(name) for name in mirrored])


def train(examples: tuple[Tensor, Tensor, Tensor], epochs: int, seed: int, batch_size: int = 64) -> ClipClassifier:
    """Trains on examples of `make_examples`; half of the flows are mirrored each time, colours are jittered.

    Args:
        examples: Pictures, flow, answers.
        epochs: Passes over the examples; the learning rate falls to zero over them.
        seed: Of everything random.
        batch_size: Clips a step.
    """
    torch.manual_seed(seed)
    pictures, flows, answers = examples
    choices = words(rungs()[RUNG])
    model = ClipClassifier(choices).train()
    mirrors = {name: _mirror_of(choices[name]) for name in ("motion", "camera")}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    num_steps = epochs * (len(answers) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(len(answers))
        right = torch.zeros(len(ATTRIBUTES))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            index = order[start : start + batch_size]
            # One picture of each clip a step, softened now and then: recognition must not hang on the last pixel.
            one = pictures[index, torch.randint(_NUM_PICTURES, (batch_size,))].float()
            one = one * (0.9 + 0.2 * torch.rand(batch_size, 1, 1, 1)) + 0.1 * torch.randn(batch_size, 3, 1, 1)
            if torch.rand(()) < 0.3:
                one = F.avg_pool2d(F.pad(one, (1, 1, 1, 1), mode="replicate"), 3, 1)
            flow = flows[index].float()
            truth = answers[index].clone()
            flip = torch.rand(batch_size) < 0.5
            flow[flip] = flow[flip].flip(-1)
            flow[flip, 0::2] *= -1
            for name, mirror in mirrors.items():
                column = ATTRIBUTES.index(name)
                truth[flip, column] = mirror[truth[flip, column]]
            logits = model(one[:, None], flow)
            loss = torch.stack([F.cross_entropy(logits[name], truth[:, k]) for k, name in enumerate(ATTRIBUTES)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            right += torch.stack([(logits[name].argmax(1) == truth[:, k]).sum() for k, name in enumerate(ATTRIBUTES)])
        shares = ", ".join(
            f"{name} {share:.3f}"
            for name, share in zip(ATTRIBUTES, (right / (len(order) // batch_size * batch_size)).tolist(), strict=True)
        )
        print(f"epoch {epoch + 1}/{epochs}: {shares}", flush=True)
    return model.eval()


def save(model: ClipClassifier, path: str | Path = WEIGHTS) -> None:
    """Writes the weights as float16."""
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    with atomic_path(Path(path)) as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the classifier that cross-checks the Stage checkers.")
    parser.add_argument("--clips", type=int, default=9000)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    save(train(make_examples(options.clips, options.seed), options.epochs, options.seed), options.out)


if __name__ == "__main__":
    main()
