"""What README, CONTRIBUTING and the pages of docs/ tell a reader to type: commands are read by their own
parsers, with every config and setting, and Python is run. Nothing is trained.

A shell reads the blocks of commands, with programs that write down what they were called with.
"""

import importlib
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL
from test_layout import settings

import ddlm
from experiments import cli
from experiments.config import Experiment
from experiments.devices.sharding import make_mesh
from experiments.errors import UserError
from experiments.overrides import leaves, load, named, override, resolve
from experiments.run import Run
from experiments.sampling import request
from samplers.ancestral import Ancestral
from samplers.sampler import Sampler

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"(.*?)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# What a reader puts something of their own for: runs by the config that they stand for, and files.
RUNS = {"AR_RUN": "configs/sotu/autoregressive.py"}
FILES = {"C": "configs/smoke.py", "CONFIG": "configs/smoke.py"}
LABELS = ("NAME", "OTHER")
# Programs that are not ours; any other is a mistake.
OTHERS = ("cmp", "docker", "gzip", "id", "kubectl", "mkdir", "sbatch", "sh", "uvx", "wait")
OURS = ("ddlm", "python", "make", "pip")


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    """(title, text) of the blocks of a page in the language."""
    found = FENCE.findall(path.read_text())
    return [(title, text) for _, of, title, text in found if of == language]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_blocks_are_of_a_language_that_is_checked_or_plain_text(path):
    text = path.read_text()
    found = FENCE.findall(text)
    assert {language for _, language, _, _ in found} <= {"sh", "python", "text", ""}
    assert text.count("```") == 2 * len(found)
    outside = FENCE.sub("", text) + "".join(b for _, of, _, b in found if of in ("text", ""))
    assert not re.findall(r"^ *(?:python -m experiments|ddlm |make ).*$", outside, re.MULTILINE)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """shell(commands) is [[program, argument, ...], ...] of what a shell calls for them."""
    home, calls = tmp_path_factory.mktemp("shell"), tmp_path_factory.mktemp("calls") / "calls"
    (home / ".venv/bin").mkdir(parents=True)
    (home / "tests").mkdir()
    for program in (*OURS, *OTHERS):
        stub = home / ".venv/bin" / program
        stub.write_text(f"#!/bin/sh\nprintf '%s\\037' {program} \"$@\" '\036' >> {calls}\n")
        stub.chmod(0o755)
    environment = {"PATH": str(home / ".venv/bin")}

    def call(commands):
        calls.write_text("")
        done = subprocess.run(
            ["/bin/sh", "-c", commands], cwd=home, env=environment, capture_output=True, text=True
        )
        assert not done.stderr, f"{commands}\n{done.stderr}"
        return [line.split("\037")[:-1] for line in calls.read_text().split("\036\037")[:-1]]

    return call


class Parsed(Exception):
    """Raised in place of what a command does once its options are read."""


@pytest.fixture
def parse(monkeypatch):
    """parse(name, arguments) is the namespace of a command's own parser."""

    def stopping(original):
        def parsed(self, arguments):
            raise Parsed(original(self, arguments))

        return parsed

    for method in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(cli.Parser, method, stopping(getattr(cli.Parser, method)))

    def call(name, arguments):
        with pytest.raises(Parsed) as caught:
            importlib.import_module(f"experiments.{name}").main(arguments)
        return caught.value.args[0]

    return call


