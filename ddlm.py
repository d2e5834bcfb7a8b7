"""Diffusion language models from Python.

    import ddlm

    run = ddlm.load("runs/quickstart")
    run.sample(4, prompt="the state of")            # texts; .tokens and .calls are arrays
    run.sample(prompts=["the state of", "we"])      # one text of each
    run.log_likelihood("the state of the union")    # a bound or exact, in nats and bits per character
    run.log_likelihood(" union", context="the state of the")
    run.fill("we ____ the people")
    run.fill("we * the people", stretch="*")        # of FlexMDM, a blank of any length
    run.evaluate("test")                            # the record, as `ddlm evaluate` makes it
    run.score("test", candidates=8)                 # answers of a run of pairs beside the references
    run.denoise("the state of the union", 0.5)      # logits of every token at every position

    text = ddlm.Text("my.txt", ddlm.Characters(), length=128)
    model = ddlm.Transformer(num_layers=4, width=128, num_heads=4)
    rate = ddlm.Muon(ddlm.LinearDecay(peak_lr=7e-3, warmup_steps=50, decay_steps=600))
    train = ddlm.Train(num_steps=600, batch_size=16, eval_every=200, checkpoint_every=200)
    experiment = ddlm.Experiment(ddlm.MDLM(), model, text, optimizer=rate, train=train)
    run = ddlm.train(experiment, "runs/python")

Everything that an experiment is made of is here under its own name, so that a config file may import
this module alone (the learning rate `Linear` as LinearDecay, beside the noise schedule `Linear`). The
commands call the same functions. A mistake is a `ddlm.UserError`, whose message says what to do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import spaces
from diffusion.ar_diffusion import ARDiffusion
from diffusion.autoregressive import Autoregressive
from diffusion.betas import CosineBetas, LinearBetas, MutualInformation, ReciprocalBetas
from diffusion.bfn import BFN, PowerAccuracy
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.dense import BandDiagonal, Gaussian, Masked, Matrix, MatrixKernel, NearestNeighbour
from diffusion.dglm import DGLM
from diffusion.difformer import Difformer
from diffusion.dirichlet import DirichletFlow
from diffusion.distillation import DCD, SDTT, Distilled, Student
from diffusion.duo import Duo
from diffusion.edlm import EDLM, EDLMAutoregressive
from diffusion.embedded import EmbeddedProcess
from diffusion.embedding_classifier import EmbeddingClassifier
from diffusion.embedding_flow import FLM, ArgmaxLogSNR, GumbelLogSNR, LangFlow
from diffusion.eso_lm import EsoLM
from diffusion.flex_mdm import FlexMDM
from diffusion.gaussian import GaussianProcess, GivenEmbeddings, LearnedEmbeddings, OneHot
from diffusion.genmd4 import GenMD4
from diffusion.gidd import GIDD
from diffusion.hidden_markov import HiddenMarkov
from diffusion.kernels import Absorbing, ClosedKernel, Redrawing, Uniform
from diffusion.linear_flow import LinearFlow
from diffusion.log_snr import (
    CosineLogSNR,
    LearnedLogSNR,
    LinearLogSNR,
    LogSNR,
    NoiseRescaled,
    SqrtLogSNR,
)
from diffusion.markov import ContinuousMarkovProcess, MarkovProcess
from diffusion.mdlm import MDLM
from diffusion.noisy_classifier import NoisyClassifier
from diffusion.one_step import OneStep
from diffusion.plaid import Plaid
from diffusion.process import (
    Composed,
    FlowProcess,
    JumpProcess,
    Likelihood,
    Objective,
    Process,
    RateProcess,
    ScoreProcess,
    Sequential,
    StateWeighted,
    TimeIntegral,
    Traits,
    TransitionProcess,
)
from diffusion.radd import RADD
from diffusion.schedules import (
    AlphaSchedule,
    Cosine,
    Geometric,
    Linear,
    MDLMCosine,
    Polynomial,
    RescaledSchedule,
    Schedule,
)
from diffusion.sedd import SEDD
from diffusion.soft_targets import SoftTargets
from diffusion.spindle import Spindle
from diffusion.stationary import Stationary, Unigram
from diffusion.toy import Toy
from diffusion.udlm import UDLM
from diffusion.vector_diffusion import VectorDiffusion
from experiments import run as trained
from experiments.answers.scoring import Task, score
from experiments.config import Evaluation, Experiment, Mesh, Teacher, Train
from experiments.data.subwords import Subwords
from experiments.data.text import Text
from experiments.data.tokenizers import Bytes, Characters, Letters27, Numbers
from experiments.errors import Diverged, Stopped, UserError
from experiments.evaluation.bound import evaluate_run, of_other_text
from experiments.evaluation.of_text import LogLikelihood, log_likelihood, tokens_of
from experiments.optimization.adamw import AdamW
from experiments.optimization.linear import Linear as LinearDecay
from experiments.optimization.muon import Muon
from experiments.optimization.optimizer import LearningRate, Optimizer
from experiments.optimization.warmup_constant import WarmupConstant
from experiments.optimization.warmup_cosine import WarmupCosine
from experiments.optimization.warmup_stable_decay import WarmupStableDecay
from experiments.overrides import override
from experiments.sample_metrics.record import of_texts
from experiments.sample_metrics.scorers import RunScorer
from experiments.sampling.known import answered, written
from experiments.sampling.request import Prepared, Request, prepare
from experiments.sampling.samples import sample_run
from experiments.time_weights.as_bound import AsBound
from experiments.time_weights.clipped import Clipped
from experiments.time_weights.complementary import Complementary
from experiments.time_weights.dynamic import Dynamic
from experiments.time_weights.learned_times import LearnedTimes
from experiments.time_weights.stratified_counts import StratifiedCounts
from experiments.time_weights.tempered import Tempered
from experiments.time_weights.time_weight import TimeWeight
from experiments.token_losses.error_norm_truncation import ErrorNormTruncation
from experiments.token_losses.focal import Focal
from experiments.token_losses.label_smoothing import LabelSmoothing
from experiments.token_losses.ordinal import Ordinal
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.spherical_z_loss import SphericalZLoss
from experiments.token_losses.squentropy import Squentropy
from experiments.token_losses.tldr import TLDR
from experiments.token_losses.token_loss import TokenLoss
from experiments.token_losses.z_loss import ZLoss
from experiments.token_weights.both import Both
from experiments.token_weights.even import Even
from experiments.token_weights.goldfish import Goldfish
from experiments.token_weights.loss_truncation import LossTruncation
from experiments.token_weights.rarity import Rarity
from experiments.token_weights.rho1 import Rho1
from experiments.token_weights.sequence_tilt import SequenceTilt
from experiments.token_weights.token_weight import TokenWeight
from experiments.trackers.mlflow_tracking import MLflow
from experiments.trackers.no_tracker import NoTracker
from experiments.trackers.tracker import TrackedRun, Tracker
from experiments.trackers.weights_and_biases import WeightsAndBiases
from experiments.training.metrics import read_metrics
from experiments.training.trainer import train as _train
from models import roles
from models.backbone import Backbone, Network
from models.bert import Bert
from models.classifier import Classifier
from models.energy import EnergyTransformer
from models.harmonic import Harmonic
from models.insertion import InsertionTransformer
from models.logistic_regression import LabelsOfVectors, LogisticRegression
from models.lora import LoRA
from models.modernbert import ModernBert
from models.plaid import PlaidTransformer
from models.planned import PlannedTransformer
from models.rare_gating import RareGating
from models.readout import DotProduct, Readout
from models.residual_mlp import ResidualMLP
from models.sentence_encoder import SentenceEncoder
from models.time_inputs import GeometricNoise, LogLinearNoise, Plain, Thousandfold, TimeInput
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.euler import Euler, TauLeaping
from samplers.first_hitting import FirstHitting
from samplers.insertion import Insertion
from samplers.logits_processor import LogitsProcessor
from samplers.mean_ancestral import MeanAncestral
from samplers.ode import ODE
from samplers.path_planning import PathPlanning
from samplers.plan_and_write import PlanAndWrite
from samplers.posterior import Posterior
from samplers.predictor_corrector import PredictorCorrector
from samplers.psi import Psi
from samplers.remask import ReMDM
from samplers.sampler import Compatibility, GridSampler, Sampler, State, Stepwise, TimedSampler
from samplers.self_correction import SelfCorrection
from samplers.semi_autoregressive import SemiAutoregressive
from samplers.sliding_window import SlidingWindow
from samplers.tweedie import Tweedie
from samplers.twisted_smc import TwistedSMC
from samplers.two_phase import TwoPhase
from samplers.unmask import EntropyBudget, Factor, Steps, Threshold, Tokens, Unmask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BFN",
    "D3PM",
    "DCD",
    "DGLM",
    "EDLM",
    "FLM",
    "GIDD",
    "MDLM",
    "ODE",
    "RADD",
    "SDTT",
    "SEDD",
    "TLDR",
    "UDLM",
    "ARDiffusion",
    "Absorbing",
    "AdamW",
    "AlphaSchedule",
    "Ancestral",
    "ArgmaxLogSNR",
    "AsBound",
    "Autoregressive",
    "Backbone",
    "BandDiagonal",
    "Bert",
    "BlockByBlock",
    "BlockDiffusion",
    "Both",
    "Bytes",
    "Characters",
    "Classifier",
    "Clipped",
    "ClosedKernel",
    "Compatibility",
    "Complementary",
    "Composed",
    "ContinuousMarkovProcess",
    "Cosine",
    "CosineBetas",
    "CosineLogSNR",
    "Difformer",
    "DirichletFlow",
    "Distilled",
    "Diverged",
    "DotProduct",
    "Duo",
    "Dynamic",
    "EDLMAutoregressive",
    "EmbeddedProcess",
    "EmbeddingClassifier",
    "EnergyTransformer",
    "EntropyBudget",
    "ErrorNormTruncation",
    "EsoLM",
    "Euler",
    "Evaluation",
    "Even",
    "Experiment",
    "Factor",
    "FirstHitting",
    "FlexMDM",
    "FlowProcess",
    "Focal",
    "Gaussian",
    "GaussianProcess",
    "GenMD4",
    "Geometric",
    "GeometricNoise",
    "GivenEmbeddings",
    "Goldfish",
    "GridSampler",
    "GumbelLogSNR",
    "Harmonic",
    "HiddenMarkov",
    "Insertion",
    "InsertionTransformer",
    "JumpProcess",
    "LabelSmoothing",
    "LabelsOfVectors",
    "LangFlow",
    "LearnedEmbeddings",
    "LearnedLogSNR",
    "LearnedTimes",
    "LearningRate",
    "LeftToRight",
    "Letters27",
    "Likelihood",
    "Linear",
    "LinearBetas",
    "LinearDecay",
    "LinearFlow",
    "LinearLogSNR",
    "LoRA",
    "LogLikelihood",
    "LogLinearNoise",
    "LogSNR",
    "LogisticRegression",
    "LogitsProcessor",
    "LossTruncation",
    "MDLMCosine",
    "MLflow",
    "MarkovProcess",
    "Masked",
    "Matrix",
    "MatrixKernel",
    "MeanAncestral",
    "Mesh",
    "ModernBert",
    "Muon",
    "MutualInformation",
    "NearestNeighbour",
    "Network",
    "NoTracker",
    "NoiseRescaled",
    "NoisyClassifier",
    "Numbers",
    "Objective",
    "OneHot",
    "OneStep",
    "Optimizer",
    "Ordinal",
    "PathPlanning",
    "Plaid",
    "PlaidTransformer",
    "Plain",
    "PlanAndWrite",
    "PlannedTransformer",
    "Polynomial",
    "Posterior",
    "PowerAccuracy",
    "PredictorCorrector",
    "Process",
    "ProcessLoss",
    "Psi",
    "RareGating",
    "Rarity",
    "RateProcess",
    "ReMDM",
    "Readout",
    "ReciprocalBetas",
    "Redrawing",
    "RescaledSchedule",
    "ResidualMLP",
    "Rho1",
    "Run",
    "Sampler",
    "Samples",
    "Schedule",
    "ScoreProcess",
    "SelfCorrection",
    "SemiAutoregressive",
    "SentenceEncoder",
    "SequenceTilt",
    "Sequential",
    "SlidingWindow",
    "SoftTargets",
    "SphericalZLoss",
    "Spindle",
    "SqrtLogSNR",
    "Squentropy",
    "State",
    "StateWeighted",
    "Stationary",
    "Steps",
    "Stepwise",
    "Stopped",
    "StratifiedCounts",
    "Student",
    "Subwords",
    "TauLeaping",
    "Teacher",
    "Tempered",
    "Text",
    "Thousandfold",
    "Threshold",
    "TimeInput",
    "TimeIntegral",
    "TimeWeight",
    "TimedSampler",
    "TokenLoss",
    "TokenWeight",
    "Tokens",
    "Toy",
    "TrackedRun",
    "Tracker",
    "Train",
    "Traits",
    "Transformer",
    "TransitionProcess",
    "Tweedie",
    "TwistedSMC",
    "TwoPhase",
    "Uniform",
    "Unigram",
    "Unmask",
    "UserError",
    "VectorDiffusion",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupStableDecay",
    "WeightsAndBiases",
    "ZLoss",
    "import_checkpoint",
    "load",
    "override",
    "roles",
    "spaces",
    "train",
]


class Samples(list):
    """Texts, str, with `answers`, what of each comes after its prompt; `tokens`, int32 (N, L), after the
    end of a text that token again, or -1 where texts have any length; and `calls` of the network for
    each, int (N,)."""

    def __init__(
        self, texts: Sequence[str], answers: Sequence[str], tokens: np.ndarray, calls: np.ndarray
    ):
        super().__init__(texts)
        self.answers, self.tokens, self.calls = list(answers), tokens, calls


class Run:
    """A trained model: `experiment`, its settings; `params`, its averaged parameters (`raw`: those of
    the last step), a nested dict of arrays; `step`, that of the checkpoint; `workdir`, the run
    directory."""

    def __init__(self, run: trained.Run, workdir: str | Path, raw: bool = False):
        self._run, self.workdir, self.raw = run, Path(workdir), raw
        self.experiment, self.params, self.step = run.experiment, run.params, run.step

    def __repr__(self) -> str:
        name = type(self.experiment.process).__name__
        return f"<ddlm.Run {self.workdir}: {name} at step {self.step}>"

    def sample(self, num: int = 1, batch_size: int = 16, **options: Any) -> Samples:
        """So many texts. options: those of `ddlm sample`, as in `experiments.sampling.request.Request`:
        prompt, prompts, template, require, sampler, steps, temperature, top_p, label, guidance, seed and
        more. Given a list of prompts, of any lengths, `num` texts of each: of all the first, in order,
        then of all the second.

        Sample i depends on the seed and i alone, not on how many are drawn or how many at a time.
        """
        ready = prepare(self._run, Request(**options), str(self.workdir))
        return _drawn(ready, num * len(np.atleast_2d(ready.known)), batch_size)

    def frames(self, blank: str = "_", **options: Any) -> list[str]:
        """A sample as it is made: the text at the start and after each step, with `blank` for each mask.
        options: as of `sample`, `blank` among them. UserError for a sampler that keeps no frames."""
        ready = prepare(self._run, Request(blank=blank, **options), str(self.workdir))
        seed, known = ready.description["seed"], ready.known
        ((_, sampled, _),) = sample_run(ready.run, 1, seed, known, 1, ready.constraints, trace=True)
        assert sampled.frames is not None  # as asked for
        process, decode = self.experiment.process, self.experiment.data.tokenizer.decode
        symbols = [decode(np.array([v])) for v in range(process.num_tokens)] + [
            blank
        ]  # V is the mask
        return ["".join(symbols[v] for v in row) for row in sampled.frames.tokens]

    def fill(self, template: str, num: int | None = None, **options: Any) -> str | Samples:
        """The template with its blanks filled in, each "_" (or what `blank` says) by one token, and by
        FlexMDM the character `stretch` by any number; with `num` so many of them. options: as of
        `sample`."""
        request = Request(template=template, **options)
        ready = prepare(self._run, request, str(self.workdir))
        if self.experiment.process.traits.inserts:  # the template is the whole text
            texts = _drawn(ready, num or 1, 16)
            return texts if num else texts[0]
        ends = len(template) - len(template.rstrip(request.blank))
        filled = np.flatnonzero(ready.known >= 0)
        size = (int(filled[-1]) + 1 if len(filled) else 0) + ends
        texts = _drawn(ready, num or 1, 16, size)
        return texts if num else texts[0]

    def log_likelihood(
        self, text: str, num_times: int = 64, seed: int = 0, context: str = ""
    ) -> LogLikelihood:
        """log p(text) in nats, with its kind (exact, or a bound) and the standard error of the draws;
        with a context log p(text | context), the text being what comes directly after it.
        num_times: how many times are drawn; more make the error smaller."""
        return log_likelihood(self._run, text, num_times, seed, context)

    def evaluate(
        self,
        split: str = "validation",
        max_sequences: int | None = None,
        num_times: int | None = None,
        seed: int = 0,
        text: str | None = None,
        log: Callable[[str], None] = print,
    ) -> dict[str, Any]:
        """The record of a split of the run's data, or of that of another text (a file or folder): value
        in bits per character (or per byte or token, which its unit says), kind, standard error and all
        that they depend on. max_sequences: no more than so many, at equal distances. log gets lines of
        progress. No file is written."""
        changes = [f"evaluation.num_times={num_times}"] if num_times else []
        changes += list(of_other_text(text)) if text else []
        run = replace(self._run, experiment=override(self.experiment, changes))
        whole = text is not None and not Path(text).expanduser().is_dir()
        return evaluate_run(run, split, seed, not self.raw, log, max_sequences, whole)

    def score(
        self,
        split: str = "test",
        num: int = 256,
        candidates: int = 1,
        similarity: str = "characters",
        answer_length: int | str = "end",
        beam: int | None = None,
        batch_size: int = 64,
        log: Callable[[str], None] = lambda line: None,
        **options: Any,
    ) -> dict[str, Any]:
        """The record of answers to at most `num` prompts of a split of pairs beside their references, as
        `ddlm score` makes it: exact match, errors of characters and words, with standard errors, and
        with several candidates those of the one most like the others. answer_length, beam: as of
        `experiments.answers.scoring.Task`; options: as of `sample`. No file is written."""
        task = Task(split, num, candidates, similarity, answer_length, beam)
        request, workdir = Request(**options), str(self.workdir)
        return score(self._run, workdir, request, task, batch_size, log)[0]

    def quality(
        self,
        texts: Mapping[str, Sequence[str]],
        scorer: "Run | None" = None,
        ngram: int = 4,
        log: Callable[[str], None] = lambda line: None,
    ) -> dict[str, dict[str, Any]]:
        """What `ddlm quality` measures of groups of texts, by their names, and under "real text" of as
        much validation text of the run: entropy, repetition, overlap with the training text, and bits
        per character under the scorer, an autoregressive run; None counts trigrams of the training text.
        """
        if scorer is not None and not isinstance(scorer.experiment.process, Sequential):
            raise UserError(
                f"scorer {scorer!r}: must be an autoregressive run; train one, or leave it out"
            )
        judge = scorer and RunScorer(scorer._run, str(scorer.workdir))
        return of_texts(texts, self.experiment.data, judge, ngram, log)

    def denoise(self, tokens: Any, t: float | Any) -> jax.Array:
        """Logits (B, L, V) of a state at time t: a text, int (B, L) in which V is the mask, or float
        (B, L, V) on the simplex; t a number or (B, 1). Their meaning is the process's (`predict`
        makes log p(x0 | z_t) of them); a model from left to right says at each position what comes
        next, of tokens that begin with its start token."""
        z = tokens_of(self._run, tokens)[None] if isinstance(tokens, str) else jnp.asarray(tokens)
        times = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(z), 1))
        return self._denoise(self.params, jnp.asarray(z), times)

    @cached_property
    def _denoise(self):
        return jax.jit(lambda params, z, t: self.experiment.network(params)(z, t))

    def metrics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The curves of the training by their names, each (steps, values)."""
        return read_metrics(self.workdir)

    def export(
        self,
        folder: str | Path,
        family: str | None = None,
        mask_token: int | None = None,
        start_token: int | None = None,
    ) -> str:
        """The name of the layout in which the run now is in the folder, which must not be there before,
        as safetensors and config.json: that of a published family (`ddlm import --list`), by default
        the one it was imported from or is of, or our own, "ddlm". mask_token, start_token: their numbers
        in the files, where the family has them elsewhere than we do."""
        from experiments.published.exporting import export_run
        from experiments.published.family import Options

        options = Options(mask=mask_token, start=start_token)
        return export_run(trained.merged(self._run), self.workdir, Path(folder), family, options)

    def plot(
        self, path: str | Path | None = None, names: Sequence[str] = (), theme: str = "light"
    ) -> "Figure":
        """A figure of matplotlib with what most look at of the training, or the curves of the names;
        written to `path` too if one is given. theme: "light" or "dark". Needs pip install -e ".[plot]".
        UserError where nothing is measured yet, and for a path or theme that cannot be.
        """
        from experiments.curves import Curve, draw_curves, main_curves, save
        from experiments.figure import check_figure

        path = None if path is None else Path(path)
        check_figure(path, "path")
        metrics = self.metrics()
        curves = {name: Curve(*metrics[name]) for name in names} or main_curves(metrics)
        figure = draw_curves({self.workdir.name: curves}, theme)
        if path is not None:
            save(figure, path)
        return figure


