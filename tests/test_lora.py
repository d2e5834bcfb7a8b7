"""LoRA: it begins as the network below it, trains its factors alone, and is called merged."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_initial import same
from test_methods import train

from configs.smoke import get_config
from experiments import cli
from experiments.data.tokenizers import Letters27
from experiments.overrides import override, resolve
from experiments.run import load_run
from experiments.training.train_step import init_state, make_train_step
from models.backbone import num_parameters
from models.lora import LoRA

SETTINGS = ("optimizer.weight_decay=0.1", "optimizer.schedule.warmup_steps=0")


def adapted(**settings):
    e = resolve(override(get_config(), SETTINGS), Letters27())
    return e, replace(e, model=LoRA(e.model, **settings))


def test_it_begins_as_the_network_below_it_bit_for_bit():
    plain, e = adapted(rank=4)
    params = e.init_params(jax.random.key(0))
    z = jnp.asarray(np.random.default_rng(0).integers(0, 28, (2, e.data.length)))
    assert same(e.model.merge(params), params["base"])
    np.testing.assert_array_equal(
        e.model.apply(params, z, jnp.ones((2, 1))),
        plain.model.apply(params["base"], z, jnp.ones((2, 1))),
    )


def test_only_its_factors_change_and_have_moments():
    plain, e = adapted(rank=2, where=("qkv",))
    state = init_state(e)
    shape = (1, e.train.batch_size, e.data.length)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 27, shape), jnp.int32)
    head = state["params"]["base"]["ends"]["head"]
    head["kernel"] = jax.random.normal(jax.random.key(1), head["kernel"].shape)
    step, before = jax.jit(make_train_step(e)), state
    for _ in range(2):  # of the first, the gradient of `down` is 0
        state, _ = step(state, tokens)
    assert same(state["params"]["base"], before["params"]["base"])
    pair, old = (
        s["params"]["lora"]["layers"]["attention"]["qkv"]["kernel"] for s in (state, before)
    )
    assert all(np.abs(pair[name] - old[name]).max() > 1e-6 for name in ("down", "up"))
    shapes = plain.model.num_layers, plain.model.width
    layers, width = shapes
    size = layers * 2 * (width + 3 * width)  # rank 2
    assert num_parameters(state["params"]["lora"]) == size
    floats = [x for x in jax.tree.leaves(state["optimizer"]) if x.dtype == jnp.float32]
    assert sum(x.size for x in floats) == 2 * size


def test_merged_it_is_what_the_factors_add():
    _, e = adapted(rank=3, alpha=6.0)
    params = e.init_params(jax.random.key(0))
    pair = params["lora"]["layers"]["mlp"]["up"]["kernel"]
    pair["up"] = jax.random.normal(jax.random.key(1), pair["up"].shape)
    merged = e.model.merge(params)["layers"]["mlp"]["up"]["kernel"]
    base = params["base"]["layers"]["mlp"]["up"]["kernel"]
    for n in range(len(base)):
        added = 2.0 * np.asarray(pair["down"][n], float) @ np.asarray(pair["up"][n], float)
        np.testing.assert_allclose(merged[n], base[n] + added, atol=1e-5)
    network = e.network(params)
    z, t = jnp.zeros((2, e.data.length), int), jnp.ones((2, 1))
    assert network.backbone == e.model.base
    np.testing.assert_array_equal(network(z, t), e.model.apply(params, z, t))


def test_a_run_is_adapted_evaluated_sampled_and_begun_with(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the state of the union and the people of these states " * 100)
    assert train("mdlm", tmp_path / "base", text) == 0
    capsys.readouterr()
    begun = (f"init_from={tmp_path / 'base'}", "init_model=run", "model=LoRA", "model.rank=2")
    small = ("data.length=16", f"data.path={text}", "train.num_steps=2", "train.batch_size=4")
    sets = [w for s in (*begun, *small, "evaluation.max_sequences=4") for w in ("--set", s)]
    config = ["--config", "configs/sotu/mdlm.py", "--workdir", str(tmp_path / "lora"), *sets]
    assert cli.guarded("train", config) == 0, capsys.readouterr().err
    assert "\nfresh (8): lora/layers/attention/out/kernel/down, " in capsys.readouterr().out
    ours, theirs = load_run(str(tmp_path / "lora")), load_run(str(tmp_path / "base"))
    assert same(ours.params["base"], theirs.params)
    where = ["--workdir", str(tmp_path / "lora")]
    assert cli.guarded("evaluate", [*where, "--max-sequences", "4"]) == 0
    assert cli.guarded("sample", [*where, "--num", "1", "--steps", "2"]) == 0
    # Another run that begins with it begins with what it was merged to.
    begun = [f"init_from={tmp_path / 'lora'}", "train.num_steps=0"]
    assert train("mdlm", tmp_path / "merged", text, *begun) == 0
    merged = load_run(str(tmp_path / "merged")).params
    assert same(merged, ours.experiment.model.merge(ours.params))


@pytest.mark.parametrize(
    "settings, message",
    [
        (["model.rank=0"], "LoRA.rank = 0"),
        (["model.where=('nowhere',)"], "layers/attention/qkv/kernel"),
    ],
)
def test_mistakes_are_one_line(settings, message, tmp_path, capsys):
    sets = [word for setting in ("model=LoRA", *settings) for word in ("--set", setting)]
    config = ["--config", "configs/sotu/mdlm.py", "--workdir", str(tmp_path / "run")]
    assert cli.guarded("train", [*config, *sets]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