def command(call):
    """(name, arguments) of one of our commands; None of what is none, whose words are checked here."""
    program, *words = call
    if program == "uvx" or [program, *words[:1]] == ["docker", "run"]:
        program, *words = words[words.index("ddlm") :]
    if program == "ddlm":
        assert words[0] in cli.COMMANDS, words
        return words[0], words[1:]
    if program == "python" and words[:2] == ["-m", "experiments.lm_eval"]:
        return None  # its options are those of lm-evaluation-harness, which is an extra
    if program == "python" and words[0] == "-m" and words[1].startswith("experiments."):
        return words[1].removeprefix("experiments."), words[2:]
    if program == "python" and words[0] not in ("-m", "-c"):
        assert (ROOT / words[0]).is_file(), words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets), words
    if program == "pip":
        extras = re.findall(r'^ {8}"([\w-]+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)
        asked = [m[1] for m in map(re.compile(r"(?:ddlm|\.)\[(.*)\]$").match, words) if m]
        assert {extra for some in asked for extra in some.split(",")} <= set(extras), words
    return None


@cache
def loaded(config, changes=()):
    return load(config, changes)


def of_config(path, changes, files):
    """The experiment of a config; files: those that the page has the reader write."""
    return loaded(str(files.get(path) or FILES.get(path) or ROOT / path), tuple(changes))


def stand_in(experiment):
    """A run of the experiment without parameters, but for those that are compared."""
    text = np.random.default_rng(0).integers(0, 27, 1000)
    tokenizer = experiment.data.tokenizer
    labels = LABELS if experiment.data.labels else ()
    full = resolve(experiment, tokenizer, lambda: text, labels)
    encoder = {"mean": np.zeros(1), "deviation": np.ones(1)}
    return Run(full, {"encoder": encoder}, 0, "fingerprint", make_mesh(full.mesh))


def listed(value):
    return value if isinstance(value, list) else [] if value is None else [value]


def check(name, options, runs, files, monkeypatch):
    """Nothing; the configs, runs and settings that the options name are resolved. runs: the experiments
    of runs by their directories, to which a training adds its own."""

    def run(workdir):
        return runs.get(workdir) or loaded(str(ROOT / RUNS.get(workdir, "configs/sotu/mdlm.py")))

    given, changes = vars(options), list(getattr(options, "set", ()))
    configs, workdirs = listed(given.get("config")), listed(given.get("workdir"))
    experiments = [of_config(c, changes, files) for c in configs]
    for word in given.get("configs") or ():  # of mesh_table
        config, *settings = word.split()
        of_config(config, settings, files)
    if name == "train":
        runs[options.workdir] = experiments[0]
    elif not configs:
        changes = [c for c in changes if not (given.get("text") and c.startswith("data.split"))]
        experiments = [override(run(w), changes) for w in workdirs if w or changes]
    for sampler in listed(given.get("sampler")) if name != "sample" else ():
        named(Sampler, Ancestral(), sampler, "--sampler")
    if name == "sample":
        experiment = experiments[0]
        if options.label and not options.classifier:
            experiment = override(
                experiment, ["data.labels=folder", "model.time_conditioning=True"]
            )
        monkeypatch.setattr(request, "load_run", lambda workdir: stand_in(run(workdir)))
        fields = request.Request.__dataclass_fields__
        asked = {n: v for n, v in given.items() if n in fields and v is not None}
        asked |= {"prompts": ("the", "we are")} if "prompts" in asked else {}  # of a file
        request.prepare(stand_in(experiment), request.Request(**asked), options.workdir)


@pytest.fixture
def tell(shell, parse, monkeypatch, tmp_path):
    """tell(page) types the commands of a page and gives how many of ours there were."""

    def call(path):
        runs, count, files = {}, 0, {}
        for title, text in blocks(path, "python"):
            if title:
                files[title] = tmp_path / title
                files[title].write_text(text)
        for _, text in blocks(path, "sh"):
            for told in filter(None, map(command, shell(text))):
                try:
                    check(told[0], parse(*told), runs, files, monkeypatch)
                except UserError as error:
                    raise AssertionError(f"{path.name}: {' '.join(told[1])}: {error}") from error
                count += 1
        return count

    return call


WITH_COMMANDS = [path for path in PAGES if blocks(path, "sh")]


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=name_of)
def test_commands_are_understood_with_every_setting(path, tell):
    others = ("CONTRIBUTING.md", "harness.md")  # and the page of the notebooks, which are scripts
    assert tell(path) or path.name in others or path.parent.name == "notebooks"


