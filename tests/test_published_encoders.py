"""Published BERT and ModernBERT: what their files are here, and what is said where they do not fit."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN

from experiments.errors import UserError
from experiments.published.family import Options
from experiments.published.importing import import_run
from experiments.published.opening import open_checkpoint
from experiments.run import load_run
from experiments.tensor_files import StoredTensor, read_tensors, write_safetensors
from models.backbone import Network, num_parameters

OURS = GOLDEN / "checkpoints"  # whose sizes are known
CASES = ("bert_mlm", "bert_mlm_old_names", "modernbert")
WEIGHTS = "model.safetensors"


def changed(case, folder, config=None, drop=(), rename=None, **tensors):
    """The case in a folder, with other settings and tensors, less those whose names begin so."""
    shutil.copytree(OURS / case, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    found = {name: t.read().copy() for name, t in read_tensors(folder).tensors.items()}
    found |= tensors
    kept = {
        (rename or (lambda name: name))(name): array
        for name, array in found.items()
        if not name.startswith(tuple(drop))
    }
    stored = {k: StoredTensor(a.shape, a.dtype, lambda a=a: a) for k, a in kept.items()}
    write_safetensors(folder / WEIGHTS, stored)
    return folder


def test_the_mask_of_known_vocabularies_needs_no_option(tmp_path):
    table = np.random.default_rng(0).normal(size=(30522, 24)).astype(np.float32)
    words = {"bert.embeddings.word_embeddings.weight": table}
    config = {"vocab_size": 30522}
    folder = changed("bert_mlm_old_names", tmp_path / "a", config, ["cls."], **words)
    checkpoint = open_checkpoint(folder)
    np.testing.assert_array_equal(checkpoint.params()["ends"]["embedding"][-1], table[103])
    assert checkpoint.architecture.sampler.logits_processor.banned == (103,)
    with pytest.raises(UserError, match="do not name the mask token; give --mask-token"):
        open_checkpoint(OURS / "modernbert")


@pytest.mark.representatives("bert_mlm")
@pytest.mark.parametrize("case", CASES)
def test_a_trunk_begins_with_a_fresh_head_and_says_so(case, tmp_path, capsys):
    """A trunk has neither the head nor, as a rule, prefixes."""

    def bare(name):
        return name.removeprefix("bert.").removeprefix("model.")

    trunk = changed(case, tmp_path / "trunk", drop=("cls.", "head.", "decoder."), rename=bare)
    import_run(trunk, tmp_path / "run", options=Options(mask=4), log=print)
    assert "no head of a masked language model" in capsys.readouterr().out
    run, whole = (
        load_run(str(tmp_path / "run")),
        open_checkpoint(OURS / case, options=Options(mask=4)),
    )
    model, params = run.experiment.model, whole.params()
    assert num_parameters(run.params) == num_parameters(params)
    with np.load(OURS / case / "expected.npz") as arrays:
        z = jnp.asarray(arrays["input_ids"])
    t = jnp.zeros((len(z), 1))
    features = model.features(run.params, z, t)
    np.testing.assert_allclose(features, whole.architecture.model.features(params, z, t), atol=1e-6)
    assert np.abs(Network(model, run.params)(z, t)).std() > 0.1


@pytest.mark.parametrize(
    ("case", "config", "said"),
    [
        ("bert_mlm", {"hidden_size": 48}, "config.json says hidden_size = 48, but the tensors say 32"),
        ("bert_mlm", {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new' is unsupported; 'gelu' is"),
        ("bert_mlm", {"type_vocab_size": 1}, "type_vocab_size = 1"),
        ("bert_mlm", {"num_attention_heads": 5}, "num_attention_heads: 32 is not a multiple of 10"),
        ("modernbert", {"mlp_bias": True}, "mlp_bias = True is unsupported; False is"),
        ("modernbert", {"layer_types": ["full_attention"] * 4}, "layer_types are not full_attention in"),
    ],
)  # fmt: skip
def test_a_config_of_another_network_is_said(case, config, said, tmp_path):
    folder = changed(case, tmp_path / "a", config)
    with pytest.raises(UserError) as error:
        open_checkpoint(folder, options=Options(mask=4))
    assert said in str(error.value)


def test_bases_of_newer_configs_are_read(tmp_path):
    table = {"full_attention": {"rope_theta": 500.0}, "sliding_attention": {"rope_theta": 50.0}}
    folder = changed("modernbert", tmp_path / "a", {"rope_parameters": table})
    model = open_checkpoint(folder, options=Options(mask=4)).architecture.model
    assert (model.global_base, model.local_base) == (500.0, 50.0)


def test_a_decoder_that_is_another_table_is_said(tmp_path):
    name = "cls.predictions.decoder.weight"
    other = read_tensors(OURS / "bert_mlm").tensors[name].read() + 1
    with pytest.raises(UserError, match=r"decoder.weight and embeddings.word_.* differ"):
        open_checkpoint(
            changed("bert_mlm", tmp_path / "a", **{name: other}), options=Options(mask=4)
        )


def test_a_length_beyond_the_learned_positions_is_said(tmp_path):
    for case, most, mask in (("bert_mlm", 16, 1), ("gpt2", 12, None)):
        said = rf"data.length = 600, but model \w+ has learned positions for {most} tokens"
        with pytest.raises(UserError, match=said):
            import_run(OURS / case, tmp_path / "run", options=Options(mask=mask, length=600))
