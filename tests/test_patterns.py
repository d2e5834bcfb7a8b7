"""Regular expressions and JSON schemas as automata over the tokens of every kind of vocabulary."""

import dataclasses
import json
import re

import numpy as np
import pytest
from test_subwords import files  # noqa: F401
from test_templates import MAKERS, tokenizers  # noqa: F401

import ddlm
from configs.sotu.eso_lm import get_config as eso_lm
from experiments import cli
from experiments.errors import UserError
from experiments.sampling.known import encode_known
from experiments.sampling.patterns import make_pattern

WORDS = r"(the|of) ([a-z]+ )*[a-z]+"


def experiment_of(tokenizer, length=12, sampler=None, **data):
    text = ddlm.Text(tokenizer=tokenizer, length=length, **data)
    return ddlm.Experiment(
        process=ddlm.MDLM(),
        data=text,
        sampler=sampler or ddlm.Ancestral(),
        model=ddlm.Transformer(),
    )


def draws(pattern, known, rows=100):
    """Texts that the automaton accepts, each token by chance of those that may come."""
    rng, moves = np.random.default_rng(0), pattern.moves[:, pattern.classes]
    fits = pattern.viable[-1]
    followed = []  # (S, V) of each position: whether an accepted text goes on so
    for token in known[: pattern.first - 1 if pattern.first else None : -1]:
        may = (moves >= 0) & fits[moves] & ((np.arange(moves.shape[1]) == token) | (token < 0))
        followed, fits = [may, *followed], may.any(1)
    texts = []
    for _ in range(rows):
        state, text = 0, list(known[: pattern.first])
        for may in followed:
            text.append(rng.choice(np.flatnonzero(may[state])))
            state = moves[state, text[-1]]
        texts.append(np.array(text))
    return texts


@pytest.mark.parametrize("prompt", ["", "state"])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_drawn_matches_for_every_kind_of_vocabulary(name, prompt, tokenizers):
    tokenizer = tokenizers[name]
    experiment = experiment_of(tokenizer)
    known = encode_known(tokenizer, 12, prompt, None, "_")
    pattern = make_pattern(experiment, known, " " * bool(prompt) + WORDS, None)
    texts = [tokenizer.decode(x) for x in draws(pattern, known)]
    start = tokenizer.decode(known[known >= 0])
    assert all(text.startswith(start) for text in texts) and len(set(texts)) > 50
    wrong = [t for t in texts if not re.fullmatch(" " * bool(prompt) + WORDS, t[len(start) :])]
    assert wrong == []


def test_characters_of_several_bytes_and_bytes_of_characters(tokenizers):
    for tokenizer in (ddlm.Characters("aé€ "), tokenizers["bytes"]):
        experiment, known = experiment_of(tokenizer, 8), np.full(8, -1)
        pattern = make_pattern(experiment, known, "(é|€| )+", None)
        texts = [tokenizer.decode(x) for x in draws(pattern, known)]
        assert all(re.fullmatch("(é|€| )+", text) for text in texts)


def test_after_its_end_a_text_goes_on_with_that_token(files):
    tokenizer = ddlm.Subwords(str(files["bert"])).read()
    experiment = experiment_of(tokenizer, 10, end="[SEP]")
    of_bytes = experiment_of(ddlm.Bytes(), 6, end="|", rows="pair", path="pairs.jsonl")
    letters = make_pattern(of_bytes, np.full(6, -1), "a+", None)
    assert {bytes(x.tolist()) for x in draws(letters, np.full(6, -1))} == {
        b"a" * n + b"|" * (6 - n) for n in range(1, 7)
    }
    known = np.full(10, -1)
    pattern = make_pattern(experiment, known, "the (state|union)( of)?", None)
    for x in draws(pattern, known):
        text, _, rest = tokenizer.decode(x).partition(" [SEP]")
        assert re.fullmatch("the (state|union)( of)?", text) and set(rest.split()) == {"[SEP]"}


def test_a_json_schema_gives_json():
    tokenizer = ddlm.Characters('{}[]":, \nabcdefghijklmnopqrstuvwxyz0123456789-.')
    schema = {
        "type": "object",
        "properties": {"year": {"type": "integer"}, "kind": {"enum": ["war", "peace"]}},
        "required": ["year", "kind"],
    }
    experiment, known = experiment_of(tokenizer, 40), np.full(40, -1)
    pattern = make_pattern(experiment, known, None, json.dumps(schema))
    np.testing.assert_array_equal(
        make_pattern(experiment, known, None, schema).moves, pattern.moves
    )
    for x in draws(pattern, known):
        value = json.loads(tokenizer.decode(x))
        assert value["kind"] in ("war", "peace") and isinstance(value["year"], int)


@pytest.mark.parametrize(
    "change, regex, schema, says",
    [
        ({}, "a(b", None, r"--regex: 'a\(b' is no pattern"),
        ({}, "abc", None, "no text of 12 tokens matches it"),
        ({}, "[A-Z]+", None, "the tokens that may be drawn spell no text"),
        ({}, None, '{"type": "object"}', "the tokens that may be drawn spell no text"),
        ({}, None, "[", "--json-schema: is no JSON schema"),
        ({}, "a", "{}", "cannot be combined"),
        ({"sampler": ddlm.ReMDM()}, "a.*", None, "sampler ReMDM does not draw"),
        ({"sampler": ddlm.SlidingWindow()}, "a.*", None, "sampler SlidingWindow does not draw"),
        ({"process": eso_lm().process}, "a.*", None, "EsoLM does not draw the tokens"),
    ],
)
def test_what_cannot_be_matched_is_one_line(change, regex, schema, says, tokenizers):
    experiment = eso_lm() if "process" in change else experiment_of(tokenizers["letters"])
    experiment = dataclasses.replace(experiment, **change)
    with pytest.raises(UserError, match=says) as caught:
        make_pattern(experiment, np.full(12, -1), regex, schema)
    assert "\n" not in str(caught.value)


def test_several_prompts_have_no_pattern(tokenizers):
    with pytest.raises(UserError, match="--regex: goes with one prompt for all samples"):
        make_pattern(experiment_of(tokenizers["letters"]), np.full((2, 12), -1), "a.*", None)


def test_banned_tokens_are_no_part_of_a_match(tokenizers):
    sampler = ddlm.Ancestral(logits_processor=ddlm.LogitsProcessor(banned=(1,)))
    experiment = experiment_of(tokenizers["letters"], sampler=sampler)
    with pytest.raises(UserError, match="the tokens that may be drawn spell no text"):
        make_pattern(experiment, np.full(12, -1), "a.*", None)
    pattern = make_pattern(experiment, np.full(12, -1), "[abc]*", None)
    assert {t for x in draws(pattern, np.full(12, -1)) for t in x} == {2, 3}


def test_a_schema_that_cannot_be_read_is_one_line(tmp_path, capsys):
    words = ["--workdir", str(tmp_path), "--json-schema", str(tmp_path / "none.json")]
    assert cli.guarded("sample", words) == 2
    assert "none.json: cannot be read" in capsys.readouterr().err
