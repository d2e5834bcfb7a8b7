"""What each parameter is, as its network says: how devices share it, if it decays and if Muon takes it.
The table is what the names "kernel", "embedding" and "layers" told before."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from test_extension import FILES

from configs.smoke import get_config
from diffusion.genmd4 import GenMD4
from experiments.data.tokenizers import Letters27
from experiments.devices.sharding import AXES, tree_shardings
from experiments.errors import UserError
from experiments.optimization.adamw import AdamW
from experiments.optimization.muon import Muon
from experiments.optimization.optimizer import hidden_matrices, matrices
from experiments.optimization.warmup_constant import WarmupConstant
from experiments.overrides import load, resolve
from experiments.training.digests import leaves
from experiments.training.train_step import init_state, make_optimizer
from models.backbone import Backbone
from models.bert import Bert
from models.classifier import Classifier
from models.energy import EnergyTransformer
from models.modernbert import ModernBert
from models.plaid import PlaidTransformer
from models.roles import Matrix, Table, Vector
from models.transformer import Transformer

NETWORK = Transformer(
    vocab_size=27, num_layers=2, width=32, num_heads=4, mlp_bias=True, qk_norm=True, num_labels=3,
    time_conditioning=True, condition_width=16, vector_width=8,
)  # fmt: skip
IN, OUT, WIDTH = P("fsdp", "tensor"), P("tensor", "fsdp"), P(None, ("tensor", "fsdp"))
STACKED_IN, STACKED_OUT = P(None, "fsdp", "tensor"), P(None, "tensor", "fsdp")
# On a mesh of 2 x 2 x 2: how it is split, and of the matrices whether Muon takes them. 27 divides by
# nothing: the head's part of that side goes to the other.
TRANSFORMER = {
    "ends/embedding": (WIDTH, None),
    "ends/labels/embedding": (WIDTH, None),
    "ends/head/kernel": (P("tensor", None), False),
    "ends/modulation/kernel": (IN, False),
    "ends/time/up/kernel": (IN, False),
    "ends/time/out/kernel": (OUT, False),
    "ends/vectors/kernel": (IN, False),
    "layers/attention/qkv/kernel": (STACKED_IN, True),
    "layers/attention/out/kernel": (STACKED_OUT, True),
    "layers/mlp/up/kernel": (STACKED_IN, True),
    "layers/mlp/down/kernel": (STACKED_OUT, True),
    "layers/modulation/kernel": (STACKED_IN, True),
} | dict.fromkeys(
    [
        "ends/head/bias", "ends/modulation/bias", "ends/time/up/bias", "ends/time/out/bias",
        "ends/norm/scale", "layers/attention/k_norm/scale", "layers/attention/q_norm/scale",
        "layers/mlp/up/bias", "layers/mlp/down/bias", "layers/modulation/bias",
        "layers/norm_attention/scale", "layers/norm_mlp/scale",
    ],
    (P(), None),
)  # fmt: skip
POOLED = {"up/kernel": (IN, False), "up/bias": (P(), None), "out/bias": (P(), None)}
NETWORKS = {
    "transformer": (NETWORK, TRANSFORMER),
    "classifier": (
        Classifier(**vars(NETWORK)),
        {name: told for name, told in TRANSFORMER.items() if "labels" not in name}
        | {f"classifier/{name}": told for name, told in POOLED.items()}
        | {"classifier/out/kernel": (P("tensor", None), False)},
    ),
    "energy": (
        EnergyTransformer(NETWORK),
        TRANSFORMER
        | {f"energy/{name}": told for name, told in POOLED.items()}
        | {"energy/out/kernel": (P("tensor", None), False), "energy/proposed": (P(), None)},
    ),
}
ENCODER = {
    "ends/embedding": (WIDTH, None),
    "ends/dense/kernel": (IN, False),
    "layers/attention/qkv/kernel": (STACKED_IN, True),
    "layers/attention/out/kernel": (STACKED_OUT, True),
    "layers/mlp/up/kernel": (STACKED_IN, True),
    "layers/mlp/down/kernel": (STACKED_OUT, True),
} | dict.fromkeys(
    [
        "ends/bias", "ends/norm/scale", "ends/head_norm/scale", "layers/norm_attention/scale",
        "layers/norm_mlp/scale",
    ],
    (P(), None),
)  # fmt: skip
BIASES = [
    "ends/dense/bias", "ends/norm/bias", "ends/head_norm/bias", "layers/norm_attention/bias",
    "layers/norm_mlp/bias", "layers/attention/qkv/bias", "layers/attention/out/bias",
    "layers/mlp/up/bias", "layers/mlp/down/bias",
]  # fmt: skip
NETWORKS |= {
    "bert": (
        Bert(27, 2, 32, 4, 64),
        ENCODER
        | {"ends/positions": (WIDTH, None), "ends/types": (WIDTH, None)}
        | dict.fromkeys(BIASES, (P(), None)),
    ),
    "modernbert": (
        ModernBert(27, 3, 32, 4, 64),
        ENCODER | {"ends/final_norm/scale": (P(), None)},
    ),
}
PLAIN = ("dense", "embedding", "head_norm", "ends/bias")
NETWORKS["plaid"] = (
    PlaidTransformer(27, 2, 32, 4, 64, vector_width=32),
    {name: told for name, told in ENCODER.items() if not any(part in name for part in PLAIN)}
    | dict.fromkeys(
        ["ends/vectors/kernel", "ends/estimate/kernel", "ends/time/kernel"], (IN, False)
    )
    | {"ends/head/kernel": (P("tensor", None), False), "ends/head/bias": (P(), None)},
)
MESH = AbstractMesh((2, 2, 2), AXES)


def told(tree, roles):
    """(how it is split, None or whether Muon takes it) of each array by its path."""
    split = leaves(tree_shardings(MESH, tree, roles))
    decays, taken = leaves(matrices(roles)), leaves(hidden_matrices(roles))
    return {name: (split[name].spec, taken[name] if decays[name] else None) for name in decays}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_split_decayed_and_taken_by_muon_as_ever(name):
    network, expected = NETWORKS[name]
    assert told(jax.eval_shape(network.init, jax.random.key(0)), network.roles()) == expected


def with_model(model, **parts):
    return resolve(replace(get_config(), model=model, **parts), Letters27())


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()])
def test_averages_and_moments_are_placed_as_their_parameter(optimizer):
    """And numbers of steps, whose path is no parameter's, are whole."""
    e = with_model(NETWORK, optimizer=optimizer)
    found = leaves(tree_shardings(MESH, jax.eval_shape(lambda: init_state(e)), e.roles()))
    for name, sharding in found.items():
        own = [spec for of, (spec, _) in TRANSFORMER.items() if name.endswith(f"/{of}")]
        assert sharding.spec == (own[0] if own else P()), name
    assert {name.split("/mu/")[1] for name in found if "/mu/" in name} == TRANSFORMER.keys()


