"""Passages that a text repeats: python -m experiments.duplicates [PATH ...]

Says for each split of each text (files or folders, as of data.path; none is the embedded corpus) which
share of its characters is in a passage of at least --least characters that occurs a second time in the
same split, or in each of the others. What validation and test share with train is held out in name only.
The comparison is exact: spaces and capitals count. --normalize compares letters and spaces alone.

--out DIR writes the texts again, with splits of the same names: of train without passages that occur
earlier in it, in the train split of an earlier PATH, or in any validation or test, which stay as they
are. What stood around a passage is joined. Train on it with --set data.path=DIR, or DIR/NAME for each of
several.

Examples:
    python -m experiments.duplicates data/ptb
    python -m experiments.duplicates web.txt books/ --least 80 --out data/unique
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("duplicates", __doc__)
    options.add_argument("path", nargs="*", help="files or folders (default: the embedded corpus)")
    options.add_argument(
        "--least", type=cli.positive, default=50, help="characters of a passage (default 50)"
    )
    options.add_argument(
        "--normalize",
        action="store_true",
        help="as data.tokenizer=Letters27 with data.tokenizer.normalize=True",
    )
    options.add_argument("--splits", nargs=3, metavar="PATTERN", help="as data.splits")
    options.add_argument("--out", metavar="DIR", help="the new folder for texts without repeats")
    return options


def main(arguments: list[str]) -> dict:
    """By text and split {"characters", "shared": {text and split: share}}."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.comparison.record_table import markdown
    from experiments.data.prepared import SPLITS
    from experiments.data.repeats import find_repeats
    from experiments.data.text import Text, prepare
    from experiments.data.tokenizers import Characters, Letters27
    from experiments.files import check_new_folder
    from experiments.progress import Progress

    if args.out:
        check_new_folder(Path(args.out).expanduser(), "--out")
    letters = args.normalize or not args.path
    tokenizer = Letters27(normalize=True) if letters else Characters()
    several = len(args.path) > 1
    corpus = prepare(
        Text(
            args.path[0] if len(args.path) == 1 else None,
            tokenizer,
            length=1,
            splits=tuple(args.splits) if args.splits else None,
            sources=tuple(args.path) if several else (),
        )
    )
    parts = {
        (f"{part.source} " * several + split): (part, split)
        for part, _ in corpus.weighted()
        for split in SPLITS
        if part.bounds[split][0] < part.bounds[split][1]
    }
    texts = [part.split(split, 1) for part, split in parts.values()]
    with Progress(cli.log, "parts of all passages") as progress:
        repeats = find_repeats(texts, args.least, progress)
    found = {
        name: {
            "characters": len(text),
            "shared": {other: float(repeats.shared(a, b).mean()) for b, other in enumerate(parts)},
        }
        for a, (name, text) in enumerate(zip(parts, texts, strict=True))
    }
    header = ["text", "characters", *(f"in {name}" for name in parts)]
    rows = [
        [name, f"{of['characters']:,}", *(f"{100 * s:.2f} %" for s in of["shared"].values())]
        for name, of in found.items()
    ]
    print(markdown([header, *rows], ("text",)))
    _tell_most(repeats, texts, corpus.tokenizer, args.least)
    if args.out:
        _write(Path(args.out).expanduser(), parts, texts, repeats, several)
    return found


def _tell_most(repeats, texts, tokenizer, least: int) -> None:
    """Nothing; says which passage is the most frequent."""
    count, start = repeats.most
    if count == 1:
        print(f"\nno passage of {least} characters occurs twice")
        return
    text = next(n for n, end in enumerate(repeats.ends) if start < end)
    start -= repeats.within(text).start
    passage = tokenizer.decode(texts[text][start : start + least])
    print(f"\nmost frequent, {count:,} times: {passage!r}")


def _write(out, parts, texts, repeats, several: bool) -> None:
    """Nothing; the folder has the texts, those of training without what they repeat."""
    from experiments.files import new_folder

    numbers = {name: number for number, name in enumerate(parts)}
    held_out = [numbers[name] for name, (_, split) in parts.items() if split != "train"]
    files, kept, left = {"validation": "valid.txt", "test": "test.txt"}, list(held_out), 0
    with new_folder(out) as folder:
        for name, (part, split) in parts.items():
            tokens = texts[numbers[name]]
            if split == "train":
                again = repeats.superfluous(numbers[name], kept)
                tokens, left = tokens[~again], left + int(again.sum())
                kept.append(numbers[name])
            place = folder / part.source.replace("/", "-") if several else folder
            place.mkdir(exist_ok=True)
            content = part.tokenizer.decode(tokens)
            (place / files.get(split, "train.txt")).write_text(content, "utf-8", newline="")
    total = sum(
        len(t) for t, (_, split) in zip(texts, parts.values(), strict=True) if split == "train"
    )
    print(f"{out}: {left:,} of {total:,} characters of train are left out")


if __name__ == "__main__":
    cli.run("duplicates")