def _drawn(ready: Prepared, num: int, batch_size: int, size: int | None = None) -> Samples:
    """So many samples, or the first `size` tokens of each."""
    seed, batch = ready.description["seed"], min(batch_size, num)
    drawn = list(sample_run(ready.run, num, seed, ready.known, batch, ready.constraints))
    data, stop = ready.run.experiment.data, ready.constraints.stop
    rows = [(sampled.x0[:size], fixed[:size]) for _, sampled, fixed in drawn]
    texts, answers = (
        [data.tokenizer.decode(part(data, *row, stop)) for row in rows]
        for part in (written, answered)
    )
    tokens = np.stack([sampled.x0[:size] for _, sampled, _ in drawn])
    calls = np.array([int(sampled.calls) for _, sampled, _ in drawn])
    return Samples(texts, answers, tokens, calls)


def load(
    workdir: str | Path,
    step: int | None = None,
    config: str | Path | Experiment | None = None,
    changes: Sequence[str] = (),
    raw: bool = False,
) -> Run:
    """The run in a run directory, at its newest checkpoint or at `step`. config: the file that defines
    classes of your own, or an experiment of them. changes: settings as of --set. raw: the
    parameters of the last step, not their average. UserError where there is none."""
    defined = str(config) if isinstance(config, Path) else config
    return Run(trained.load_run(str(workdir), step, changes, defined, not raw), workdir, raw)


