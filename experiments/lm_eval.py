"""Evaluate a run with lm-evaluation-harness.

This is the harness's own `lm_eval` with all its options, and with the model "ddlm" added. Arguments of
the model: workdir, step, samples (draws per likelihood, 128), seed, greedy, out (a file with a line per
likelihood), config, and any setting of the run, such as sampler.steps=16 or
data.tokenizer.normalize=True. Install the extra first: pip install -e ".[lm-eval]".

Examples:
    python -m experiments.lm_eval --model ddlm --model_args workdir=runs/a,samples=64 --tasks arc_easy --batch_size 32 --output_path results
    python -m experiments.lm_eval --model ddlm --model_args workdir=runs/a,sampler=FirstHitting --tasks my_task --include_path my_tasks
"""  # noqa: E501

import sys

from experiments import cli
from experiments.errors import UserError
from experiments.harness.run_model import RunModel


def main(arguments: list[str]) -> None:
    """Nothing; the harness has run with these arguments."""
    model_class()
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]  # of an extra

    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()


def model_class() -> type:
    """The class of the harness's models that a run is, registered as "ddlm"; UserError without the
    harness."""
    try:
        from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]  # of an extra
        from lm_eval.api.registry import (  # pyright: ignore[reportMissingImports]
            MODEL_REGISTRY,
            register_model,
        )
    except ImportError as error:
        raise UserError(
            "lm-evaluation-harness is not installed",
            'in the repository: pip install -e ".[lm-eval]"',
        ) from error
    if "ddlm" in MODEL_REGISTRY:
        return MODEL_REGISTRY["ddlm"]

    @register_model("ddlm")
    class DDLM(RunModel, LM):
        """A run of ddlm."""

        def __init__(self, **arguments):
            LM.__init__(self)
            RunModel.__init__(self, **arguments)

    return DDLM


if __name__ == "__main__":
    cli.run("lm_eval")
