"""Know the costs: measure devices and links by running things on them, store, predict."""

from .costs import ProfileCosts
from .features import Costs, OpClass, OpFeatures
from .profile import DeviceProfile, Link, Point, Profile, Provenance
from .store import default_path, load, save

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
