"""Multi-token prediction: what is minimised, where its minimum is, and the likelihood as it was."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.autoregressive import Autoregressive
from experiments import cli, sample, train
from experiments.run import load_run
from models.backbone import Network
from models.roles import Matrix
from models.transformer import Transformer

V, L, N = 5, 6, 3
MODEL = Transformer(vocab_size=V, num_layers=1, width=8, num_heads=2, block_length=1, ahead=N)
PROCESS = Autoregressive(V, ahead=N, ahead_weight=0.5)
X0 = jax.random.randint(jax.random.key(0), (2, L), 0, V)
SEGMENTS = jnp.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 0]])


@pytest.fixture(scope="module")
def params():
    params = MODEL.init(jax.random.key(1))
    return jax.tree.map(
        lambda p: p + 0.2 * jnp.sin(1 + jnp.arange(p.size)).reshape(p.shape), params
    )


def network(params, model=MODEL, **condition):
    return Network(model, params, condition)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one text", "packed"])
def test_the_loss_is_the_sum_over_the_next_tokens_of_the_same_text(params, segments):
    model = network(params, **({} if segments is None else {"segments": segments}))
    before = PROCESS._before(model, X0)
    features = MODEL.features(params, before, jnp.zeros((2, 1)), segments=segments)
    belongs = np.ones((2, L)) if segments is None else np.asarray(segments)
    wanted = np.zeros((2, L))
    for k in range(N):
        kernel = params["ahead"]["kernel"][k - 1]
        x = features + jax.nn.silu(features @ kernel) if k else features
        log_p = np.asarray(jax.nn.log_softmax(MODEL.head(params, x)))
        for row in range(2):
            for i in range(L - k):
                if belongs[row, i] == belongs[row, i + k]:
                    wanted[row, i] -= (0.5 if k else 1) * log_p[row, i, X0[row, i + k]]
    found = PROCESS.loss(None, model, X0, None)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_likelihood_and_new_networks_are_those_without(params):
    plain = replace(MODEL, ahead=1)
    own = {name: part for name, part in params.items() if name != "ahead"}
    assert jax.tree.structure(plain.init(jax.random.key(1))) == jax.tree.structure(own)
    bound = PROCESS.bound(None, network(params), X0, None)
    wanted = Autoregressive(V).bound(None, network(own, plain), X0, None)
    np.testing.assert_array_equal(bound, wanted)
    read = MODEL.features(MODEL.init(jax.random.key(1)), X0, jnp.zeros((2, 1)), ahead=True)
    np.testing.assert_array_equal(read[..., :8], read[..., 16:])
    assert MODEL.roles()["ahead"]["kernel"] == Matrix()


def test_in_chunks_the_loss_and_its_gradient_are_the_same(params):
    def of(params, chunked):
        model = network(params, replace(MODEL, chunked_head=chunked))
        return PROCESS.loss(None, model, X0, None).sum()

    of = jax.jit(jax.value_and_grad(of), static_argnums=1)
    (whole, gradient), (parts, same) = of(params, False), of(params, True)
    assert whole == pytest.approx(float(parts), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient, same
    )
    assert abs(gradient["ahead"]["kernel"]).min(axis=(1, 2)).max() > 0


@dataclass(frozen=True)
class Says:
    """A network that says the same of every text."""

    out: jax.Array
    segments: None = None

    def __call__(self, z, t, ahead=False):
        return jnp.broadcast_to(self.out, (len(z), *self.out.shape))


def test_each_has_its_own_distribution_as_the_minimum():
    q = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
    x0, process = jnp.array([[a, b] for a in range(3) for b in range(3)]), Autoregressive(3, 2, 0.7)

    def loss(first):
        out = jnp.stack([first, jnp.zeros(6)])
        return (q.reshape(-1, 1) * process.loss(None, Says(out), x0, None)).sum()

    marginal = jnp.log(jnp.concatenate([q.sum(1), q.sum(0)]))
    np.testing.assert_allclose(jax.grad(loss)(marginal), 0, atol=1e-6)
    assert abs(jax.grad(loss)(marginal[::-1])).max() > 0.01


def test_a_run_trains_on_several_tokens_and_samples_one_at_a_time(tmp_path):
    run = str(tmp_path / "run")
    settings = ["process=Autoregressive", "sampler=LeftToRight", "process.ahead=2", "model.ahead=2"]
    settings += ["train.num_steps=2", "train.eval_every=2", "data.length=16"]
    settings += ["evaluation.max_sequences=8", "model.time_conditioning=False"]
    words = [word for setting in settings for word in ("--set", setting)]
    train.main(["--config", "configs/smoke.py", "--workdir", run, *words])
    loaded = load_run(run)
    assert abs(np.asarray(loaded.params["ahead"]["kernel"])).max() > 0
    sample.main(["--workdir", run, "--num", "1", "--out", str(tmp_path / "samples.txt")])
    assert len((tmp_path / "samples.txt").read_text()) >= 16


@pytest.mark.parametrize(
    "settings, words",
    [
        (["model.ahead=2"], "model.ahead = 2, but MDLM trains on 1 tokens at each position"),
        (["process=Autoregressive", "process.ahead=2", "sampler=LeftToRight"], "model.ahead = 1, but"),
        (["process=Autoregressive", "process.ahead=0"], "Autoregressive.ahead = 0 must be at least 1"),
        (
            ["process=Autoregressive", "process.ahead=2", "model.ahead=2", "sampler=LeftToRight",
             "train.token_loss=ZLoss"],
            "Autoregressive as it is set does not take its loss from the logits of each token",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(settings, words, capsys):
    options = [word for item in settings for word in ("--set", item)]
    assert cli.guarded("train", ["--config", "configs/smoke.py", "--dry-run", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
