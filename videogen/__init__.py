"""videogen: text or an image in, a video out."""

from videogen._version import __version__

__all__ = ["__version__"]
