"""The actors of Stage: who there is, that nobody has a twin on the other side, and where the unnamed ones come from."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videogen.cli import main
from videogen.data.stage import artwork
from videogen.data.stage.actors import load_actors, load_sprite, load_unnamed_sprites, named_actors, strangers


def test_there_are_enough_actors_of_clearly_different_kinds():
    actors = load_actors()
    assert len(named_actors()) >= 64 and len(strangers()) >= 40
    assert {actors[name].kind for name in named_actors()} == {"animal", "vehicle", "food", "plant", "object"}
    assert any(actors[name].animated for name in named_actors())
    assert all(load_sprite(name).shape == (12 if actor.animated else 1, 64, 64, 4) for name, actor in actors.items())
    assert not set(named_actors()) & set(strangers())


def test_no_word_stands_for_two_actors():
    words: dict[str, str] = {}
    for actor in load_actors().values():
        own = {actor.name, *actor.synonyms_en, *actor.held_out_synonyms_en}
        own |= {actor.name_zh, *actor.synonyms_zh, *actor.held_out_synonyms_zh}
        for word in own:
            assert words.setdefault(word, actor.name) == actor.name, word


def test_no_stranger_looks_like_a_named_actor():
    named, unseen = (
        np.stack([artwork.features(load_sprite(name)[0]) for name in names]) for names in (named_actors(), strangers())
    )
    assert (named @ unseen.T).max() < 0.94


def webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def blocks(seed: int) -> np.ndarray:
    """A picture that resembles no other."""
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    colours[..., 3] = 255
    return colours.repeat(32, 0).repeat(32, 1)


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_fetch_keeps_every_new_picture_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fox = Image.fromarray(load_sprite("fox")[0]).resize((256, 256))
    files = {
        "assets/1f600.webp": webp(blocks(1)),
        "assets/1f601.webp": webp(blocks(1)),  # the same again
        "assets/1f602.webp": webp(blocks(2)),
        "assets/1f44b-1f3fb.webp": webp(blocks(3)),  # a skin tone
        "assets/1f3f3-fe0f.webp": webp(blocks(4)),  # a flag
        f"assets/{load_actors()['frog'].code}.webp": webp(blocks(5)),  # an actor
        "assets/1f603.webp": webp(np.asarray(fox)),  # looks like an actor
        "readme.md": b"no picture",
    }
    pack(tmp_path / "lobehub-fluent-emoji-3d-1.1.0.tgz", files)
    groups = {"1F600": 0, "1F601": 0, "1F602": 0, "1F44B-1F3FB": 1, "1F3F3": 9, "1F603": 0}
    data = json.dumps([{"hexcode": code, "group": group} for code, group in groups.items()]).encode()
    pack(tmp_path / "emojibase-data-16.0.0.tgz", {"en/data.json": data})
    cache = tmp_path / "cache"
    assert main(["stage", "fetch", "--folder", str(cache), "--packages", str(tmp_path)]) == 0
    assert f"Wrote {cache / 'unnamed_actors.npy'}" in capsys.readouterr().out
    sprites = load_unnamed_sprites(cache)
    assert sprites.shape == (2, 64, 64, 4) and sprites.dtype == np.uint8
    assert (sprites[:, 32, 32, 3] == 255).all() and not np.array_equal(sprites[0], sprites[1])
    assert not (cache / "packages" / "fluent-emoji-3d" / "readme.md").exists()


def test_fetch_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stage", "fetch", "--folder", str(tmp_path / "a"), "--packages", str(tmp_path)]) == 2
    assert "must hold the package @lobehub/fluent-emoji-3d" in capsys.readouterr().err
    monkeypatch.setattr(artwork.shutil, "which", lambda name: None)
    assert main(["stage", "fetch", "--folder", str(tmp_path / "a")]) == 1
    assert "needs the `npm` client; install Node.js" in capsys.readouterr().err
    with pytest.raises(ValueError, match="run `videogen stage fetch` first"):
        load_unnamed_sprites(tmp_path / "a")
