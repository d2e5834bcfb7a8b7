"""Labels of sequences: from folders and periods through training, evaluation and comparison."""

import json
import lzma
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.smoke import get_config
from experiments import cli
from experiments.data import text as text_module
from experiments.data.pipeline import evaluation_batches, training_batches
from experiments.data.text import Text, prepare
from experiments.errors import UserError
from experiments.evaluation.bound import sequences, spread
from experiments.labels import label_number
from experiments.overrides import override, resolve
from experiments.run import load_run
from experiments.training.checkpoints import Checkpoints
from models.backbone import Network
from models.transformer import Transformer

ROOT = Path(__file__).parent.parent
SMOKE = str(ROOT / "configs" / "smoke.py")
LETTERS = {"ab": "rome", "cd": "athens"}  # of the folder's text; 1 bit a letter once it is known


def write(root, files):
    """The root, with files (path: content) below it."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A directory where each letter tells its folder: three labels, of which one has two files."""
    files = {
        "a/1.txt": "a" * 500,
        "b/deep/2.txt": "b" * 333,
        "b/3.txt": "b" * 450,
        "c/4": "c" * 717,
    }
    return write(tmp_path_factory.mktemp("told"), files)


def of_folders(root, tmp_path, **settings):
    return Text(
        str(root), length=12, labels="folder", cache_dir=str(tmp_path / "cache"), **settings
    )


def test_each_split_has_its_share_of_each_label(told, tmp_path):
    corpus = prepare(of_folders(told, tmp_path))
    whole = corpus.tokenizer.decode(np.asarray(corpus.tokens))
    assert sorted(whole) == sorted("a" * 500 + "b" * 783 + " " * 3 + "c" * 717)
    for name, share in [("train", 0.9), ("validation", 0.05), ("test", 0.05)]:
        letters = corpus.tokenizer.decode(corpus.split(name, 12))
        for letter, size in [("a", 500), ("b", 783), ("c", 717)]:
            assert abs(letters.count(letter) - share * size) < 3
    assert len(corpus.labels.starts) == 9  # runs, however many files
    declared = prepare(of_folders(told, tmp_path, split_points=(1000, 1500, 2003)))
    text = declared.tokenizer.decode(np.asarray(declared.tokens))
    assert text == "a" * 500 + " " + "b" * 450 + " " + "b" * 333 + " " + "c" * 717
    assert declared.label_names == ("a", "b", "c") and declared.bounds["test"] == (1500, 2003)


