"""`videogen generate`, `extend`, `info`, `replay` and `vocabulary`, with a tiny untrained model of the real classes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline

from videogen.cli import main
from videogen.data.stage import rungs
from videogen.data.video import read_video, write_video
from videogen.receipt import read_receipt


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline({**rungs()["rung1"].to_dict(), "num_inference_steps": 2}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def all_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    good = Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    good.save(folder / "good.png")
    Image.fromarray(rng.integers(0, 256, (120, 200, 4), dtype=np.uint8)).save(folder / "alpha.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:5000])
    good.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (96, 96))])
    header = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    data = b"IDAT" + zlib.compress(bytes(2501 * 20_000), 1)
    chunks = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (header, data, b"IEND")]
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return folder


@pytest.fixture
def pictures(all_pictures: Path, tmp_path: Path) -> Path:
    """A folder with good and bad pictures."""
    folder = tmp_path / "pictures"
    shutil.copytree(all_pictures, folder)
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_generate_then_info_then_replay_gives_the_same_bytes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = 'a fox jumps in the "snow" $HOME # 狐狸, [Pan left]'
    out, sheet = tmp_path / "a.mp4", tmp_path / "a.png"
    common = ["--model", str(model)]
    assert main(["generate", prompt, "--duration", "1.7", "--sheet", str(sheet), "-o", str(out), *common]) == 0
    printed = capsys.readouterr()
    assert "17 frames, 1.42 s" in printed.out and "step 2 of 2" in printed.err
    assert "`duration` 1.7 s became 1.42 s" in printed.err and "does not know" in printed.err
    assert read_video(out).frames.shape == (17, 96, 96, 3)
    assert Image.open(sheet).size[0] > 500

    assert main(["info", str(out)]) == 0
    receipt = tmp_path / "receipt.json"
    receipt.write_text(capsys.readouterr().out, encoding="utf-8")
    content = json.loads(receipt.read_text(encoding="utf-8"))
    assert content["request"]["prompt"] == prompt and content["request"]["num_inference_steps"] == 2
    assert any("became 1.42 s" in sentence for sentence in content["adjusted"])

    for source, words in ((out, "byte for byte"), (receipt, "bit for bit")):
        assert main(["replay", str(source), "-o", str(tmp_path / "b.mp4"), *common]) == 0
        assert words in capsys.readouterr().out
        assert digest(tmp_path / "b.mp4") == digest(out)
    assert files(tmp_path) == {"a.mp4", "a.png", "b.mp4", "receipt.json"}


def test_what_was_read_is_said_kept_and_replayed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, common = tmp_path / "a.mp4", ["--model", str(model)]
    prompt = "a fox jumps in the snow at midnight, [Pan left]"
    assert main(["generate", prompt, "-o", str(out), *common]) == 0
    assert "Adjusted: 'at midnight' was read as 'at night'." in capsys.readouterr().err
    request = read_receipt(out).request
    assert request.asked_prompt == prompt and request.prompt == prompt.replace("midnight", "night")
    assert main(["replay", str(out), "-o", str(tmp_path / "again.mp4"), *common]) == 0
    assert "byte for byte" in capsys.readouterr().out

    assert main(["generate", prompt, "--literal-prompt", "-o", str(tmp_path / "literal.mp4"), *common]) == 0
    assert "was read as" not in capsys.readouterr().err
    literal = read_receipt(tmp_path / "literal.mp4").request
    assert literal.prompt == prompt and literal.asked_prompt is None


def test_pictures_are_in_the_receipt_as_the_model_saw_them_and_replay_from_it(
    model: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "a fox jumps", "--image", str(pictures / "alpha.png"), "--model", str(model)]
    arguments += ["--last-image", str(pictures / "good.png"), "--keyframe", f"0.5={pictures / 'good.png'}"]
    assert main([*arguments, "-o", str(tmp_path / "a.mp4"), "--num-videos", "2", "--seed", "7"]) == 0
    assert "alpha channel" in capsys.readouterr().err
    receipts = [read_receipt(tmp_path / f"a-{index}.mp4") for index in (1, 2)]
    assert [receipt.request.seed for receipt in receipts] == [7, 8]
    first, last, keyframe = receipts[1].request.pictures
    assert (first.role, last.role, keyframe.role, keyframe.time) == ("first", "last", "keyframe", 0.5)
    assert first.picture().size == (96, 96)
    assert (np.asarray(last.picture()) == np.asarray(Image.open(pictures / "good.png"))).all()
    for path in pictures.iterdir():
        path.unlink()
    assert main(["replay", str(tmp_path / "a-2.mp4"), "-o", str(tmp_path / "b.mp4"), "--model", str(model)]) == 0
    assert digest(tmp_path / "b.mp4") == digest(tmp_path / "a-2.mp4")


def test_subject_with_images_kept_out_of_the_receipt(
    model: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "the subject jumps", "--subject", str(pictures / "good.png"), "--model", str(model)]
    assert main([*arguments, "-o", str(tmp_path / "a.gif"), "--no-receipt-images"]) == 0
    receipt = read_receipt(tmp_path / "a.gif")
    assert receipt.request.pictures[0].png is None
    assert len(receipt.identity) == 1 and 0 <= receipt.identity[0].worst <= receipt.identity[0].mean <= 1
    assert f"mean {receipt.identity[0].mean:.2f}, worst frame" in capsys.readouterr().out
    assert main(["replay", str(tmp_path / "a.gif"), "-o", str(tmp_path / "b.gif"), "--model", str(model)]) == 2
    assert "written without images" in capsys.readouterr().err
    assert not (tmp_path / "b.gif").exists()


def test_extend_keeps_the_old_frames_and_replays(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "a fox jumps", "-o", str(tmp_path / "a.webm"), "--model", str(model)]) == 0
    out = tmp_path / "b.mp4"
    assert main(["extend", str(tmp_path / "a.webm"), "--duration", "0.7", "-o", str(out), "--model", str(model)]) == 0
    assert "25 frames" in capsys.readouterr().out
    receipt = read_receipt(out)
    assert receipt.request.prompt == "a fox jumps in the forest [Static shot]" and receipt.request.num_frames == 25
    old = read_video(tmp_path / "a.webm").frames
    kept = np.stack([np.asarray(record.picture()) for record in receipt.request.pictures])
    assert (kept == old).all()
    assert main(["replay", str(out), "-o", str(tmp_path / "c.mp4"), "--model", str(model)]) == 0
    assert digest(tmp_path / "c.mp4") == digest(out)


def test_extend_takes_the_camera_of_the_receipt_unless_it_gets_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(model)]
    told, option = tmp_path / "told.webm", tmp_path / "option.webm"
    assert main(["generate", "a fox jumps in the snow, [Pan left]", "-o", str(told), *common]) == 0
    assert main(["generate", "a fox jumps in the snow", "--camera", "Pan left", "-o", str(option), *common]) == 0
    twice, both_told = tmp_path / "twice.webm", tmp_path / "both_told.webm"
    assert main(["generate", "a fox jumps in the snow [Pan left] [Zoom in]", "-o", str(both_told), *common]) == 0
    assert (
        main(["generate", "a fox jumps in the snow", "--camera", "[Pan left] [Zoom in]", "-o", str(twice), *common])
        == 0
    )
    for source, more, prompt, camera in (
        (told, [], "a fox jumps in the snow, [Pan left]", None),
        (told, ["--camera", "Zoom in"], "a fox jumps in the snow", "Zoom in"),
        (option, [], "a fox jumps in the snow", "Pan left"),
        (option, ["--camera", "Zoom in"], "a fox jumps in the snow", "Zoom in"),
        (both_told, [], "a fox jumps in the snow", "[Zoom in]"),  # goes on as it ends
        (twice, [], "a fox jumps in the snow", "[Zoom in]"),
    ):
        out = tmp_path / "longer.webm"
        assert main(["extend", str(source), "--duration", "0.7", *more, "-o", str(out), *common]) == 0
        request = read_receipt(out).request
        assert (request.prompt, request.camera) == (prompt, camera)
    capsys.readouterr()
    both = ["--prompt", "a fox jumps in the snow [Pan left]", "--camera", "Zoom in"]
    assert main(["extend", str(told), "--duration", "0.7", *both, "-o", str(out), *common]) == 2
    assert "must not both name camera commands" in capsys.readouterr().err


def test_replay_names_what_differs_and_refuses_other_weights(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "a fox jumps", "-o", str(tmp_path / "a.mp4"), "--model", str(model)]) == 0
    content = json.loads(read_receipt(tmp_path / "a.mp4").to_json())
    threads = content["environment"]["num_threads"]
    content["environment"]["num_threads"] = threads + 1
    content["environment"]["instruction_set"] = "ABACUS"
    content["environment"]["versions"]["torch"] = "1.0"
    content["request"]["batch_size"] = 4
    receipt = tmp_path / "r.json"
    receipt.write_text(json.dumps(content))
    capsys.readouterr()
    try:
        assert main(["replay", str(receipt), "-o", str(tmp_path / "b.mp4"), "--model", str(model)]) == 0
    finally:
        torch.set_num_threads(threads)
    errors = capsys.readouterr().err
    assert "instruction set was ABACUS" in errors and "torch was 1.0" in errors
    assert "made in a batch of 4, here it is made alone" in errors
    assert read_receipt(tmp_path / "b.mp4").request.batch_size == 1
    assert f"thread count was {threads + 1}, here it is {threads}; set to {threads + 1}" in errors

    content["model_sha256"] = "0" * 64
    receipt.write_text(json.dumps(content))
    assert main(["replay", str(receipt), "-o", str(tmp_path / "c.mp4"), "--model", str(model)]) == 2
    assert "with the weights that made it" in capsys.readouterr().err
    assert not (tmp_path / "c.mp4").exists()


BAD_INPUT: list[tuple[str, list[str], str]] = [
    ("empty prompt", [""], "`prompt` must not be empty"),
    ("blank prompt", ["  "], "`prompt` must not be empty"),
    ("long prompt", ["x" * 2001], "at most 2000 characters"),
    ("unknown camera command", ["a fox [Pan lefft]"], "the nearest is [Pan left]"),
    ("camera twice", ["a fox [Pan left]", "--camera", "Zoom in"], "not both name camera commands"),
    ("size of words", ["a fox", "--size", "big"], "`--size` must be"),
    ("untrained size", ["a fox", "--size", "128x96"], "use 96x96"),
    ("untrained rate", ["a fox", "--fps", "25"], "use 12"),
    ("frames off the grid", ["a fox", "--num-frames", "80"], "use 77 or 81"),
    ("frames and duration", ["a fox", "--num-frames", "17", "--duration", "2"], "must not both be given"),
    ("short duration", ["a fox", "--duration", "0.01"], "`duration`"),
    ("duration NaN", ["a fox", "--duration", "nan"], "`duration`"),
    ("negative steps", ["a fox", "--steps", "-3"], "got -3"),
    ("no steps", ["a fox", "--steps", "0"], "got 0"),
    ("steps of words", ["a fox", "--steps", "many"], "'--steps'"),
    ("guidance NaN", ["a fox", "--guidance-scale", "nan"], "`guidance_scale`"),
    (
        "guidance interval without guidance",
        ["a fox", "--guidance-scale", "1", "--guidance-interval", "0.5", "1"],
        "no effect while `--guidance-scale` is 1",
    ),
    ("guidance interval upside down", ["a fox", "--guidance-interval", "0.9", "0.5"], "`guidance_interval`"),
    ("negative seed", ["a fox", "--seed", "-1"], "`seed`"),
    ("no videos", ["a fox", "--num-videos", "0"], "`--num-videos`"),
    ("missing output folder", ["a fox", "-o", "none/a.mp4"], "folder that exists"),
    ("unknown ending", ["a fox", "-o", "a.avi"], "must end in"),
    ("sheet ending", ["a fox", "--sheet", "a.mp4"], "`--sheet` must end in"),
    ("unknown option", ["a fox", "--stepz", "3"], "--stepz"),
    ("no model", ["a fox", "--model", "none"], "`--model` must be a model folder"),
    ("missing picture", ["a fox", "--image", "pictures/none.png"], "existing picture"),
    ("text named png", ["a fox", "--image", "pictures/text.png"], "must be a picture"),
    ("truncated picture", ["a fox", "--image", "pictures/cut.png"], "truncated"),
    ("animated picture", ["a fox", "--last-image", "pictures/moving.gif"], "still picture"),
    ("tiny picture", ["the subject", "--subject", "pictures/dot.png"], "pixels wide"),
    ("huge picture", ["a fox", "--image", "pictures/huge.png"], "million pixels"),
    ("a folder as picture", ["a fox", "--image", "pictures"], "picture"),
    ("keyframe without time", ["a fox", "--keyframe", "pictures/good.png"], "`--keyframe` must be seconds=picture"),
    ("keyframe outside", ["a fox", "--keyframe", "9=pictures/good.png"], "within the clip"),
    ("three subjects", ["the subject", *["--subject", "pictures/good.png"] * 3], "1 to 2 pictures"),
    (
        "subject and image",
        ["the subject", "--subject", "pictures/good.png", "--image", "pictures/good.png"],
        "must not be combined",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT]
)
def test_bad_input_gets_one_sentence_and_no_file(
    model: Path,
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(model)]
    assert main(["generate", *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("Error: ") and message in errors[0]
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extend", "none.mp4", "--duration", "1"], "exists"),
        (["extend", "plain.mp4", "--duration", "1"], "`--prompt` must be given"),
        (["extend", "plain.mp4", "--duration", "0.1", "--prompt", "a fox"], "at least 0.33 seconds"),
        (["extend", "plain.mp4"], "--duration"),
        (["replay", "plain.mp4"], "holds no videogen receipt"),
        (["info", "plain.mp4"], "holds no videogen receipt"),
        (["info", "none.mp4"], "exists"),
    ],
)
def test_bad_input_of_the_other_commands(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("plain.mp4", np.zeros((5, 96, 96, 3), np.uint8), 12.0)
    common = [] if arguments[0] == "info" else ["--model", str(model)]
    assert main([*arguments, *common]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("Error: ") and message in errors[0]
    assert files(tmp_path) == {"plain.mp4"}


def test_interrupt_in_mid_run_leaves_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A test run in the background of a shell starts with SIGINT ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        code = main(["generate", "a fox", "--steps", "1000", "--model", str(model), "-o", str(tmp_path / "a.mp4")])
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, previous)
    assert code == 130
    assert "Cancelled" in capsys.readouterr().err
    assert files(tmp_path) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_the_program_leave_nothing(model: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", "import sys; from videogen.cli import main; sys.exit(main())", "generate", "a fox"]
    command += ["--steps", "1000", "--num-videos", "9", "--model", str(model), "-o", str(tmp_path / "a.mp4")]

    def as_in_a_terminal() -> None:  # a test run in the background of a shell starts with SIGINT ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=as_in_a_terminal) as process:
        assert process.stderr is not None
        assert "step 250 of 1000" in process.stderr.readline()
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == code
    assert "Traceback" not in rest
    assert files(tmp_path) == set()


def test_vocabulary_lists_what_the_model_knows(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vocabulary", "--json", "--model", str(model)]) == 0
    assert json.loads(capsys.readouterr().out)["scenes"] == ["snow", "beach", "forest", "city"]
    assert main(["vocabulary", "--markdown", "--model", str(model)]) == 0
    table = capsys.readouterr().out
    assert "| scenes | snow, beach, forest, city |" in table and "[Pan left] [左摇]" in table and "狐狸" in table
    assert main(["vocabulary", "--model", str(model)]) == 0
    table = capsys.readouterr().out
    assert "fox" in table and "[Zoom in]" in table


def test_vocabulary_of_a_model_of_own_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vocabulary.json").write_text('{"sizes": [[64, 32]], "num_frames": [9], "fps": [12.0]}')
    assert main(["vocabulary", "--markdown", "--model", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "| sizes | 64x32 |" in table and "| frames per second | 12 |" in table
    assert "actors" not in table and "light" not in table
