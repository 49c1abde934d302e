"""Where the time of one clip of a model's own length goes, from the start of the process to the closed file.

Two kinds of rows: the real command `videogen generate` from outside (`command`), and its parts in one process (`import torch`, `import diffusers`,
`import videogen`, `load`, `text`, `denoise` per step, `decode`, `write`), then the same clip a second time in that process (`warm`). `--help` is measured too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from videogen.benchmark.clip_profile import PROMPT
from videogen.benchmark.measure import Budget, CaseFailed, Row
from videogen.benchmark.measure import run_case as run_in_process

_COMMAND = "import sys; from videogen.cli import main; sys.exit(main())"
_PROFILE = (
    "import sys, time; ready = time.time(); from videogen.benchmark.clip_profile import profile; "
    "profile(float(sys.argv[1]), ready, sys.argv[2:])"
)


def run_case(model: str | None = None) -> Row:
    """The parts of one clip: `parts` (part -> list of seconds), `frames`, `fps`, `threads`, `tokens`, `peak_bytes`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _PROFILE, repr(time.time()), str(Path(folder) / "clip.mp4")]
        command += [model] if model else []
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError((result.stderr.strip().splitlines() or ["no message"])[-1])
    parts: dict[str, list[float]] = {}
    row: Row = {}
    for line in result.stdout.splitlines():
        words = line.split()
        if words[:1] == ["part"]:
            parts[words[1].replace("_", " ")] = [float(word) for word in words[2:]]
        elif words[:1] == ["peak"]:
            row["peak_bytes"] = int(words[1])
        elif words[:1] == ["frames"]:
            row |= {"frames": int(words[1]), "fps": float(words[3]), "threads": int(words[5]), "tokens": int(words[7])}
    return {**row, "parts": parts}


def run(*, model: str | None = None, repeats: int = 3, budget: Budget, say: Callable[[str], None]) -> Iterator[Row]:
    """Rows of `videogen --help`, `videogen generate` and the parts of a clip, each several times; every row is one run."""
    for repeat in range(repeats):
        if budget.left() < 30 and repeat:
            say(f"run {repeat + 1} of {repeats}: left out, no time is left")
            return
        with tempfile.TemporaryDirectory() as folder:
            make = ["generate", PROMPT, "-o", str(Path(folder) / "clip.mp4")]
            for name, arguments in (("--help", ["--help"]), ("generate", make + (["--model", model] if model else []))):
                seconds, peak = _command(arguments)
                say(f"videogen {name}: {seconds:.2f} s")
                yield {
                    "benchmark": "clip",
                    "model": f"videogen {name}",
                    "tokens": 0,
                    "seconds": seconds,
                    "peak_bytes": peak,
                    "part": "command",
                    "run": repeat,
                }
        try:
            found = run_in_process("clip", {"model": model}, budget.timeout())
        except CaseFailed as error:
            say(f"the parts of a clip: failed: {error}")
            return
        for part, times in found["parts"].items():
            yield {
                "benchmark": "clip",
                "model": "videogen",
                "tokens": found["tokens"],
                "seconds": sum(times),
                "peak_bytes": found["peak_bytes"],
                "part": part,
                "calls": len(times),
                "run": repeat,
                "frames": found["frames"],
                "fps": found["fps"],
                "threads": found["threads"],
            }


def _command(arguments: list[str]) -> tuple[float, int]:
    """Seconds and peak memory of a command from outside: start of the process to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    message = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise CaseFailed(f"videogen {arguments[0]} ended with {process.returncode}: {message.strip()}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
