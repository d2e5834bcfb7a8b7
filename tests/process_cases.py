"""The processes that tests go through row by row: with exact ends, with loose ones, on grids."""

from test_schedules import AlphaOnly

from diffusion.betas import CosineBetas, LinearBetas, MutualInformation
from diffusion.d3pm import D3PM
from diffusion.dense import BandDiagonal, Gaussian, Masked, Matrix, NearestNeighbour
from diffusion.genmd4 import GenMD4
from diffusion.gidd import GIDD
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine, Geometric, Linear, MDLMCosine, Polynomial, RescaledSchedule
from diffusion.sedd import SEDD
from diffusion.spindle import Spindle
from diffusion.stationary import Stationary, Unigram
from diffusion.udlm import UDLM

CONTINUOUS = {  # exact ends: the bound of the exact denoiser is -log p(x0)
    "mdlm-linear": MDLM(),
    "mdlm-cosine": MDLM(schedule=Cosine()),
    "mdlm-mdlm_cosine": MDLM(schedule=MDLMCosine()),
    "mdlm-polynomial": MDLM(schedule=Polynomial(3.0)),
    "mdlm-alpha_alone": MDLM(schedule=AlphaOnly("cosine")),
    "udlm-alpha_alone": UDLM(schedule=AlphaOnly("mdlm_cosine")),
    "sedd-absorbing": SEDD(schedule=Linear()),
    "sedd-absorbing-scaled": SEDD(schedule=Polynomial(2.0), scaled=True),
    "sedd-absorbing-denoiser": SEDD(schedule=Linear(), head="leave_one_out"),
    "sedd-uniform": SEDD(kernel=Uniform(), schedule=Linear()),
    "sedd-uniform-denoiser": SEDD(kernel=Uniform(), schedule=Cosine(), head="leave_one_out"),
    "udlm": UDLM(),
    "udlm-posterior": UDLM(head="posterior"),
    "udlm-unigram": UDLM(kernel=Unigram()),
    "sedd-stationary": SEDD(kernel=Stationary(), schedule=Linear()),
    "genmd4": GenMD4(),
    "genmd4-power": GenMD4(initial_power=2.5, head="leave_one_out"),
    "spindle": Spindle(),
    "gidd": GIDD(),
    "gidd-masks": GIDD(p_uniform=0.0),
    "gidd-steep": GIDD(p_uniform=0.6, gamma=1.6),
    "gidd-fixed": GIDD(p_uniform=0.2, gamma=2.0, gamma_end=0.0),
}
LOOSE_ENDS = {
    "mdlm-eps": MDLM(schedule=Linear(0.05)),
    "mdlm-squeezed": MDLM(schedule=RescaledSchedule(Cosine(), 0.02)),
    "mdlm-geometric": MDLM(schedule=Geometric(0.01, 4.0)),
    "mdlm-alpha_alone_loose": MDLM(schedule=AlphaOnly("squeezed")),
    "sedd-absorbing-geometric": SEDD(schedule=Geometric(0.01, 4.0)),
    "sedd-uniform-geometric": SEDD(kernel=Uniform(), schedule=Geometric(0.01, 3.0)),
    "udlm-squeezed": UDLM(schedule=RescaledSchedule(Linear(), 0.02)),
    "udlm-unigram-squeezed": UDLM(
        schedule=RescaledSchedule(Linear(), 0.02), head="posterior", kernel=Unigram()
    ),
    "genmd4-eps": GenMD4(eps=0.03),
}
GRIDS = {  # T steps
    "mdlm-T4": MDLM(num_steps=4),
    "mdlm-T4-alpha_alone": MDLM(schedule=AlphaOnly("cosine"), num_steps=4),
    "d3pm-absorbing": D3PM(num_steps=4),
    "d3pm-absorbing-cosine": D3PM(schedule=CosineBetas(), num_steps=4),
    "d3pm-uniform": D3PM(kernel=Uniform(), num_steps=4),
    "d3pm-uniform-posterior": D3PM(kernel=Uniform(), num_steps=4, head="posterior"),
    "d3pm-uniform-mi": D3PM(kernel=Uniform(), schedule=MutualInformation(), num_steps=5),
    "d3pm-unigram-mi": D3PM(kernel=Unigram(), schedule=MutualInformation(), num_steps=5),
    "d3pm-gaussian": D3PM(kernel=Gaussian(), schedule=LinearBetas(0.1, 1.0), num_steps=5),
    "d3pm-band": D3PM(kernel=BandDiagonal(1), schedule=LinearBetas(0.2, 0.9), num_steps=5),
    "d3pm-nearest": D3PM(kernel=NearestNeighbour(1), schedule=MutualInformation(), num_steps=5),
    "d3pm-masked": D3PM(
        kernel=Masked(NearestNeighbour(1)),
        schedule=LinearBetas(0.3, 0.3),
        num_steps=4,
        head="posterior",
    ),
    "d3pm-matrix": D3PM(kernel=Matrix(""), schedule=LinearBetas(0.2, 0.8), num_steps=4),
    "spindle-T6": Spindle(num_steps=6),
    "spindle-cut": Spindle(strength=0.9, num_steps=6),
}
ALL = CONTINUOUS | LOOSE_ENDS | GRIDS
