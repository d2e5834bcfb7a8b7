"""Published checkpoints through the command line: they become ordinary runs, and files again."""

import importlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from published_cases import CASES, LOADED, Case

import ddlm
from experiments import cli
from experiments.errors import UserError
from experiments.published.opening import FAMILIES, open_checkpoint
from experiments.published.parts import flat
from experiments.tensor_files import read_tensors, write_safetensors


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def imported(case: Case, workdir: Path, *options: str) -> int:
    words = [str(case.folder), "--workdir", str(workdir), *options]
    if case.family:
        words += ["--family", case.family]
    if "mask_token_id" in case.about:  # what a tokenizer tells
        words += ["--mask-token", str(case.about["mask_token_id"])]
    return cli.guarded("import", words)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text(" ".join(str(n) for n in np.random.default_rng(0).integers(0, 8, 60)))
    return path


@pytest.mark.parametrize("case", LOADED, ids=lambda case: case.name)
def test_the_tensors_of_an_export_are_those_that_were_read(case):
    """Without a run: what parts load, and save with what they had no place for."""
    for average in (True, False):
        checkpoint = case.open(average)
        read = {checkpoint.names[key]: t.read() for key, t in checkpoint.tensors.items()}
        kept = {key: read[name] for key, name in checkpoint.names.items()}
        saved = {}
        for _, part in flat(checkpoint.layout):
            rest = {key: v for key, v in checkpoint.rest().items()}
            by_key = {key: rest[name] for key, name in checkpoint.names.items() if name in rest}
            array = np.asarray(part.load(kept.__getitem__), np.float32)
            saved |= part.save(array, by_key)
        assert saved.keys() <= kept.keys()
        for key, array in saved.items():
            np.testing.assert_array_equal(array.astype(kept[key].dtype), kept[key])


def test_a_run_goes_out_as_it_came_in(tmp_path, capsys):
    for name in ("format_bf16", "ar", "gpt2", "bert_mlm_old_names", "modernbert"):
        case = case_of(name)
        assert imported(case, tmp_path / name) == 0
        out = tmp_path / f"{name}-out"
        assert cli.guarded("export", ["--workdir", str(tmp_path / name), "--to", str(out)]) == 0
        ours, theirs = read_tensors(out).tensors, read_tensors(case.folder).tensors
        assert list(ours) == list(theirs)
        for key, tensor in theirs.items():
            assert ours[key].dtype == tensor.dtype
            assert ours[key].read().tobytes() == tensor.read().tobytes(), key
        assert json.loads((out / "config.json").read_text()) == case.config
        assert "sha256" in (out / "README.md").read_text()


