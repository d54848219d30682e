"""Measured and published costs of devices and links: measure, store, predict."""

from .costmodel.costs import Costs
from .costmodel.op_features import OpClass, OpFeatures
from .costmodel.profile_costs import ProfileCosts
from .stored.profile_data import DeviceProfile, Link, Point, Profile, Provenance
from .stored.profile_store import default_path, load, save

__all__ = [
    "Costs",
    "DeviceProfile",
    "Link",
    "OpClass",
    "OpFeatures",
    "Point",
    "Profile",
    "ProfileCosts",
    "Provenance",
    "default_path",
    "load",
    "save",
]
