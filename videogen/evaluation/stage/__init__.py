"""Checkers that see only the frames of a clip and say what it shows."""

from videogen.evaluation.stage.checks import Sights, Verdict, check, look, nearest_actor

__all__ = ["Sights", "Verdict", "check", "look", "nearest_actor"]
