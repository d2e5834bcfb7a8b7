"""Logistic regression on embeddings of texts: log p(label | e) = log softmax(W e + b)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from models.backbone import Backbone
from models.roles import Matrix, Vector
from models.sentence_encoder import SentenceEncoder


@dataclass(frozen=True)
class LabelsOfVectors(Backbone):
    """The regression itself, of vectors.

    reads: how many numbers a vector has. num_labels: how many labels it tells apart. Both are filled in
    by the network that it is a part of.
    """

    output: ClassVar[str] = "label"
    vocab_size: ClassVar[int | None] = None
    reads: int = 1
    num_labels: int | None = None

    def init(self, key: Array) -> dict:
        """{"weight": (D, N), "bias": (N,)}, all 0."""
        labels = self.num_labels or 1
        return {"weight": jnp.zeros((self.reads, labels)), "bias": jnp.zeros(labels)}

    def roles(self):
        return {"weight": Matrix(hidden=False), "bias": Vector()}

    def apply(self, params: dict, z: Array, t: Array, *, label: Array) -> Array:
        """log p(label | z), float32 (B,), of vectors z (B, D) and label int (B,), or (1,), that of all;
        t is not used."""
        log_p = jax.nn.log_softmax(z @ params["weight"] + params["bias"][None])
        label = jnp.broadcast_to(label, (len(z),))
        return jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class LogisticRegression(Backbone):
    """A classifier of texts by their embeddings.

    encoder: gives them; with init_from and init_model = run that of the run, with its parameters.
    num_labels: how many labels it tells apart.
    """

    output: ClassVar[str] = "label"
    frozen: ClassVar[tuple[str, ...]] = ("encoder",)
    encoder: SentenceEncoder = SentenceEncoder()
    num_labels: int | None = None

    @property
    def vocab_size(self) -> int | None:
        """V, of the encoder."""
        return self.encoder.vocab_size

    @property
    def max_length(self):
        return self.encoder.max_length

    @property
    def parts(self):
        classifier = LabelsOfVectors(self.encoder.width, self.num_labels)
        return {"encoder": self.encoder, "classifier": classifier}

    def init(self, key: Array) -> dict:
        """{"encoder": ..., "classifier": ...}."""
        return {name: part.init(key) for name, part in self.parts.items()}

    def roles(self):
        return {name: part.roles() for name, part in self.parts.items()}

    def apply(self, params: dict, z: Array, t: Array, *, label: Array, **condition: Any) -> Array:
        """log p(label | e(z)), float32 (B,), of tokens z, int (B, L), and label int (B,), or (1,)."""
        embedding = self.encoder.apply(params["encoder"], z, t)[:, 0]
        return self.parts["classifier"].apply(params["classifier"], embedding, t, label=label)

    def for_runtime(self, attention="auto", dtype=None, remat=None):
        return replace(self, encoder=self.encoder.for_runtime(attention, dtype, remat))

    def like(self, other):
        """The same with the other network's encoder."""
        return replace(self, encoder=self.encoder.like(other))

    def place(self, params):
        """Those of a network with an encoder have one; those of another are its trunk."""
        return params if "encoder" in params else {"encoder": {"trunk": params}}
