"""Block diffusion against numbers of the official BD3-LM code, in float64."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference

from diffusion.block import BlockDiffusion
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear, MDLMCosine, Polynomial, masked_weight
from models.transformer import Transformer

EPS = 1e-3  # of the official schedules
# Those that we have as well, up to `official`; "log" is the official code's alone.
SCHEDULES = {
    "loglinear": Linear(),
    "square": Polynomial(2.0),
    "square_root": Polynomial(0.5),
    "cosine": MDLMCosine(EPS),
}


@pytest.fixture
def arrays(x64):
    return reference("bd3lm")


class Group(NamedTuple):
    """A loss of the file: with which schedule, blocks and clip range, and if token 0 stays clean."""

    key: str
    schedule: str
    size: int
    clip: tuple[float, float]
    first_clean: bool
    suffix: str  # what names the draws it is of


def groups(a):
    form = r"loss_(?:([a-z_]+)_)?(block(\d+)_clip([\d.]+)_([\d.]+))(?:_bos([01]))?"
    found = []
    for key in a:
        if match := re.fullmatch(form, key):
            name, suffix, size, low, high, bos = match.groups()
            clip = (float(low), float(high))
            found.append(Group(key, name or "loglinear", int(size), clip, bos == "1", suffix))
    assert len({group.size for group in found}) > 1 and len({group.clip for group in found}) > 1
    assert {group.first_clean for group in found} == {False, True}
    return found


def of(a, name, group):
    return a[f"{name}_{group.suffix}"]


@dataclass(frozen=True)
class Given(BlockDiffusion):
    """Block diffusion with the draws u of the file, one of each block (B, blocks)."""

    draws: jax.Array = field(default=None, compare=False)

    def uniforms(self, u, length):
        return jnp.repeat(self.draws, self.block_length, axis=1)


@dataclass(frozen=True)
class Masked(MDLM):
    """The masked process with the z of the file."""

    z: jax.Array = field(default=None, compare=False)

    def corrupt(self, key, x0, t):
        return self.z


def official(name, t):
    """(move chance, weight, where they hold), of the official code but by our schedule.

    Its cosine loses eps of a token at t = 0 where MDLM's leaves eps at t = 1, and the weight divides by
    another eps more. Where 1 - alpha is below eps its powers of t have a floor, and ours none.
    """
    schedule, t = SCHEDULES[name], jnp.asarray(t)
    moved = jnp.exp(schedule.log1m_alpha(t))
    if name == "cosine":
        return moved + EPS, -schedule.dalpha(t) / (moved + 2 * EPS), moved > 0
    return moved, masked_weight(schedule, t), moved > (EPS if name.startswith("square") else 0)


def test_who_sees_whom(arrays):
    sizes = [int(match[1]) for key in arrays if (match := re.fullmatch(r"mask_block(\d+)", key))]
    assert len(sizes) > 1
    for size in sizes:
        model, together = Transformer(block_length=size), arrays[f"mask_block{size}"]
        length = len(together) // 2
        np.testing.assert_array_equal(model._context_mask(length), together)
        np.testing.assert_array_equal(model._mask(length), arrays[f"mask_sample_block{size}"])


def test_schedules(arrays):
    t = arrays["t_grid"]
    assert {f"move_chance_{name}" for name in SCHEDULES} <= arrays.keys()
    for name in SCHEDULES:
        moved, weight, holds = official(name, t)
        assert holds.mean() > 0.5
        for ours, theirs in (
            (np.asarray(moved), arrays[f"move_chance_{name}"]),
            (np.asarray(weight), -arrays[f"loss_scaling_{name}"]),
        ):
            np.testing.assert_allclose(ours[holds], theirs[holds], rtol=1e-7, err_msg=name)


def test_loss_of_each_token_from_the_same_draws(arrays):
    """The times of the blocks within the clip range, the clean context, and the weights."""
    a, x0 = arrays, jnp.asarray(arrays["x0"])
    V, checked = a["logits"].shape[-1] - 1, set()
    for group in groups(a):
        if group.schedule not in SCHEDULES:
            continue
        z, t = of(a, "xt", group), of(a, "t", group)
        z = np.concatenate([a["x0"][:, :1], z[:, 1:]], axis=1) if group.first_clean else z

        def model(seen, times, context, z=z, t=t):
            np.testing.assert_array_equal(seen, z)
            np.testing.assert_array_equal(context, x0)
            np.testing.assert_allclose(times, t, rtol=1e-12)
            return jnp.asarray(a["logits"][..., :V])

        base = Masked(V, SCHEDULES[group.schedule], z=z)
        draws = jnp.asarray(a[f"u_block{group.size}"])
        process = Given(base, group.size, group.clip, draws)
        loss = process.loss(jax.random.key(0), model, x0, None)
        # Of a range above one half the official code makes an unweighted cross entropy; ours keeps
        # the weights of the bound in every range.
        _, weight, holds = official(group.schedule, t)
        weight = np.ones_like(t) if group.clip[0] > 0.5 else weight
        if group.clip == (1, 1):  # nor have ours, which are those of one step
            weight = masked_weight(base.schedule, jnp.asarray(t))
        ours = np.asarray(loss * weight / masked_weight(base.schedule, t))
        np.testing.assert_array_equal(loss > 0, z == V)
        np.testing.assert_allclose(
            ours[holds], a[group.key][holds], rtol=1e-7, atol=1e-12, err_msg=group.key
        )
        checked.add(group.schedule)
    assert checked >= {"loglinear", "cosine"}


def test_blocks_have_one_time_each_and_times_are_stratified(arrays):
    """Officially over all blocks of the batch together, with a draw for each; ours over the batch for
    every block and over the blocks of every row. The numbers therefore differ."""
    x0, seen = jnp.asarray(arrays["x0"]), []
    rows, length = x0.shape

    def model(z, t, context):
        seen.append(t)
        return jnp.zeros((*z.shape, arrays["logits"].shape[-1] - 1))

    def strata(times, clip, axis):
        """In which of N even parts of the clip range the N times along the axis are, sorted."""
        if clip[0] == clip[1]:  # a point, in parts as one likes
            assert (times == clip[0]).all()
            return np.indices(times.shape)[axis]
        share = (times - clip[0]) / (clip[1] - clip[0])
        return np.sort(np.floor(share * share.shape[axis]), axis=axis)

    for group in {group.suffix: group for group in groups(arrays)}.values():
        u = (jnp.arange(rows)[:, None] + 0.37) / rows
        process = BlockDiffusion(MDLM(arrays["logits"].shape[-1] - 1), group.size, group.clip)
        process.loss(jax.random.key(0), model, x0, u)
        ours = np.asarray(seen.pop()).reshape(rows, -1, group.size)
        theirs = of(arrays, "t_antithetic", group).reshape(ours.shape)
        for times in (ours, theirs):
            assert (times == times[..., :1]).all()
        blocks = length // group.size
        assert (strata(ours[..., 0], group.clip, 0) == np.arange(rows)[:, None]).all()
        assert (strata(theirs[..., 0].ravel(), group.clip, 0) == np.arange(rows * blocks)).all()
        assert (strata(ours[..., 0], group.clip, 1) == np.arange(blocks)).all()


def test_reverse_step_of_the_last_block(arrays):
    """Without a nucleus; of one see `test_golden_sampler_steps`."""
    step = arrays["samp_q_nucleus1.0"]
    size, V = step.shape[1], step.shape[2] - 1
    z, out = (jnp.asarray(arrays[name])[:, -size:] for name in ("samp_x", "logits"))
    t, dt = (jnp.full((len(z), 1), value) for value in arrays["samp_t_dt"])
    process = MDLM(V)

    @jax.jit
    def probabilities(out, z):
        log_p0 = process.predict(out[..., :V], z, t)
        return jnp.exp(process.log_posterior(log_p0, z, t, t - dt))

    ours = np.asarray(probabilities(out, z))
    masked = np.asarray(z == V)
    assert masked.any()
    np.testing.assert_allclose(ours[masked], step[masked], rtol=1e-7, atol=1e-12)
    np.testing.assert_array_equal(ours[~masked], jax.nn.one_hot(z, V + 1)[~masked])