def test_a_parameter_is_not_taken_for_another_whose_path_ends_alike():
    """A vector "w" beside a matrix "mix/w", in either order, also among the moments."""
    roles = {"w": Vector(), "mix": {"w": Matrix()}}
    shapes = jax.tree.map(lambda _: jnp.zeros((4, 4)), roles)
    for tree in (shapes, {"ema": shapes}):
        specs = leaves(tree_shardings(MESH, tree, roles)).items()
        assert {name: s.spec for name, s in specs if name.endswith("mix/w")}.popitem()[1] == IN
        assert {name: s.spec for name, s in specs if not name.endswith("mix/w")}.popitem()[1] == P()


def test_names_of_ones_own_are_split_decayed_and_taken_by_muon_as_declared():
    e = resolve(load(str(FILES["backbone"])), Letters27())
    params = e.init_params(jax.random.key(0))
    expected = {"table": (WIDTH, None), "mix/w": (IN, True), "say/w": (P("tensor", None), False)}
    assert told(params, e.roles()) == expected
    schedule = WarmupConstant(0.1, 0)
    params = jax.tree.map(lambda x: x + 1, params)
    zero = jax.tree.map(jnp.zeros_like, params)
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
    for optimizer in (AdamW, Muon):
        settings = optimizer(schedule, weight_decay=0.5, clip_norm=None)
        built = make_optimizer(replace(e, optimizer=settings), params)
        updates, _ = built.update(zero, built.init(params), params)
        decayed = {name for name, update in leaves(updates).items() if (update != 0).any()}
        assert decayed == {"mix/w", "say/w"}
    updates, _ = built.update(grads, built.init(params), zero)
    wide = np.linalg.svd(updates["mix"]["w"], compute_uv=False)
    assert wide.min() > 0.5 * wide.max()  # orthogonal, nearly
    np.testing.assert_allclose(np.abs(updates["say"]["w"]), 0.1, rtol=1e-4)  # Adam's first step


class Silent(Backbone):
    """Says nothing of its parameters."""

    vocab_size = 27

    def init(self, key):
        return {"a": {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}, "stack": jnp.ones((3, 8, 4))}

    def apply(self, params, z, t):
        raise NotImplementedError


class Wrong(Silent):
    def roles(self):
        return {"a": {"w": Matrix()}, "stack": Matrix(), "head": Table()}


def test_a_network_that_says_nothing_has_hidden_matrices_from_two_axes_on():
    assert Silent().roles() == {"a": {"w": Matrix(), "b": Vector()}, "stack": Matrix()}


def test_roles_of_other_parameters_than_those_made_are_said():
    with pytest.raises(UserError, match="Wrong: init and roles differ in a/b, head; roles must"):
        with_model(Wrong()).roles()


class Wide(GenMD4):
    def init(self, key):
        return {"theta": jnp.zeros((27, 4))}


def test_parameters_of_the_process_are_held_whole_and_do_not_decay():
    e = with_model(NETWORK, process=Wide(27))
    assert e.roles() == NETWORK.roles() | {"process": {"theta": Vector()}}


def test_the_second_network_says_its_own():
    e = resolve(load("configs/sotu/edlm_autoregressive.py"), Letters27())
    made = jax.eval_shape(e.init_params, jax.random.key(0))
    assert jax.tree.structure(e.roles()) == jax.tree.structure(made)
    assert e.roles()["energy"] == e.energy.roles() == e.model.roles() != {}
