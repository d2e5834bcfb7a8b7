"""What the kernels and schedules of D3PM reject, and what they take from the data."""

import dataclasses
import itertools

import numpy as np
import pytest

from configs.sotu import d3pm_nearest, d3pm_uniform, spindle, udlm
from diffusion.betas import CosineBetas, LinearBetas, MutualInformation, ReciprocalBetas
from diffusion.d3pm import D3PM
from diffusion.dense import BandDiagonal, Gaussian, Masked, Matrix, NearestNeighbour
from diffusion.kernels import Absorbing, Uniform
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from diffusion.sedd import SEDD
from experiments.data.statistics import context_embeddings, unigram
from experiments.data.tokenizers import Letters27
from experiments.errors import UserError
from experiments.overrides import differences, override, resolve
from experiments.serialization import decode, encode
from samplers.tweedie import Tweedie

TWO_PARTS = ((0.5, 0.5, 0, 0), (0.5, 0.5, 0, 0), (0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5))
ISLANDS = ((1.0, 0.0), (1.0, 0.1), (0.0, 1.0), (0.1, 1.0))
COUNTS = (4.0, 3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Matrix(((0.5, 0.6), (0.5, 0.5))), "row 0 sums to 1.1.*transpose"),
        (lambda: Matrix(((1.5, -0.5), (0.5, 0.5))), "negative"),
        (lambda: Matrix(((0.5, 0.5),)), "must be square"),
        (lambda: D3PM(4, Matrix(((0.5, 0.5), (0.5, 0.5)))), "2 x 2, but the data has 4 tokens"),
        (lambda: D3PM(4, Matrix(TWO_PARTS)), "not ergodic.*Masked"),
        (lambda: D3PM(4, NearestNeighbour(1, ISLANDS)), "not ergodic.*more neighbours"),
        (lambda: D3PM(4, NearestNeighbour(4, ISLANDS)), "must be below the 4 tokens"),
        (lambda: D3PM(5, NearestNeighbour(1, ISLANDS)), "one row of finite numbers"),
        (lambda: D3PM(30_522, Gaussian()), "too large for a dense kernel.*Absorbing and Uniform"),
        (
            lambda: D3PM(4, Gaussian(), MutualInformation(COUNTS)),
            "cannot be used with Gaussian.*use",
        ),
        (
            lambda: D3PM(4, BandDiagonal(), MutualInformation(COUNTS)),
            "cannot be used with BandDiag",
        ),
        (lambda: D3PM(5, Uniform(), MutualInformation(COUNTS)), "has 4 entries, the data has 5"),
        (lambda: D3PM(4, num_steps=0), "at least 1"),
        (lambda: D3PM(4, hybrid=-1.0), "must not be negative"),
        (lambda: LinearBetas(0.0), "must be in"),
        (lambda: Gaussian(band=0), "at least 1"),
        (lambda: BandDiagonal(0), "at least 1"),
        (lambda: NearestNeighbour(0), "at least 1"),
        (lambda: SEDD(kernel=Gaussian()), "use Absorbing, Uniform, Unigram.*or D3PM"),
        (lambda: SEDD(kernel=Uniform(), scaled=True), "for the absorbing score alone"),
        (lambda: D3PM(4, schedule=Linear()), "use CosineBetas"),
        (lambda: MDLM(schedule=CosineBetas()), "use Linear"),
    ],
)
def test_impossible_combinations_are_rejected_and_told_what_would_work(make, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        make()


def test_a_sampler_that_a_process_cannot_serve_is_rejected_when_the_config_is_built():
    with pytest.raises(
        ValueError, match=r"Tweedie does not support process UDLM.*no score.*Ancestral"
    ):
        dataclasses.replace(udlm.get_config(), sampler=Tweedie())
    with pytest.raises(UserError, match="Tweedie does not support"):
        override(udlm.get_config(), ["sampler=Tweedie"])


def test_disconnected_kernels_work_once_mixed_with_the_mask():
    process = D3PM(4, Masked(NearestNeighbour(1, ISLANDS)), LinearBetas(), num_steps=10)
    assert process.num_states == 5


TEXT = np.random.default_rng(0).integers(0, 27, 5000).astype(np.uint8)


def test_statistics_are_those_of_the_text():
    tokens = np.array([0, 1, 0, 1, 2, 0, 1, 2], np.uint8)
    assert unigram(tokens, 4) == (3.0, 3.0, 2.0, 0.0)
    rows = np.array(context_embeddings(tokens, 4))
    pairs = np.zeros((4, 4))
    for a, b in itertools.pairwise(tokens):
        pairs[a, b] += 1
    joint = pairs / pairs.sum()
    expected = np.log(joint[0, 1] / (joint[0].sum() * joint[:, 1].sum()))
    np.testing.assert_allclose([rows[0, 1], rows[1, 4 + 0]], expected, atol=1e-6)
    assert (rows >= 0).all() and (rows[3] == 0).all()
    with pytest.raises(UserError, match=r"with up to 4096 tokens.*embeddings=FILE"):
        context_embeddings(tokens, 30_522)


@pytest.mark.parametrize("config", [d3pm_nearest, spindle])
def test_what_comes_from_the_data_is_filled_in_and_stored(config):
    experiment = config.get_config()
    full = resolve(experiment, Letters27(), lambda: TEXT)
    assert decode(encode(full)) == full
    assert differences(full, resolve(experiment, Letters27(), lambda: TEXT)) == {}
    other = differences(full, resolve(experiment, Letters27(), lambda: TEXT[:99]))
    assert other and all(len(values) < 160 for values in other.values())  # a table is told short
    again = resolve(full, Letters27())  # nothing more is asked of the data
    assert again == full
    with pytest.raises(UserError, match="needs statistics of the training text"):
        resolve(experiment, Letters27())


def test_tables_are_read_from_files_and_bad_ones_told(tmp_path):
    path = tmp_path / "P.npy"
    P = np.random.default_rng(1).dirichlet(np.ones(27), 27)
    np.save(path, P)
    base = override(d3pm_uniform.get_config(), ["process.kernel=Matrix"])
    experiment = override(base, [f"process.kernel.matrix={path}"])
    process = resolve(experiment, Letters27()).process
    np.testing.assert_allclose(process.kernel.matrix, P)
    np.save(path, P[:, :-1])
    with pytest.raises(UserError, match="must be square"):
        resolve(experiment, Letters27())
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    for bad in (path, tmp_path / "none.npy"):
        with pytest.raises(UserError, match=r"process.kernel.matrix = .*cannot be read"):
            resolve(override(base, [f"process.kernel.matrix={bad}"]), Letters27())


def test_processes_and_samplers_are_exchanged_by_name_on_the_command_line():
    sedd = override(d3pm_uniform.get_config(), ["process=SEDD", "sampler=Tweedie"])
    assert sedd.process == SEDD() and sedd.sampler == Tweedie()
    with pytest.raises(
        UserError,
        match=r"expected one of ARDiffusion, Autoregressive, BFN, .*MDLM, .*SoftTargets, Spindle, ",
    ):
        override(sedd, ["process=AdamW"])
    with pytest.raises(UserError, match="expected one of AdamW, Muon, or optimizer"):
        override(sedd, ["optimizer=Train"])
    with pytest.raises(UserError, match=r"kernel.matrix is missing.*FILE"):
        resolve(override(d3pm_uniform.get_config(), ["process.kernel=Matrix"]), Letters27())


def test_kernels_and_schedules_are_chosen_by_name_on_the_command_line():
    base = d3pm_uniform.get_config()
    changed = override(base, ["process.kernel=BandDiagonal", "process.kernel.width=2",
                              "process.schedule=LinearBetas", "process.schedule.stop=0.5"])  # fmt: skip
    assert changed.process.kernel == BandDiagonal(2)
    assert changed.process.schedule == LinearBetas(stop=0.5)
    with pytest.raises(
        UserError, match="expected one of Absorbing, BandDiagonal, Gaussian, Masked"
    ):
        override(base, ["process.kernel=Gausian"])
    with pytest.raises(UserError, match="too large for a dense kernel"):
        resolve(
            override(base, ["process.kernel=Gaussian", "process.num_steps=1000000"]), Letters27()
        )


def test_reciprocal_schedule_is_the_mutual_information_one_of_the_mask():
    exact = ReciprocalBetas().betas(50, Absorbing(), 4)
    np.testing.assert_allclose(MutualInformation(COUNTS).betas(50, Absorbing(), 4), exact)
    np.testing.assert_allclose(np.cumprod(1 - exact), 1 - np.arange(1, 51) / 50, atol=1e-12)
