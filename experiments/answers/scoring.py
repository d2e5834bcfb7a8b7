"""A run's answers to the prompts of a split, drawn, kept in a file, and compared with the references."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from diffusion.process import Sequential
from experiments.answers.lengths import (
    OPTION,
    AnswerLength,
    Questions,
    check_length,
    make_questions,
)
from experiments.answers.measures import difference, measures
from experiments.answers.similarity import SIMILARITIES, most_alike
from experiments.config import Experiment
from experiments.data.corpus import Corpus
from experiments.data.pairs import PairRows
from experiments.data.text import prepare as prepare_text
from experiments.data.tokenizers import token_number
from experiments.errors import UserError
from experiments.evaluation.bound import sequences
from experiments.evaluation.conditional import begin_of
from experiments.plain_json import parse
from experiments.progress import Progress
from experiments.run import Run
from experiments.sampling.known import check_known
from experiments.sampling.request import Prepared, Request, prepare
from experiments.sampling.samples import sample_run, with_setting
from experiments.sampling.samples_writer import SamplesWriter
from experiments.sampling.undrawn import never_drawn

Log = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What is scored. split: whose prompts. num: how many prompts at most, at equal distances.
    candidates: answers to each; similarity: one of `SIMILARITIES`, by which one is most like the others.
    answer_length: "end", "reference", "predicted" or a number (experiments.answers.lengths); beam: how
    many lengths are predicted, None for a third of the candidates, as Difformer has it."""

    split: str = "test"
    num: int = 256
    candidates: int = 1
    similarity: str = "characters"
    answer_length: AnswerLength = "end"
    beam: int | None = None

    def __post_init__(self):
        for name in ("num", "candidates", "beam"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"Task.{name} = {value} must be at least 1")
        if self.beam is None:
            return
        if self.answer_length != "predicted":
            raise UserError("is of --answer-length predicted", "leave it out", "--length-beam")
        if self.beam > self.candidates:
            raise UserError(
                f"{self.beam} lengths need as many candidates",
                f"raise --candidates {self.candidates}",
                "--length-beam",
            )

    @property
    def lengths(self) -> int:
        """How many lengths the candidates have, where they are predicted."""
        return min(self.beam or -(-self.candidates // 3), self.candidates)

    def described(self) -> dict:
        """What a line of the file of answers says of it besides: what decides how they are drawn."""
        if self.answer_length == "end":
            return {"split": self.split}
        of_beam = {"length_beam": self.lengths} if self.answer_length == "predicted" else {}
        return {"split": self.split, "answer_length": self.answer_length} | of_beam


@dataclass(frozen=True)
class Asked:
    """The prompts of a task with their references, and the run made ready to draw answers.
    description: as of a file of samples."""

    task: Task
    prompts: list[str]
    references: list[str]
    prepared: Prepared
    questions: Questions
    source: dict

    @property
    def description(self) -> dict:
        """What every line of the file of answers says of how they were drawn."""
        return self.prepared.description | self.task.described()

    def name(self) -> str:
        """What the file of these answers is called, however many candidates it has."""
        described = json.dumps(self.description, sort_keys=True).encode()
        digest = hashlib.sha256(described).hexdigest()[:8]
        return f"{self.task.split}-{self.description['checkpoint_step']}-{digest}"


def ask(run: Run, workdir: str, request: Request, task: Task) -> Asked:
    """The questions of a task; request: how answers are drawn, without known text. UserError for a run
    that was not trained on pairs."""
    data = run.experiment.data
    if data.rows != "pair":
        raise UserError(
            f"workdir {workdir}: data.rows = {data.rows}, so it has no prompts with answers",
            "train a run with data.rows=pair (docs/guide/prompts.md)",
        )
    check_length(data, task.answer_length)
    corpus = prepare_text(data)
    rows, _ = sequences(run.experiment, corpus, task.split, task.num)
    training = None
    if task.answer_length == "predicted":
        training = corpus.sequences("train", data.length, "pair")
        assert isinstance(training, PairRows)
    assert isinstance(rows, PairRows)
    prompts, references = _texts(rows, run.experiment)
    if task.answer_length != "end" and data.end:
        run = replace(run, experiment=_without_ends(run.experiment))
    prepared = prepare(run, replace(request, prompts=prompts), workdir)
    questions = make_questions(
        data, rows, training, task.answer_length, task.candidates, task.lengths
    )
    for row in questions.known:
        check_known(prepared.run.experiment, row)
    return Asked(task, prompts, references, prepared, questions, _source(corpus, task, rows))


def _without_ends(experiment: Experiment) -> Experiment:
    """The experiment whose sampler, and any other that is asked for, draws no end."""
    end = token_number(experiment.data.tokenizer, experiment.data.end, "data.end")
    banned = tuple(sorted({*never_drawn(experiment.sampler), end}))
    return with_setting(experiment, "logits_processor.banned", banned, OPTION)


def _texts(rows: PairRows, experiment: Experiment) -> tuple[list[str], list[str]]:
    """Prompts and answers as texts."""
    decode, begin = experiment.data.tokenizer.decode, len(begin_of(experiment.data))
    ends = rows.stops - (rows.end is not None)
    bounds = list(zip(rows.starts + begin, rows.answers, ends, strict=True))
    return (
        [decode(rows.tokens[start:middle]) for start, middle, _ in bounds],
        [decode(rows.tokens[middle:stop]) for _, middle, stop in bounds],
    )


def _source(corpus: Corpus, task: Task, rows: PairRows) -> dict:
    return {
        "source": corpus.source,
        **({"dataset": corpus.dataset} if corpus.dataset else {}),
        "split": task.split,
        "split_sha256": corpus.sha256[task.split],
        "prompts": len(rows),
    }


def draw(
    asked: Asked, batch_size: int, log: Log, path: Path | None = None, force: bool = False
) -> tuple[list[list[str]], float]:
    """(answers, candidates of each prompt; calls of the network for one). path: the file that they are
    appended to as they are drawn, and whose answers are not drawn again; None for none."""
    run, task = asked.prepared.run, asked.task
    data, count = run.experiment.data, len(asked.prompts)
    num, drawn, calls = count * task.candidates, [], []
    told = Progress(log, "answers")
    with SamplesWriter(path and str(path), asked.description, force) as writer, told as progress:
        if writer.start:
            assert path is not None  # what is held is held there
            drawn, calls = _held(path, min(writer.start, num))
            log(f"{path}: {writer.start:,} answers exist")
        samples = sample_run(
            run,
            num,
            asked.description["seed"],
            asked.questions.known,
            min(batch_size, max(num - len(drawn), 1)),
            asked.prepared.constraints,
            start=len(drawn),
            progress=progress,
            segments=_segments(run.experiment, asked.questions),
        )
        for number, sampled, _ in samples:
            answer = data.tokenizer.decode(asked.questions.answer(data, number, sampled.x0))
            prompt = asked.prompts[number % count]
            called = int(sampled.calls)
            writer.write(number, prompt + answer, called, given=prompt, answer=answer)
            drawn.append(answer)
            calls.append(called)
    return [drawn[number::count] for number in range(count)], float(np.mean(calls))


def _segments(experiment: Experiment, questions: Questions) -> np.ndarray | None:
    """What the network is told of padding: one from left to right never sees what comes later."""
    return None if isinstance(experiment.process, Sequential) else questions.segments


def _held(path: Path, num: int) -> tuple[list[str], list[int]]:
    """The first answers of a file and the calls of each; UserError where a line lacks them."""
    answers, calls = [], []
    for line in path.read_bytes().split(b"\n")[:num]:
        sample = parse(line)
        answer, called = sample.get("answer"), sample.get("network_calls")
        if type(answer) is not str or type(called) is not int:
            raise UserError(
                f"{path}: line {len(answers) + 1} has no answer; replace it with --force"
            )
        answers.append(answer)
        calls.append(called)
    return answers, calls


def score(
    run: Run,
    workdir: str,
    request: Request,
    task: Task,
    batch_size: int,
    log: Log,
    folder: Path | None = None,
    force: bool = False,
) -> tuple[dict, Path | None]:
    """(the record of the task; the file in the folder that the answers are in, None without a folder).

    "measures" has those of the prompts themselves in place of answers, of a random candidate, and with
    several candidates of the one chosen and of its gain, the difference of the two."""
    similarity = _similarity(task.similarity)
    asked, start = ask(run, workdir, request, task), time.perf_counter()
    path = folder and folder / f"{asked.name()}.jsonl"
    answers, calls = draw(asked, batch_size, log, path, force)
    rows = {
        "prompt itself": measures([[prompt.strip()] for prompt in asked.prompts], asked.references),
        "random candidate": measures(answers, asked.references),
    }
    if task.candidates > 1:
        chosen = [[row[most_alike(row, similarity)]] for row in answers]
        rows["chosen"] = measures(chosen, asked.references)
        rows["gain"] = difference(chosen, answers, asked.references)
    return {
        "kind": "answers beside their references",
        **{name: value for name, value in asked.description.items() if name != "split"},
        **asked.source,
        "candidates": task.candidates,
        "similarity": task.similarity if task.candidates > 1 else None,
        "answer_length": task.answer_length,
        "network_calls": calls,
        "measures": rows,
        "seconds": round(time.perf_counter() - start, 2),
        "version": version("ddlm"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }, path


def _similarity(name: str):
    if name not in SIMILARITIES:
        raise UserError(f"--similarity {name}: expected one of {', '.join(SIMILARITIES)}")
    return SIMILARITIES[name]()
