"""Intel's counters through the real ``pyzes``, over a library that answers as Level-Zero's specification says.

The library is made of C callbacks, so every call goes through the package's own declarations of types and structures.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import sys
from ctypes import c_char, c_int32, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from trisect.profiles.measuring import level_zero as levelzero
from trisect.profiles.measuring import power
from trisect.runtime.device import Device

GPU, VPU = 1, 5
CARD, PACKAGE, GPU_DOMAIN = 1, 2, 5
NO_PERMISSION = 0x70010000
ARC = Device("gpu:openvino", "gpu", "openvino", "Intel(R) Arc(TM) A770 Graphics (dGPU)")
NPU = Device("npu:openvino", "npu", "openvino", "Intel(R) AI Boost")


@dataclass
class Domain:
    kind: int
    energy_uj: object
    """An iterator of readings."""
    on_subdevice: bool = False


@dataclass
class Card:
    name: str
    type: int = GPU
    integrated: bool = False
    domains: list[Domain] = field(default_factory=list)


class _Core(ctypes.Structure):
    """`ze_device_properties_t`, written down from the specification."""

    _fields_ = [
        ("stype", c_int32), ("pNext", c_void_p), ("type", c_int32), ("vendorId", c_uint32), ("deviceId", c_uint32),
        ("flags", c_uint32), ("subdeviceId", c_uint32), ("coreClockRate", c_uint32), ("maxMemAllocSize", c_uint64),
        ("maxHardwareContexts", c_uint32), ("maxCommandQueuePriority", c_uint32), ("numThreadsPerEU", c_uint32),
        ("physicalEUSimdWidth", c_uint32), ("numEUsPerSubslice", c_uint32), ("numSubslicesPerSlice", c_uint32),
        ("numSlices", c_uint32), ("timerResolution", c_uint64), ("timestampValidBits", c_uint32),
        ("kernelTimestampValidBits", c_uint32), ("uuid", c_uint8 * 16), ("name", c_char * 256),
    ]  # fmt: skip


class _Properties(ctypes.Structure):
    _fields_ = [("stype", c_int32), ("pNext", c_void_p), ("core", _Core)]


class _Power(ctypes.Structure):
    _fields_ = [("stype", c_int32), ("pNext", c_void_p), ("onSubdevice", c_uint8)]


class _PowerExt(ctypes.Structure):
    _fields_ = [("stype", c_int32), ("pNext", c_void_p), ("domain", c_int32)]


class _Energy(ctypes.Structure):
    _fields_ = [("energy", c_uint64), ("timestamp", c_uint64)]


class Library:
    """``libze_loader``: one driver, whose handles are numbers."""

    def __init__(self, cards: list[Card], initialised: int = 0, reading: int = 0) -> None:
        self.cards = cards
        self._domains = [domain for card in cards for domain in card.domains]

        def listed(count, handles, numbers):
            size = ctypes.cast(count, ctypes.POINTER(c_uint32))
            if handles:
                ctypes.cast(handles, ctypes.POINTER(c_void_p * len(numbers)))[0][:] = numbers
            size[0] = len(numbers)
            return 0

        def properties(handle, out):
            result, card = ctypes.cast(out, ctypes.POINTER(_Properties))[0], cards[handle - 10]
            assert result.stype == 1
            result.core.type, result.core.flags = card.type, int(card.integrated)
            result.core.name = card.name.encode()
            return 0

        def power_properties(handle, out):
            result, domain = ctypes.cast(out, ctypes.POINTER(_Power))[0], self._domains[handle - 100]
            assert result.stype == 0xD
            more = ctypes.cast(result.pNext, ctypes.POINTER(_PowerExt))[0]
            assert more.stype == 0x28
            result.onSubdevice, more.domain = domain.on_subdevice, domain.kind
            return 0

        def energy(handle, out):
            ctypes.cast(out, ctypes.POINTER(_Energy))[0].energy = next(self._domains[handle - 100].energy_uj)
            return reading

        def domains_of(handle):
            return [100 + i for i, domain in enumerate(self._domains) if domain in cards[handle - 10].domains]

        two, three = (ctypes.CFUNCTYPE(c_int32, *[c_void_p] * n) for n in (2, 3))
        self.zesInit = ctypes.CFUNCTYPE(c_int32, c_uint32)(lambda flags: initialised)
        self.zesDriverGet = two(lambda count, out: listed(count, out, [1]))
        self.zesDeviceGet = three(lambda driver, count, out: listed(count, out, [10 + i for i in range(len(cards))]))
        self.zesDeviceGetProperties = two(properties)
        self.zesDeviceEnumPowerDomains = three(lambda device, count, out: listed(count, out, domains_of(device)))
        self.zesPowerGetProperties = two(power_properties)
        self.zesPowerGetEnergyCounter = two(energy)


@pytest.fixture
def machine(monkeypatch):
    def with_cards(*cards: Card, **answers: int) -> None:
        monkeypatch.delitem(sys.modules, "pyzes", raising=False)
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(list(cards), **answers))
        importlib.import_module("pyzes")

    yield with_cards
    sys.modules.pop("pyzes", None)


def arc(*domains: Domain) -> Card:
    return Card("Intel(R) Arc(TM) A770 Graphics", domains=list(domains))


def steps(joules: int):
    return itertools.count(5_000_000, joules * 1_000_000)


def test_power_is_read_from_the_cards_counter(machine, monkeypatch):
    ticks = itertools.count(0.0, 0.25)
    monkeypatch.setattr(power, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    machine(arc(Domain(GPU_DOMAIN, steps(1)), Domain(CARD, steps(50)), Domain(CARD, steps(7), on_subdevice=True)))
    assert power.can_measure_power(ARC)
    assert power.power_w(ARC, lambda: None, duration_s=1.0) == pytest.approx(50 / 1.25)


def test_an_integrated_gpu_uses_its_own_power_domain(machine):
    integrated = arc(Domain(PACKAGE, steps(50)), Domain(GPU_DOMAIN, steps(3)))
    integrated.integrated = True
    machine(integrated)
    read = levelzero.energy_counter(ARC)
    first = read()
    assert read() - first == pytest.approx(3.0)


def test_npus_and_gpus_are_distinguished(machine):
    machine(arc(Domain(CARD, steps(50))), Card("Intel(R) AI Boost", VPU, True, [Domain(PACKAGE, steps(2))]))
    read = levelzero.energy_counter(NPU)
    first = read()
    assert read() - first == pytest.approx(2.0)
    machine(arc(Domain(CARD, steps(50))))
    assert levelzero.energy_counter(NPU) is None


def test_a_card_is_matched_by_its_name(machine):
    other = Card("Intel(R) Arc(TM) B580 Graphics", domains=[Domain(CARD, steps(9))])
    machine(other, arc(Domain(CARD, steps(50))))
    read = levelzero.energy_counter(ARC)
    first = read()
    assert read() - first == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("cards", "device"),
    [
        ([], ARC),
        ([arc(Domain(CARD, steps(1))), arc(Domain(CARD, steps(2)))], ARC),  # which of the twins?
        ([arc()], ARC),  # counts nothing
        ([arc(Domain(CARD, steps(1)))], Device("gpu:webgpu", "gpu", "webgpu", "WebGPU on NVIDIA")),
        ([arc(Domain(CARD, steps(1), on_subdevice=True))], ARC),
    ],
    ids=["none", "twins", "no counter", "another vendor's", "only a part"],
)
def test_ambiguous_devices_have_no_counter(machine, cards, device):
    machine(*cards)
    assert not power.can_measure_power(device)


@pytest.mark.parametrize("answers", [{"initialised": NO_PERMISSION}, {"reading": NO_PERMISSION}])
def test_unreadable_counters_are_not_used(machine, answers):
    machine(arc(Domain(CARD, steps(1))), **answers)
    assert levelzero.energy_counter(ARC) is None


def test_without_the_package_or_a_driver_there_is_no_counter(monkeypatch):
    def missing(name):
        raise OSError("libze_loader.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "pyzes", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert levelzero.energy_counter(ARC) is None
    monkeypatch.setitem(sys.modules, "pyzes", None)
    assert levelzero.energy_counter(ARC) is None
