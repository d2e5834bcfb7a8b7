"""Compression by a model: lossless, as long as the model's code length, and rejected where it would not
be decoded to the same."""

import math
import random
import shutil

import jax
import numpy as np
import pytest
from conftest import SMALL

from diffusion.any_order import AnyOrder
from experiments import cli
from experiments.compression import archive, coding
from experiments.compression import text as compressing
from experiments.compression.archive import Header, pack, unpack
from experiments.compression.coding import decode, encode, make_distributions
from experiments.errors import UserError
from experiments.run import load_run

TEXT = "the state of the union is what the people of the states have made of it and no other "
LENGTH = 24


def train(config, workdir, *settings):
    sets = [word for s in [*SMALL, f"data.length={LENGTH}", *settings] for word in ("--set", s)]
    where = ["--config", f"configs/sotu/{config}.py", "--workdir", str(workdir)]
    assert cli.guarded("train", [*where, *sets]) == 0
    return str(workdir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    learned = [
        "train.num_steps=30",
        "train.eval_every=30",
        "train.checkpoint_every=30",
        "optimizer.schedule.peak_lr=0.03",
        "train.ema_decay=0.0",
    ]
    new = ["train.num_steps=0"]
    return {
        "mdlm": train("mdlm", root / "mdlm", "model.time_conditioning=True", *learned),
        "autoregressive": train("autoregressive", root / "autoregressive", *learned),
        "bytes": train("mdlm", root / "bytes", "data.tokenizer=Bytes", *new),
        "udlm": train("udlm", root / "udlm", *new),
    }


@pytest.fixture
def command(runs, capsys):
    def run(name, which, path, *options, code=0):
        capsys.readouterr()
        assert cli.guarded(name, ["--workdir", runs[which], str(path), *options]) == code
        out, err = capsys.readouterr()
        if code:
            assert err.startswith("error: ") and err.count("\n") == 1
        return err if code else out

    return run


def quiet(done, total):
    pass


# One token, whole batches of whole sequences, and a last batch and a last sequence that are short.
@pytest.mark.parametrize(
    "which, options, size",
    [
        ("mdlm", [], 1),
        ("mdlm", ["--group", "5", "--batch-size", "7", "--seed", "3"], 7 * LENGTH),
        ("mdlm", ["--group", "5", "--batch-size", "7", "--seed", "3"], 20 * LENGTH + 5),
        ("mdlm", ["--group", str(LENGTH)], 20 * LENGTH + 5),
        ("autoregressive", [], 1),
        ("autoregressive", [], 20 * LENGTH + 5),
        ("autoregressive", ["--batch-size", "2"], 8 * LENGTH),
    ],
)
def test_text_comes_back_byte_for_byte(which, options, size, command, tmp_path):
    path, packed = tmp_path / "text", tmp_path / "text.ddlm"
    path.write_text((TEXT * 6)[:size])
    command("compress", which, path, *options)
    path.unlink()
    command("decompress", which, packed)
    assert path.read_text() == (TEXT * 6)[:size]


def test_any_bytes_come_back(command, tmp_path):
    path = tmp_path / "noise"
    path.write_bytes(random.Random(0).randbytes(400) + b"\r\n\xff\x00")
    command("compress", "bytes", path, "--group", "3")
    command("decompress", "bytes", f"{path}.ddlm", "--out", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("which, group", [("mdlm", 1), ("mdlm", 6), ("autoregressive", 1)])
def test_the_file_is_as_long_as_the_model_promises(which, group, runs, command, tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT * 100)
    out = command("compress", which, path, "--group", str(group)).splitlines()
    rows = [line for line in out if line.startswith("  ")]  # progress may be told before
    sizes = [float(row.split(" bytes")[0].split()[-1].replace(",", "")) for row in rows]
    promised, coded, whole = sizes[:3]
    assert promised < len(TEXT) * 300 * math.log2(27) / 8
    assert abs(coded - promised) < 0.01 * promised and whole > coded
    assert whole == (tmp_path / "text.ddlm").stat().st_size
    assert len(sizes) == 6 and all("bits per character" in line for line in rows)


def test_one_batch_of_sequences_says_how_far_it_is_in_between(runs):
    tokens, said = np.zeros(4 * LENGTH, np.int64), []
    encode(
        make_distributions(load_run(runs["mdlm"]), 4, LENGTH // 4, 0),
        tokens,
        lambda *n: said.append(n),
    )
    assert said == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_autoregressive_code_has_the_length_of_the_exact_likelihood(runs):
    run = load_run(runs["autoregressive"])
    tokens = np.random.default_rng(0).integers(0, 27, 30 * LENGTH)
    _, bits = encode(make_distributions(run, 8, 1, 0), tokens, quiet)
    network = run.experiment.network(run.params)
    nats = run.experiment.process.bound(None, network, tokens.reshape(30, LENGTH), None).sum()
    np.testing.assert_allclose(bits, nats / math.log(2), rtol=1e-5)


@pytest.mark.parametrize("group", [1, 5])
def test_a_masked_code_has_the_any_order_length_in_the_mean(group, runs):
    run = load_run(runs["mdlm"])
    x0 = np.random.default_rng(0).integers(0, 27, (16, LENGTH))
    distributions, seeds = make_distributions(run, 16, group, 0), []
    for distributions.seed in range(8):  # compiled once
        seeds.append(encode(distributions, x0.ravel(), quiet)[1])
    network = run.experiment.network(run.params)
    groups = -(-LENGTH // group)

    @jax.jit
    def nats(key):  # one number of known tokens after another
        u = (np.arange(groups) + 0.5) / groups
        terms = jax.lax.map(
            lambda at: AnyOrder(run.experiment.process, group).bound_terms(
                jax.random.fold_in(key, (at * groups).astype(int)), network, x0,
                jax.numpy.full((16, 1), at),
            )["any order"].sum(), u,
        )  # fmt: skip
        return terms.mean()

    bound = [nats(jax.random.key(s)) / math.log(2) for s in range(10)]
    error = math.hypot(np.std(seeds) / 8**0.5, np.std(bound) / 10**0.5)
    assert abs(np.mean(seeds) - np.mean(bound)) < 5 * error
    assert error < 0.005 * np.mean(bound)


def test_what_a_distribution_rules_out_is_coded_all_the_same(runs):
    class Sure:
        length, rows, calls = 4, 1, 4

        def begin(self, first):
            pass

        def positions(self, number):
            return np.full((1, 1), number)

        def distribution(self, number):
            return np.eye(3, dtype=np.float32)[None, None, 0]

        def tell(self, number, tokens, real):
            pass

    tokens = np.array([0, 1, 2, 0, 0, 0, 2])
    words, bits = encode(Sure(), tokens, quiet)
    np.testing.assert_array_equal(decode(Sure(), words, len(tokens), quiet), tokens)
    assert abs(bits - 3 * 24) < 1e-9


@pytest.fixture(scope="module")
def packed_once(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "text"
    path.write_text(TEXT)
    given = ["--workdir", runs["mdlm"], str(path), "--group", "8"]
    assert cli.guarded("compress", given) == 0
    return path.parent


@pytest.fixture
def packed(packed_once, tmp_path):
    shutil.copytree(packed_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "text.ddlm"


def test_another_checkpoint_is_rejected(packed, command):
    out = packed.with_name("out")
    err = command("decompress", "autoregressive", packed, "--out", str(out), code=2)
    assert "another checkpoint" in err and not out.exists()
    assert "/30: not there" in command("decompress", "bytes", packed, "--out", str(out), code=2)


def test_another_version_is_rejected(packed, command, monkeypatch):
    monkeypatch.setattr(archive, "version", lambda name: "0.0.9")
    err = command("decompress", "mdlm", packed, "--out", "x", code=2)
    assert "0.1.0" in err and "0.0.9" in err


def test_a_machine_with_other_arithmetic_is_told_at_once(packed, command, monkeypatch):
    monkeypatch.setattr(compressing, "first_distribution", lambda distributions: "0" * 64)
    err = command("decompress", "mdlm", packed, "--out", "x", code=2)
    assert "last digits" in err


def test_another_text_is_never_written(packed, command, monkeypatch):
    monkeypatch.setattr(
        coding, "decode", lambda distributions, words, count, progress: np.zeros(count, int)
    )
    out = packed.with_name("out")
    err = command("decompress", "mdlm", packed, "--out", str(out), code=2)
    assert "nothing was written" in err and not out.exists()


def test_words_cut_in_two_are_rejected_whatever_the_checksum_says(tmp_path):
    header = Header("1", "1", "cpu", "a", 1, 9, 1, 1, 0, "b", "c", archive.sha256(b"abc"))
    content = pack(header, np.zeros(0, np.uint32)) + b"abc"
    with pytest.raises(UserError, match="damaged"):
        unpack(content, tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b[:-3], "damaged"),
        (lambda b: b[:-8] + bytes([b[-8] ^ 1]) + b[-7:], "damaged"),
        (lambda b: b.replace(b'"rows": ', b'"rows": -'), "out of range"),
        (lambda b: b.replace(b'"seed": 0', b'"seed": -1'), "out of range"),
        (lambda b: b.replace(b'"rows": ', b'"rows": 9999'), "9999"),
        (lambda b: b.replace(b'"tokens": ', b'"tokens": 9999999999999999'), "out of range"),
        (lambda b: b.replace(b'"tokens": ', b'"tokens": 2000000000000'), "memory"),
        (lambda b: b.replace(b'"seed": 0', b'"seed": "0"'), "another type"),
        (lambda b: b.replace(b'"seed"', b'"weed"'), "other fields"),
        (lambda b: b[:60], "damaged"),
        (lambda b: b"the state of the union", "not a file"),
    ],
)
def test_a_damaged_file_is_one_line(change, message, packed, command):
    packed.write_bytes(change(packed.read_bytes()))
    assert message in command("decompress", "mdlm", packed, "--out", "x", code=2)


def test_no_content_makes_the_reader_fail(tmp_path):
    words = np.arange(5, dtype=np.uint32)
    header = Header("1", "1", "cpu", "a", 1, 9, 1, 1, 0, "b", "c", archive.sha256(words))
    whole = pack(header, words)
    assert unpack(whole, tmp_path)[0] == header
    np.testing.assert_array_equal(unpack(whole, tmp_path)[1], words)
    chance = random.Random(0)
    for _ in range(2000):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        try:
            unpack(bytes(content[: chance.randrange(len(content) + 1)]), tmp_path)
        except UserError:
            continue


@pytest.mark.parametrize(
    "which, content, options, message",
    [
        ("mdlm", b"no\nline", [], "'\\n' at offset 2"),
        ("mdlm", b"caf\xe9", [], "not UTF-8 at byte 3"),
        ("mdlm", b"", [], "empty"),
        ("mdlm", b"text", ["--group", "25"], "24 tokens"),
        ("autoregressive", b"text", ["--group", "2"], "one token per call"),
        ("udlm", b"text", [], "UDLM has no distribution"),
        ("mdlm", b"text", ["--step", "99"], "99"),
    ],
)
def test_what_cannot_be_compressed_is_one_line(which, content, options, message, command, tmp_path):
    (tmp_path / "text").write_bytes(content)
    assert message in command("compress", which, tmp_path / "text", *options, code=2)
    assert not (tmp_path / "text.ddlm").exists()


def test_files_are_not_overwritten_unasked(packed, command, tmp_path):
    other, path = tmp_path / "elsewhere", packed.with_suffix("")
    other.write_text("a text of the user's")
    for out in ([], ["--out", str(other)]):
        assert "exists; say where" in command("decompress", "mdlm", packed, *out, code=2)
        assert "exists; say where" in command("compress", "bytes", path, *out, code=2)
    assert other.read_text() == "a text of the user's"
    command("decompress", "mdlm", packed, "--out", str(other), "--force")
    assert other.read_bytes() == path.read_bytes()


def test_files_are_found_and_told_apart(packed, command):
    other = packed.rename(packed.with_name("other"))
    assert "--out" in command("decompress", "mdlm", other, code=2)
    assert "cannot be read" in command("decompress", "mdlm", packed, code=2)


def test_an_alphabet_that_normalises_does_not_when_it_compresses(runs, tmp_path):
    run = load_run(runs["mdlm"], overrides=["data.tokenizer.normalize=True"])
    with pytest.raises(UserError, match="'C' at offset 0"):
        compressing.to_tokens(run.experiment.data.tokenizer, b"Capital", tmp_path)