def agree(names, rows, labels):
    """How many of the rows' middle tokens are letters; each must be its label."""
    letters = ["abc"[t - 1] if t else None for t in rows[:, rows.shape[1] // 2]]
    pairs = [(letter, names[n]) for letter, n in zip(letters, labels, strict=True) if letter]
    assert all(a == b for a, b in pairs)
    return len(pairs)


def test_labels_of_crops_are_those_of_their_middle_tokens(told, tmp_path):
    corpus = prepare(of_folders(told, tmp_path))
    tokens, labels = corpus.split("train", 12), corpus.split_labels("train")
    take = lambda **o: [  # noqa: E731
        (rows, given["label"])
        for (rows, given), _ in zip(
            training_batches(tokens, 12, 8, 1, labels=labels, **o), range(40), strict=False
        )
    ]
    straight = take()
    assert sum(agree(corpus.label_names, *batch) for batch in straight) > 300
    assert len({n for _, ids in straight for n in ids}) == 3
    mixed = [rows for rows, _ in straight if any(len(set(row)) > 1 for row in rows)]
    assert mixed  # crops that two labels share
    halves = [take(local_rows=range(4 * p, 4 * p + 4)) for p in range(2)]
    for (rows, ids), *parts in zip(straight, *halves, strict=True):
        np.testing.assert_array_equal(rows, np.concatenate([part[0] for part in parts]))
        np.testing.assert_array_equal(ids, np.concatenate([part[1] for part in parts]))
    later = next(training_batches(tokens, 12, 8, 1, labels=labels, start=30))
    np.testing.assert_array_equal(later[1]["label"], straight[30][1])
    plain = next(training_batches(tokens, 12, 8, 1))
    np.testing.assert_array_equal(plain[0], straight[0][0])
    assert plain[1] == {}


@pytest.mark.parametrize("split, most", [("train", None), ("train", 50), ("test", None)])
def test_labels_of_evaluated_rows_are_theirs(told, tmp_path, split, most):
    data = of_folders(told, tmp_path)
    experiment = override(get_config(), ["model.time_conditioning=True"])
    experiment = resolve(
        override(experiment, [f"data.path={told}", "data.labels=folder", "data.length=12"]),
        data.tokenizer,
        label_names=("a", "b", "c"),
    )
    assert experiment.model.num_labels == 3
    corpus = prepare(data)
    tokens, labels = sequences(experiment, corpus, split, most)
    np.testing.assert_array_equal(tokens, spread(corpus.split(split, 12), 12, most or 10**9))
    right = count = 0
    for rows, given, n in evaluation_batches(tokens, 12, 7, labels):
        ids = given["label"]
        assert len(ids) == len(rows) == 7
        right += agree(corpus.label_names, rows[:n], ids[:n])
        count += n
    assert count == len(labels) == -(-len(tokens) // 12) and right > count - 4
    without = override(experiment, ["evaluation.labels=False"])
    assert sequences(without, corpus, split, most)[1] is None


def test_named_splits_are_kept_and_their_folders_are_labels(tmp_path):
    files = {
        f"{x}/{s}.txt": x * n for x in "ab" for s, n in [("train", 90), ("valid", 20), ("test", 30)]
    }
    corpus = prepare(of_folders(write(tmp_path / "d", files), tmp_path))
    assert corpus.bounds == {"train": (0, 181), "validation": (181, 222), "test": (222, 283)}
    names = [corpus.label_names[n] for n in corpus.split_labels("test").of(np.arange(61), 1)]
    assert names == ["a"] * 30 + ["b"] * 31


def test_periods_of_addresses_are_their_quarters_and_change_no_token():
    corpus, plain = prepare(Text(labels="period")), prepare(Text())
    assert corpus.sha256 == plain.sha256 and corpus.bounds == plain.bounds and plain.labels is None
    path = Path(text_module.__file__).parent / "corpora" / "sotu27.txt.xz"
    addresses = lzma.decompress(path.read_bytes()).decode().splitlines()
    held_out = {"validation": 9, "test": 19}
    for split in ("train", "validation", "test"):
        labels, at = corpus.split_labels(split), 0
        for number, address in enumerate(addresses):
            here = number % 20 == held_out.get(split, -1)
            if split == "train":
                here = number % 20 not in (9, 19)
            if here:
                quarter = [58.25, 116.5, 174.75, 233].index(
                    min(q for q in (58.25, 116.5, 174.75, 233) if number < q)
                )
                inside = np.array([at, at + len(address) // 2, at + len(address) - 1])
                np.testing.assert_array_equal(labels.of(inside, 1), quarter)
                at += len(address) + 1
        assert at - 1 == corpus.bounds[split][1] - corpus.bounds[split][0]


def test_labels_come_from_the_cache_and_broken_ones_are_made_again(told, tmp_path):
    data = of_folders(told, tmp_path)
    first = prepare(data)
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "labels.npy").stat().st_mtime_ns
    again = prepare(data)
    assert (folder / "labels.npy").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.labels.starts, first.labels.starts)
    for broken in (b"", b"cut"):
        (folder / "labels.npy").write_bytes(broken)
        np.testing.assert_array_equal(prepare(data).labels.ids, first.labels.ids)
    plain = prepare(Text(str(told), length=12, cache_dir=data.cache_dir))
    assert plain.labels is None and len(list((tmp_path / "cache").iterdir())) == 2


def test_numbers_follow_the_names_of_the_run(told, tmp_path):
    corpus = prepare(of_folders(told, tmp_path, label_names=("c", "x", "b", "a")))
    rows, given = next(training_batches(corpus.split("train", 12), 12, 64, 0, labels=corpus.labels))
    ids = given["label"]
    assert agree(("c", "x", "b", "a"), rows, ids) > 50 and set(ids) == {0, 2, 3}
    with pytest.raises(UserError, match=r"label 'c' is not in data\.label_names = a, b"):
        prepare(of_folders(told, tmp_path, label_names=("a", "b")))


def test_a_label_reaches_what_is_decoded_with_a_cache():
    model = Transformer(
        vocab_size=5, num_layers=2, width=16, num_heads=2, time_conditioning=True, num_labels=3,
        condition_width=8, block_length=1,
    )  # fmt: skip
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(7), x.shape),
        model.init(jax.random.key(0)),
    )
    x, t = jnp.array([[0, 1, 2, 3], [4, 4, 0, 2]]), jnp.zeros((2, 1))
    for label in (None, jnp.array([0, 2])):
        network = Network(model, params, {} if label is None else {"label": label})
        cache, outputs = network.cache(2, 4), []
        for i in range(4):
            out, cache = network.decode(x[:, i : i + 1], t, cache, i)
            outputs.append(out)
        np.testing.assert_allclose(jnp.concatenate(outputs, 1), network(x, t), atol=1e-5)


# The commands


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A directory of two labels with letters of their own, in random order."""
    rng = random.Random(0)
    files = {f"{n}/1.txt": "".join(rng.choices(s, k=20_000)) for s, n in LETTERS.items()}
    return write(tmp_path_factory.mktemp("letters"), files)


def command(name, *arguments, **settings):
    words = [str(a) for a in arguments]
    words += [w for path, value in settings.items() for w in ("--set", f"{path}={value}")]
    return cli.guarded(name, words)


def sets(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def settings_of(letters):
    return sets(
        f"data.path={letters}", "data.labels=folder", "data.length=4", "model.time_conditioning=True",
        "model.num_layers=1", "model.dropout=0.0", "train.batch_size=64", "train.accumulation=2",
        "optimizer.schedule.peak_lr=1e-2", "train.eval_every=200",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(letters, tmp_path_factory):
    """A run whose text depends on its label."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    where = ["--config", SMOKE, "--workdir", workdir]
    assert command("train", *where, *settings_of(letters), *sets("train.num_steps=200")) == 0
    return workdir


def test_the_bound_given_the_labels_is_that_of_their_texts(run, letters):
    """Letters of a known label cost 1 bit; without, a sequence of 4 costs one more for its label."""
    assert command("evaluate", "--workdir", run) == 0
    assert command("evaluate", "--workdir", run, *sets("evaluation.labels=False")) == 0
    given, none = (
        json.loads((run / "records" / f"validation-200{name}.json").read_text())
        for name in ("", "-evaluation.labels=False")
    )
    assert given["labels"] == "given" and none["labels"] == "none"
    assert given["sequences"] == none["sequences"] == 500
    assert 0.97 < given["value"] < 1.1 and 1.2 < none["value"] < 1.4
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (during,) = [m["eval/bound_bits_per_char"] for m in metrics if "eval/bound_bits_per_char" in m]
    assert abs(during - given["value"]) < 0.05


def test_names_are_stored_with_the_run_and_resolve_without_its_data(run):
    stored = json.loads((run / "config.json").read_text())
    assert (
        stored["data"]["label_names"] == ["athens", "rome"] and stored["model"]["num_labels"] == 2
    )
    experiment = load_run(str(run)).experiment
    assert [label_number(experiment, name) for name in ("athens", "rome")] == [0, 1]
    with pytest.raises(
        UserError, match="label 'sparta': the run has no such label; it has athens, rome"
    ):
        label_number(experiment, "sparta")
    with pytest.raises(UserError, match="trained without labels"):
        label_number(get_config(), "rome")


def test_resumed_with_labels_is_bit_identical(letters, tmp_path):
    for name, steps in [("straight", 6), ("resumed", 3), ("resumed", 6)]:
        where = ["--config", SMOKE, "--workdir", tmp_path / name]
        assert (
            command("train", *where, *settings_of(letters), *sets(f"train.num_steps={steps}")) == 0
        )
    straight, resumed = (
        Checkpoints(tmp_path / name / "checkpoints")._record(6)["arrays"]
        for name in ("straight", "resumed")
    )
    assert straight == resumed and any("labels" in name for name in straight)


def test_text_of_another_place_is_numbered_as_the_run_and_unknown_labels_are_told(
    run, letters, tmp_path, capsys
):
    write(tmp_path / "more", {"rome/1.txt": "ab" * 500, "athens/1.txt": "cd" * 500})
    where = ["evaluate", "--workdir", run, "--out", tmp_path / "record.json"]
    assert command(*where, *sets(f"data.path={tmp_path / 'more'}")) == 0
    assert json.loads((tmp_path / "record.json").read_text())["value"] < 1.2
    shutil.rmtree(tmp_path / "more" / "athens")
    assert command(*where, *sets(f"data.path={tmp_path / 'more'}")) == 0
    assert json.loads((tmp_path / "record.json").read_text())["value"] < 1.2
    shutil.copytree(tmp_path / "more" / "rome", tmp_path / "more" / "sparta")
    assert command(*where, *sets(f"data.path={tmp_path / 'more'}")) == 2
    assert "label 'sparta' is not in data.label_names = athens, rome" in one_line(capsys)
    one = tmp_path / "more" / "rome" / "1.txt"
    assert command(*where, *sets(f"data.path={one}")) == 2
    assert "is a file" in one_line(capsys)
    assert command(*where, *sets(f"data.path={one}", "data.labels=None")) == 0
    assert json.loads((tmp_path / "record.json").read_text())["labels"] == "none"


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    "files, settings, words",
    [
        ({}, ["data.labels=period"], "time_conditioning is not True"),
        ({}, ["data.labels=era"], "expected one of period, folder or None"),
        ({}, ["data.labels=folder", "model.time_conditioning=True"], "give data.path"),
        ({"a/1": "a", "a/2": "a"}, [], "all text of"),
        ({"a/1": "a", "b/2": "b", "3": "c"}, [], "3 is in no folder of data.path"),
        ({"train/a/1": "a", "test/b/2": "b"}, [], "name files after splits"),
        ({"a/1": "a", "b/2": "b"}, ["data.labels=period"], "for the embedded corpus"),
        ({"a/1": "a", "b/2": "b"}, ["model.num_labels=3"], "the data has 2 labels"),
        (
            {"a/1": "a", "b/2": "b"},
            ["train.label_dropout=0.0", "evaluation.labels=False"],
            "never sees a sequence without",
        ),
    ],
)
def test_mistakes_with_labels_are_one_line(files, settings, words, tmp_path, capsys):
    if files:
        write(tmp_path / "d", {name: content * 1000 for name, content in files.items()})
        data = [f"data.path={tmp_path / 'd'}", "data.labels=folder", "model.time_conditioning=True"]
        settings = [*data, *settings]
    where = ["--config", SMOKE, "--workdir", tmp_path / "w"]
    assert command("train", *where, *sets(*settings)) == 2
    assert words in one_line(capsys)
    assert not (tmp_path / "w").exists()


