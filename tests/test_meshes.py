"""Losses, gradients and bounds are those of one device on every mesh: the table of `mesh_table`."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import HERE, on_devices

from experiments import cli
from experiments.config import Mesh
from experiments.devices.sharding import mesh_sizes
from experiments.errors import UserError
from experiments.studies import mesh_table
from experiments.studies.measuring import mesh_losses
from experiments.studies.measuring.mesh_losses import Outcome, Row

# Labels and accumulation, of few tokens, attention that opens, and parameters of the process, whose
# gradient sums over rows; a state on the simplex; two copies of the text beside each other, scanned and
# rematerialised.
CASES = [
    "configs/sotu/mdlm_labels.py process=GenMD4 train.batch_size=16 train.accumulation=2 data.length=8"
    " train.attention_annealing=3",
    "configs/sotu/bfn.py model.dropout=0",
    "configs/sotu/block4.py model.scan=True model.remat=True",
]


@pytest.mark.representatives()
def test_every_mesh_gives_the_losses_of_one_device(tmp_path):
    """Draws, losses, gradients, parameters and bounds, and every device holds its part of the state."""
    out, meshes = tmp_path / "meshes.md", ["2x2x2"]
    program = [
        sys.executable,
        "-m",
        "experiments.studies.mesh_table",
        "--steps",
        "2",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [*program, "--configs", *CASES, "--meshes", *meshes],
        env=on_devices(8),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        line.strip("| ").split(" | ") for line in out.read_text().splitlines() if line[:1] == "|"
    ]
    losses = rows[-len(CASES) :]
    for case, (name, *values) in zip(CASES, losses, strict=True):
        assert case.startswith(f"configs/sotu/{name.split()[0]}.py")
        assert len(values) == 1 + len(meshes) and all(1 < float(v) < 10 for v in values), name
    (share,) = (row[1] for row in rows if row[0] == "2x2x2")
    assert float(share.split()[-1]) < 0.35


STEPS = """
import sys
from experiments.devices.sharding import make_mesh
from experiments.planning import hlo_costs
from experiments.planning.compiled import trace_train
from experiments.planning.hlo import arrays, parse
from test_plan import experiment
for case in sys.argv[1:]:
    settings = ["model.num_layers=1", "model.dtype=float32", "model.width=48", *case.split()]
    e = experiment(*settings)
    module = parse(trace_train(e, make_mesh(e.mesh)).lower().compile().as_text())
    sent = [
        "x".join(map(str, dims))
        for computation in module.computations.values() for one in computation.values()
        if one.opcode.removesuffix("-start") in hlo_costs.COLLECTIVES
        for _, dims, _ in arrays(one.shape)
    ]
    print(*sent)
