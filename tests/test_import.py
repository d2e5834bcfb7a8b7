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
from experiments.config import Experiment
from experiments.devices.sharding import make_mesh
from experiments.errors import UserError
from experiments.overrides import resolve
from experiments.published.exporting import export_run
from experiments.published.family import Options
from experiments.published.opening import FAMILIES, Checkpoint, open_checkpoint
from experiments.published.parts import flat
from experiments.run import Run
from experiments.tensor_files import read_tensors, write_safetensors
from experiments.training.digests import leaves


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
            array = np.empty(part.shape({k: np.shape(v) for k, v in kept.items()}), np.float32)
            part.fill(kept.__getitem__, array)
            saved |= part.save(array, by_key)
        assert saved.keys() <= kept.keys()
        for key, array in saved.items():
            np.testing.assert_array_equal(array.astype(kept[key].dtype), kept[key])


def test_a_run_goes_out_as_it_came_in(tmp_path, capsys):
    for name in ("format_bf16", "ar", "gpt2", "bert_mlm_old_names", "modernbert", "plaid"):
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
    assert "texts are token numbers" in said.out + said.err
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


def trained(case: Case, folder: Path, **changes) -> tuple[Run, Checkpoint]:
    """A run with the settings of a case and parameters of its own, which says of no file."""
    checkpoint = case.open()
    architecture = checkpoint.architecture
    tokenizer = ddlm.Numbers(architecture.model.vocab_size)
    experiment = resolve(
        Experiment(
            changes.get("process", architecture.process),
            architecture.model,
            ddlm.Text(tokenizer=tokenizer, length=architecture.length),
            changes.get("sampler", architecture.sampler),
        ),
        tokenizer,
    )
    draw = np.random.default_rng(0)
    forms = jax.eval_shape(experiment.init_params, jax.random.key(0))
    params = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), forms)
    if (mask := architecture.options.mask) is not None:
        table = params["ends"]["embedding"]
        table[mask] = table[-1]  # the file's own row of the mask, which ours stands for
    return Run(experiment, params, 0, "0" * 16, make_mesh(experiment.mesh)), checkpoint


@pytest.mark.parametrize("case", LOADED, ids=lambda case: case.name)
def test_what_was_trained_in_a_published_form_goes_out_and_comes_back(case, tmp_path):
    """In the layout of its family where that holds all of it, the vector of a start token too, else in
    ours."""
    run, checkpoint = trained(case, tmp_path)
    family, options = checkpoint.family.name, checkpoint.architecture.options
    given = Options(mask=options.mask, start=options.start)
    starts = case.about["family"] in ("ar", "gpt2")
    if starts:
        with pytest.raises(UserError, match="a trained start token"):
            export_run(run, tmp_path, tmp_path / "no", family, given)
        assert not (tmp_path / "no").exists()
    chosen = export_run(run, tmp_path, tmp_path / "out", "ddlm" if starts else family, given)
    again = open_checkpoint(tmp_path / "out", chosen, Options(mask=options.mask))
    ours, theirs = (dict(leaves(params)) for params in (run.params, again.params()))
    assert ours.keys() == theirs.keys()
    for name in ours:
        unused = (
            name == "ends/embedding" and not theirs[name][-1].any()
        )  # of processes without a mask
        rows = slice(0, -1 if unused else None)
        np.testing.assert_array_equal(ours[name][rows], theirs[name][rows])
    assert type(again.architecture.process) is type(run.experiment.process)
    assert again.architecture.length == run.experiment.data.length


