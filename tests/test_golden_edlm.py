"""Residual energies against numbers of the official EDLM code, in float64; where it errs, we differ."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference
from oracle import OneText

from diffusion.autoregressive import Autoregressive
from diffusion.edlm import EDLM, EDLMAutoregressive, contrastive
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear, masked_weight


@pytest.fixture
def arrays(x64):
    return reference("edlm")


def vocabulary(a):
    return a["logits"].shape[-1] - 1  # the last column is the mask's


def base_of(a):
    """The base process, log p(x0 | z_t) from the logits of the file, and z."""
    process, z = MDLM(vocabulary(a), Linear(1e-3)), jnp.asarray(a["xt"])
    out = jnp.asarray(a["logits"][..., : vocabulary(a)])
    return process, process.predict(out, z, jnp.asarray(a["t"])[:, None]), z


def first_token(V):
    """log p of the first token, which the official energy leaves out: no two tokens have the same."""
    return np.log(np.arange(1, V + 1) / np.arange(1, V + 1).sum())


def autoregressive(a):
    """A network with the outputs of the file, of what follows each token of x0, and `first_token`."""
    V = vocabulary(a)

    @OneText
    def network(inputs, t):
        np.testing.assert_array_equal(inputs[:, 1:], a["x0"][:, :-1])
        assert (inputs[:, 0] == V).all()
        first = np.broadcast_to(first_token(V), (len(inputs), 1, V))
        return jnp.concatenate([first, a["ar_logits"][..., :V]], axis=1)

    return network


def groups(a):
    """The energies (k, B) of k candidates of each of B rows; in the file rows change fastest."""
    energies = jnp.asarray(a["is_energy_flat"]).reshape(-1, a["is_weights_code"].shape[0])
    assert min(energies.shape) > 1
    return energies


def test_base_is_subs(arrays):
    V = vocabulary(arrays)
    _, log_p0, _ = base_of(arrays)
    official = np.exp(arrays["log_p_x0"])
    np.testing.assert_allclose(jnp.exp(log_p0), official[..., :V], rtol=1e-9)
    assert official[..., V].max() < 1e-12


def test_autoregressive_energy_is_the_official_one_and_the_first_token(arrays):
    """The official -E scores no first token; our log weight scores all, with a start token before."""
    V, x0 = vocabulary(arrays), jnp.asarray(arrays["x0"])
    base, log_p0, z = base_of(arrays)
    model = SimpleNamespace(energy=autoregressive(arrays))
    t = jnp.asarray(arrays["t"])[:, None]
    log_w = EDLMAutoregressive(base).log_weight(model, log_p0, x0, z, t)
    first = first_token(V)[arrays["x0"][:, 0]]
    np.testing.assert_allclose(log_w - first, -arrays["ar_energy_carry0"][:, 0], rtol=1e-9)


def test_autoregressive_energy_counts_the_tokens_that_are_known(arrays):
    """The official `carry_over` drops them from the autoregressive part: no ratio of two distributions
    then."""
    x0, known = jnp.asarray(arrays["x0"]), arrays["xt"] != vocabulary(arrays)
    log_p = Autoregressive(vocabulary(arrays)).log_p(autoregressive(arrays), x0)
    dropped = jnp.where(known, log_p, 0)[:, 1:].sum(1)
    difference = arrays["ar_energy_carry1"] - arrays["ar_energy_carry0"]
    np.testing.assert_allclose(difference[:, 0], dropped, rtol=1e-9, atol=1e-9)
    assert (dropped < 0).any() == known[:, 1:].any()


def assert_nce(loss, a):
    """The official code adds 1e-8 to each probability before the logarithm; softplus has no need to."""
    floor = 1e-8 * (2 + np.exp(a["energy_pos"]) + np.exp(-a["energy_neg"]))
    assert np.all(np.abs(loss - a["nce_loss"]) < floor)


def test_contrastive_loss(arrays):
    of_data, of_noise = (jnp.asarray(arrays[f"energy_{name}"]) for name in ("pos", "neg"))
    assert_nce(contrastive(of_data, of_noise), arrays)


def test_contrastive_loss_is_that_of_the_process_at_every_position(arrays):
    """Energies reach it by what they are energies of: x0, or the base's draw, which here avoids x0."""
    V, x0 = vocabulary(arrays), jnp.asarray(arrays["x0"])

    def energy(x, t, state):
        of_data, of_noise = (arrays[f"energy_{name}"][:, 0] for name in ("pos", "neg"))
        return jnp.where((x == x0).all(1), of_data, of_noise)

    class Network(SimpleNamespace):
        def __call__(self, z, t):
            return jnp.where(jax.nn.one_hot(x0, V, dtype=bool), -jnp.inf, 0.0)

    u = jnp.full((len(x0), 1), 1 - 1e-9)
    process, model = EDLM(MDLM(V)), Network(energy=energy)
    loss = jax.jit(lambda key: process.loss(key, model, x0, u))(jax.random.key(0))
    assert loss.shape == x0.shape
    assert_nce(loss, arrays)


def candidates_of(a):
    """(model, x, z, t) with the energies of the file: of the candidate that the first token of x names,
    for the row that the first token of z names, if the second of x and the time are that row's."""
    energies, t = groups(a), a["t"]
    count, rows = energies.shape
    x, z = np.zeros((count, *a["x0"].shape), int), np.zeros(a["x0"].shape, int)
    x[:, :, 0], x[:, :, 1], z[:, 0] = np.arange(count)[:, None], np.arange(rows), np.arange(rows)

    def energy(x, times, state):
        np.testing.assert_array_equal(times[:, 0], t[state[:, 0]])
        np.testing.assert_array_equal(x[:, 1], state[:, 0])
        return energies[x[:, 0], state[:, 0]]

    return SimpleNamespace(energy=energy), x, z, t[:, None]


