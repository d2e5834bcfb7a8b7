"""Prompts of different lengths in one batch: each row keeps its own and minds no other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL

import ddlm
from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.eso_lm import EsoLM
from diffusion.mdlm import MDLM
from diffusion.radd import RADD
from diffusion.udlm import UDLM
from experiments import sample
from experiments.errors import UserError
from experiments.overrides import load
from models.backbone import Network
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.first_hitting import FirstHitting
from samplers.path_planning import PathPlanning
from samplers.predictor_corrector import PredictorCorrector
from samplers.remask import ReMDM
from samplers.twisted_smc import TwistedSMC
from samplers.two_phase import TwoPhase
from samplers.unmask import EntropyBudget, Steps, Threshold, Unmask

V, L = 5, 16
CASES = {
    "ancestral": (MDLM(V), Ancestral(steps=3)),
    "uniform": (UDLM(V), Ancestral(steps=3)),
    "first_hitting": (MDLM(V), FirstHitting(group=2)),
    "threshold": (RADD(V), Unmask("confidence", Threshold(0.8))),
    "budget": (RADD(V), Unmask("entropy", EntropyBudget(0.3))),
    "noisy": (RADD(V), Unmask("drawn", Steps(3), noise=2.0)),
    "remask": (MDLM(V), ReMDM(steps=3)),
    "planning": (MDLM(V), PathPlanning(steps=3)),
    "corrector": (MDLM(V), PredictorCorrector(steps=3)),
    "particles": (UDLM(V), TwistedSMC(steps=3)),
    "two_phase": (EsoLM(MDLM(V)), TwoPhase(steps=3)),
    "blocks": (BlockDiffusion(MDLM(V), 4), BlockByBlock(Unmask("drawn", Threshold(0.8)))),
    "left_to_right": (Autoregressive(V), LeftToRight()),
}


def neighbours(z, t):
    """A small network: each place by the states at both sides, of which a mask tells nothing."""
    table = 3 * jax.random.normal(jax.random.key(0), (2, V + 1, V)).at[:, V].set(0)
    return table[0][jnp.roll(z, 1, axis=1)] + table[1][jnp.roll(z, -1, axis=1)]


@pytest.mark.representatives(
    "blocks", "particles", "uniform", "two_phase", "first_hitting", "left_to_right", "threshold"
)
@pytest.mark.parametrize("name", CASES)
def test_a_row_has_the_same_tokens_whichever_prompts_stand_beside_it(name):
    process, sampler = CASES[name]
    network = neighbours
    if block := process.traits.attention_block:
        model = Transformer(V, num_layers=1, width=8, num_heads=1, dtype="float32")
        model = model.for_process(block, None)
        network = Network(model, jax.tree.map(lambda x: 5 * x, model.init(jax.random.key(0))))

    @jax.jit
    def drawn(known):
        keys = jax.random.split(jax.random.key(1), len(known))
        return sampler.sample(keys, process, network, known.shape, known)

    def prompts(*sizes):
        places = jnp.arange(L)[None]
        tokens = jnp.array([[n % V for n in range(L)], [2] * L, [4, 3] * (L // 2)])
        return jnp.where(places < jnp.array(sizes)[:, None], tokens, -1)

    def check(known, x0):
        assert np.all((x0 == known) | (known < 0)) and x0.min() >= 0 and x0.max() < V
        return x0

    first, second = (check(known, drawn(known)) for known in (prompts(3, 0, 16), prompts(3, 9, 1)))
    np.testing.assert_array_equal(first[0], second[0])
    assert np.any(first[1] != second[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    experiment = load(
        "configs/sotu/mdlm.py",
        [
            *SMALL,
            "train.num_steps=0",
            "data.length=16",
            "sampler.steps=4",
            f"data.cache_dir={folder}",
        ],
    )
    return ddlm.train(experiment, folder / "run", log=lambda line: None)


def test_each_prompt_has_its_samples_in_turn_and_no_other_changes_them(run):
    prompts = ["we", "", "the state of the"]
    texts = run.sample(2, prompts=prompts, seed=3)
    assert len(texts) == 6 and all(
        text.startswith(prompt) for text, prompt in zip(texts, prompts * 2, strict=True)
    )
    assert texts[2] == texts[5] == prompts[2] and texts[0] != texts[3]
    others = run.sample(2, prompts=["we", "union", "a"], seed=3)
    assert (others[0], others[3]) == (texts[0], texts[3]) and others[1] != texts[1]


def test_prompts_of_a_file_are_continued_with_more_of_each(run, tmp_path, capsys):
    """As pairs have them too: what they hold besides is nobody's business."""
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"prompt": "we"}\n\n{"prompt": "the", "answer": "state"}\n')
    command = ["--workdir", str(run.workdir), "--prompts", str(file), "--out", str(out)]
    sample.main([*command, "--num", "1"])
    sample.main([*command, "--num", "2"])
    assert "2 samples exist; continuing to 4" in capsys.readouterr().out
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["given"] for line in lines] == ["we", "the"] * 2
    assert [line["text"] for line in lines] == run.sample(2, prompts=["we", "the"])
    assert all(line["text"] == line["given"] + line["answer"] for line in lines)
    file.write_text('{"prompt": "we"}\n{"prompt": "a"}\n')
    with pytest.raises(UserError, match="holds other samples"):
        sample.main([*command, "--num", "3"])


@pytest.mark.parametrize(
    "content, message",
    [
        ("we\n", r"p\.jsonl, line 1: is not JSON"),
        ('{"prompt": "we"}\n{"text": "a"}\n', r"line 2: is not .*give a line"),
        ("\n", "holds no prompts"),
        ('{"prompt": "we"}\n{"prompt": "We"}\n', "--prompts, prompt 2: .* outside the 27 letters"),
        ('{"prompt": "' + "a" * 17 + '"}', "--prompts, prompt 1: .*longer than the model's 16"),
    ],
)
def test_what_is_no_prompt_is_named(run, tmp_path, content, message):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        sample.main(["--workdir", str(run.workdir), "--prompts", str(tmp_path / "p.jsonl")])


def test_prompts_go_with_no_other_known_text(run):
    with pytest.raises(UserError, match="--prompts and --template cannot be combined"):
        run.sample(prompts=["we"], template="a_b")
    with pytest.raises(UserError, match="--prompts and --prompt cannot be combined"):
        run.sample(prompts=["we"], prompt="the")
