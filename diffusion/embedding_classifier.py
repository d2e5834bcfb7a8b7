"""A classifier of embeddings of texts, p(label | e(x0)), which guides a diffusion of embeddings
(`diffusion.dglm`): its loss is -log p(label | e(x0)) per sequence, and the same number at each position.

model(x0, t) is log p(label | x0), (B,), of the label that each row was given.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from diffusion.process import Objective, Traits


@dataclass(frozen=True)
class EmbeddingClassifier(Objective):
    """It writes no text and has no likelihood."""

    vocab_size: int | None = None
    traits: ClassVar[Traits] = Traits(
        labels="required", output="label", whole_rows=True, own_loss=True
    )

    def check(self, experiment) -> None:
        if "encoder" not in experiment.model.parts:
            raise ValueError(
                f"model {type(experiment.model).__name__} makes no embeddings; use LogisticRegression "
                "with EmbeddingClassifier"
            )

    def loss(self, key, model, x0, u):
        log_p = model(x0, jnp.zeros((len(x0), 1)))
        return jnp.broadcast_to(-log_p[:, None], x0.shape)
