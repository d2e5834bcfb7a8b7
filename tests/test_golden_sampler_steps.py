"""Single steps of the official samplers of SEDD, MD4, BD3-LM and MDLM from stored states, in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from conftest import reference
from oracle import assert_distribution
from test_golden_masked import inputs, md4_schedules, mdlm_schedules
from test_golden_sedd import groups

from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from samplers.euler import Euler
from samplers.logits_processor import LogitsProcessor

COPIES = 4000


def step_of(process, log_p0, z, t, s):
    return np.exp(process.log_posterior(log_p0, z, t, s))


def test_euler_weights_are_one_step_of_the_reverse_rates(x64):
    a = reference("sedd")
    dt = float(a["step_size"])
    for name, process, golden, out, z, t in groups(a):
        rate = np.exp(process.log_reverse_rate(out, z, t))
        here = np.eye(process.num_states)[z]
        weights = here * (1 - dt * rate.sum(-1, keepdims=True)) + dt * rate
        expected = golden["euler_probs"]
        np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_linear_euler_steps_are_drawn_from_the_clipped_weights(x64):
    """The official draw never takes a negative entry, and so renormalises the others."""
    a = reference("sedd")
    sampler = Euler(rule="linear")
    for name, process, golden, out, z, t in groups(a):

        @jax.jit
        def draw(key, process=process, out=out, z=z, t=t):
            many, times, outs = (jnp.concatenate([x] * COPIES) for x in (z, t, out))
            moved, _ = sampler.step(
                key, process, lambda z, t: outs, many, times, times - a["step_size"]
            )
            onehot = jax.nn.one_hot(moved, process.num_states)
            return onehot.reshape(COPIES, *z.shape, -1).sum(0)

        counts = np.asarray(draw(jax.random.key(0)))
        distribution = np.maximum(golden["euler_probs"], 0)
        distribution = distribution / distribution.sum(-1, keepdims=True)
        assert ((distribution == 0) <= (counts == 0)).all(), name
        rows = (x.reshape(-1, process.num_states) for x in (counts, distribution))
        for seen, expected in zip(*rows, strict=True):
            # Of some 1500 entries in all the largest deviation stays within 6 standard errors.
            assert_distribution(seen, expected, sigmas=6)


def test_top_p_of_md4_keeps_the_token_that_crosses_the_line(x64):
    a = reference("md4")
    V, out, _ = inputs(a, 0)
    z, checked = jnp.asarray(a["zt"]), []
    masked, schedules = np.asarray(z) == V, md4_schedules(a)
    for key, golden in a.items():
        if not (match := re.fullmatch(r"topp([\d.]+)_(.+)_(uniform|cosine)_i(\d+)", key)):
            continue
        top_p, schedule, grid, number = match.groups()
        process = MDLM(V, schedules[schedule])
        s, t = (jnp.full((len(z), 1), x) for x in a[f"grid_{grid}_s_t"][int(number)])
        log_p0 = LogitsProcessor(top_p=float(top_p))(process.predict(out, z, t))
        ours, golden = step_of(process, log_p0, z, t, s)[masked], golden[masked]
        np.testing.assert_array_equal(ours > 0, golden > 0, err_msg=key)
        # The official step is computed in float32.
        np.testing.assert_allclose(ours, golden, rtol=2e-6, err_msg=key)
        checked.append(top_p)
    assert len(checked) > 1


def test_nucleus_of_bd3lm_leaves_out_the_token_that_crosses_the_line_and_ours_keeps_it(x64):
    """Officially the kept tokens have at most the mass p, so that less than p is left but where one
    token alone has it; a nucleus (arXiv 1904.09751) is the fewest tokens with at least p."""
    a, checked = reference("bd3lm"), []
    for key, step in a.items():
        if not (match := re.fullmatch(r"samp_q_nucleus([\d.]+)", key)):
            continue
        top_p, size, V = float(match[1]), step.shape[1], step.shape[2] - 1
        z, out = (jnp.asarray(a[name])[:, -size:] for name in ("samp_x", "logits"))
        t, dt = (jnp.full((len(z), 1), value) for value in a["samp_t_dt"])
        process, masked = MDLM(V), np.asarray(z) == V
        log_p0 = process.predict(out[..., :V], z, t)

        def step_with(logits_processor, process=process, log_p0=log_p0, z=z, t=t, dt=dt):
            return step_of(process, logits_processor(log_p0), z, t, t - dt)

        ours, kept = step_with(LogitsProcessor(top_p=top_p)), (step[..., :V] > 0).sum(-1)
        more = (ours[..., :V] > 0).sum(-1) - kept
        mass = np.where(step[..., :V] > 0, np.exp(log_p0), 0).sum(-1)
        for position in zip(*np.nonzero(masked), strict=True):
            n = int(kept[position])
            # The same cut but for that token: the n most probable.
            np.testing.assert_allclose(
                step_with(LogitsProcessor(top_k=n))[position],
                step[position],
                rtol=1e-9,
                err_msg=key,
            )
            if top_p == 1:
                assert n == V and more[position] == 0
            else:
                assert more[position] == 1 if mass[position] < top_p else n == 1
        checked.append(top_p)
    assert {1.0} < set(checked)


def test_reverse_step_weights_of_mdlm_sum_to_what_is_masked(x64):
    a, checked = reference("mdlm"), 0
    V, out, _ = inputs(a, 1)
    z, t = jnp.asarray(a["xt"]), jnp.asarray(a["sampler_t_used"])[:, None]
    masked = np.asarray(z) == V
    # The official caching sampler has alpha = 1 - t, though the network was trained at
    # alpha = 1 - (1 - 1e-3) t: another schedule than that of its other sampler.
    for name, schedule in (mdlm_schedules(a) | {"cache_loglinear": Linear()}).items():
        process = MDLM(V, schedule)
        step = step_of(process, process.predict(out, z, t), z, t, t - a["sampler_dt"])
        weights = step * np.exp(schedule.log1m_alpha(t))[..., None]
        np.testing.assert_allclose(
            weights[masked], a[f"q_xs_{name}"][masked], rtol=1e-9, atol=1e-15, err_msg=name
        )
        checked += 1
    assert checked > 2
    apart = (1 - 1e-3) * a["q_xs_cache_loglinear"]
    np.testing.assert_allclose(a["q_xs_loglinear"][masked], apart[masked], rtol=1e-9)
