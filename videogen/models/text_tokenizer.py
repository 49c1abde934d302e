"""Byte-level byte-pair encoding: every Unicode text has an encoding, none needs an unknown token.

Sennrich et al. 2016, arXiv 1508.07909, on UTF-8 bytes. Text is normalised (NFKC, lower case), cut into words, numbers,
single CJK characters and punctuation, and merges never cross such a cut. A leading space belongs to its word.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch

# diffusers saves and loads only components that derive from one of its base classes, found by name in their module;
# this is the one that asks for nothing but `save_pretrained` and `from_pretrained`.
from diffusers import SchedulerMixin
from torch import Tensor

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
_NUM_SPECIAL = 3
_FILE_NAME = "tokenizer.json"
_FORMAT = "videogen-byte-pair-1"

#: A space may open a word, a number or a sign; Chinese, Japanese and Korean characters are cut one by one.
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = rf"[^\W\d_{_CJK}]"
_PIECES = re.compile(rf" ?[{_CJK}]| ?{_LETTER}+| ?\d| ?(?:[^\w\s]|_)|[\s\S]")

logger = logging.getLogger(__name__)


class BytePairTokenizer(SchedulerMixin):
    """Text to ids and back. Ids: 0 padding, 1 begin, 2 end, 3..258 the bytes, then one per merge.

    Args:
        merges: pairs of ids, in the order they were learnt; pair i makes id 259 + i.
        unused: numbers of merges that are never made, see `without_unseen`; their ids stand for nothing.

    Raises:
        ValueError: a merge of ids that do not exist before it, or an unused one that there is not.
    """

    pad_id, bos_id, eos_id = PAD_ID, BOS_ID, EOS_ID

    def __init__(self, merges: Sequence[tuple[int, int]] = (), unused: Iterable[int] = ()):
        self.merges = [(int(first), int(second)) for first, second in merges]
        self._bytes: list[bytes] = [b""] * _NUM_SPECIAL + [bytes([i]) for i in range(256)]
        for index, (first, second) in enumerate(self.merges):
            made = _NUM_SPECIAL + 256 + index
            if not (_NUM_SPECIAL <= first < made and _NUM_SPECIAL <= second < made):
                raise ValueError(f"`merges` must join ids that exist before them, got {(first, second)} for id {made}.")
            self._bytes.append(self._bytes[first] + self._bytes[second])
        self.unused = tuple(sorted(set(unused)))
        if self.unused and not 0 <= self.unused[0] <= self.unused[-1] < len(self.merges):
            raise ValueError(f"`unused` must be numbers of the {len(self.merges)} merges, got {self.unused[-1]}.")
        left_out = set(self.unused)
        self._made = {
            pair: _NUM_SPECIAL + 256 + index for index, pair in enumerate(self.merges) if index not in left_out
        }
        self._encode_piece = lru_cache(maxsize=65536)(self._merge_piece)

    @classmethod
    def train(cls, corpus: Iterable[str], vocab_size: int) -> BytePairTokenizer:
        """Learns merges, most frequent pair first; of equally frequent ones, the one with the smaller ids.

        Args:
            corpus: texts.
            vocab_size: ids at most, at least 259 (special ids and bytes); fewer are made if no pair occurs twice.

        Raises:
            ValueError: `vocab_size` under 259.
        """
        if vocab_size < _NUM_SPECIAL + 256:
            raise ValueError(
                f"`vocab_size` must be at least {_NUM_SPECIAL + 256} (special ids and bytes), got {vocab_size}."
            )
        counts = Counter(piece for text in corpus for piece in _pieces(text))
        words = [([_NUM_SPECIAL + byte for byte in _utf8(piece)], count) for piece, count in sorted(counts.items())]
        merges: list[tuple[int, int]] = []
        while len(merges) < vocab_size - _NUM_SPECIAL - 256:
            pairs: Counter[tuple[int, int]] = Counter()
            for ids, count in words:
                for pair in pairwise(ids):
                    pairs[pair] += count
            if not pairs:
                break
            best, frequency = min(pairs.items(), key=lambda item: (-item[1], item[0]))
            if frequency < 2:
                break
            made = _NUM_SPECIAL + 256 + len(merges)
            merges.append(best)
            words = [(_join(ids, best, made), count) for ids, count in words]
        return cls(merges)

    def __reduce__(self) -> tuple[type[BytePairTokenizer], tuple[list[tuple[int, int]], tuple[int, ...]]]:
        return type(self), (self.merges, self.unused)  # its cache does not travel between processes

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def without_unseen(self, texts: Iterable[str]) -> BytePairTokenizer:
        """This tokenizer without the merges that none of `texts` goes through.

        The texts are encoded as before. A word that is not in them falls into smaller pieces, which a model trained on the texts
        has met, instead of becoming an id whose embedding was never trained.
        """
        made: set[int] = set()
        for piece in {piece for text in texts for piece in _pieces(text)}:
            self._merge_piece(piece, made=made)
        seen = {number - _NUM_SPECIAL - 256 for number in made}
        return type(self)(self.merges, [index for index in range(len(self.merges)) if index not in seen])

    def compact(self) -> tuple[BytePairTokenizer, list[int]]:
        """This tokenizer without what it never makes, for weights that are handed out.

        Returns:
            the tokenizer, which cuts texts into the same pieces, and the old id of each of its ids, ascending: the rows of an
            embedding to keep. A merge that is never made is part of none that is.
        """
        left_out = set(self.unused)
        kept = [index for index in range(len(self.merges)) if index not in left_out]
        first = _NUM_SPECIAL + 256
        old = [*range(first), *(first + index for index in kept)]
        new = {number: place for place, number in enumerate(old)}
        return type(self)([(new[a], new[b]) for a, b in (self.merges[index] for index in kept)]), old

    def encode(self, text: str, dropout: float = 0.0, chooser: random.Random | None = None) -> list[int]:
        """Ids of `text` with begin and end, of whatever length.

        Args:
            text: any.
            dropout: share of the possible merges that is skipped each time, 0 to 1: other pieces for the same words (BPE-dropout,
                Provilkov et al. 2020, arXiv 1910.13267), so that a model learns what the parts of words mean.
            chooser: draws what is skipped; needed with `dropout`.
        """
        ids = [BOS_ID]
        for piece in _pieces(text):
            ids.extend(self._merge_piece(piece, dropout, chooser) if dropout else self._encode_piece(piece))
        ids.append(EOS_ID)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text; special ids vanish, and bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._bytes[int(i)] for i in ids).decode("utf-8", errors="replace").removeprefix(" ")

    def __call__(
        self,
        texts: str | Sequence[str],
        max_length: int | None = None,
        dropout: float = 0.0,
        chooser: random.Random | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encodes and pads.

        Args:
            texts: B texts, or one.
            max_length: S, begin and end included, at least 2; a longer text loses its tail (never its end id), which is
                logged as a warning; `len(encode(text))` tells beforehand. None = the longest text.
            dropout: see `encode`; a text that would not fit in pieces is encoded without.
            chooser: likewise.

        Returns:
            ids [B, S] int64 and mask [B, S] bool, True = a real token. The empty text is begin and end.

        Raises:
            ValueError: `max_length` under 2.
        """
        if isinstance(texts, str):
            texts = [texts]
        rows = [self.encode(text, dropout, chooser) for text in texts]
        if dropout and max_length is not None:
            rows = [self.encode(text) if len(row) > max_length else row for text, row in zip(texts, rows, strict=True)]
        if max_length is None:
            max_length = max((len(row) for row in rows), default=2)
        if max_length < 2:
            raise ValueError(f"`max_length` must be at least 2 (begin and end), got {max_length}.")
        ids = torch.full((len(rows), max_length), PAD_ID, dtype=torch.long)
        mask = torch.zeros(len(rows), max_length, dtype=torch.bool)
        for index, row in enumerate(rows):
            if len(row) > max_length:
                lost = self.decode(row[max_length - 1 :])
                logger.warning("text of %d tokens cut to %d; not seen: %r", len(row), max_length, lost)
                row = [*row[: max_length - 1], EOS_ID]
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        return ids, mask

    def save_pretrained(self, save_directory: str | os.PathLike, **_: object) -> None:
        """Writes `tokenizer.json` into `save_directory`, which is made if need be."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "merges": self.merges, "unused": self.unused}
        (folder / _FILE_NAME).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str | None = None, **_: object
    ) -> BytePairTokenizer:
        """Reads what `save_pretrained` wrote.

        Raises:
            ValueError: no such file, or a file of another format.
        """
        path = Path(pretrained_model_name_or_path, subfolder or "", _FILE_NAME)
        if not path.is_file():
            raise ValueError(f"`pretrained_model_name_or_path` must hold {_FILE_NAME}, got {os.fspath(path.parent)!r}.")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{_FILE_NAME} must have the format {_FORMAT!r}; save it again with `save_pretrained`.")
        return cls(content["merges"], content.get("unused", ()))

    def _merge_piece(
        self,
        piece: str,
        dropout: float = 0.0,
        chooser: random.Random | None = None,
        made: set[int] | None = None,
    ) -> tuple[int, ...]:
        """`made` gets the ids of all merges on the way."""
        ids = [_NUM_SPECIAL + byte for byte in _utf8(piece)]
        while len(ids) > 1:
            # The pair that was learnt first has the smallest id.
            number, pair = min(
                (
                    (self._made[pair], pair)
                    for pair in pairwise(ids)
                    if pair in self._made and not (chooser is not None and chooser.random() < dropout)
                ),
                default=(0, None),
            )
            if pair is None:
                break
            ids = _join(ids, pair, number)
            if made is not None:
                made.add(number)
        return tuple(ids)


def normalize(text: str) -> str:
    """NFKC, lower case, white space as single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def _pieces(text: str) -> list[str]:
    """The cuts that no merge crosses; a word that opens the text gets the space it has everywhere else."""
    text = normalize(text)
    return _PIECES.findall(f" {text}" if re.match(_LETTER, text) else text)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")  # half a surrogate pair has no UTF-8


def _join(ids: list[int], pair: tuple[int, int], made: int) -> list[int]:
    out = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(made)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
