"""The text tokenizer: any input, both languages, deterministic training, saving alone and inside a pipeline."""

import logging
import pickle
import random

import pytest
import torch
from diffusers import DiffusionPipeline

from videogen.models.text_tokenizer import BOS_ID, EOS_ID, PAD_ID, BytePairTokenizer, normalize

CORPUS = [
    "a fox jumps in the forest at night",
    "a fox moves left in the forest",
    "一只狐狸在森林里跳跃",
    "一只狐狸在夜晚",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(CORPUS, 330)


@pytest.mark.parametrize(
    "text",
    [
        "A Fox, jumping!",
        "狐狸在森林里",
        "🦊 e\u0301t\u00e9 \u202e",
        "",
        "   ",
        "\x00\x07",
        "\ud83e half",
        "ﾌｫｯｸｽ １２",
        "x" * 3000,
    ],
    ids=["latin", "chinese", "emoji", "empty", "blank", "control", "surrogate", "fullwidth", "long"],
)
def test_any_text_survives(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids[0] == BOS_ID and ids[-1] == EOS_ID and all(3 <= i < tokenizer.vocab_size for i in ids[1:-1])
    expected = normalize(text).encode("utf-8", errors="replace").decode()
    assert tokenizer.decode(ids) == expected


def test_training_merges_what_is_frequent_and_is_deterministic(tokenizer):
    assert tokenizer.vocab_size <= 330
    assert len(tokenizer.encode("fox")) == 3 and len(tokenizer.encode("狐狸")) == 4  # words or characters, begin, end
    assert BytePairTokenizer.train(CORPUS, 330).merges == tokenizer.merges
    assert BytePairTokenizer.train(reversed(CORPUS), 330).merges == tokenizer.merges
    assert BytePairTokenizer.train(["ab"], 1000).vocab_size == 259  # nothing occurs twice


def test_padding_mask_and_reported_truncation(tokenizer, caplog):
    ids, mask = tokenizer(["a fox", ""], max_length=6)
    assert ids.shape == mask.shape == (2, 6) and ids.dtype == torch.long and mask.dtype == torch.bool
    assert ids[1].tolist() == [BOS_ID, EOS_ID] + [PAD_ID] * 4
    assert mask.sum(1).tolist() == [len(tokenizer.encode("a fox")), 2]
    with caplog.at_level(logging.WARNING):
        cut, mask = tokenizer("a fox jumps in the forest", max_length=4)
    assert cut[0, -1] == EOS_ID and mask.all()
    assert "not seen: 'jumps in the forest'" in caplog.text


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for loaded in (
        BytePairTokenizer.from_pretrained(tmp_path / "tokenizer"),
        BytePairTokenizer.from_pretrained(tmp_path, subfolder="tokenizer"),
    ):
        assert loaded.encode("a fox 狐狸 🦊") == tokenizer.encode("a fox 狐狸 🦊")


class OnlyText(DiffusionPipeline):
    def __init__(self, tokenizer: BytePairTokenizer):
        super().__init__()
        self.register_modules(tokenizer=tokenizer)


def test_it_travels_to_another_process(tokenizer):
    twin = pickle.loads(pickle.dumps(tokenizer))
    assert twin.merges == tokenizer.merges and twin.encode("a fox jumps") == tokenizer.encode("a fox jumps")


def test_a_pipeline_saves_and_loads_it(tokenizer, tmp_path):
    OnlyText(tokenizer).save_pretrained(tmp_path)
    loaded = OnlyText.from_pretrained(tmp_path)
    assert isinstance(loaded.tokenizer, BytePairTokenizer) and loaded.tokenizer.merges == tokenizer.merges


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, p: BytePairTokenizer.train(["a"], 100), "`vocab_size` must be at least 259"),
        (lambda t, p: t("a", max_length=1), "`max_length` must be at least 2"),
        (lambda t, p: BytePairTokenizer([(3, 400)]), "`merges` must join ids that exist"),
        (lambda t, p: BytePairTokenizer.from_pretrained(p), "must hold tokenizer.json"),
    ],
    ids=["vocab", "length", "merges", "missing"],
)
def test_bad_input_is_named(tokenizer, tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer, tmp_path)


def test_merges_that_no_text_needs_can_be_left_out(tokenizer, tmp_path):
    known = ["a fox jumps at night", "一只狐狸"]
    fewer = tokenizer.without_unseen(known)
    assert fewer.merges == tokenizer.merges and fewer.vocab_size == tokenizer.vocab_size
    assert fewer.unused and all(fewer.encode(text) == tokenizer.encode(text) for text in known)
    seen = {i for text in known for i in fewer.encode(text)}
    assert len(fewer.encode("forest")) > len(tokenizer.encode("forest"))
    assert not {i - 259 for i in fewer.encode("森林 forest left")} & set(fewer.unused)
    assert fewer.decode(fewer.encode("in the forest 森林")) == "in the forest 森林"
    fewer.save_pretrained(tmp_path)
    for again in (BytePairTokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(fewer))):
        assert again.unused == fewer.unused and again.encode("forest") == fewer.encode("forest")
    assert seen  # of trained ids
    small, old = fewer.compact()
    assert not small.unused and small.vocab_size == len(old) == fewer.vocab_size - len(fewer.unused)
    for text in (*known, "in the forest 森林", "🦊"):
        assert [old[i] for i in small.encode(text)] == fewer.encode(text)
        assert small.decode(small.encode(text)) == fewer.decode(fewer.encode(text))
    with pytest.raises(ValueError, match="`unused` must be numbers of the 1 merges, got 1"):
        BytePairTokenizer([(100, 101)], unused=[1])


def test_dropout_cuts_words_in_other_ways_and_keeps_the_text(tokenizer):
    text = "a fox jumps in the forest 狐狸"
    cuts = {tuple(tokenizer.encode(text, 0.3, random.Random(i))) for i in range(20)}
    assert len(cuts) > 10 and all(tokenizer.decode(ids) == text for ids in cuts)
    assert tokenizer.encode(text, 0.3, random.Random(1)) == tokenizer.encode(text, 0.3, random.Random(1))
    limit = len(tokenizer.encode(text)) + 1
    ids, mask = tokenizer([text] * 30, limit, 0.9, random.Random(0))  # what would not fit is cut as usual
    assert ids.shape[1] == limit and {
        tokenizer.decode(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)
    } == {text}
