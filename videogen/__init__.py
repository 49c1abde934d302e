"""videogen: text or an image in, a video out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from videogen._version import __version__

if TYPE_CHECKING:
    from videogen_pipelines import (
        ImageToVideoPipeline,
        SubjectToVideoPipeline,
        TextToVideoPipeline,
        VideoExtensionPipeline,
    )

__all__ = [
    "ImageToVideoPipeline",
    "SubjectToVideoPipeline",
    "TextToVideoPipeline",
    "VideoExtensionPipeline",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """The pipelines, imported when first asked for: `import videogen` alone does not import torch."""
    if name in __all__:
        import videogen_pipelines

        return getattr(videogen_pipelines, name)
    raise AttributeError(f"module 'videogen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
