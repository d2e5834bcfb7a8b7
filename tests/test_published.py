"""Published checkpoints, read from their own files: outputs, log-probabilities, scores and losses are
those of the published code, the losses by our objectives.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_cases import LOADED, Case

from diffusion.block import BlockDiffusion
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from models.backbone import Network

CLOSE = 1e-4
INPUTS = {
    "input_ids", "x0", "t", "x", "sigma", "dsigma", "alpha", "beta_pi", "soft_input", "labels",
    "lambda_", "p_mask", "masked",
    "t_grid", "z",
    "train_loss",  # of training alone: test_golden_gidd.py
}  # fmt: skip


def with_tokens(process, size: int):
    if isinstance(process, BlockDiffusion):
        return replace(process, base=with_tokens(process.base, size))
    return replace(process, vocab_size=size)


class Read:
    """A case as it is read: its network, and its outputs at the published inputs."""

    def __init__(self, case: Case, **options):
        self.case, self.a = case, dict(case.arrays)
        self.checkpoint = case.open(**options)
        architecture = self.checkpoint.architecture
        self.V = architecture.model.vocab_size
        self.process = with_tokens(architecture.process, self.V)
        params = jax.tree.map(jnp.asarray, self.checkpoint.params())
        self.network = Network(replace(architecture.model, dtype="float32"), params)
        ids = self.a.get("input_ids")
        if ids is not None:
            self.z = jnp.asarray(np.where(ids == case.mask, self.V, ids))
            self.t = self.at(self.a.get("t", np.zeros(len(ids))))

    def at(self, t) -> jax.Array:
        return jnp.asarray(t, jnp.float32).reshape(len(self.a["input_ids"]), -1)

    def out(self, z=None, t=None, **condition) -> jax.Array:
        z, t = self.z if z is None else z, self.t if t is None else t
        condition = {name: jnp.asarray(value) for name, value in condition.items()}
        return jax.jit(lambda z, t: self.network(z, t, **condition))(z, t)

    def mask_output(self, **condition) -> np.ndarray:
        """(B, L, 1): the output of the mask, which our head leaves out and a run keeps aside."""
        condition = {name: jnp.asarray(value) for name, value in condition.items()}
        backbone, rest = self.network.backbone, self.checkpoint.rest()
        name = self.checkpoint.names["output_layer.linear.weight"]
        features = backbone.features(self.network.params, self.z, self.t, **condition)
        return np.asarray(features) @ rest[name].T + rest[name.replace("weight", "bias")]

    def losses(self, process, t=None, out=None) -> jax.Array:
        out = self.out() if out is None else out
        return process.token_loss(
            out, jnp.asarray(self.a["x0"]), self.z, self.t if t is None else t
        )


def masked(read: Read, **condition):
    """MDLM, and block diffusion, whose base is given."""
    process = getattr(read.process, "base", read.process)
    out = read.out(**condition)
    log_p = process.predict(out, read.z, read.t)
    yield "logits", jnp.concatenate([out, read.mask_output(**condition)], -1)
    yield "log_probs", jnp.pad(log_p, ((0, 0), (0, 0), (0, 1)), constant_values=-1e6)
    yield "loss", read.losses(process, out=out)
    if "logits_of_state_dict" in read.a:  # the others are of the average that the file keeps too
        last = Read(read.case, average=False)
        yield "logits_of_state_dict", jnp.concatenate([last.out(), last.mask_output()], -1)


def blocks(read: Read):
    yield from masked(read, context=read.a["x0"])
    out = jnp.concatenate([read.out(), read.mask_output()], -1)
    yield "logits_sample_mode", out


def sedd(read: Read):
    assert isinstance(read.process, SEDD)
    out, V = read.out(), read.V
    score = read.process._graph.log_score(out, read.z, read.t)
    published = read.a["log_score"]
    if read.process.kernel.masks:
        # At a token nothing is to be known: only at a mask is the score of the tokens used.
        masked = np.asarray(read.z == V)
        read.a["log_score"] = published[masked][:, :V]
        score = score[masked]
    yield "log_score", score
    yield "loss", read.losses(read.process, out=out)


def duo(read: Read):
    out = read.out()
    yield "logits", out
    yield "log_probs", jax.nn.log_softmax(out)
    yield "loss", read.losses(read.process, out=out)
    yield "logits_soft_input", read.out(jax.nn.softmax(jnp.asarray(read.a["soft_input"])))


def udlm(read: Read):
    given = {"label": read.a["labels"]} if "labels" in read.a else {}
    out = read.out(**given)
    yield "logits", out
    yield "log_probs", jax.nn.log_softmax(out)
    # Published with alpha = 1 - t, though states and time input are those of 1 - (1 - 1e-3) t.
    assert read.process == UDLM(read.V, schedule=Linear(1e-3))
    yield "loss", read.losses(UDLM(read.V, schedule=Linear()), out=out)
    x0 = jnp.asarray(read.a["x0"])
    start = jax.nn.log_softmax(read.out(x0, jnp.zeros_like(read.t), **given))
    yield "reconstruction_loss", -jnp.take_along_axis(start, x0[..., None], -1)[..., 0]
    if given:
        yield "logits_without_class", read.out()


def gidd(read: Read):
    out = read.out()
    yield "logits", np.concatenate([out, read.mask_output()], -1)
    yield "elbo", read.losses(read.process, out=out)


def radd(read: Read):
    out = read.out()
    logits = np.concatenate([out, read.mask_output()], -1)
    yield "logits", logits
    yield "output", np.concatenate([jax.nn.log_softmax(out), logits[..., -1:]], -1)
    # The published loss is of the score odds * p, not of p: less by what no network changes.
    odds = -jnp.log(jnp.expm1(-jnp.log1p(-(1 - 1e-3) * read.t)))
    constant = jnp.where(read.z == read.V, odds / read.t, 0)
    yield "loss_t_dce", (read.losses(read.process, out=out) - constant).sum(-1)
    t = read.at(read.a["lambda_"])
    yield "loss_lambda_dce", read.losses(read.process, t, out).sum(-1)


def from_left(read: Read):
    """Autoregressive models: a row begins with its own first token instead of <|endoftext|>."""
    ids = read.a.get("x", read.a.get("input_ids"))
    log_p, outs = [], []
    for row in ids:
        params = jax.tree.map(jnp.asarray, read.case.open(start=int(row[0])).params())
        network = replace(read.network, params=params)
        x = jnp.asarray(row)[None, 1:]
        log_p.append(read.process.log_p(network, x)[0])
        outs.append(read.out(jnp.asarray(row)[None], jnp.zeros((1, 1)))[0])
    if "x" in read.a:
        outs = [jax.nn.log_softmax(out[:-1]) for out in outs]
        never = jnp.full((*np.shape(outs)[:2], 1), -1000.0)
        yield "log_probs", jnp.concatenate([jnp.stack(outs), never], -1)
        yield "loss", -jnp.stack(log_p)
    else:
        yield "logits", jnp.stack(outs)
        yield "log_prob_next", jnp.stack(log_p)


def gated(read: Read):
    out = read.out()
    shifted = "logits_shifted" in read.a
    yield "logits_shifted" if shifted else "logits", out
    if shifted:  # all but the last position's are there
        yield "logits", jnp.concatenate([out[:, 1:], read.a["logits"][:, -1:]], 1)
    loss = read.losses(MDLM(read.V), out=out)
    yield "loss", loss * read.t / (read.t + 1e-6)  # as the published trainer has it


def smdm(read: Read):
    out = read.out()
    yield "logits", out
    yield "loss", read.losses(read.process, read.at(read.a["p_mask"]), out)


def encoder(read: Read):
    out, ones = read.out(), read.at(np.ones(len(read.z)))  # where our weight of a loss is 1
    yield "logits", out
    if "last_hidden" in read.a:
        yield "last_hidden", read.network.backbone.features(read.network.params, read.z, read.t)
    loss = read.losses(MDLM(read.V), ones, out)
    yield "loss_mean", loss.sum()[None] / read.a["masked"].sum()


def plaid(read: Read):
    """Their states are of embeddings of norm 1, ours of norm sqrt(D); logits up to a constant."""
    process, a = read.process.bind(read.network.params["process"]), read.a
    schedule, root = process.schedule, process.embeddings.shape[1] ** 0.5
    t, grid = (jnp.asarray(a[name])[:, None] for name in ("t", "t_grid"))
    yield "gamma_tilde", schedule.shape(grid)[:, 0]
    yield "gamma_grid", schedule.gamma(grid)[:, 0] - 2 * np.log(root)
    yield "gamma", schedule.gamma(t)[:, 0] - 2 * np.log(root)
    yield "embedding_rows", process.embeddings / root
    signal, noise = (jax.nn.sigmoid(x * a["gamma"])[:, None, None] for x in (-1, 1))
    z = a["z"] / np.sqrt(signal / root**2 + noise)
    network = process.wrapped(read.network)
    passes = {"_first": network(z, t, estimate=jnp.zeros_like(z)), "": network(z, t)}
    for name, out in passes.items():
        log_p0 = process.predict(out, z, t)
        a[f"logits{name}"] = jax.nn.log_softmax(a[f"logits{name}"])
        yield f"logits{name}", log_p0
        yield f"x_reconst{name}", process.mean(log_p0) / root


OUTCOMES = {
    "mdlm": masked, "bd3lm": blocks, "sedd": sedd, "duo": duo, "udlm": udlm, "gidd": gidd, "radd": radd,
    "ar": from_left, "gpt2": from_left, "llada": gated, "dream": gated, "a2d-qwen3": gated,
    "smdm": smdm, "bert": encoder, "modernbert": encoder, "plaid": plaid,
}  # fmt: skip


@pytest.mark.representatives(
    "torch_zip",
    "sharded",
    "bf16",
    "gpt2_prefixed",
    "gidd_mask_only",
    "llada",
    "sedd",
    "smdm",
    "bert_mlm_old",
    "radd",
    "dream",
)
@pytest.mark.parametrize("case", LOADED, ids=lambda case: case.name)
def test_outputs_and_losses_are_those_of_the_published_code(case):
    read = Read(case)
    outcomes = dict(OUTCOMES[case.about["family"]](read))
    assert outcomes.keys() == case.arrays.keys() - INPUTS
    for name, ours in outcomes.items():
        ours, theirs = np.asarray(ours, np.float64), read.a[name]
        assert ours.shape == theirs.shape
        at = np.abs(theirs) < 1e5  # the published stand-in for minus infinity is -1e6
        assert (ours[~at] < -1e5).all(), name
        error = np.abs(ours - theirs)[at] / np.maximum(1, np.abs(theirs[at]))
        # The mask's log-probability of the autoregressive code is its logit - 1000, of no use.
        error = error[theirs[at] > -500]
        assert error.max() < CLOSE, (name, error.max())