def test_an_imported_run_is_evaluated_and_sampled(text, tmp_path, capsys):
    run = tmp_path / "run"
    assert imported(case_of("mdlm"), run) == 0
    said = capsys.readouterr()
    assert "texts are numbers of tokens" in said.out + said.err
    assert cli.guarded("evaluate", ["--workdir", str(run), "--text", str(text)]) == 0
    said = capsys.readouterr().out
    assert "bound on all" in said and "published: perplexity at most 23.21" in said
    assert cli.guarded("sample", ["--workdir", str(run), "--num", "2"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 2
    source = json.loads((run / "source.json").read_text())
    assert source["family"] == "mdlm" and len(source["files"]["model.safetensors"]) == 64


def test_import_and_export_from_python(tmp_path):
    run = ddlm.import_checkpoint(case_of("duo").folder, tmp_path / "duo", log=lambda line: None)
    assert run.experiment.process.schedule == ddlm.Linear(1e-3)
    assert isinstance(run.experiment.data.tokenizer, ddlm.Numbers)
    assert run.export(tmp_path / "out") == "duo"
    again = ddlm.import_checkpoint(tmp_path / "out", tmp_path / "again", log=lambda line: None)
    assert jax.tree.all(jax.tree.map(np.array_equal, run.params, again.params))


def test_what_is_no_family_goes_out_in_our_own_layout_with_all_its_settings(tmp_path):
    experiment = ddlm.Experiment(
        ddlm.MDLM(),
        ddlm.Transformer(num_layers=2, width=16, num_heads=2),
        ddlm.Text(length=32),
        train=ddlm.Train(num_steps=1, batch_size=2, eval_every=9, log_every=1),
    )
    run = ddlm.train(experiment, tmp_path / "run", log=lambda line: None)
    assert run.export(tmp_path / "out") == "ddlm"
    again = ddlm.import_checkpoint(tmp_path / "out", tmp_path / "again", log=lambda line: None)
    assert again.experiment == run.experiment
    assert jax.tree.all(jax.tree.map(np.array_equal, run.params, again.params))
    with pytest.raises(UserError, match="not those of the family mdlm"):
        run.export(tmp_path / "other", family="mdlm")
    assert not (tmp_path / "other").exists()


def test_a_run_of_the_published_form_goes_out_in_its_layout(tmp_path):
    model = ddlm.Transformer(
        num_layers=1, width=16, num_heads=2, mlp_width=64, mlp_bias=True, norm="layer",
        constant_condition=True, condition_width=8,
    )  # fmt: skip
    train = ddlm.Train(num_steps=0, batch_size=2)
    experiment = ddlm.Experiment(ddlm.MDLM(), model, ddlm.Text(length=32), train=train)
    run = ddlm.train(experiment, tmp_path / "run", log=lambda line: None)
    assert run.export(tmp_path / "out") == "mdlm"
    tensors = read_tensors(tmp_path / "out").tensors
    assert tensors["backbone.output_layer.linear.weight"].shape == (28, 16)
    again = open_checkpoint(tmp_path / "out").params()
    assert jax.tree.all(jax.tree.map(np.array_equal, run.params, again))


@pytest.mark.parametrize(
    "case", [c for c in CASES if "refuse" in c.about["expect"]], ids=lambda case: case.name
)
def test_a_broken_checkpoint_is_one_line_and_leaves_nothing(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = imported(case, tmp_path / "runs" / "run")
    said = capsys.readouterr().err.strip()
    if "inert" in case.about["expect"] and code == 0:
        assert not list(tmp_path.glob("**/HOSTILE*"))
        return
    assert code == 2 and said.startswith("error: ") and "\n" not in said
    assert str(case.folder) in said
    assert not (tmp_path / "runs").exists() and list(tmp_path.iterdir()) == []


def test_a_tensor_that_is_missing_is_named(tmp_path, capsys):
    case = case_of("bad_missing_key")
    assert imported(case, tmp_path / "run") == 2
    missing = case.about["reason"].split(" is missing")[0].removeprefix("backbone.")
    assert missing in capsys.readouterr().err


def test_a_tensor_that_is_not_known_is_named_and_the_rest_is_read(tmp_path, capsys):
    case = case_of("bad_extra_key")
    assert imported(case, tmp_path / "run") == 0
    said = capsys.readouterr()
    assert "backbone.blocks.0.attn_gate.weight" in said.out + said.err


def test_what_is_there_is_not_replaced(tmp_path, capsys):
    case = case_of("mdlm")
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine").write_text("mine")
    assert imported(case, run) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["mine"]


def test_an_import_that_ends_early_leaves_no_run(tmp_path, monkeypatch):
    module = importlib.import_module("experiments.published.importing")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_safetensors", full)
    with pytest.raises(UserError, match="No space left on device"):
        module.import_run(case_of("mdlm").folder, tmp_path / "run", log=lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "family", "named"),
    [
        ("mdlm", "radd", "norm1.bias"),
        ("mdlm", "gpt2", "wte.weight"),
        ("gpt2", "mdlm", "vocab_embed"),
    ],
)
def test_a_family_that_is_wrong_says_which_keys_disagree(name, family, named, tmp_path, capsys):
    words = [str(case_of(name).folder), "--workdir", str(tmp_path / "run"), "--family", family]
    assert cli.guarded("import", words) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_repeated_tensors_have_to_be_equal(tmp_path):
    case = case_of("gpt2")
    folder = tmp_path / "gpt2"
    shutil.copytree(case.folder, folder)
    tensors = dict(read_tensors(folder).tensors)
    arrays = {key: np.array(tensor.read()) for key, tensor in tensors.items()}
    for change, fits in ((0, True), (1, False)):
        head = arrays["wte.weight"] + np.float32(change)
        write_safetensors(folder / "model.safetensors", arrays | {"lm_head.weight": head})
        if fits:
            assert open_checkpoint(folder).unknown == ()
        else:
            with pytest.raises(UserError, match=r"lm_head\.weight and wte\.weight differ"):
                open_checkpoint(folder)


def test_every_family_is_listed(capsys):
    assert cli.guarded("import", ["--list"]) == 0
    said = capsys.readouterr().out
    for family in FAMILIES:
        assert family.name == "ddlm" or f"{family.name}: " in said


def test_a_name_of_the_hub_is_fetched_without_code(tmp_path, monkeypatch, capsys):
    asked = {}

    class Hub:
        @staticmethod
        def snapshot_download(name, revision, allow_patterns):
            asked.update(name=name, revision=revision, patterns=allow_patterns)
            folder = tmp_path / "snapshots" / "0123abcd"
            shutil.copytree(case_of("mdlm").folder, folder)
            return str(folder)

    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", Hub)
    words = ["org/model", "--workdir", str(tmp_path / "run"), "--revision", "v1"]
    assert cli.guarded("import", words) == 0
    assert asked["name"] == "org/model" and asked["revision"] == "v1"
    assert not any(p.endswith((".py", ".bin", ".pt", ".ckpt", ".pth")) for p in asked["patterns"])
    source = json.loads((tmp_path / "run" / "source.json").read_text())
    assert source["revision"] == "0123abcd"


def test_without_the_hub_a_name_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert cli.guarded("import", ["org/model", "--workdir", str(tmp_path / "run")]) == 2
    assert 'pip install "ddlm[hub]"' in capsys.readouterr().err
    assert cli.guarded("import", ["/nowhere/x", "--workdir", str(tmp_path / "run")]) == 2
    assert "/nowhere/x does not exist" in capsys.readouterr().err
