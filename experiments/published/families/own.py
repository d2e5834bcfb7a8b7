"""Our own layout: an array of a run is a tensor of its path, such as "layers.attention.qkv.kernel", with
all layers in one, and config.json holds the whole config of the run.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from experiments.config import Experiment
from experiments.published.family import Architecture, Family, Options
from experiments.published.parts import Same, Shape
from experiments.serialization import decode, encode


@dataclass(frozen=True)
class Own(Family):
    """Runs of any process and network."""

    name: str = "ddlm"

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        return config.get("model_type") == self.name

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        experiment = decode(config.get("experiment"), "config.json: experiment", Experiment)
        length = options.length or experiment.data.length
        return Architecture(
            experiment.model,
            experiment.process,
            experiment.sampler,
            length,
            options,
            experiment=experiment,
        )

    def layout(self, model: Any, options: Options) -> dict:
        forms = jax.eval_shape(model.init, jax.random.key(0))

        def name(path, _):
            return Same(".".join(str(key.key) for key in path))

        return jax.tree_util.tree_map_with_path(name, forms)

    def config(self, experiment: Experiment, model: Any, options: Options) -> dict:
        return {"model_type": self.name, "experiment": encode(experiment)}


OWN = Own()
