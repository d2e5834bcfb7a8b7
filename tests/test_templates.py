"""Given text as tokens: it stands in the sample as it was given, whatever the tokens."""

import numpy as np
import pytest
import sentencepiece
from test_vocabularies import byte_level, metaspace_bpe, saved, unigram, with_byte_fallback

from experiments.data.subwords import Subwords
from experiments.data.tokenizers import Bytes, Characters, Letters27
from experiments.errors import UserError
from experiments.sampling.known import banned, encode, encode_known

WORDS = ["the", "state", "of", "union", "walk", "##ing", "stat", ".", ","]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def wordpiece(folder, letters=LETTERS):
    lines = ["[PAD]", "[UNK]", *letters, *(f"##{c}" for c in letters), *WORDS]
    return saved(folder, "\n".join(lines) + "\n", "vocab.txt")


def sentencepiece_model(folder, **settings):
    lines = ["the state of the union walking talking states unions people of the land"] * 30
    with open(folder / "m.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*lines, " ".join(LETTERS)]),
            model_writer=file,
            minloglevel=2,
            hard_vocab_limit=False,
            character_coverage=1.0,
            **settings,
        )
    return Subwords(str(folder / "m.model")).read()


def prefixed(folder):
    whole = byte_level()
    whole["pre_tokenizer"]["add_prefix_space"] = True
    return saved(folder, whole)


MAKERS = {
    "letters": lambda folder: Letters27(),
    "bytes": lambda folder: Bytes(),
    "characters": lambda folder: Characters(f" {LETTERS}"),
    "wordpiece": wordpiece,
    "byte-level": lambda folder: saved(folder, byte_level()),
    "byte-level with a space before": prefixed,
    "metaspace": lambda folder: saved(folder, with_byte_fallback(metaspace_bpe())),
    "unigram": lambda folder: saved(folder, with_byte_fallback(unigram())),
    "sentencepiece": lambda folder: sentencepiece_model(folder, vocab_size=50),
    "sentencepiece by merges": lambda folder: sentencepiece_model(
        folder, vocab_size=300, model_type="bpe", byte_fallback=True
    ),
}
EXACT = [name for name in MAKERS if name != "wordpiece"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp("vocabulary")) for name, make in MAKERS.items()}


def filled(tokenizer, template, known, blank="_"):
    """The text of the tokens, with the letter e, the token of no other text, in each blank."""
    blanks = [at for at, letter in enumerate(template) if letter == blank]
    known = known[: np.flatnonzero(known >= 0).max(initial=-1) + 1 + _end(template, blank)]
    if isinstance(tokenizer, Subwords):
        inner, first = (tokenizer._loaded.number(name) for name in ("##e", "e"))
        inner = first if inner is None else inner
        glued = [at > 0 and not template[at - 1].isspace() for at in blanks]
    else:
        (inner,) = first = encode(tokenizer, "e", "")
        glued = [True] * len(blanks)
    known = known.copy()
    assert (known < 0).sum() == len(blanks)
    known[known < 0] = [inner if within else first for within in glued]
    return tokenizer.decode(known)


def _end(template, blank):
    return len(template) - len(template.rstrip(blank))


