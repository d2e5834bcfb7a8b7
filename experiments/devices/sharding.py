"""Where arrays live: the device mesh, and the placement of parameters and batches on it.

Rules are derived from what a parameter is (`models.roles`) and its shape. The mesh has three axes: the
batch is split over data and fsdp; each matrix over fsdp (its input side) and tensor (its output side, or
the other way round for the matrices that close a branch, so that one reduction serves both). Where a
side does not divide, as GPT-2's 50257 tokens do not, its part goes to the other side.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.config import Mesh
from experiments.errors import UserError
from models.layers import BATCH, WIDTH
from models.roles import Role, Table, Vector

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: Mesh, devices: Sequence | None = None) -> jax.sharding.Mesh:
    """A mesh over the devices, by default all of this machine's; UserError as `mesh_sizes`."""
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(config, len(devices))
    # Without the last, 16 chips of a torus of 8 x 8 x 8 cannot be an axis.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_sizes(config: Mesh, count: int) -> list[int]:
    """Devices along each of AXES; UserError where the sizes do not multiply to their number."""
    given = [config.data, config.fsdp, config.tensor]
    rest = count // math.prod(size for size in given if size != -1)
    sizes = [rest if size == -1 else size for size in given]
    if math.prod(sizes) == count:
        return sizes
    way_out = ""
    for i, axis in enumerate(AXES):
        others = given[:i] + given[i + 1 :]
        room, left = divmod(count, math.prod(size for size in others if size != -1))
        fits = range(1, room + 1) if -1 in others else [room]
        could = [str(n) for n in fits if n and given[i] != -1 and not left and room % n == 0]
        way_out += f"; mesh.{axis} could be {', '.join(could)}" if could else ""
    raise UserError(
        f"mesh: data x fsdp x tensor = {' x '.join(map(str, given))} for {count} device(s); the sizes "
        f"must multiply to {count}, one may be -1 and takes the rest{way_out}"
    )


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """The number of parts a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def tree_shardings(
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, tree: Any, roles: dict
) -> Any:
    """A sharding for each array of the tree: parameters, or a state with averages and moments of them.

    roles: what each parameter is (`Experiment.roles`). What stands in the state under a parameter's path
    is placed as the parameter; all else, such as a number of steps, is whole on every device.
    """
    known = dict(jax.tree_util.tree_leaves_with_path(roles))

    def placed(path, leaf):
        ends = (path[n:] for n in range(len(path)))
        role = next((known[end] for end in ends if end in known), Vector())
        return NamedSharding(mesh, _spec(mesh, role, leaf.shape))

    return jax.tree_util.tree_map_with_path(placed, tree)


def rows_here(mesh: jax.sharding.Mesh, count: int) -> np.ndarray:
    """The rows of a batch of `count` that devices of this process hold, in rising order. Processes along
    the tensor axis hold the same."""
    parts = NamedSharding(mesh, P(BATCH)).addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([np.arange(count)[part] for part in parts]))


def global_batch(
    mesh: jax.sharding.Mesh, rows: np.ndarray, axis: int, count: int | None = None
) -> jax.Array:
    """The array of a batch, split over the batch axes along `axis`. rows: all of the batch; or, of
    `count` rows, `rows_here`."""
    here = np.arange(rows.shape[axis]) if count is None else rows_here(mesh, count)
    shape = list(rows.shape)
    shape[axis] = count or len(here)

    def part(index):
        return rows.take(np.searchsorted(here, np.arange(shape[axis])[index[axis]]), axis)

    sharding = NamedSharding(mesh, P(*[None] * axis, BATCH))
    return jax.make_array_from_callback(tuple(shape), sharding, part)


def _spec(mesh, role: Role, shape: tuple[int, ...]) -> P:
    """Matrices and tables (the last two axes) are split where the axis divides, the rest replicated."""
    if len(shape) < 2 or isinstance(role, Vector):
        return P()
    if isinstance(role, Table):
        wanted = (None, WIDTH)  # rows are looked up: split the width alone
    else:
        wanted = ("tensor", "fsdp") if role.closing else ("fsdp", "tensor")
    sizes = [
        math.prod(mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis or ()))
        for axis in wanted
    ]
    fits = [
        axis if size > 1 and n % size == 0 else None
        for axis, size, n in zip(wanted, sizes, shape[-2:], strict=True)
    ]
    for here, there in ((0, 1), (1, 0)):
        whole = fits[here] is None and fits[there] is None
        if whole and sizes[here] > 1 and shape[-2:][there] % sizes[here] == 0:
            fits[there] = wanted[here]
    return P(*[None] * (len(shape) - 2), *fits)