def test_residual_energies_take_no_labels(capsys, tmp_path):
    where = ["--config", ROOT / "configs" / "sotu" / "edlm.py", "--workdir", tmp_path / "w"]
    settings = sets("data.labels=period", "model.time_conditioning=True")
    assert command("train", *where, *settings) == 2
    assert "EDLM does not support labels" in one_line(capsys)


def test_a_run_without_labels_is_not_evaluated_with_any(letters, tmp_path, capsys):
    settings = settings_of(letters) + sets("data.labels=None", "train.num_steps=2")
    assert command("train", "--config", SMOKE, "--workdir", tmp_path / "w", *settings) == 0
    assert command("evaluate", "--workdir", tmp_path / "w", "--max-sequences", 4) == 0
    (record,) = (tmp_path / "w" / "records").iterdir()
    assert json.loads(record.read_text())["labels"] == "none"
    capsys.readouterr()
    assert command("evaluate", "--workdir", tmp_path / "w", *sets("data.labels=folder")) == 2
    assert "trained without labels" in one_line(capsys)


@pytest.mark.representatives()
def test_comparison_evaluates_with_labels_or_without_as_asked(letters, tmp_path):
    other = tmp_path / "other.py"
    other.write_text("from configs.smoke import get_config\n")
    where = ["--workdir", tmp_path / "w", "--config", SMOKE, "--config", other]
    settings = settings_of(letters) + sets("train.num_steps=2", "train.eval_every=2")
    for asked, more in [("given", []), ("none", sets("evaluation.labels=False"))]:
        assert command("compare", *where, *settings, *more) == 0
        for name in ("smoke", "other"):
            records = tmp_path / "w" / name / "records"
            assert json.loads((records / "test-2.json").read_text())["labels"] == asked
