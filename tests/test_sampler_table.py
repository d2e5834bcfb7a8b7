"""The page of samplers against the code, what an experiment takes, and compatibilities against what
happens."""

import dataclasses
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, complete

import diffusion
import samplers
from diffusion.autoregressive import Autoregressive
from diffusion.d3pm import D3PM
from diffusion.dense import Gaussian
from diffusion.dirichlet import DirichletFlow
from diffusion.embedding_classifier import EmbeddingClassifier
from diffusion.eso_lm import EsoLM
from diffusion.gaussian import GivenEmbeddings
from diffusion.genmd4 import GenMD4
from diffusion.kernels import Uniform
from diffusion.linear_flow import LinearFlow
from diffusion.log_snr import LinearLogSNR
from diffusion.mdlm import MDLM
from diffusion.noisy_classifier import NoisyClassifier
from diffusion.one_step import OneStep
from diffusion.plaid import Plaid
from diffusion.sedd import SEDD
from diffusion.stationary import Stationary
from experiments import cli
from experiments.config import Experiment, Train
from experiments.studies import sampler_table
from models.energy import EnergyTransformer
from models.insertion import InsertionTransformer
from models.planned import PlannedTransformer
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.predictor_corrector import PredictorCorrector
from samplers.sliding_window import SlidingWindow
from samplers.twisted_smc import TwistedSMC

PAGE = Path(__file__).parent.parent / "docs" / "samplers.md"


def test_the_page_is_what_the_program_makes(tmp_path, capsys):
    assert PAGE.read_text() == sampler_table.page(), (
        "run python -m experiments.studies.sampler_table --out docs/samplers.md"
    )
    assert cli.guarded("studies.sampler_table", ["--out", str(tmp_path / "a.md")]) == 0
    assert cli.guarded("studies.sampler_table", []) == 0
    assert (tmp_path / "a.md").read_text() == capsys.readouterr().out == PAGE.read_text()


def _dataclasses(package, *methods):
    modules = [
        import_module(f"{package.__name__}.{m.name}")
        for m in pkgutil.iter_modules(package.__path__)
    ]
    found = [
        c
        for m in modules
        for _, c in inspect.getmembers(m, inspect.isclass)
        if c.__module__ == m.__name__
    ]
    return {
        c
        for c in found
        if dataclasses.is_dataclass(c)
        and not inspect.isabstract(c)
        and all(hasattr(c, n) for n in methods)
    }


def test_no_process_and_no_sampler_is_forgotten():
    writing_no_text = {NoisyClassifier, EmbeddingClassifier}
    objectives = _dataclasses(diffusion, "loss", "traits") - writing_no_text
    assert {type(p) for p in sampler_table.processes()} == objectives and len(objectives) >= 14
    runners = _dataclasses(samplers, "run", "compatibility")
    assert {type(s) for s in sampler_table.samplers()} == runners and len(runners) >= 14
    text = PAGE.read_text()
    for cls in objectives | runners:
        assert f"`{cls.__name__}" in text


EVERY = sampler_table.processes()


@pytest.mark.parametrize("process", EVERY, ids=lambda p: sampler_table._variant(p))
def test_an_experiment_rejects_what_the_table_calls_rejected(process):
    energy = {"EDLM": EnergyTransformer(), "EDLMAutoregressive": Transformer()}
    networks = {"FlexMDM": InsertionTransformer(), "DGLM": PlannedTransformer()}
    accepted = 0
    for sampler in sampler_table.samplers():
        sampler = sampler_table.fitting(sampler, process)
        compatibility = sampler.compatibility(process)
        assert (
            sampler.compatibility(complete(process, 6)) == compatibility
        )  # nor does the data change it
        name = type(process).__name__

        def make(sampler=sampler, name=name):
            return Experiment(
                process,
                networks.get(name, Transformer()),
                sampler=sampler,
                train=Train(num_steps=0),
                energy=energy.get(name),
            )

        if compatibility.kind == "unsupported":
            with pytest.raises(ValueError) as error:
                make()
            assert compatibility.why in str(error.value)
        else:
            make()
            accepted += 1
    assert accepted >= 1


def model_of(size):
    def model(z, t, segments=None, gaps=None):
        return jnp.zeros((*z.shape[:2], size))

    model.energy = lambda x, t, state=None: jnp.zeros(x.shape[0])
    return model


