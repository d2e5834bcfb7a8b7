"""Soft targets: the loss by enumeration, and a smaller student through training."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL
from oracle import OneText

import ddlm
from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine
from diffusion.soft_targets import SoftTargets
from experiments.comparison.plan import method
from experiments.data.text import prepare
from experiments.overrides import load


def student(z, t):
    """Some network that is not the teacher."""
    return jnp.sin(jnp.stack([z + 1.0, 2 * z + 1.0, 5.0 - z], -1))


def mean_loss(process, table, t=0.4):
    """The mean of the loss over texts of the toy and its masks, at one time: (L,)."""
    toy, states = table.toy, list(itertools.product([False, True], repeat=3))
    masked = 1 - float(jnp.exp(process.schedule.log_alpha(jnp.asarray(t))))
    x0 = np.repeat(toy.states, len(states), 0)
    masks = np.tile(states, (len(toy.states), 1))
    p = np.repeat(toy.p, len(states)) * np.prod(np.where(masks, masked, 1 - masked), 1)
    z = jnp.asarray(np.where(masks, table.size, x0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MDLM, "corrupt", lambda self, key, x0, t: z)
        u = jnp.full((len(x0), 1), t)
        loss = process.loss(jax.random.key(0), OneText(student), jnp.asarray(x0), u)
    return np.einsum("b,bl->l", p, np.asarray(loss))


def test_an_exact_teacher_leaves_the_bound_and_another_moves_it(table):
    """The mean is that of MDLM whatever the share, since the teacher is the mean of x0 given z_t."""
    want = mean_loss(MDLM(3, Cosine()), table)
    for share in (0.0, 0.3, 1.0):
        taught = SoftTargets(3, Cosine(), share=share).taught_by(table.model)
        np.testing.assert_allclose(mean_loss(taught, table), want, rtol=2e-5)
    wrong = SoftTargets(3, Cosine(), share=1.0).taught_by(lambda z, t: 2 * table.model(z, t))
    assert np.abs(mean_loss(wrong, table) / want - 1).max() > 0.01


def test_the_bound_is_that_of_mdlm(table):
    x0, u = jnp.asarray(table.toy.states), (jnp.arange(27)[:, None] + 0.5) / 27
    keys = jax.random.split(jax.random.key(0), 27)
    ours, plain = (p.bound(keys, OneText(student), x0, u) for p in (SoftTargets(3), MDLM(3)))
    np.testing.assert_array_equal(ours, plain)


def test_a_smaller_student_is_trained_and_evaluated(tmp_path):
    small = [*SMALL, "data.length=12", "train.num_steps=1", f"data.cache_dir={tmp_path}"]
    teacher = ddlm.train(load("configs/sotu/mdlm.py", small), tmp_path / "teacher", log=len)
    settings = [*small, f"teacher.workdir={teacher.workdir}", "model.width=8"]
    experiment = load("configs/sotu/soft_targets.py", settings)
    run = ddlm.train(experiment, tmp_path / "run", log=len)
    again = method(tmp_path, "run", experiment, prepare(experiment.data))  # of a comparison
    assert again.resolved.teacher == run.experiment.teacher
    assert run.experiment.model.width == 8 and run.experiment.teacher.model.width == 16
    assert run.evaluate("test", num_times=1, max_sequences=4, log=len)["kind"] == "bound"


def test_a_share_is_between_none_and_all():
    with pytest.raises(ValueError, match=r"SoftTargets.share = 1.5 is outside \[0, 1\]"):
        SoftTargets(share=1.5)
