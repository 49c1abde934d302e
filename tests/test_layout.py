"""The layout: imports point one way, and names that would break other packages never exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A module may import from its own level and from those below it; the longest matching prefix decides.
LEVELS = {
    "videogen_kernels": 0,
    "tokenizer3d": 1,
    "videogen": 2,  # __init__ (lazy names only) and _version
    "videogen.models": 2,
    "videogen.conditioning": 2,
    "videogen.diffusion": 2,
    "videogen.data": 2,
    "videogen.planning": 2,
    "videogen.receipt": 2,
    "videogen_pipelines": 3,
    "videogen.training": 4,
    "videogen.evaluation": 4,
    "videogen.benchmark": 4,
    "videogen.server": 4,
    "videogen.client": 4,
    "videogen.cli": 4,
}
SOURCES = ("kernels/videogen_kernels", "tokenizer3d", "videogen", "pipelines/videogen_pipelines")


def level(module: str) -> int | None:
    """Level of a module of ours; None for anybody else's."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        found = LEVELS.get(".".join(parts[:length]))
        if found is not None:
            return found
    return None


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in ("kernels", "pipelines") else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, module: str, is_package: bool) -> set[str]:
    """Every module that a source file imports, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: None if is_package else -1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def python_files() -> list[Path]:
    return sorted(path for source in SOURCES for path in (ROOT / source).rglob("*.py"))


def test_imports_point_one_way() -> None:
    wrong = []
    for path in python_files():
        module = module_name(path)
        if path == ROOT / "videogen" / "__init__.py":
            continue  # lazy names of the pipelines; the next test keeps it light
        own = level(module)
        assert own is not None, f"{module} has no level: add it to LEVELS"
        for imported in imported_modules(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
            other = level(imported)
            if other is not None and other > own:
                wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_the_import_reader_sees_every_form() -> None:
    source = "import a.b\ndef f():\n    from c import d\nfrom . import e\nfrom ..g import h\n"
    assert imported_modules(source, "videogen.models.x", False) == {"a.b", "c.d", "videogen.models.e", "videogen.g.h"}
    assert imported_modules("from .x import y", "videogen.models", True) == {"videogen.models.x.y"}
    assert level("videogen.training.muon") == 4 and level("torch.nn") is None


def test_tables_that_stand_twice_are_equal() -> None:
    """Some stand in two places, because the one place may not import the other or should not load what it loads."""
    from videogen.cli import run
    from videogen.conditioning import camera, frames
    from videogen.data import video
    from videogen.data.stage import vocabulary
    from videogen.models import embeddings
    from videogen_pipelines import base

    assert set(vocabulary.CAMERAS) == set(camera.CAMERA_COMMANDS)
    for name in ("KIND_FIRST", "KIND_VIDEO", "KIND_GUIDE", "NUM_KINDS"):
        assert getattr(frames, name) == getattr(embeddings, name)
    assert frames.KIND_REFERENCE == embeddings.KIND_REFERENCE_1
    assert run.SHIPPED_MODEL == base.SHIPPED_WEIGHTS and run.VIDEO_SUFFIXES == video.VIDEO_SUFFIXES


def test_kernels_is_never_a_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow the package that transformers looks for"
    assert not (ROOT / "pipelines" / "__init__.py").exists()


@pytest.mark.parametrize("statement", ["import videogen", "import videogen.cli", "import videogen.receipt"])
def test_light_imports_bring_neither_torch_nor_diffusers(statement: str) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "videogen" in imported
    assert not imported & {"torch", "diffusers", "transformers", "av", "cv2"}
