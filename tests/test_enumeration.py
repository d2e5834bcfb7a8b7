"""The toys come from their seeds, and what is enumerated of them is what it was: pinned numbers, or all
arrays of $DDLM_REFERENCE where toys are there."""

import json

import numpy as np
import pytest
from conftest import GOLDEN, REFERENCE
from enumeration import Masked, Uniform, official_grid
from oracle import TOYS, Toy

PINNED = json.loads((GOLDEN / "toys.json").read_text())


def enumerated(toy):
    """The names are those of the arrays in a reference file."""
    masked, uniform = Masked(toy), Uniform(toy)
    found = {"p": toy.p, "entropy": np.array(toy.entropy)}
    for T in (4, 16, 64):
        for kind, of in (("absorb", masked), ("uniform_mix", uniform)):
            found[f"d3pm_{kind}_T{T}_bound"] = of.d3pm_bound(T)
            found[f"d3pm_{kind}_T{T}_sample_law"] = of.d3pm(T)
    for T in (4, 16):
        states = masked.states_after(official_grid(T))
        found |= {
            f"mdlm_ddpm_T{T}_states": states,
            f"mdlm_ddpm_T{T}_law": masked.argmax(states),
            f"sedd_analytic_absorb_T{T}_law": masked.sedd_tweedie(T),
            f"sedd_euler_absorb_T{T}_law": masked.sedd_euler(T),
            f"md4_ancestral_uniform_T{T}_law": masked.md4(T, "uniform"),
            f"md4_ancestral_cosine_T{T}_law": masked.md4(T, "cosine"),
            f"sedd_analytic_uniform_T{T}_law": uniform.sedd_tweedie(T),
            f"sedd_euler_uniform_T{T}_law": uniform.sedd_euler(T),
            f"udlm_ddpm_posterior_T{T}_law": uniform.udlm(T, "posterior"),
            f"udlm_ddpm_loo_T{T}_law": uniform.udlm(T, "leave_one_out"),
        }
    return found


def pin(array):
    """A number in which every entry counts."""
    return float(np.ravel(array) @ np.cos(np.arange(array.size)))


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_and_all_that_is_enumerated_of_it_is_the_stored(name):
    found = enumerated(Toy.named(name))
    files = [REFERENCE / f"{kind}_{name}.npz" for kind in ("toy", "toy_samplers")]
    if files[0].is_file():
        given = {key: array for file in files for key, array in np.load(file).items()}
        for key, array in found.items():
            np.testing.assert_allclose(array, given[key], atol=1e-12, err_msg=key)
    else:
        assert {key: pin(array) for key, array in found.items()} == pytest.approx(PINNED[name])