TEMPLATES = [
    "the stat_ing of", "the _ of", "_ing of", "the stat_", "_", "the __ing of", "the st__ __e of_",
    "_ the state", "walk_ of _ing", "th_ st_t_ of", "of _of_of", "q_z the_", "zq_qz xj_jk",
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", MAKERS)
def test_text_around_a_blank_stands_as_it_was_given(name, template, tokenizers):
    tokenizer = tokenizers[name]
    known = encode_known(tokenizer, 40, "", template, "_")
    start = " " if name == "byte-level with a space before" and template[0] != "_" else ""
    assert filled(tokenizer, template, known) == start + template.replace("_", "e")


@pytest.mark.parametrize("blank", ["_", " ", "q", "▁", "*", "☃", "\u2028"])
@pytest.mark.parametrize("name", ["byte-level", "metaspace", "sentencepiece by merges"])
def test_any_character_is_a_blank(name, blank, tokenizers):
    template = f"the{blank}stat{blank}{blank}ing{blank}"
    known = encode_known(tokenizers[name], 40, "", template, blank)
    assert filled(tokenizers[name], template, known, blank) == "theestateeinge"


@pytest.mark.parametrize("name", EXACT)
def test_spaces_before_a_blank_are_kept(name, tokenizers):
    tokenizer = tokenizers[name]
    doubled = not name.startswith("sentencepiece")  # which makes one space of several everywhere
    for template in ("the state _", "the _ _of", *("the state  _", "of   _ the") * doubled):
        known = encode_known(tokenizer, 40, "", template, "_")
        assert filled(tokenizer, template, known).lstrip() == template.replace("_", "e")
    known = encode_known(tokenizer, 40, "the state ", None, "_")
    assert (
        filled(tokenizer, "the state _", np.append(known[known >= 0], -1)).strip() == "the state e"
    )


def test_a_space_that_no_token_is_is_said(tokenizers, capsys):
    tokenizer = tokenizers["wordpiece"]
    for prompt, template in (("the state ", None), ("", "the _ of")):
        encode_known(tokenizer, 40, prompt, template, "_")
        error = capsys.readouterr().err
        assert error.startswith("note: --") and error.count("\n") == 1
    encode_known(tokenizer, 40, "the state", None, "_")
    assert capsys.readouterr().err == ""


def test_a_prompt_is_tokenized_as_text_that_ends(tokenizers):
    for name, tokenizer in tokenizers.items():
        (whole,) = tokenizer.encode(["the state of"], "here")
        known = encode_known(tokenizer, 40, "the state of", None, "_")
        np.testing.assert_array_equal(known[known >= 0], whole, err_msg=name)
        assert (encode_known(tokenizer, 40, "", None, "_") < 0).all()


def test_a_vocabulary_without_letters_has_its_words_stand_in(tmp_path):
    tokenizer = wordpiece(tmp_path, "")
    named = lambda template: [  # noqa: E731
        "_" if n < 0 else tokenizer.name(int(n))
        for n in encode_known(tokenizer, 6, "", template, "_")
    ]
    assert named("the stat_ing of") == ["the", "stat", "_", "##ing", "of", "_"]
    assert named("the _ of") == ["the", "_", "of", "_", "_", "_"]
    with pytest.raises(UserError, match="no tokens for 'stat' and 'union' next to a blank"):
        encode_known(tokenizer, 6, "", "stat_union", "_")


def test_text_that_the_vocabulary_lacks_is_named(tokenizers):
    for name in ("wordpiece", "sentencepiece"):
        tokenizer = tokenizers[name]
        for prompt, template in (("the ☃", None), ("", "the ☃_ of"), ("", "_ ☃")):
            with pytest.raises(UserError, match=r"the vocabulary has no token for '.*☃'"):
                encode_known(tokenizer, 40, prompt, template, "_")
        for call in (lambda t: encode(t, "☃", "--require"), lambda t: banned(t, "☃")):
            with pytest.raises(UserError, match="no token for '☃'"):
                call(tokenizer)


@pytest.mark.parametrize("name", MAKERS)
def test_required_text_is_in_whatever_it_is_put_into(name, tokenizers):
    tokenizer = tokenizers[name]
    around = list(encode(tokenizer, "of", "--prompt"))
    for text in ("union", " union", "the union of", "ing"):
        tokens = encode(tokenizer, text, "--require")
        assert text in tokenizer.decode(np.array([*around, *tokens, *around]))
    if name == "wordpiece":
        with pytest.raises(UserError, match="ends in a space"):
            encode(tokenizer, "union ", "--require")
    else:
        tokens = encode(tokenizer, "union ", "--require")
        assert "union " in tokenizer.decode(np.array([*tokens, *tokens]))


def names(tokenizer, text):
    return {tokenizer.name(number) for number in banned(tokenizer, text)}


def test_banned_text_is_banned_with_and_without_a_space_before_it(tokenizers, capsys):
    assert names(tokenizers["byte-level"], "the") == {"the", "Ġthe"}
    assert names(tokenizers["byte-level"], " the") == {"Ġthe"}
    assert names(tokenizers["wordpiece"], "ing") == {"i", "##n", "##g", "##ing"}
    assert names(tokenizers["metaspace"], "the") >= {"▁the"}
    assert "'▁the'" in capsys.readouterr().err
    assert banned(Letters27(), "cab") == (1, 2, 3)
    with pytest.raises(UserError, match="no token of the vocabulary is this text"):
        banned(tokenizers["wordpiece"], " ")
