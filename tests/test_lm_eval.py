"""A run as a model of lm-evaluation-harness, in whose place a few lines stand here."""

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from conftest import SMALL

import ddlm
from experiments import cli
from experiments.data.padding import padded_batches
from experiments.evaluation.conditional import Pair, conditional_nats, encode_pair, windows
from experiments.harness.run_model import RunModel
from experiments.overrides import load, override
from experiments.sampling.continuations import continuations

pytestmark = pytest.mark.representatives()  # an extra: make test-all

LENGTH = 40
STEPS = ("train.num_steps=3", f"data.length={LENGTH}", "evaluation.num_times=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}
    for name in ("mdlm", "autoregressive", "block4", "udlm"):
        experiment = override(load(f"configs/sotu/{name}.py"), [*SMALL, *STEPS])
        workdir = tmp_path_factory.mktemp("lm_eval") / name
        made[name] = ddlm.train(experiment, workdir, lambda line: None)
    return made


def asked(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


def model_of(run, **arguments):
    return RunModel(str(run.workdir), samples=4, batch_size=2, **arguments)


REQUESTS = asked(
    ("the state of the", " union"), ("the state of the", " people"), ("", "we the people"),
    ("we the people of the united", " states"),
)  # fmt: skip


@pytest.mark.representatives()
def test_an_exact_likelihood_is_that_of_the_whole_less_that_of_the_context(runs):
    run = runs["autoregressive"]
    found = run.log_likelihood(" union", context="the state")
    whole, before = run.log_likelihood("the state union"), run.log_likelihood("the state")
    assert found.nats == pytest.approx(whole.nats - before.nats, rel=1e-5)
    assert (found.kind, found.standard_error, found.samples) == ("exact", 0, 1)
    assert found.tokens == found.characters == 6


@pytest.mark.parametrize(
    "name, kind", [("mdlm", "bound"), ("block4", "bound"), ("udlm", "estimate")]
)
def test_a_bound_has_its_error_and_its_samples_and_sees_the_context(runs, name, kind):
    few = runs[name].log_likelihood(" union", 8, context="the state")
    many = runs[name].log_likelihood(" union", 128, context="the state")
    assert (few.kind, few.samples, many.samples) == (kind, 8, 128)
    assert many.standard_error > 0
    assert kind == "estimate" or many.standard_error < few.standard_error
    assert abs(few.nats - many.nats) < 5 * few.standard_error
    assert many.nats != runs[name].log_likelihood(" union", 128, context="the other").nats


@pytest.mark.parametrize("name", ["mdlm", "autoregressive", "block4"])
def test_a_likelihood_depends_on_neither_batch_nor_order_nor_padding(runs, name):
    """Of rows of 32 and of 40 positions, and whatever else is in the batch."""
    run = runs[name]._run
    pairs = [encode_pair(run, *request.args) for request in REQUESTS]
    one = np.concatenate([conditional_nats(run, [pair]) for pair in pairs])
    together = conditional_nats(run, pairs[::-1], batch_size=3)[::-1]
    np.testing.assert_allclose(together, one, rtol=2e-5)


@pytest.mark.parametrize("name", ["mdlm", "autoregressive", "block4"])
def test_answers_are_of_the_form_of_the_harness(runs, name, tmp_path):
    out = tmp_path / "likelihoods.jsonl"
    model = model_of(runs[name], out=str(out))
    answers = model.loglikelihood(REQUESTS)
    direct = runs[name].log_likelihood(" union", 4, context="the state of the")
    assert answers[0][0] == pytest.approx(direct.nats, rel=1e-4)
    assert all(type(value) is float and value < 0 and type(g) is bool for value, g in answers)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["nats"] for line in lines] == [value for value, _ in answers]
    assert [line["arguments"] for line in lines] == [list(r.args) for r in REQUESTS]
    assert all((line["standard_error"] > 0) == (name != "autoregressive") for line in lines)
    assert [line["tokens"] for line in lines] == [6, 7, 13, 7]


@pytest.mark.parametrize("name", ["mdlm", "autoregressive", "block4"])
def test_greedy_is_what_the_sampler_writes_at_temperature_0(runs, name):
    model, run = model_of(runs[name], **{"seed": 3}), runs[name]._run
    context = encode_pair(run, "the state of", " t").context
    coldest = override(run.experiment, [f"{path}=0.0" for path in _temperatures(run)])
    pair = Pair(context, np.zeros(6, np.int32))
    for _ in range(2):  # what is written after the context is greedy, and then is what is asked for
        (tokens,) = continuations(
            replace(run, experiment=coldest), [context], [6], [pair.number], 3
        )
        pair = Pair(context, tokens)
    text = run.experiment.data.tokenizer.decode(tokens)
    other = "q" + text[1:] if text[0] != "q" else "z" + text[1:]
    greedy = [
        g for _, g in model.loglikelihood(asked(("the state of", text), ("the state of", other)))
    ]
    assert greedy == [True, False]
    if name == "mdlm":
        asks_nothing = model_of(runs[name], seed=3, greedy=False)
        assert not asks_nothing.loglikelihood(asked(("the state of", text)))[0][1]


def _temperatures(run):
    from experiments.overrides import leaves

    paths = leaves(run.experiment.sampler)
    return [f"sampler.{path}" for path in paths if path.endswith("temperature")]


def test_windows_have_every_token_once_and_the_last_has_all_the_context_that_fits():
    tokens, given = np.arange(10), np.array([99])
    pairs = windows(tokens, given, 4)
    assert [(p.context.tolist(), p.continuation.tolist()) for p in pairs] == [
        ([99], [0, 1, 2]), ([], [3, 4, 5, 6]), ([6], [7, 8, 9]),
    ]  # fmt: skip
    assert [len(p.continuation) for p in windows(np.arange(3), given[:0], 4)] == [3]


def test_a_rolling_likelihood_is_the_sum_of_its_windows(runs):
    run, text = runs["autoregressive"], "we the people of the united states " * 2
    (whole,) = model_of(run).loglikelihood_rolling(asked((text,)))
    first = run.log_likelihood(text[:LENGTH]).nats
    rest = run.log_likelihood(text[LENGTH:], context=text[len(text) - LENGTH : LENGTH]).nats
    assert whole == pytest.approx(first + rest, rel=1e-5)


@pytest.mark.parametrize("name", ["mdlm", "autoregressive", "block4"])
def test_texts_end_at_a_stop_or_at_their_length(runs, name):
    model, contexts = (
        model_of(runs[name]),
        ["the state", "we the people of the united states in order"],
    )
    free = model.generate_until(asked(*((c, {"max_gen_toks": 12}) for c in contexts)))
    assert [len(text) for text in free] == [12, 12]
    again = model.generate_until(asked((contexts[0], {"max_gen_toks": 12, "until": free[0][5:7]})))
    assert free[0].startswith(again[0]) and again[0] == free[0][: free[0].index(free[0][5:7])]
    drawn = {"max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    one, two = model.generate_until(asked(*2 * [(contexts[0], drawn)]))
    assert one != two  # the same request again is drawn anew
    assert len(model.generate_until(asked((contexts[0], {})))[0]) == LENGTH // 2


def test_a_context_before_a_text_of_given_length_is_the_prompt_of_a_sample(runs):
    """Left to right: what is written is the run's own sample with that prompt, cut."""
    run = runs["autoregressive"]
    cold = run.sample(1, prompt="the state of", temperature=0.0)[0]
    (text,) = model_of(run).generate_until(asked(("the state of", {"max_gen_toks": 9})))
    assert text == cold[12:21]


def test_results_hold_the_run_the_estimator_and_the_samplers_that_were_used(runs):
    model = model_of(runs["mdlm"], **{"sampler.steps": 3})
    model.loglikelihood(REQUESTS[:2])
    model.generate_until(asked(("we", {"max_gen_toks": 4, "do_sample": True, "top_k": 5})))
    said = json.loads(json.dumps(model.get_model_info()))["ddlm"]
    assert said["checkpoint_fingerprint"] == runs["mdlm"]._run.fingerprint
    likelihood = said["likelihood"]
    assert likelihood["requests"] == {"bound": 2} and likelihood["samples"] == 4
    assert likelihood["estimator"].startswith("random order, 1 token at a time: mean over 4")
    assert 0 < likelihood["standard_error"]["median"] <= likelihood["standard_error"]["largest"]
    greedy, drawn = (dict(s["logits_processor"]) for s in said["samplers"])
    assert (greedy["temperature"], drawn["temperature"], drawn["top_k"]) == (0.0, 1.0, 5)
    assert [s["steps"] for s in said["samplers"]] == [3, 3]
    assert json.loads(json.dumps(model_of(runs["mdlm"]).get_model_info()))  # nothing was asked yet


def test_mistakes_are_one_line_each(runs, rejected):
    run = runs["mdlm"]
    model = model_of(run)
    assert "longer than the run's 40" in rejected(model.loglikelihood, asked(("a", "b" * 41)))
    assert "has no tokens" in rejected(model.loglikelihood, asked(("a", "")))
    assert "outside the 27 letters" in rejected(model.loglikelihood, asked(("a", "B")))
    assert "max_gen_toks = 40 leaves no room" in rejected(
        model.generate_until, asked(("a", {"max_gen_toks": 40}))
    )
    assert "generation option num_beams" in rejected(
        model.generate_until, asked(("a", {"num_beams": 4}))
    )
    assert "samples = 0 must be" in rejected(lambda: RunModel(str(run.workdir), samples=0))
    assert "nonsense" in rejected(lambda: RunModel(str(run.workdir), nonsense=1))


def test_lengths_of_batches_are_few_and_every_text_is_in_one():
    texts = [np.full(n, n) for n in (3, 33, 70, 5, 65, 64, 1)]
    batches = list(padded_batches(texts, 100, 2))
    assert [b.tokens.shape for b in batches] == [(2, 100), (2, 64), (2, 32), (2, 32)]
    assert sorted(n for b in batches for n in b.numbers) == list(range(7))
    for numbers, tokens, segments in batches:
        for row, n in enumerate(numbers):
            assert tokens[row][segments[row] > 0].tolist() == texts[n].tolist()
    alone = list(padded_batches([texts[0], texts[3], texts[0]], 100, 2, padded=False))
    assert [b.tokens.shape for b in alone] == [(2, 5), (2, 3)]
    assert all((b.segments == 1).all() for b in alone)


@pytest.fixture
def harness(monkeypatch):
    """What the adapter asks of the harness: its base class, its registry, its command line."""

    class LM:
        def __init__(self):
            self.base_is_made = True

    registry, called = {}, []
    parts = {
        "lm_eval": {},
        "lm_eval.api": {},
        "lm_eval.api.model": {"LM": LM},
        "lm_eval.api.registry": {
            "MODEL_REGISTRY": registry,
            "register_model": lambda name: lambda cls: registry.setdefault(name, cls),
        },
        "lm_eval.__main__": {"cli_evaluate": lambda: called.append(list(sys.argv))},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(LM=LM, registry=registry, called=called)


def test_the_program_is_the_harness_with_a_model_more(harness, runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["before"])
    assert cli.guarded("lm_eval", ["--model", "ddlm", "--tasks", "one"]) == 0
    assert harness.called == [["lm_eval", "--model", "ddlm", "--tasks", "one"]]
    given = {"samples": 2, "batch_size": "auto", "max_batch_size": None, "device": "cuda:0"}
    model = harness.registry["ddlm"](workdir=str(runs["autoregressive"].workdir), **given)
    assert isinstance(model, harness.LM) and model.base_is_made
    assert model.loglikelihood(REQUESTS[:1])[0][0] < 0
    assert cli.guarded("lm_eval", []) == 0  # a second time it is registered already


def test_without_the_harness_a_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert cli.guarded("lm_eval", []) == 2
    assert 'pip install -e ".[lm-eval]"' in capsys.readouterr().err