@pytest.mark.representatives(
    "ARDiff", "BFN", "D3PM(Absorbing", "Dirichlet", "SDTT", "EsoLM", "Flex", "GIDD", "MDLM", "Plaid",
    "SEDD(Uni", "UDLM",
)  # fmt: skip
@pytest.mark.parametrize(
    "process",
    [
        p
        for p in EVERY
        if p.traits.attention_block is None
        and not isinstance(getattr(p, "kernel", None), Stationary)  # the programs of `Unigram`
    ],
    ids=sampler_table._variant,
)
def test_what_is_not_rejected_runs(process):
    """Traced, not computed; with given tokens too. Those with a cache of keys have their own tests."""
    process = complete(process, 6)
    model = model_of(6 + 2 * process.traits.inserts)
    if hasattr(process, "num_steps") and isinstance(process, D3PM):
        process = dataclasses.replace(process, num_steps=8)
    for sampler in sampler_table.samplers():
        sampler = sampler_table.fitting(sampler, process)
        if (
            type(process).__name__ == "EDLMAutoregressive"
            or sampler.decodes
            or sampler.compatibility(process).kind == "unsupported"
        ):
            continue
        for given in (None, jnp.array([[0, -1, -1, 2]])):
            got = jax.eval_shape(
                lambda k, s=sampler, g=given: s.run(k, process, model, (1, 4), g).x0,
                jax.random.key(0),
            )
            assert got.shape == (1, 4) and got.dtype == jnp.int32


def test_what_a_given_token_means():
    says = sampler_table._known_token
    assert says(MDLM()) == says(GenMD4()) == says(D3PM()) == says(EsoLM()) == "own distribution"
    assert says(SEDD(kernel=Uniform())) == says(D3PM(kernel=Gaussian())) == "biased"
    assert says(OneStep()) == "vertices" and says(Autoregressive()) == "prompt"


def test_noise_added_again_needs_it_in_closed_form():
    """Which matrices do not give: the corrector was accepted, and failed when it was compiled."""
    back = PredictorCorrector(4, corrector="forward_backward")
    dense = D3PM(5, Gaussian(), num_steps=8)
    assert back.compatibility(dense).kind == "unsupported"
    assert (
        PredictorCorrector(4).compatibility(dense).kind
        == back.compatibility(D3PM(5, Uniform())).kind
        == "approximate"
    )


def test_a_sampler_is_checked_before_the_vocabulary_is_known():
    for process in (MDLM(), GenMD4(), D3PM()):
        assert Experiment(process, Transformer(), sampler=Ancestral(cached=True)).sampler.cached


def test_one_step_is_counted_inside_windows_too():
    with pytest.raises(ValueError, match=r"sampler\.inner\.steps = 64"):
        Experiment(OneStep(), Transformer(), sampler=SlidingWindow())
    assert Experiment(OneStep(), Transformer(), sampler=SlidingWindow(Ancestral(1)))


LINE = Plaid(2, GivenEmbeddings(((1.0,), (-1.0,))), LinearLogSNR(-6.0, 8.0), self_conditioning=0.0)
PAIR = np.array([0.45, 0.05, 0.1, 0.4])  # of two tokens that depend on each other
CONDITIONAL = 0.45 / 0.55  # of the first token, given the second


def share_of_the_first(process, sampler, rows):
    toy = Toy(PAIR, 2, 2)
    given = jnp.broadcast_to(jnp.array([-1, 0]), (rows, 2))
    run = jax.jit(lambda k: sampler.sample(k, process, toy.denoiser(process), (rows, 2), given))
    x = np.asarray(run(jax.random.key(0)))
    assert (x[:, 1] == 0).all()
    return (x[:, 0] == 0).mean()


def test_particles_bring_given_tokens_to_the_conditional_distribution_on_embeddings():
    """Of other processes test_infilling has it."""
    rows, error = 1000, np.sqrt(0.15 / 1000)
    many, one = TwistedSMC(24, particles=32), TwistedSMC(24, particles=1)
    assert many.compatibility(LINE).kind == "exact"
    assert abs(share_of_the_first(LINE, many, rows) - CONDITIONAL) < 4 * error + 0.03
    assert abs(share_of_the_first(LINE, one, rows) - CONDITIONAL) > 0.1


def test_particles_are_rejected_where_the_bridge_tells_more_than_the_state():
    """With the probability of the given token as that of a step, the distance to the conditional
    distribution grew with steps on the toy V3L3: for DirichletFlow and 64 particles from 0.10 to 0.33
    (8, 48)."""
    for process in (DirichletFlow(2), LinearFlow(2), OneStep(DirichletFlow(2))):
        assert TwistedSMC(1).compatibility(process).kind == "unsupported"
