"""Published VBench scores of other models, in percent, as their leaderboard rows have them; nothing here was measured by this project.

Each row gives its published Total when run through `videogen.evaluation.total` (MiniMax-Video-01: Semantic 77.64 for 77.65).
"""

from __future__ import annotations

from videogen.evaluation.total import QUALITY, SEMANTIC

_ROWS: dict[str, tuple[float, ...]] = {
    "MiniMax-Video-01": (
        97.51, 97.05, 99.10, 99.22, 64.91, 63.03, 67.17,
        87.83, 76.04, 92.40, 90.36, 75.50, 50.68, 20.06, 25.63, 27.10,
    ),
    "Veo 3": (
        97.36, 96.89, 99.30, 99.16, 72.43, 63.81, 68.23,
        93.89, 82.20, 99.40, 82.48, 84.26, 57.43, 23.55, 25.97, 27.88,
    ),
    "Kling": (
        98.33, 97.60, 99.30, 99.40, 46.94, 61.21, 65.62,
        87.24, 68.05, 93.40, 89.90, 73.03, 50.86, 19.62, 24.17, 26.42,
    ),
    "Gen-3": (
        97.10, 96.62, 98.61, 99.23, 60.14, 63.34, 66.82,
        87.81, 53.64, 96.40, 80.90, 65.09, 54.57, 24.31, 24.71, 26.69,
    ),
    "Sora": (
        96.23, 96.35, 98.87, 98.74, 79.91, 63.46, 68.28,
        93.93, 70.85, 98.20, 80.11, 74.29, 56.95, 24.76, 25.01, 26.26,
    ),
    "HunyuanVideo": (
        97.37, 97.76, 99.44, 98.99, 70.83, 60.36, 67.56,
        86.10, 68.55, 94.40, 91.60, 68.68, 53.88, 19.80, 23.89, 26.44,
    ),
    "CogVideoX-5B": (
        96.23, 96.52, 98.66, 96.92, 70.97, 61.98, 62.90,
        85.23, 62.11, 99.40, 82.81, 66.35, 53.20, 24.91, 25.38, 27.59,
    ),
}  # fmt: skip
PUBLISHED: dict[str, dict[str, float]] = {
    model: {name: value / 100 for name, value in zip([*QUALITY, *SEMANTIC], row, strict=True)}
    for model, row in _ROWS.items()
}
"""Model -> dimension -> raw score in 0..1."""
