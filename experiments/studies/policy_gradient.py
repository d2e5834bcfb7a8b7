"""Fine-tune a run by a reward on its answers: python -m experiments.studies.policy_gradient --run RUN

RUN was trained on pairs of prompt and answer. Each iteration draws --answers answers to each of
--prompts training prompts, rewards them, and takes a step along the policy gradient, with an estimate of
log p(answer) by the bound, or by one step from noise as diffu-GRPO has it. The reward is 1 for the
reference answer and else 0, or a function of yours: --reward FILE, Python that defines
reward(prompt, answer, reference).

WORKDIR becomes an ordinary run, for ddlm sample, score and evaluate; it says the reward on test prompts
before and after. An interrupted training continues with the same command. With --measure nothing is
trained: a table says how noisy the gradient is by each estimate, for the same answers.

Examples:
    python -m experiments.studies.policy_gradient --run runs/brackets --workdir runs/brackets-rewarded
    python -m experiments.studies.policy_gradient --run runs/brackets --measure
"""

from experiments import cli

DEFAULTS = (
    "optimizer=AdamW",
    "optimizer.schedule=WarmupConstant",
    "optimizer.schedule.peak_lr=3e-4",
    "optimizer.schedule.warmup_steps=10",
)


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("studies.policy_gradient", __doc__)
    options.add_argument("--run", required=True, help="the run to begin with, trained on pairs")
    options.add_argument("--workdir", help="the run to make")
    options.add_argument("--reward", metavar="FILE", help="Python that defines reward()")
    options.add_argument("--iterations", type=cli.positive, default=200, help="(default 200)")
    options.add_argument("--prompts", type=cli.positive, default=16, help="a step (default 16)")
    options.add_argument("--answers", type=cli.positive, default=8, help="to each (default 8)")
    options.add_argument(
        "--estimate", choices=("bound", "one_step"), default="bound", help="(default bound)"
    )
    options.add_argument(
        "--num-times", type=cli.positive, default=1, help="of the bound, for an answer (default 1)"
    )
    options.add_argument(
        "--shared", action="store_true", help="the same noise for all answers to a prompt"
    )
    options.add_argument(
        "--kl", type=float, default=0.0, help="times the log ratio to RUN, off the reward"
    )
    options.add_argument("--steps", type=cli.positive, help="of the sampler (default: the run's)")
    options.add_argument("--seed", type=cli.natural, default=0, help="of all draws (default 0)")
    options.add_argument(
        "--test", type=cli.positive, default=256, help="test prompts, at most (default 256)"
    )
    options.add_argument(
        "--save-every", type=cli.positive, default=50, help="iterations (default 50)"
    )
    options.add_argument(
        "--measure", action="store_true", help="how noisy the gradient is, and train nothing"
    )
    cli.add_set(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the run is trained, or the table printed."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.errors import UserError
    from experiments.studies.measuring.policy_gradient import Estimate
    from experiments.studies.measuring.rewarded import Plan, measure, opened, table, train

    if args.answers < 2:
        raise UserError("--answers 1: an answer is compared with others to its prompt; give 2")
    if not args.measure and not args.workdir:
        raise UserError("--workdir is missing; name the run to make, or --measure")
    if any(setting.startswith("train.num_steps") for setting in args.set):
        raise UserError("--set train.num_steps: how many steps there are is --iterations")
    plan = Plan(
        Estimate(args.estimate, args.num_times, args.shared),
        args.iterations,
        args.prompts,
        args.answers,
        args.kl,
        args.seed,
        args.test,
        args.save_every,
    )
    task = opened(args.run, args.reward, args.steps, [*DEFAULTS, *args.set], cli.log)
    if args.measure:
        print(table(measure(task, plan, cli.log)))
    else:
        train(task, plan, Path(args.workdir), cli.log)


if __name__ == "__main__":
    cli.run("studies.policy_gradient")
