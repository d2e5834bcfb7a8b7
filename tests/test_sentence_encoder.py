"""Embeddings of sentences: the mean hidden state of each text, standardised over the training text."""

import jax
import jax.numpy as jnp
import numpy as np

from models.backbone import Network
from models.bert import Bert
from models.sentence_encoder import SentenceEncoder
from models.transformer import Transformer

TRUNK = Transformer(vocab_size=5, num_layers=1, width=8, num_heads=2)


def test_each_text_has_the_mean_of_its_own_hidden_states_whatever_stands_beside_it():
    encoder = SentenceEncoder(TRUNK)
    params = encoder.init(jax.random.key(0))
    z = jnp.array([[0, 1, 2, 3, 4, 1]])
    segments = jnp.array([[1, 1, 0, 2, 2, 2]])
    both = Network(encoder, params)(z, jnp.zeros((1, 1)), segments=segments, count=3)
    assert both.shape == (1, 3, encoder.width) and encoder.width == 8
    for number, text in ((0, z[:, :2]), (1, z[:, 3:])):
        alone = TRUNK.features(params["trunk"], text, jnp.zeros((1, 1)))
        np.testing.assert_allclose(both[:, number], alone.mean(1), atol=1e-6)
    assert not both[:, 2].any() and both[:, :2].any()  # a text without tokens
    told = params | {"mean": jnp.full(8, 0.5), "deviation": jnp.full(8, 2.0)}
    other = encoder.apply(told, z, jnp.zeros((1, 1)), segments, 3)
    np.testing.assert_allclose(other[:, :2], (both[:, :2] - 0.5) / 2, atol=1e-6)
    assert not other[:, 2].any()


def test_rows_that_it_is_fitted_to_have_mean_0_and_deviation_1():
    encoder = SentenceEncoder(TRUNK)
    tokens = jax.random.randint(jax.random.key(1), (40, 6), 0, 5)
    params = encoder.fitted(encoder.init(jax.random.key(0)), tokens)
    e = encoder.apply(params, tokens, jnp.zeros((40, 1)))[:, 0]
    np.testing.assert_allclose(e.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(e.std(0), 1, atol=1e-5)


def test_a_published_encoder_is_a_trunk_and_nothing_of_it_is_trained():
    encoder = SentenceEncoder(Bert(vocab_size=5, num_layers=1, width=8, num_heads=2, hidden=8))
    params = encoder.init(jax.random.key(0))
    z = jnp.array([[0, 1, 2]])

    def total(params):
        return (encoder.apply(params, z, jnp.zeros((1, 1))) ** 2).sum()

    value, gradient = jax.value_and_grad(total)(params)
    assert value > 0.01 and not any(leaf.any() for leaf in jax.tree.leaves(gradient))
