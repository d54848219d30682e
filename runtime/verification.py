"""Compares a split with the whole model on the same feeds: all outputs and boundary tensors.

A split can be fast but wrong: engines round and fuse differently, or have a bug in one kernel. The boundary tensors
show in which segment the results start to differ.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .checks.tensor_checks import TensorCheck, Verification, compare_tensors
from .checks.tolerances import TOLERANCES, Tolerance, default_tolerance
from .checks.whole_model import REFERENCES, WholeModel, boundary_of, random_operator, run_whole
from .engines import find_devices
from .engines.base import LoadOptions
from .errors import InvalidModel, UnsupportedModel
from .plans.plan import Plan
from .sessions.session import Session
from .tensors.feed_checks import check_feeds
from .tensors.synthetic_feeds import generate_feeds
from .tensors.tensor_spec import Arrays

__all__ = ["TOLERANCES", "TensorCheck", "Verification", "verify"]


def verify(
    plan: Plan,
    model_path: str | Path,
    feeds: Arrays | None = None,
    *,
    reference: str | None = None,
    precision: str = "float32",
    tolerance: float | None = None,
    seed: int = 0,
    executor: str = "threads",
    address: str | None = None,
) -> Verification:
    """Run a plan and the whole model on the same feeds, and compare the results.

    Parameters
    ----------
    plan : Plan
    model_path : path
        The model that was split.
    feeds : mapping of str to array, optional
        Default: generated from the seed (see `generate_feeds`).
    reference : str, optional
        Device that runs the whole model in float32; by default ``cpu:ort``, or ``cpu:reference`` where that cannot.
    precision : str
        Precision of the split; also selects the tolerance.
    tolerance : float, optional
        ``|split - whole| <= tolerance + tolerance * |whole|`` must hold for every float; integers, booleans and strings
        must be equal. By default of the precision and the model, see `trisect.runtime.checks.tolerances`.
    executor, address : str
        Where the split runs, see `Session`; the whole model runs in this process.

    Raises
    ------
    UnknownDevice
        For a reference device that does not exist.
    InvalidInput
        For feeds that do not match the model.
    InvalidModel
        For a model file that cannot be read, or that is not the one that was split.
    UnsupportedModel
        For a model whose outputs are random.
    EngineFailed
        Where the split or the whole model cannot run.
    ClusterFailed
        For a cluster that cannot be reached, or that lacks a device of the plan.
    """
    path = Path(model_path)
    devices = find_devices(reference if reference is not None else REFERENCES)
    model = WholeModel.read(path, plan.outputs)
    if feeds is None:
        feeds = generate_feeds(model.proto, plan, seed, narrow=plan.assumes_narrow_numbers)
    else:
        feeds = check_feeds(plan.inputs, feeds, fixed=plan.fixed_inputs)
    boundary = boundary_of(plan, model)
    device, whole = run_whole(model, devices, boundary, feeds)
    missing = {spec.name for spec in plan.outputs} - whole.keys()
    if missing:
        raise InvalidModel(f"{path.name} has no output {min(missing)!r}", remedy="give the model that was split")
    exposed = replace(plan, outputs=(*plan.outputs, *boundary))
    with Session(exposed, executor, LoadOptions(precision=precision), address=address) as session:
        split = session.run(feeds)
    allowed = (
        default_tolerance(model.proto, precision, plan.used_devices) if tolerance is None else Tolerance(tolerance)
    )
    verification = compare_tensors(plan, boundary, split, whole, allowed, device.id)
    random = None if verification.ok else random_operator(model.proto)
    if random is not None:
        raise UnsupportedModel(
            f"{path.name} cannot be verified: {random} gives other numbers in each run",
            remedy="replace it by an input of the model to verify the rest",
        )
    return verification