@pytest.mark.parametrize(
    "mistake, said",
    [
        ("ddlm trian --config C", "trian"),
        ("ddlm train --config C --workdir W --steps 3", "--steps"),
        ("ddlm train --config configs/none.py --workdir W", "none.py"),
        ("ddlm train --config C --workdir W --set train.num_step=3", "train.num_step"),
        ("ddlm evaluate --workdir RUN --set process.hybrid=1", "process.hybrid"),
        ("ddlm sample --workdir RUN --sampler 'Unmask order=sideways'", "sideways"),
        ("ddlm sample --workdir RUN --prompt 'The State'", "T"),
        ("ddlm sample --workdir RUN --sampler LeftToRight", "left to right"),
        ("python -m experiments.studies.few_steps --workdir R --scorer S --sampler X", "X"),
        ("python -m experiments.mesh_table", "mesh_table"),
        ("uvx --from . ddlm trian", "trian"),
        ("docker run --rm ddlm train --config configs/none.py --workdir W", "none.py"),
        ("python docs/notebooks/none.py", "none.py"),
        ("make everything", "everything"),
        ("pip install 'ddlm[everything]'", "everything"),
        ("ddml sample", "ddml"),
    ],
)
def test_mistakes_in_commands_are_found(mistake, said, tell, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```sh\n{mistake}\n```\n")
    with pytest.raises((AssertionError, ImportError)) as caught:
        tell(page)
    assert said in str(caught.value)


def test_settings_that_pages_name_exist():
    parts = "|".join(Experiment.__dataclass_fields__)
    classes = list(settings())
    known = {name for cls in classes for name in cls.__dataclass_fields__}
    known |= {name for cls in classes for name in dir(cls) if not name.startswith("_")}  # methods
    for path in PAGES:
        for dotted in re.findall(
            rf"`((?:{parts})(?:\.(?!txt|safetensors)[a-z_]+)+)(?:=[^`]*)?`", path.read_text()
        ):
            assert dotted.split(".")[-1] in known, f"{path.name}: {dotted}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The directory of a run that has not learned anything, of a text of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "text.txt").write_text("the people of the united states " * 100)
    changes = [
        *SMALL,
        "train.num_steps=0",
        f"data.path={folder / 'text.txt'}",
        "evaluation.num_times=2",
    ]
    ddlm.train(load(str(ROOT / "configs/smoke.py"), changes), folder / "run", lambda line: None)
    return folder / "run"


@pytest.fixture
def run_blocks(tiny, tmp_path, monkeypatch):
    """run_blocks(page) runs the Python of a page from top to bottom, beside runs that are the tiny one
    and with trainings that give it, and gives the names that the page defines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "runs").mkdir()

    def trained(experiment, workdir, log=print):
        assert isinstance(experiment, Experiment) and leaves(experiment)
        return ddlm.load(tiny)

    monkeypatch.setattr(ddlm, "train", trained)

    def call(path):
        names = {"__name__": path.stem}
        for name in re.findall(r"runs/[\w-]+", path.read_text()):
            if not Path(name).exists():
                os.symlink(tiny, name)
        for title, text in blocks(path, "python"):
            if title:
                Path(title).write_text(text)
            names["__name__"] = Path(title or path).stem
            exec(compile(text, title or path.name, "exec"), names)
            if "get_config" in names:
                assert isinstance(names.pop("get_config")(), Experiment)
        return names

    return call


WITH_PYTHON = [path for path in PAGES if blocks(path, "python")]


@pytest.mark.parametrize("path", WITH_PYTHON, ids=name_of)
def test_python_runs(path, run_blocks, capsys):
    names = run_blocks(path)
    for name, value in names.items():
        if name.startswith("test_"):  # as pytest would
            value()
    if "sampler" in names:  # the loop by hand has the samples of the sampler itself
        table = jnp.asarray(names["table"])
        model = lambda z, t: table[jnp.roll(z, 1, axis=1)]  # noqa: E731
        asked = jax.random.key(0), ddlm.MDLM(vocab_size=27), model, names["shape"]
        np.testing.assert_array_equal(names["x0"], names["sampler"].sample(*asked))


@pytest.mark.parametrize(
    "mistake",
    [
        "import ddlmm",
        "from diffusion.mdlm import MDLMM",
        "import ddlm\nddlm.Transformer(layers=4)",
        "import ddlm\nddlm.load('runs/a').samples(2)",
        "import ddlm\nddlm.train(ddlm.MDLM(), 'runs/a')",
    ],
)
def test_mistakes_in_python_are_found(mistake, run_blocks, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{mistake}\n```\n")
    with pytest.raises((ImportError, AttributeError, TypeError, AssertionError)):
        run_blocks(page)


def test_the_exactness_test_of_the_tutorial_can_fail(run_blocks):
    page = ROOT / "docs/tutorial/own-process.md"
    names = run_blocks(page)
    mine = Path("mine.py").read_text()
    wrong = {"__name__": "mine"}
    exec(mine.replace("3 / t * nats", "2 / t * nats"), wrong)
    names["CubicMask"] = wrong["CubicMask"]
    with pytest.raises(AssertionError, match="33"):
        names["test_the_bound_of_the_exact_denoiser_is_the_likelihood"]()


def test_the_reference_has_every_name_of_ddlm():
    page = (ROOT / "docs/reference/ddlm.md").read_text()
    named_there = set(re.findall(r"`(\w+)`", page)) | {"Run", "Samples", "load", "train"}
    assert set(ddlm.__all__) <= named_there, sorted(set(ddlm.__all__) - named_there)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    pages |= {f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.py")}
    assert set(re.findall(r"[\w/-]+\.md", menu)) == pages
