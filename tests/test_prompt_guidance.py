"""Guidance by the prompt: the network with it and with masks in its place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL
from oracle import Toy

import ddlm
from diffusion.mdlm import MDLM
from diffusion.schedules import MDLMCosine
from experiments.errors import UserError
from experiments.overrides import load, override
from experiments.sampling.request import _tell_of_pairs
from samplers.guidance import HiddenPrompt, classifier_free, hides_prompts

SCALE = 1.5  # cfg_scale of LLaDA; the strength is 1 more


@pytest.mark.parametrize("known", [[1, -1, -1], [-1, 2, 0]], ids=str)
def test_with_the_exact_denoiser_it_is_the_product_of_both_conditional_distributions(known):
    """Of the only token that is masked, by sums of the toy's probabilities."""
    toy, process = Toy.named(), MDLM(3, MDLMCosine())
    known, z = np.array(known), np.array([1, 2, 0])
    unknown = np.flatnonzero(known < 0)
    place = unknown[-1]
    z[place] = 3
    model = toy.denoiser(process)
    free = HiddenPrompt(model, 3, jnp.asarray(known)[None])
    guided = classifier_free(process, model, free, SCALE + 1)
    out = guided(jnp.asarray(z)[None], jnp.full((1, 1), 0.5))

    def marginal(given):
        p = np.array([toy.p[((toy.states == np.where(given, z, toy.states)).all(1))
                            & (toy.states[:, place] == v)].sum() for v in range(3)])  # fmt: skip
        return p / p.sum()

    everything = np.arange(3) != place
    p = marginal(everything) ** (SCALE + 1) * marginal(everything & (known < 0)) ** -SCALE
    found = jnp.exp(process.predict(out, jnp.asarray(z)[None], jnp.full((1, 1), 0.5)))
    np.testing.assert_allclose(found[0, place], p / p.sum(), rtol=1e-4)


def test_it_is_the_formula_of_llada_on_logits_and_acts_within_its_interval():
    """logits_free + (cfg_scale + 1) (logits - logits_free), up to a constant of each position."""
    table = jax.random.normal(jax.random.key(0), (6, 5))

    def model(z, t):
        return table[jnp.roll(z, 1, axis=1)] + table[z[:, :1]]

    z = jnp.array([[4, 0, 5, 5], [2, 5, 1, 5]])
    known = jnp.array([[4, 0, -1, -1], [2, -1, -1, -1]])
    free = HiddenPrompt(model, 5, known)
    guided = classifier_free(MDLM(5), model, free, SCALE + 1, interval=(0.2, 0.6))
    t = jnp.full((2, 1), 0.5)
    hidden = model(jnp.array([[5, 5, 5, 5], [5, 5, 1, 5]]), t)
    llada = hidden + (SCALE + 1) * (model(z, t) - hidden)
    log_p = jax.nn.log_softmax(llada)
    masked = np.asarray(z) == 5
    np.testing.assert_allclose(guided(z, t)[masked], log_p[masked], atol=1e-5)
    np.testing.assert_allclose(guided(z, t + 0.2)[masked], model(z, t)[masked], atol=1e-5)
    twice = free(jnp.tile(z, (2, 1)), jnp.full((4, 1), 0.5))  # of two particles a row
    np.testing.assert_array_equal(twice, jnp.tile(free(z, t), (2, 1, 1)))


def test_processes_whose_noise_is_no_mask_or_that_go_from_left_to_right_have_none():
    masked = (ddlm.MDLM(5), ddlm.RADD(5), ddlm.SEDD(5), ddlm.GenMD4(5), ddlm.EsoLM(ddlm.MDLM(5)))
    others = (ddlm.UDLM(5), ddlm.GIDD(5), ddlm.BFN(5), ddlm.Autoregressive(5))
    assert all(map(hides_prompts, masked))
    assert not any(map(hides_prompts, (*others, ddlm.BlockDiffusion(ddlm.MDLM(5)))))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = ["train.num_steps=0", "data.length=12", "sampler.steps=4", "process=RADD"]
    experiment = load("configs/sotu/mdlm.py", [*SMALL, *settings, f"data.cache_dir={folder}"])
    experiment = ddlm.override(experiment, ["train.seed=1"])
    return ddlm.train(experiment, folder / "run", log=lambda line: None)


def test_at_strength_0_the_prompt_says_nothing_and_at_1_nothing_is_added(run, monkeypatch):
    """Of a network that reads the token three places before, each prompt of a batch being its own."""
    table = 3 * jax.random.normal(jax.random.key(0), (28, 27))
    monkeypatch.setattr(
        type(run.experiment.model), "apply", lambda *a, **_: table[jnp.roll(a[2], 3, axis=1)]
    )
    prompts = ["the", "we "]
    plain = run.sample(prompts=prompts)
    assert run.sample(prompts=prompts, guidance=1.0) == plain
    free = run.sample(prompts=prompts, guidance=0.0)
    other = run.sample(prompts=["abc", "xyz"], guidance=0.0)
    assert [text[3:] for text in free] == [text[3:] for text in other]
    assert [text[:3] for text in free] == prompts
    assert [text[3:] for text in plain] != [text[3:] for text in free]


@pytest.mark.parametrize(
    "options, changes, message",
    [
        ({}, [], r"--guidance 2\.0 needs a label, or known text.* or give --prompt"),
        ({"prompt": "we"}, ["process=UDLM", "process.vocab_size=27"], "masks the prompt, which UDLM"),
        (
            {"prompt": "we", "sampler": "SlidingWindow window=8 stride=4"}, [],
            "SlidingWindow sees a part",
        ),
        (
            {"prompt": "we", "guidance_interval": (0.2, 0.8), "sampler": "Ancestral cached=True"}, [],
            "depends on time",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_guided_so_is_told(run, options, changes, message):
    with pytest.raises(UserError, match=message):
        ddlm.load(run.workdir, changes=changes).sample(guidance=2.0, **options)


def test_a_run_that_saw_no_text_without_its_prompt_says_so(capsys):
    """One that learned from pairs from the start; not one that began with a run of whole texts."""
    pairs = load("configs/sotu/mdlm.py", ["data.rows=pair", "data.path=a.jsonl", "data.end=!"])
    _tell_of_pairs(override(pairs, ["init_from=runs/a"]))
    _tell_of_pairs(load("configs/sotu/mdlm.py", []))
    assert capsys.readouterr().err == ""
    _tell_of_pairs(pairs)
    assert "learned from pairs alone" in capsys.readouterr().err
