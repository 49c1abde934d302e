"""One case of a benchmark in a process of its own: `python -m videogen.benchmark.worker JSON` prints its row as the last line."""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module

KINDS = ("backbone", "tokenizer", "ops", "clip")


def main(argument: str) -> None:
    case = json.loads(argument)
    if case["kind"] not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {case['kind']!r}.")
    warnings.simplefilter("ignore")
    from videogen.data.allocator import keep_freed_memory

    keep_freed_memory()  # as our own processes do; other models gain by it too
    from diffusers.utils import logging

    logging.set_verbosity_error()
    row = import_module(f"videogen.benchmark.{case['kind']}").run_case(**case["arguments"])
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1])
