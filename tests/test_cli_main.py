"""The command line as a whole: quick help, exit codes, Stage previews, and what make does with a prompt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import videogen
from videogen.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
RUN = "import sys; from videogen.cli import main; sys.exit(main())"


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = "import sys; from videogen.cli import main; main(['--help']); print('torch' in sys.modules, 'av' in sys.modules)"
    started = time.process_time()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.process_time() - started < 1.0
    assert result.stdout.rstrip().endswith("False False")
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize(
    "command", ["generate", "extend", "replay", "info", "vocabulary", "stage", "train", "plan", "benchmark"]
)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    code = f"import sys; from videogen.cli import main; main(['{command}', '--help']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: videogen" in result.stdout and result.stdout.rstrip().endswith("False")


def test_version_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == videogen.__version__
    assert main(["generat"]) == 2
    assert capsys.readouterr().err.startswith("Error: No such command")


@pytest.mark.parametrize(
    "command",
    [
        ["plan"],
        ["evaluate", "stage"],
        ["evaluate", "tasks"],
        ["evaluate", "score", "clips"],
        ["evaluate", "total", "a.json"],
        ["evaluate", "compare", "a.json", "b.json"],
        ["evaluate", "tokenizer"],
        ["evaluate", "distance", "clips", "reference"],
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--json", str(tmp_path / "none" / "a.json")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("Error: `--json` must lie in a folder that exists")


def test_stage_preview_draws_the_same_sheet_for_the_same_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        assert main(["stage", "preview", "--num-clips", "2", "--seed", "3", "-o", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out.count("Wrote") == 2
    assert (np.asarray(Image.open(tmp_path / "a.png")) == np.asarray(Image.open(tmp_path / "b.png"))).all()
    assert main(["stage", "preview", "--rung", "rung9"]) == 2
    assert "rung1, cameras, rung2, rung3, rung4" in capsys.readouterr().err


def test_the_vocabulary_in_the_documentation_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vocabulary", "--markdown", "--rung", "rung1", "--rung", "rung4"]) == 0
    printed = capsys.readouterr().out
    assert printed == (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8"), "generate it again, see its head"
    rung1, rung4 = printed.split("## rung")[1:]
    assert "actors (12)" in rung1 and "spins" not in rung1 and "relations" not in rung1
    assert "left of, right of" in rung4 and "another actor enters, night falls" in rung4
    assert "[Tracking shot] [跟随]" in rung4 and "| speeds | slow, normal, fast |" in rung4
    assert main(["vocabulary", "--rung", "rung9"]) == 2
    assert "rung1, cameras, rung2, rung3, rung4, got rung9" in capsys.readouterr().err


PROMPTS = [
    'it\'s a "fox"',
    "$HOME $5 $(shell echo no) $$",
    "a # b #",
    "一只狐狸在雪地里跳,[左摇]",
    "back\\slash `date`; echo no",
    "a=b:c, [Pan left,Zoom in] %d",
]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_make_hands_the_prompt_on_unchanged(tmp_path: Path, prompt: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "videogen").write_text('#!/bin/sh\nfor last; do :; done\nprintf %s "$last" > got\n')
    (programs / "videogen").chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PROMPT")}
    # "true" as pip's stand-in: what is tested here is the way of the text, not the installation.
    common = ["make", "-s", "clip", "PIP=true"]
    for command, environment in (
        ([*common, f"PROMPT={prompt}"], plain),
        (common, {**plain, "PROMPT": prompt}),
    ):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        assert (tmp_path / "got").read_text(encoding="utf-8") == prompt
        (tmp_path / "got").unlink()