def test_weights_are_a_softmax_of_minus_the_energies_of_ones_own_candidates(arrays):
    a = arrays
    model, x, z, t = candidates_of(a)
    process = EDLM(MDLM(vocabulary(a)), candidates=len(x), temperature=float(a["is_temp"]))
    log_p0 = np.asarray(base_of(a)[1])
    log_w = process._log_weights(model, log_p0, x, z, t)
    weights = jax.nn.softmax(log_w, axis=0).T
    np.testing.assert_allclose(weights, a["is_weights_intended"], rtol=1e-9)
    # As a row has them alone.
    for b in range(len(z)):
        here = slice(b, b + 1)
        alone = process._log_weights(model, log_p0[here], x[:, here], z[here], t[here])
        np.testing.assert_allclose(alone[:, 0], log_w[:, b], rtol=1e-12)
    # The official code has the sign of the energy wrong, and besides takes other rows' candidates.
    flipped = jax.nn.softmax(-log_w, axis=0).T
    np.testing.assert_allclose(flipped, a["is_weights_signflip_only"], rtol=1e-9)
    mixed = jax.nn.softmax(-log_w.reshape(len(z), -1), axis=1)
    np.testing.assert_allclose(mixed, a["is_weights_code"], rtol=1e-9)
    for official in ("is_weights_code", "is_weights_signflip_only"):
        assert np.abs(weights - a[official]).max() > 1e-6
    assert np.abs(weights - jax.nn.softmax(log_w.reshape(len(z), -1), axis=1)).max() > 1e-6


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_temperature_divides_the_energies(temperature, arrays):
    model, x, z, t = candidates_of(arrays)
    base, log_p0, _ = base_of(arrays)
    log_w = EDLM(base, temperature=temperature)._log_weights(model, log_p0, x, z, t)
    np.testing.assert_allclose(log_w, -groups(arrays) / temperature, rtol=1e-9)


def test_mean_weight_is_the_estimate_of_the_partition_function(arrays):
    model, x, z, t = candidates_of(arrays)
    base, log_p0, _ = base_of(arrays)
    log_w = EDLM(base)._log_weights(model, log_p0, x, z, t)
    log_mean = jax.nn.logsumexp(log_w, axis=0) - jnp.log(len(x))
    np.testing.assert_allclose(log_mean, arrays["logZ_n"], rtol=1e-9)


def test_draws_keep_candidates_with_the_intended_weights(arrays):
    """Many copies of each row, among rows with other energies, which the energy gives by position."""
    energies, copies = groups(arrays), 1000
    count, rows = energies.shape
    V = vocabulary(arrays)
    length = int(np.ceil(np.log(1000 * count) / np.log(V)))  # few candidates are then the same
    seen = []  # the candidates, (k * copies * rows, L)

    def energy(x, t, state):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jnp.tile(energies, (1, copies)).reshape(-1)

    class Network(SimpleNamespace):
        def __call__(self, z, t):
            return jnp.broadcast_to(0 * t[..., None], (*z.shape, V))

    process = EDLM(MDLM(V), candidates=count, temperature=float(arrays["is_temp"]))
    draw = jax.jit(lambda key, z, t: process.draw(key, Network(energy=energy), z, t))
    z, t = jnp.full((copies * rows, length), V), jnp.full((copies * rows, 1), 0.7)
    kept = draw(jax.random.key(0), z, t)
    jax.effects_barrier()
    agrees = (seen[0].reshape(count, *kept.shape) == np.asarray(kept)).all(-1)  # (k, copies * rows)
    told_apart = agrees.sum(0) == 1  # from the row's other candidates
    assert agrees.any(0).all() and told_apart.mean() > 0.99
    share = (agrees & told_apart).reshape(count, copies, rows).sum(1)
    share = share / told_apart.reshape(copies, rows).sum(0)
    expected = arrays["is_weights_intended"].T
    error = np.sqrt(expected * (1 - expected) / copies)
    assert np.all(np.abs(share - expected) < 5 * error + 0.002)


def test_official_evaluation_adds_the_energy_to_the_integrand_of_the_base(arrays):
    """Token loss of the base plus weight * (E + log Z) / L at every position, known ones too, with an
    estimate of log Z or with 0: no bound (see `diffusion.edlm`). Ours are the parts alone."""
    a, x0 = arrays, jnp.asarray(arrays["x0"])
    base, log_p0, z = base_of(a)
    t = jnp.asarray(a["t"])[:, None]
    weight = masked_weight(base.schedule, t)
    np.testing.assert_allclose(weight[:, 0], a["weight"], rtol=1e-9)
    loss = base.token_loss(jnp.asarray(a["logits"][..., : base.vocab_size]), x0, z, t)
    model = SimpleNamespace(energy=autoregressive(a))
    log_w = EDLMAutoregressive(base).log_weight(model, log_p0, x0, z, t)[:, None]
    added = {
        "ar_eval_loss_carry0": first_token(base.vocab_size)[a["x0"][:, :1]] - log_w,
        "ar_eval_loss_carry1": a["ar_energy_carry1"],
        "dit_eval_loss": a["energy_pos"] - a["energy_neg"],
    }
    for name, energy in added.items():
        np.testing.assert_allclose(
            loss + weight * energy / x0.shape[1], a[name], rtol=1e-8, atol=1e-10
        )
