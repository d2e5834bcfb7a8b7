"""Texts of any length from the command line and in Python: a run of FlexMDM on lines, its record, and
templates with a blank that stretches."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL

import ddlm
from experiments import cli
from experiments.data.tokenizers import LETTERS, Letters27
from experiments.errors import UserError
from experiments.run import load_run
from experiments.sample_metrics import sample_quality
from experiments.sampling.known import encode_known
from samplers.insertion import ANY, NOTHING, ONE

CONFIG = Path(__file__).parent.parent / "configs" / "sotu" / "flex_mdm.py"
W = LETTERS.index("w")
WORDS = ["the", "state", "of", "union", "and", "we", "people", "question", "jazz", "fix"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two steps on lines of 2 to 16 letters."""
    folder, draw = tmp_path_factory.mktemp("lines"), random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.choice([1, 2])))[:16] for _ in range(400)]
    (folder / "lines.txt").write_text("\n".join(lines))
    settings = [*SMALL, "data.length=16", f"data.path={folder / 'lines.txt'}", "sampler.steps=4"]
    settings += ["data.document=line", "data.rows=sentence", "evaluation.num_times=2"]
    words = ["--config", str(CONFIG), "--workdir", str(folder / "run")]
    assert cli.guarded("train", words + [w for s in settings for w in ("--set", s)]) == 0
    return folder / "run"


def test_a_record_says_that_no_length_is_given(workdir):
    where = ["--workdir", str(workdir), "--split", "test"]
    assert cli.guarded("evaluate", where) == 0
    (path,) = (workdir / "records").glob("test-2*.json")
    record = json.loads(path.read_text())
    assert record["kind"] == "bound" and record["context"]["length_given"] is False


def test_known_text_stays_and_a_blank_stretches(workdir, capsys):
    """In Python and from the command line: the same."""
    run, form = ddlm.load(workdir), re.compile("we([a-z ]*)pe.p")
    texts = run.fill("we*pe_p", 6, stretch="*", seed=1)
    matches = [form.fullmatch(text) for text in texts]
    assert all(matches) and len({len(match[1]) for match in matches if match}) > 2
    assert texts.tokens.shape == (6, 16)
    np.testing.assert_array_equal((texts.tokens >= 0).sum(1), [len(text) for text in texts])
    assert len({len(text) for text in run.sample(6, prompt="we")}) > 2
    template = ["--template", "we*pe_p", "--stretch", "*", "--seed", "1", "--num", "6"]
    assert cli.guarded("sample", ["--workdir", str(workdir), *template]) == 0
    assert [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()] == [*texts]


@pytest.mark.parametrize(
    "template, stretch, known",
    [
        (None, "", [W, ANY, ANY, ANY]),
        ("w_", "", [W, ONE, NOTHING, NOTHING]),
        ("*w", "*", [ANY, W, NOTHING, NOTHING]),
        ("w-_", "-", [W, ANY, ONE, NOTHING]),
        ("", "*", [NOTHING] * 4),
    ],
)
def test_signs_of_a_template(template, stretch, known):
    prompt = "w" if template is None else ""
    found = encode_known(Letters27(), 4, prompt, template, "_", None, stretch, True)
    np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"template": "we * of the people", "stretch": "*"}, "longer than the model's 16 tokens"),
        (
            {"template": "we*pe"},
            "for one that stands for any number of tokens name it with --stretch",
        ),
        ({"template": "we", "stretch": "**"}, "must be one character, other than --blank"),
        ({"template": "we", "stretch": "_"}, "must be one character, other than --blank"),
        ({"prompt": "we", "stretch": "*"}, "--stretch '\\*' is for blanks of a template"),
        ({"require": ["we"]}, "--require: FlexMDM inserts tokens"),
        ({"stop": ["e"]}, "--stop: FlexMDM inserts tokens"),
        ({"template": "we pe", "stretch": "*"}, r"--stretch '\*' does not stand in the template"),
        ({"sampler": "Ancestral"}, "Ancestral does not support process FlexMDM"),
        ({"changes": ("data.rows=pack",)}, "a row of FlexMDM is one text"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(workdir, rejected, options, words):
    assert re.search(words, rejected(lambda: ddlm.load(workdir).sample(**options)))


def test_other_processes_and_networks_say_so(workdir, rejected):
    base = ddlm.load(workdir).experiment
    with pytest.raises(ValueError, match="outputs no numbers of missing tokens"):
        ddlm.Experiment(base.process, ddlm.Transformer(), base.data, base.sampler)
    with pytest.raises(ValueError, match="outputs them, which it does not read"):
        ddlm.Experiment(ddlm.MDLM(), ddlm.InsertionTransformer())
    with pytest.raises(ValueError, match=r"FlexMDM.schedule = Linear.* has no"):
        ddlm.FlexMDM(schedule=ddlm.Linear(1e-3))
    with pytest.raises(UserError, match="but none of a part given the rest"):
        ddlm.load(workdir).log_likelihood("we", context="the ")


def test_no_sampler_of_it_keeps_frames(workdir):
    with pytest.raises(
        UserError, match="keeps no frames for --trace and --watch; none of FlexMDM does"
    ):
        ddlm.load(workdir).frames()


def test_samples_of_different_lengths_are_not_compared_token_by_token(workdir, monkeypatch):
    monkeypatch.setattr(sample_quality, "autoregressive_run", load_run)
    with pytest.raises(UserError, match="run writes texts of different lengths; draw them with"):
        sample_quality.measure([str(workdir)], str(workdir), print)