def test_what_a_layout_cannot_say_goes_out_in_ours(tmp_path):
    """Another schedule than the published one; a last letter that its import would take for [PAD]."""
    for name, changes in (
        ("mdlm", {"process": ddlm.MDLM(schedule=ddlm.Cosine())}),
        ("gidd", {"process": ddlm.GIDD(p_uniform=0.1, gamma=0.5)}),
        ("gidd", {"sampler": ddlm.Ancestral(steps=4)}),
    ):
        run, checkpoint = trained(case_of(name), tmp_path, **changes)
        with pytest.raises(UserError, match=f"not those of the family {name}"):
            export_run(run, tmp_path, tmp_path / "no", checkpoint.family.name)
    duo, _ = trained(case_of("duo"), tmp_path, sampler=ddlm.Ancestral(steps=4))
    assert export_run(duo, tmp_path, tmp_path / "out") == "udlm"
    again = open_checkpoint(tmp_path / "out")
    assert again.architecture.sampler.logits_processor.banned == ()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mdlm", {"time_conditioning": True}, "time_conditioning = True is unsupported"),
        ("udlm", {"time_conditioning": False}, "time_conditioning = False is unsupported"),
        ("duo", {"causal": True}, "causal = True is unsupported"),
        ("udlm", {"cfg": True}, "no tensor cond_map"),
        ("dream", {"tie_word_embeddings": False, "_drop": "lm_head.weight"}, "lm_head.weight"),
        ("llada", {"weight_tying": False, "_drop": "model.transformer.ff_out.weight"}, "ff_out"),
        ("llada", {"scale_logits": True}, "scale_logits = True is unsupported"),
        ("dream", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is unsupported"),
        ("dream", {"rope_scaling": {"rope_type": "yarn"}}, "type yarn are unsupported"),
        ("gpt2", {"n_inner": 999}, "n_inner = 999"),
        ("gpt2", {"n_head": None}, "config.json give n_head"),
        ("smdm_mha", {"rotary_percentage": 0.25}, "rotary_percentage = 0.25 is unsupported"),
        ("sedd_absorb", {"noise": {"type": "cosine"}}, "noise.type = 'cosine'"),
        ("gidd", {"p_uniform": None}, "does not give p_uniform"),
    ],
)
def test_a_config_of_another_form_is_one_line(name, changes, said, tmp_path):
    shutil.copytree(case_of(name).folder, tmp_path / "source")
    config = dict(case_of(name).config)
    tensors = {k: t.read() for k, t in read_tensors(tmp_path / "source").tensors.items()}
    for key, value in changes.items():
        if key == "_drop":
            del tensors[value]
            write_safetensors(tmp_path / "source" / "model.safetensors", tensors)
        else:
            config[key] = value
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        open_checkpoint(tmp_path / "source")
    assert said in str(caught.value) and "damaged" not in str(caught.value)


def test_newer_configs_tell_the_rotary_base_in_a_table(tmp_path):
    shutil.copytree(case_of("dream").folder, tmp_path / "source")
    config = {k: v for k, v in case_of("dream").config.items() if k != "rope_theta"}
    config["rope_parameters"] = {"rope_theta": 12345.0, "rope_type": "default"}
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path / "source").architecture.model.rotary_base == 12345.0


def test_an_option_that_means_nothing_is_one_line(tmp_path, capsys):
    words = [str(case_of("mdlm").folder), "--workdir", str(tmp_path / "run"), "--mask-token", "3"]
    assert cli.guarded("import", words) == 2
    assert "--mask-token does not apply" in capsys.readouterr().err


def test_the_current_folder_can_be_the_run(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.guarded("import", [str(case_of("mdlm").folder), "--workdir", "."]) == 0
    assert (tmp_path / "here" / "config.json").is_file()


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
    assert "already exists" in capsys.readouterr().err
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
    assert 'pip install -e ".[hub]"' in capsys.readouterr().err
    assert cli.guarded("import", ["/nowhere/x", "--workdir", str(tmp_path / "run")]) == 2
    assert "/nowhere/x does not exist" in capsys.readouterr().err


def test_a_token_that_is_never_drawn_is_drawn_by_no_other_sampler(tmp_path):
    run = ddlm.import_checkpoint(case_of("llada").folder, tmp_path / "run", log=lambda line: None)
    mask = case_of("llada").mask
    for sampler in ("FirstHitting", "Ancestral"):
        drawn = run.sample(64, sampler=sampler, steps=4, batch_size=64)
        assert mask not in drawn.tokens
    other = ["sampler=Ancestral"]
    drawn = ddlm.load(tmp_path / "run", changes=other).sample(64, steps=4, batch_size=64)
    assert mask not in drawn.tokens
    free = [*other, "sampler.logits_processor.banned=()"]
    drawn = ddlm.load(tmp_path / "run", changes=free).sample(64, steps=4, batch_size=64)
    assert mask in drawn.tokens


def test_texts_of_numbers_are_apart(tmp_path):
    numbers = ddlm.Numbers(12)
    texts = [array.tolist() for array in numbers.encode(["1 2 3", "4\n5 11", ""], "text")]
    assert texts == [[1, 2, 3], [4, 5, 11], []]
    for wrong in ("1 12", "-1", "x", "1.0"):
        with pytest.raises(UserError, match="is no number below 12; this run has no tokenizer"):
            list(numbers.encode([wrong], "text"))


def test_a_family_against_what_the_files_say_is_a_warning(tmp_path, capsys):
    words = [str(case_of("mdlm").folder), "--workdir", str(tmp_path / "run"), "--family", "duo"]
    assert cli.guarded("import", words) == 0
    said = capsys.readouterr()
    assert "do not look like the family duo" in said.out + said.err
