"""Make pairs of prompt and answer from a text: python -m experiments.make_pairs --task TASK --out DIR

A text, the embedded corpus or your own, is cut into windows of whole words. The answer is a window, and
the prompt is what --task leaves of it:

    consonants  without vowels
    plain       in small letters, without punctuation

Writes DIR/train.jsonl, valid.jsonl and test.jsonl, the splits of the text (as for training), and
dataset.json. The same options write the same files. An interrupted command leaves nothing.

Examples:
    python -m experiments.make_pairs --task consonants --out data/consonants
    python -m experiments.make_pairs --task plain --text my.txt --out data/plain --longest 60
"""

from experiments import cli
from experiments.errors import UserError

_TASKS = ("consonants", "plain")
_ENDS = "|~^§¦¶"  # one that is in no answer is said to end them


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("make_pairs", __doc__)
    options.add_argument(
        "--task", required=True, choices=_TASKS, help="what is to be restored (above)"
    )
    options.add_argument("--out", required=True, metavar="DIR", help="the new folder to write")
    options.add_argument(
        "--text",
        help="a file or directory, as of data.path (default: the embedded corpus, "
        "which has no capitals and no punctuation)",
    )
    options.add_argument(
        "--shortest", type=cli.positive, default=8, help="characters of a window (default 8)"
    )
    options.add_argument(
        "--longest", type=cli.positive, default=32, help="characters of a window (default 32)"
    )
    options.add_argument("--seed", type=cli.natural, default=0, help="of the windows' lengths")
    return options


def main(arguments: list[str]) -> dict:
    """What dataset.json holds, after the files are there."""
    args = command_line().parse_args(arguments)
    if args.shortest > args.longest:
        raise UserError(f"--shortest {args.shortest} is more than --longest {args.longest}")

    from pathlib import Path

    from experiments.data.restoration import Windows
    from experiments.data.text import Text, prepare
    from experiments.data.tokenizers import Characters, Letters27
    from experiments.files import check_new_folder, new_folder

    out = Path(args.out).expanduser()
    check_new_folder(out, "--out")
    if args.text is not None and not Path(args.text).expanduser().exists():
        raise UserError(f"--text {args.text} does not exist; give a text file or a directory")
    corpus = prepare(Text(args.text, Characters() if args.text else Letters27()))
    windows = Windows(args.shortest, args.longest, args.seed)
    with new_folder(out) as folder:
        described = _write(folder, corpus, args.task, windows)
    _tell(out, described)
    return described


def _write(folder, corpus, task: str, windows) -> dict:
    """What dataset.json holds; the folder has it and a file of pairs for each split."""
    import dataclasses
    import hashlib
    import json

    from experiments.data.prepared import SPLITS
    from experiments.data.restoration import TASKS, restoration_pairs, words_of
    from experiments.progress import Progress

    splits, longest, characters, differ = {}, 0, set(), False
    for number, (name, file) in enumerate(zip(SPLITS, ("train", "valid", "test"), strict=True)):
        path, digest, count = folder / f"{file}.jsonl", hashlib.sha256(), 0
        with Progress(cli.log, f"tokens of {name}") as progress, open(path, "wb") as written:
            words = words_of(corpus, name, progress)
            for prompt, answer in restoration_pairs(words, TASKS[task], windows, number):
                line = json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False)
                written.write(line.encode() + b"\n")
                digest.update(line.encode() + b"\n")
                longest = max(longest, len(prompt) + len(answer))
                characters.update(answer)
                differ |= prompt[:-1] != answer
                count += 1
        if not count:
            raise UserError(f"{corpus.source}: the {name} split has no word; use more text")
        splits[file] = {"file": path.name, "pairs": count, "sha256": digest.hexdigest()}
    if not differ:
        raise UserError(
            f"--task {task} leaves out nothing of {corpus.source}, so there is nothing to restore",
            "give another text with --text, or another task",
        )
    described = {
        "name": f"restore-{task}",
        "source": corpus.source,
        "source_sha256": corpus.sha256,
        **dataclasses.asdict(windows),
        "longest_pair": longest,
        "end": next((end for end in _ENDS if end not in characters), ""),
        "splits": splits,
    }
    content = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    (folder / "dataset.json").write_text(content, encoding="utf-8")
    return described


def _tell(out, described: dict) -> None:
    """Nothing; says what was written, and how a model is trained on it."""
    counts = ", ".join(f"{split['pairs']:,}" for split in described["splits"].values())
    print(f"{out}: {counts} pairs for train, valid and test")
    end = f" --set 'data.end={described['end']}'" if described["end"] else ""
    print(
        f"train on it: ddlm train --config FILE --workdir RUN --set data.path={out} --set "
        f"data.rows=pair --set data.tokenizer=Characters{end} "
        f"--set data.length={described['longest_pair'] + bool(end)}"
    )


if __name__ == "__main__":
    cli.run("make_pairs")
