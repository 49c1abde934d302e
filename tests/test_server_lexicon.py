"""The words that the server keeps of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from videogen.data.stage import rungs
from videogen.server import lexicon


def test_an_edited_table_makes_another_lexicon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(path.is_file() for path in lexicon.SOURCES)
    table = tmp_path / "captions.py"
    table.write_text("one")
    monkeypatch.setattr(lexicon, "SOURCES", (table,))
    vocabulary, kept = rungs()["rung1"].to_dict(), []
    for _ in range(2):
        found = lexicon.load_lexicon(vocabulary, tmp_path)
        kept.append(list(tmp_path.glob("lexicon-*.json")))
    assert kept[0] == kept[1] and len(kept[0]) == 1 and found.plain["actors"]["fox"]["en"] == "a fox"
    table.write_text("two")
    assert lexicon.load_lexicon(vocabulary, tmp_path) == found
    assert len(list(tmp_path.glob("lexicon-*.json"))) == 2