"""


@pytest.mark.representatives()
def test_a_table_of_embeddings_is_sent_whole_only_where_that_is_less():
    """28 rows of the table, and 8 or 16, 64 or 128 tokens a device; and nothing is made whole that the
    compiler then warns of."""
    meshes = [(2, 4, 1), (1, 4, 2), (2, 2, 2)]
    cases = [
        f"data.length={length} train.batch_size={rows} "
        f"mesh.data={data} mesh.fsdp={fsdp} mesh.tensor={tensor}"
        for length, rows in ((8, 8), (32, 16))
        for data, fsdp, tensor in meshes
    ]
    done = subprocess.run(
        [sys.executable, "-c", STEPS, *cases],
        env=on_devices(8) | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rematerialization" not in done.stderr
    sent = ["28x48" in line.split() for line in done.stdout.splitlines()]
    assert sent == [False] * 3 + [True] * 3


ONE = Outcome(
    losses=np.array([3.0, 2.0]), nats=np.full((4, 2), 48.0), drawn={"a": np.ones(3)},
    params={"a": np.ones(3), "b": np.zeros(2)}, moments=[np.ones(3)], share=1.0, flops=8.0, whole=(),
    length=16,
)  # fmt: skip


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, None),
        ({"losses": np.array([3.0, 2.00001])}, None),
        ({"losses": np.array([3.0001, 2.0])}, "loss differs by 3.3e-05, more than 1e-05"),
        ({"losses": np.array([3.0, np.nan])}, "loss differs by nan"),
        ({"nats": np.full((4, 2), 48.1)}, "evaluation differs by 0.0021"),
        ({"drawn": {"a": np.array([1, 1, 1.0001])}}, "drawn differs by 0.0001, more than 0"),
        ({"params": {"a": np.ones(3), "b": np.ones(2)}}, "params differs by 1.4"),
        ({"moments": [np.array([1, 1, 1.1])]}, "gradients differs by 0.058"),
        ({"whole": ("params/head/kernel",)}, "params/head/kernel is not split as it should be"),
    ],
)
def test_a_difference_beyond_its_limit_is_said_and_ends_the_program(
    changes, said, monkeypatch, capsys
):
    found = [ONE, ONE, replace(ONE, **changes)]
    meshes = ["1x1x1", "1x1x1"]
    monkeypatch.setattr(mesh_losses, "measure", lambda *given: found)
    arguments = ["--configs", "some.py", "--meshes", *meshes]
    if said is None:
        assert [row.name for row in mesh_table.main(arguments)] == ["some"]
        return
    with pytest.raises(SystemExit, match="1"):
        mesh_table.main(arguments)
    faults = [line for line in capsys.readouterr().err.splitlines() if "mesh 1x1x1" in line]
    assert len(faults) == 1 and said in faults[0]


def test_flops_are_of_the_configs_that_meshes_have_as_they_are(monkeypatch, capsys):
    half = replace(ONE, flops=4.0)
    monkeypatch.setattr(mesh_losses, "measure", lambda path, *given: [ONE, half])
    for case, flops in (("a.py model.width=8", "0.50"), ("a.py train.accumulation=2", "-")):
        mesh_table.main(["--configs", case, "--meshes", "1x1x1"])
        assert f"| 1x1x1 | 1.00 | {flops} |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, count, way_out",
    [
        ((-1, 3, 1), 8, "mesh.fsdp could be 1, 2, 4, 8"),
        ((-1, 3, 2), 8, "mesh.fsdp could be 1, 2, 4"),
        ((1, 3, 1), 8, "mesh.fsdp could be 8"),
        ((-1, 4, 4), 8, "mesh.fsdp could be 1, 2; mesh.tensor could be 1, 2"),
        ((2, 2, 1), 8, "mesh.data could be 4; mesh.fsdp could be 4; mesh.tensor could be 2"),
        ((3, 3, -1), 8, "one may be -1 and takes the rest"),
        ((-1, 1, 8), 1, "mesh.tensor could be 1"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_does(given, count, way_out):
    shape = " x ".join(map(str, given))
    with pytest.raises(UserError) as said:
        mesh_sizes(Mesh(*given), count)
    start = (
        f"mesh: data x fsdp x tensor = {shape} for {count} device(s); the sizes must multiply to "
    )
    assert str(said.value).startswith(f"{start}{count}, one may be -1")
    assert str(said.value).endswith(f"rest; {way_out}" if "could" in way_out else way_out)


def test_kinds_of_meshes():
    assert [mesh_table.kind(m) for m in ("2x1x1", "1x8x1", "1x1x2", "2x2x1")] == [
        "data",
        "fsdp",
        "tensor",
        "mixed",
    ]
    assert Row("a", [ONE, replace(ONE, losses=np.array([3.3, 2.0]))]).greatest(
        "loss"
    ) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "mesh, said",
    [
        ("2x2", "DATAxFSDPxTENSOR"),
        ("axb", "DATAxFSDPxTENSOR"),
        ("axbxc", "DATAxFSDPxTENSOR"),
        ("2x-1x2", "at least 1"),
        ("0x1x1", "at least 1"),
        ("99x1x1", "99 devices, but there are"),
    ],
)
def test_what_is_no_mesh_is_one_line(mesh, said, capsys):
    assert cli.guarded("studies.mesh_table", ["--meshes", mesh]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: mesh {mesh}: ") and said in line
    assert "unpack" not in line and "invalid literal" not in line
