"""Samples that end at a stop token: their text is that of sampling on, alone and beside others."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL

import ddlm
from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.mdlm import MDLM
from experiments import sample
from experiments.errors import UserError
from experiments.overrides import load
from experiments.sampling.request import Request
from models.backbone import Network
from models.transformer import Transformer
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.ending import Suppressed, padded
from samplers.parts import in_parts
from samplers.semi_autoregressive import SemiAutoregressive
from samplers.unmask import Steps, Threshold, Unmask

V, L, STOP = 5, 16, (4, 1)
CASES = {
    "left_to_right": (Autoregressive(V), LeftToRight()),
    "blocks": (BlockDiffusion(MDLM(V), 4), BlockByBlock(Unmask("drawn", Threshold(0.7)))),
    "canvas": (MDLM(V), Unmask("confidence", Steps(12))),
    "canvas_by_blocks": (MDLM(V), SemiAutoregressive(Unmask("drawn", Threshold(0.7)), 4, fresh=6)),
}  # fmt: skip


def network_of(process):
    model = Transformer(V, num_layers=1, width=8, num_heads=1, dtype="float32")
    model = model.for_process(process.traits.attention_block, None)
    params = jax.tree.map(
        lambda x: x + 0.5 * jax.random.normal(jax.random.key(1), x.shape),
        model.init(jax.random.key(0)),
    )
    return Network(model, params)


@pytest.mark.representatives("blocks", "left_to_right")
@pytest.mark.parametrize("name", CASES)
def test_the_text_up_to_the_end_is_that_of_sampling_on_whoever_stands_beside_it(name):
    process, sampler = CASES[name]
    network = network_of(process)

    @jax.jit
    def drawn(keys, known):
        ways = (replace(sampler, stop=stop) for stop in ((), STOP))
        return [way.run(keys, process, network, known.shape, known) for way in ways]

    keys = jax.random.split(jax.random.key(1), 6)
    # Stop tokens of a prompt end nothing, nor does what stands before the last known token.
    late = jnp.array([4, 1, 2, 0, 3, 2, 1])
    known = jnp.full((6, L), -1).at[0, :3].set(jnp.array([4, 1, 2])).at[5, L - 7 :].set(late)
    whole, cut = drawn(keys, known)
    np.testing.assert_array_equal(cut.x0, padded(whole.x0, STOP, known))
    assert ((cut.x0 == known) | (known < 0)).all()
    np.testing.assert_array_equal(cut.x0[5], whole.x0[5])
    early = []
    for row, ended, given in zip(whole.x0[:5], cut.x0, known, strict=False):
        places = np.flatnonzero(np.isin(row, STOP) & (given < 0))
        end = places[0] if len(places) else L - 1
        np.testing.assert_array_equal(ended, np.where(np.arange(L) > end, row[end], row))
        early.append(end < L - 5)
    saved = (cut.calls < whole.calls)[:5][np.array(early)]
    assert saved.mean() > 0.5  # the last token of all may be needed
    assert (cut.calls <= whole.calls).all()

    others = known.at[1:].set(jnp.where((jnp.arange(L) < 14)[None], 2, -1))  # rows that end late
    again = drawn(keys, others)[1]
    np.testing.assert_array_equal(again.x0[0], cut.x0[0])
    assert again.calls[0] == cut.calls[0]


def test_no_part_is_made_once_every_row_has_ended():
    seen = []

    def part(number, ended, carry):
        jax.debug.callback(lambda n: seen.append(int(n)), number)
        return jnp.tile(jnp.where(number == carry, 4, 0)[:, None], (1, 3)), 1, carry

    sampled = jax.jit(
        lambda ends: in_parts(part, (2, 14), 3, ends, STOP, None)
    )(jnp.array([1, 2]))  # fmt: skip
    np.testing.assert_array_equal(sampled.x0, np.where(np.arange(14) < [[3], [6]], 0, 4))
    assert sampled.calls.tolist() == [2, 3]
    jax.effects_barrier()
    assert sorted(seen) == [0, 1, 2]


@pytest.mark.parametrize("name", ["left_to_right", "blocks", "canvas"])
def test_no_stop_token_has_a_probability_before_its_position(name):
    process = CASES[name][0]
    network, until = network_of(process), jnp.array([0, 6])
    model = Suppressed(process, network, STOP, until)
    z = jnp.zeros((2, 4), int) if name == "left_to_right" else jnp.full((2, 4), V).at[:, 1].set(4)
    t = jnp.zeros((2, 1))

    def of(model):
        if name == "canvas":
            return MDLM(V).predict(model(z, t), z, t)
        out = model.decode(z, t, model.cache(2, L), 4)[0]
        return jax.nn.log_softmax(out) if name == "left_to_right" else MDLM(V).predict(out, z, t)

    before, after = np.exp(of(network)), np.exp(of(model))
    first = 0 if name == "canvas" else 4
    for row, place in np.ndindex(2, 4):
        expected = before[row, place]
        known = name != "left_to_right" and place == 1  # stays what it is
        if first + place < until[row] and not known:
            expected = np.where(np.isin(np.arange(V), STOP), 0, expected)
        np.testing.assert_allclose(after[row, place], expected / expected.sum(), atol=1e-6)
    assert np.abs(before - after).max() > 0.1


@pytest.fixture(scope="module", params=["block4", "mdlm"])
def run(request, tmp_path_factory):
    """One that stops by itself, and one that samples on."""
    folder = tmp_path_factory.mktemp("run")
    sizes = ["train.num_steps=0", "data.length=16", f"data.cache_dir={folder}"]
    experiment = load(f"configs/sotu/{request.param}.py", [*SMALL, *sizes])
    return ddlm.train(experiment, folder / "run", log=lambda line: None)


@pytest.mark.representatives("block4")
def test_texts_end_before_a_stop_token_and_not_too_early(run, tmp_path):
    out, prompt = tmp_path / "out.jsonl", "eve"
    cut = [text[3:].split("e")[0].split("t")[0] for text in run.sample(8, prompt=prompt)]
    given = ["--workdir", str(run.workdir), "--num", "8", "--prompt", prompt, "--out", str(out)]
    sample.main([*given, "--stop", "e", "--stop", "t"])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["text"] for line in lines] == [prompt + text for text in cut]
    assert [line["ended"] for line in lines] == [len(text) < 13 for text in cut]
    assert 0 < sum(line["ended"] for line in lines) < 8

    late = run.sample(8, prompt=prompt, stop=["e", "t"], min_tokens=5)
    assert late.answers == [text[3:] for text in late] and min(map(len, late.answers)) >= 5
    assert min(map(len, late.answers)) < 13 and min(map(len, cut)) < 5
    ends = [row[3:][len(text) :] for row, text in zip(late.tokens, late.answers, strict=True)]
    assert all(len(set(end.tolist())) <= 1 for end in ends)


def test_what_cannot_end_a_sample_is_named(run):
    with pytest.raises(UserError, match=r"--stop 'EOS'.* is no token of the run's Letters27; give"):
        run.sample(stop=["EOS"])
    with pytest.raises(UserError, match=r"--min-tokens 3 .*; name the token .* --stop"):
        run.sample(min_tokens=3)
    with pytest.raises(UserError, match="--stop: a pattern cannot be combined"):
        run.sample(stop=["e"], regex="a.*")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"stop": 5}, "stop = 5 must be a list of texts"),
        ({"prompts": [1]}, r"prompts = \[1\] must be a list of texts"),
        ({"min_tokens": -1}, "min_tokens = -1 must be a number from 0 on"),
    ],
)
def test_one_text_is_a_list_of_one_and_what_is_none_is_told(options, words):
    assert Request(stop="<|eot|>", prompts="the").stop == ("<|eot|>",)
    with pytest.raises(UserError, match=words):
        Request(**options)
