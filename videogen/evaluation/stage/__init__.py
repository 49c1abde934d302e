"""Checkers that see only the frames of a clip and say what it shows."""

from videogen.evaluation.stage.checks import Verdict, check

__all__ = ["Verdict", "check"]