def import_checkpoint(
    source: str | Path,
    workdir: str | Path,
    family: str | None = None,
    tokenizer: str | Path | None = None,
    mask_token: str | None = None,
    start_token: int | None = None,
    block_size: int | None = None,
    length: int | None = None,
    raw: bool = False,
    log: Callable[[str], None] = print,
) -> Run:
    """The run that is made of a published checkpoint, a folder or a file, in the run directory, which
    must not be there before. family: where its files do not tell (`ddlm import --list`). tokenizer: its
    files, by default those beside it. mask_token: its number or name, start_token: its number,
    block_size: of block diffusion, length: of sequences, where config.json does not tell. raw: the
    parameters of the last step, where the file has an average too. log gets what was assumed. Nothing
    of the files is executed."""
    from experiments.published.family import Options
    from experiments.published.importing import import_run

    files = None if tokenizer is None else str(tokenizer)
    options = Options(start=start_token, block_size=block_size, length=length)
    import_run(
        Path(source), Path(workdir), family, files, mask_token, options, average=not raw, log=log
    )
    return load(workdir)


def train(experiment: Experiment, workdir: str | Path, log: Callable[[str], None] = print) -> Run:
    """Trains the experiment in the run directory, or goes on where it holds a run of it, and gives the
    run back. log gets lines of progress."""
    _train(experiment, Path(workdir), log)
    return load(workdir, config=experiment)
