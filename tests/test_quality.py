"""Sample quality: the scorers, the record, and the command with every mistake."""

import dataclasses
import json
import random
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_methods import train

import ddlm
from configs import smoke
from experiments import cli
from experiments.data.corpus import Corpus
from experiments.data.text import prepare
from experiments.data.tokenizers import LETTERS, Characters
from experiments.evaluation.ngram import ngram_nats
from experiments.run import load_run
from experiments.sample_metrics import sample_quality
from experiments.sample_metrics.record import real_texts
from experiments.sample_metrics.scorers import RunScorer, load_scorer
from samplers.ancestral import Ancestral
from samplers.first_hitting import FirstHitting
from samplers.sliding_window import SlidingWindow
from samplers.unmask import Unmask

LENGTH = 16


def test_numbers_of_steps_are_for_samplers_that_leave_theirs_open():
    experiment = smoke.get_config()
    for sampler, stepped in [
        (Ancestral(), True),
        (Unmask(), True),
        (FirstHitting(steps=4), True),
        (FirstHitting(), False),
        (SlidingWindow(), True),
        (SlidingWindow(FirstHitting()), False),
    ]:
        changed = dataclasses.replace(experiment, sampler=sampler)
        assert sample_quality._stepped(changed, type(sampler).__name__) == stepped
    assert not sample_quality._stepped(experiment, "Ancestral steps=4")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An autoregressive run, a masked one, and samples of the first."""
    root = tmp_path_factory.mktemp("quality")
    words = random.Random(0).choices(["the", "state", "of", "union", "people"], k=600)
    (root / "text.txt").write_text(" ".join(words))
    for name in ("mdlm", "autoregressive"):
        assert train(name, root / name, root / "text.txt") == 0
    out = root / "s.jsonl"
    drawn = ["--workdir", str(root / "autoregressive")]
    drawn += ["--num", "20", "--seed", "3", "--top-p", "0.9"]
    assert cli.guarded("sample", [*drawn, "--out", str(out)]) == 0
    return root


def quality(files, samples, *options, scorer="autoregressive"):
    scorer = [] if "--scorer" in options else ["--scorer", str(files / scorer)]
    return cli.guarded("quality", ["--samples", str(samples), *scorer, *options])


def write(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_scores_are_those_of_each_piece_alone(files):
    run = load_run(str(files / "autoregressive"))
    texts = ["the state", "the union and the people ", "the people of th"]
    scorer = RunScorer(run, "")
    result = scorer.score(texts)
    process, network = run.experiment.process, run.experiment.network(run.params)

    log_p = jax.jit(lambda tokens: process.log_p(network, tokens))

    def nats(text):
        return -float(log_p(np.array([[LETTERS.index(c) for c in text]])).sum())

    expected = [nats(texts[0]), nats(texts[1][:LENGTH]) + nats(texts[1][LENGTH:]), nats(texts[2])]
    np.testing.assert_allclose(result.nats[:, 0], expected, rtol=1e-5)
    assert result.tokens.tolist() == [9, 25, 16] and result.characters == 50
    alone = scorer.features(texts[:1])
    np.testing.assert_allclose(scorer.features(texts)[0], alone[0], rtol=1e-4, atol=1e-5)


def test_record_and_table_hold_samples_beside_real_text(files, tmp_path, capsys):
    assert quality(files, files / "s.jsonl", "--out", str(tmp_path / "q.json")) == 0
    record, printed = json.loads((tmp_path / "q.json").read_text()), capsys.readouterr().out
    assert (record["num"], record["seed"], record["checkpoint_step"]) == (20, 3, 2)
    assert (record["precision"], record["process"]) == ("float32", "Autoregressive")
    assert record["sampler"]["_type"].endswith("LeftToRight")
    assert record["checkpoint_fingerprint"] == record["scorer"]["checkpoint_fingerprint"]
    ours, real = record["rows"]["samples"], record["rows"]["real text"]
    assert ours["network_calls"] == LENGTH and "network_calls" not in real
    assert ours["characters"] == real["characters"] == 20 * LENGTH
    assert real["words_in_training_text"] == 1 > ours["words_in_training_text"]
    assert real["longest_match_characters"] > ours["longest_match_characters"] > 0
    for row in (ours, real):
        bits, error = (row[f"scorer_bits_per_character{k}"] for k in ("", "_standard_error"))
        perplexity = row["scorer_perplexity_per_token"]
        assert f"{bits:.3f} +- {error:.3f}" in printed and f"{perplexity:.3f} +- " in printed
        assert perplexity == pytest.approx(2**bits)  # a token is a character
    assert "LeftToRight, top_p 0.9, seed 3, float32, checkpoint 2" in printed


def test_quality_from_python_is_that_of_the_command(files, tmp_path):
    assert quality(files, files / "s.jsonl", "--out", str(tmp_path / "q.json")) == 0
    rows = json.loads((tmp_path / "q.json").read_text())["rows"]
    del rows["samples"]["network_calls"]
    texts = [json.loads(line)["text"] for line in (files / "s.jsonl").read_text().splitlines()]
    scorer, run = (ddlm.load(files / name) for name in ("autoregressive", "mdlm"))
    assert run.quality({"samples": texts}, scorer) == rows
    with pytest.raises(ddlm.UserError, match="must be an autoregressive run"):
        run.quality({"samples": texts}, run)
    for wrong in ({}, {"samples": []}, {"real text": texts}):
        with pytest.raises(ddlm.UserError, match="at least one text in each group, and no group"):
            run.quality(wrong)


def test_without_a_scorer_trigrams_of_the_training_text_are_counted(files):
    run = ddlm.load(files / "mdlm")
    texts = ["the state of the", "people of union"]
    found = run.quality({"ours": texts, "noise": ["xqzjv", "u"]})
    corpus = prepare(run.experiment.data)
    bits = [
        -float(np.log2(np.exp(-ngram_nats(corpus.split("train", 1), tokens, 99, 3, 27))).sum())
        for tokens in (np.array([LETTERS.index(c) for c in text]) for text in texts)
    ]
    assert found["ours"]["scorer_bits_per_character"] == pytest.approx(sum(bits) / 31)
    assert found["noise"]["scorer_bits_per_character"] > 5 > found["ours"]["entropy_1gram_bits"]
    assert list(found) == ["ours", "noise", "real text"]


def test_copies_of_the_training_text_are_found(files, tmp_path):
    whole = (files / "text.txt").read_text()
    samples, other = (
        write(tmp_path / "c.jsonl", whole[100:140], whole[7:57]),
        tmp_path / "other.txt",
    )

    def measured(*options):
        assert quality(files, samples, *options) == 0
        return json.loads((tmp_path / "c.quality.json").read_text())  # beside the samples

    record = measured("--ngram", "3")
    ours = record["rows"]["samples"]
    assert ours["longest_match_characters"] == 50 and ours["mean_longest_match_characters"] == 45
    assert ours["ngram_novelty"] == 0 and ours["network_calls"] is None
    assert record["seed"] is record["precision"] is None
    other.write_text("another text")
    record = measured("--train", str(other))
    assert record["rows"]["samples"]["ngram_novelty"] == 1
    assert record["training_text"]["characters"] == len("another text")
    other.write_text("of the " * 200)
    record = measured("--text", str(other))
    assert record["reference"]["source"] == "other.txt"
    assert [row["ngram_novelty"] for row in record["rows"].values()] == [1, 0]


def test_one_short_sample_leaves_out_what_is_undefined(files, tmp_path, capsys):
    assert quality(files, write(tmp_path / "s.jsonl", "of")) == 0
    ours = json.loads((tmp_path / "s.quality.json").read_text())["rows"]["samples"]
    undefined = ["entropy_3gram_bits", "distinct_1", "ngram_novelty"]
    undefined += [
        f"scorer_{k}_standard_error" for k in ("bits_per_character", "perplexity_per_token")
    ]
    assert [ours[name] for name in undefined] == [None] * 5
    assert f" {ours['scorer_bits_per_character']:.3f} " in capsys.readouterr().out


def test_real_texts_are_as_long_and_spread_over_the_split():
    tokens = np.arange(100) % 27
    corpus = Corpus(tokens, Characters(LETTERS), {"validation": (0, 100)}, {}, "text")
    found = real_texts(corpus, "validation", ["xxx", "x", "xxxxx"])
    whole = "".join(LETTERS[v] for v in tokens)
    assert found == [whole[:3], whole[48:49], whole[95:]]


def test_mauve_is_given_a_point_for_each_text(files, tmp_path, monkeypatch):
    asked = []

    def compute_mauve(p_features, q_features, verbose):
        asked.append((p_features, q_features))
        return SimpleNamespace(mauve=len(asked) / 4)

    monkeypatch.setitem(sys.modules, "mauve", SimpleNamespace(compute_mauve=compute_mauve))
    out = tmp_path / "q.json"
    assert quality(files, files / "s.jsonl", "--mauve", "--out", str(out)) == 0
    rows = json.loads(out.read_text())["rows"]
    assert rows["samples"]["mauve"] == 0.25 and rows["real text"]["mauve"] == 0.5
    (real, ours), (same, other) = asked
    assert {p.shape for p in (real, ours, same, other)} == {(20, 16)}
    np.testing.assert_array_equal(real, same)
    assert not np.allclose(real, ours) and not np.allclose(real, other)


@pytest.mark.parametrize(
    "content, options, words",
    [
        (None, [], "cannot be read (No such file"),
        ("", [], "holds no samples"),
        ('{"text": "a"}\n\n{"text', [], "s.jsonl:3: not a line of JSON"),
        ('{"text": "a"}\n["a"]', [], 's.jsonl:2: has no "text"'),
        ('{"text": 3}', [], 's.jsonl:1: has no "text"'),
        ('{"text": ""}', [], "s.jsonl:1: its text is empty"),
        (
            '{"text": "a"}\n{"text": "aB"}',
            [],
            "s.jsonl:2: character 'B' at offset 1 is outside the 27",
        ),
        ('{"text": "a"}', ["--scorer", "{files}/mdlm"], "holds process MDLM, but a scorer must be"),
        ('{"text": "a"}', ["--scorer", "{files}"], "neither the directory of a run nor the folder"),
        (
            '{"text": "a"}',
            ["--scorer", "{files}/pickled"],
            "weights in pickle files are unsupported",
        ),
        ('{"text": "a"}', ["--scorer", "{files}/folder"], 'pip install -e ".[transformers]"'),
        ('{"text": "a"}', ["--train", "nowhere"], "--train nowhere does not exist"),
        ('{"text": "a"}', ["--train", "README.md"], "--train: README.md: character"),
        ('{"text": "' + 999 * "a" + '"}', [], "the longest sample 999 characters"),
        ('{"text": "a"}', ["--mauve"], "--mauve: 1 samples are fewer than 20"),
        (20 * '{"text": "a"}\n', ["--mauve"], 'pip install -e ".[mauve]"'),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(
    content, options, words, files, tmp_path, monkeypatch, capsys
):
    for name, weights in (("pickled", "pytorch_model.bin"), ("folder", "model.safetensors")):
        (files / name).mkdir(exist_ok=True)
        (files / name / "config.json").write_text("{}")
        (files / name / weights).write_bytes(b"")
    for package in ("mauve", "transformers", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    if content is not None:
        (tmp_path / "s.jsonl").write_text(content)
    assert quality(files, tmp_path / "s.jsonl", *(o.format(files=files) for o in options)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error, error
    assert not (tmp_path / "s.quality.json").exists()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models of letters in the format of the transformers library, by name."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    root = tmp_path_factory.mktemp("folders")
    vocabulary = {c: i for i, c in enumerate([*LETTERS, "<s>", "<unk>"])}
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    every = tokenizers.Regex(".")
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Split(every, "isolated")
    torch.manual_seed(0)
    sizes = {"vocab_size": 29, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12}
    for name, special in (("bos", {"bos_token": "<s>"}), ("plain", {})):
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**sizes, initializer_range=1.0)
        )
        model.save_pretrained(root / name)
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=letters, unk_token="<unk>", **special
        )
        tokenizer.save_pretrained(root / name)
    config = transformers.BertConfig(
        vocab_size=29,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertLMHeadModel(config).save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    return root


@pytest.mark.parametrize("name, room", [("bos", 11), ("plain", 12)])
def test_a_folder_scores_each_piece_as_its_model_does(folders, name, room):
    import torch

    scorer = load_scorer(str(folders / name))
    texts = ["the state", "the union and the people of th"]
    start, nats, tokens = [27] if name == "bos" else [], [0.0, 0.0], [0, 0]
    for i, text in enumerate(texts):
        for k in range(0, len(text), room):
            z = torch.tensor([start + [LETTERS.index(c) for c in text[k : k + room]]])
            nats[i] += float(scorer.model(z, labels=z).loss) * (z.shape[1] - 1)  # a mean
            tokens[i] += z.shape[1] - 1
    result = scorer.score(texts)
    np.testing.assert_allclose(result.nats[:, 0], nats, rtol=1e-5)
    assert result.tokens.tolist() == tokens and result.characters == sum(tokens)
    z = torch.tensor([start + [LETTERS.index(c) for c in texts[0]]])
    last = scorer.model(z, output_hidden_states=True).hidden_states[-1][0, -1]
    np.testing.assert_allclose(scorer.features(texts)[0], last.detach(), rtol=1e-4, atol=1e-5)


def test_a_folder_is_a_scorer_of_the_command(files, folders, tmp_path, capsys):
    scorer = ["--scorer", str(folders / "bos")]
    ours = ["--workdir", str(files / "mdlm"), "--out", str(tmp_path / "q.json")]
    assert quality(files, files / "s.jsonl", *scorer, *ours) == 0
    assert json.loads((tmp_path / "q.json").read_text())["scorer"]["kind"] == "transformers gpt2"
    capsys.readouterr()
    outside = write(tmp_path / "s.jsonl", "aB")
    for words, samples, options in (
        ("is not a ddlm run", files / "s.jsonl", scorer),
        ("s.jsonl:1: not all of its text is in the alphabet", outside, scorer),
        ("(bert) is not autoregressive", outside, ["--scorer", str(folders / "bert")]),
    ):
        assert quality(files, samples, *options) == 2
        error = capsys.readouterr().err
        assert words in error and error.startswith("error: ") and error.count("\n") == 1
