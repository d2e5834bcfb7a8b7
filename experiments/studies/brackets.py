"""Pairs that a program can check: python -m experiments.studies.brackets --out data/brackets

A prompt is a line of open brackets, such as "({[(", with some closed again on the way, and its answer
closes what is open: ")]})". Writes train.jsonl, valid.jsonl and test.jsonl into a folder, for
data.path; no prompt is in two of them.

Example:
    python -m experiments.studies.brackets --out data/brackets --num 4000 --longest 10
"""

import random

from experiments import cli

_CLOSED = {"(": ")", "[": "]", "{": "}", "<": ">"}


def main(arguments: list[str]) -> None:
    """Nothing; the files are written."""
    options = cli.parser("studies.brackets", __doc__)
    options.add_argument("--out", required=True, help="the folder to write")
    options.add_argument("--num", type=cli.positive, default=4000, help="pairs (default 4000)")
    options.add_argument(
        "--longest", type=cli.positive, default=10, help="brackets in a prompt (default 10)"
    )
    options.add_argument("--seed", type=cli.natural, default=0, help="(default 0)")
    args = options.parse_args(arguments)

    import json
    from pathlib import Path

    from experiments.errors import UserError
    from experiments.files import write_atomically

    pairs = make_pairs(args.num, args.longest, args.seed)
    if len(pairs) < args.num:
        raise UserError(
            f"--longest {args.longest}: there are hardly {args.num:,} different prompts; give a "
            "smaller --num or longer prompts"
        )
    cuts = {"valid.jsonl": args.num // 20, "test.jsonl": args.num // 10, "train.jsonl": args.num}
    lines = [json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in pairs]
    start = 0
    for name, stop in cuts.items():
        Path(args.out).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(args.out) / name, "".join(lines[start:stop]))
        print(f"{Path(args.out) / name}: {stop - start:,} pairs")
        start = stop


def make_pairs(num: int, longest: int, seed: int) -> list[tuple[str, str]]:
    """(prompt, answer) of at most `num` different prompts."""
    source, found = random.Random(seed), {}
    for _ in range(20 * num):
        if len(found) == num:
            break
        prompt, still = "", []
        for _ in range(source.randint(1, longest)):
            if still and source.random() < 0.3:
                prompt += still.pop()
            else:
                bracket = source.choice(list(_CLOSED))
                prompt, still = prompt + bracket, [*still, _CLOSED[bracket]]
        if still:
            found[prompt] = "".join(reversed(still))
    return list(found.items())


if __name__ == "__main__":
    cli.run("studies.brackets")
