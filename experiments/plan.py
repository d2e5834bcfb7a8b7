"""Plan a run on a TPU slice from a machine without TPUs.

Compiles the training step and the sampler of a config (or the programs that --what names) and prints
what each chip holds, computes and sends, and the minimum time: the largest of compute at the stated
peak, memory traffic and interconnect, each alone. Needs libtpu (pip install -e ".[plan]"), but no data
and no accelerator. If a training step does not fit, it tries settings that take less memory.
docs/pods.md has example plans and explains how to read them.

Examples:
    ddlm plan --config configs/scale/mdlm_1b.py --topology v5e:16x16 --set mesh.fsdp=64
    ddlm plan --config configs/scale/mdlm_8b.py --topology v5p:8x8x8 --out plan.json
    ddlm plan --config configs/published/llada_8b.py --topology v5e:2x4 --what evaluate sample
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("plan", __doc__)
    options.add_argument("--config", required=True, help="the config file")
    options.add_argument(
        "--topology", required=True, help="a slice, such as v5e:16x16 or v5p:8x8x8"
    )
    options.add_argument(
        "--vocab-size", type=cli.positive, help="tokens of the data (default: its tokenizer's)"
    )
    options.add_argument(
        "--what",
        nargs="+",
        choices=("train", "evaluate", "sample"),
        default=["train", "sample"],
        help="what to plan (default: train sample)",
    )
    options.add_argument(
        "--sample-batch",
        type=cli.natural,
        help="sequences sampled together (default: one for each part of a batch; 0: no sampler)",
    )
    options.add_argument(
        "--tries",
        type=cli.natural,
        default=4,
        help="how many settings to try if it does not fit (default 4)",
    )
    options.add_argument("--out", type=cli.output, help="where to write the plan as JSON")
    cli.add_set(options)
    return options


def main(arguments: list[str]) -> dict:
    """What the run takes on the slice of TPUs, as it is printed."""
    args = command_line().parse_args(arguments)

    import json
    import os

    # libtpu asks the cloud which TPU it runs on, says so at length where there is none, and lets one
    # process alone use it, although none is used here.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

    import jax

    jax.config.update("jax_platforms", "cpu")

    from experiments.files import write_atomically
    from experiments.overrides import load
    from experiments.planning.compiled import plan
    from experiments.planning.report import report

    record = {"config": args.config, "set": args.set} | plan(
        load(args.config, args.set),
        args.topology,
        args.vocab_size,
        args.sample_batch,
        args.tries,
        cli.log,
        args.what,
    )
    if args.out:
        write_atomically(args.out, json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(report(record))
    return record


if __name__ == "__main__":
    cli.run("plan")
