"""Device selection: no combination of options violates a requirement or overrides a hint without a note."""

import random
from typing import get_args

import pytest

from trisect.context.context_options import ContextOptions, Policy, to_snake
from trisect.context.device_selection import DeviceSelection, select_devices
from trisect.profiles import reference
from trisect.runtime.device import Device, Limits
from trisect.runtime.errors import InfeasibleProblem, InvalidInput, TrisectError

CPU = Device("cpu:a", "cpu", "a", "")
GPU = Device("gpu:b", "gpu", "b", "")
NPU = Device("npu:c", "npu", "c", "", limits=Limits(dtypes=("int8", "float16")))
POWER_W = {"cpu:a": 40.0, "gpu:b": 60.0, "npu:c": 10.0}


def kinds_of(selection: DeviceSelection) -> list[list[str]]:
    return [[device.kind for device in tier] for tier in selection.tiers]


@pytest.mark.parametrize(
    ("options", "tiers", "objective"),
    [
        ({}, [["npu", "gpu", "cpu"]], "latency"),
        ({"power_preference": "low-power"}, [["npu"], ["cpu"]], "latency"),
        ({"power_preference": "high-performance"}, [["gpu"], ["npu"], ["cpu"]], "latency"),
        ({"accelerated": True}, [["npu", "gpu"], ["cpu"]], "latency"),
        ({"accelerated": False}, [["cpu"]], "latency"),
        ({"fallback": ["npu", "cpu"]}, [["npu"], ["cpu"]], "latency"),
        ({"avoid": ["gpu"]}, [["npu", "cpu"]], "latency"),
        ({"prefer": "throughput"}, [["npu", "gpu", "cpu"]], "throughput"),
        ({"prefer": "sustained"}, [["npu", "gpu", "cpu"]], "energy"),
        ({"prefer": "accuracy"}, [["gpu", "cpu"]], "latency"),
        ({"policy": "prefer-cpu"}, [["cpu"], ["npu"], ["gpu"]], "latency"),
        ({"policy": "prefer-npu"}, [["npu"], ["cpu"], ["gpu"]], "latency"),
        ({"policy": "prefer-gpu"}, [["gpu"], ["cpu"], ["npu"]], "latency"),
        ({"policy": "max-performance"}, [["npu", "gpu", "cpu"]], "latency"),
        ({"policy": "max-efficiency"}, [["npu", "gpu", "cpu"]], "energy"),
        ({"policy": "min-overall-power"}, [["npu"], ["cpu"], ["gpu"]], "latency"),
    ],
)
def test_each_hint_alone_is_followed_exactly(options, tiers, objective):
    selection = select_devices(ContextOptions.parse(**options), [CPU, GPU, NPU], power_w=POWER_W)
    assert (kinds_of(selection), selection.objective, selection.notes) == (tiers, objective, ())


@pytest.mark.parametrize(
    ("options", "available", "note"),
    [
        (
            {"power_preference": "low-power", "accelerated": False},
            [CPU, NPU],
            "accelerated=False overridden: power_preference='low-power' takes precedence",
        ),
        (
            {"power_preference": "low-power", "accelerated": True},
            [CPU, GPU],
            "accelerated=True overridden: power_preference='low-power' takes precedence",
        ),
        (
            {"power_preference": "low-power"},
            [CPU, GPU],
            "power_preference='low-power' overridden: no NPU is available",
        ),
        ({"accelerated": True}, [CPU], "accelerated=True overridden: no NPU and no GPU are available"),
        ({"avoid": ["cpu"]}, [CPU], "avoid=['cpu'] overridden: only cpu:a can be used"),
        (
            {"policy": "prefer-gpu", "prefer": "throughput"},
            [CPU, GPU],
            "prefer='throughput' overridden: policy='prefer-gpu' takes precedence",
        ),
    ],
)
def test_an_overridden_hint_has_a_note_with_the_reason(options, available, note):
    assert select_devices(ContextOptions.parse(**options), available, power_w=POWER_W).notes[-1] == note


def test_low_power_without_an_npu_does_not_use_the_gpu():
    options = ContextOptions.parse(power_preference="low-power", accelerated=True)
    selection = select_devices(options, [CPU, GPU], power_w=POWER_W)
    assert kinds_of(selection) == [["cpu"]]
    assert not selection.accelerated
    assert selection.excluded_by_hints == (GPU,)


def test_the_users_policy_overrides_the_application():
    options = ContextOptions.parse(power_preference="high-performance")
    user_options = ContextOptions.parse(avoid=["gpu"], power_preference="low-power")
    selection = select_devices(options, [CPU, GPU, NPU], user_options=user_options, power_w=POWER_W)
    assert kinds_of(selection) == [["npu"], ["cpu"]]
    assert GPU not in selection.excluded_by_hints
    assert selection.notes == (
        "power_preference='high-performance' overridden: the user's policy sets power_preference='low-power'",
    )
    with pytest.raises(InfeasibleProblem, match=r"user's policy avoids every available device: gpu"):
        select_devices(ContextOptions(), [GPU], user_options=ContextOptions.parse(avoid=["gpu"]))


def test_unknown_power_has_a_note_and_is_not_guessed():
    selection = select_devices(ContextOptions.parse(policy="max-efficiency"), [CPU, GPU], power_w={"cpu:a": 40.0})
    assert selection.objective == "latency"
    assert kinds_of(selection) == [["gpu"], ["cpu"]]
    assert selection.notes == (
        "policy='max-efficiency': the power of gpu:b is not measured; using the order NPU, GPU, CPU instead",
    )


@pytest.mark.parametrize(
    ("require", "available"), [("no-cpu-fallback", [CPU]), ("accelerated", [CPU]), ("low-power", [CPU, GPU])]
)
def test_a_requirement_that_cannot_be_met_is_an_error_that_lists_the_devices(require, available):
    with pytest.raises(InfeasibleProblem, match=rf"require='{require}' needs .* NPU; available: .*cpu:a"):
        select_devices(ContextOptions.parse(require=[require]), available)


@pytest.mark.parametrize(
    "options",
    [
        {"require": ["accelerated"], "avoid": ["gpu", "npu"]},
        {"require": ["no-cpu-fallback"], "fallback": ["cpu"]},
        {"require": ["low-power"], "power_preference": "high-performance"},
        {"require": ["low-power"], "avoid": ["npu"]},
        {"require": ["accelerated"], "policy": "prefer-cpu"},
        {"require": ["accelerated"], "accelerated": False},
    ],
)
def test_hints_that_contradict_requirements_are_refused(options):
    with pytest.raises(InvalidInput, match="contradicts"):
        ContextOptions.parse(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power_preferences": "low-power"}, "did you mean 'power_preference'"),
        ({"power_preference": "lowpower"}, "did you mean 'low-power'"),
        ({"policy": "prefer-tpu"}, "did you mean"),
        ({"fallback": 3}, "fallback='3': expected a list"),
        ({"accelerated": "yes"}, "accelerated='yes': expected true or false"),
        ({"avoid": ["tpu"]}, "unknown value for avoid: 'tpu'"),
        ({"power_preference": "low-power", "powerPreference": "low-power"}, "'power_preference' is set twice"),
        ({"prefer": "x" * 10_000}, "unknown value for prefer: 'x"),
    ],
)
def test_an_unknown_option_or_value_is_refused_with_the_closest_match(options, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        ContextOptions.parse(**options)
    assert len(str(caught.value)) < 400


def test_names_may_be_in_camel_case():
    camel = {"powerPreference": "low-power", "onUnsupported": "error", "require": ["accelerated"]}
    snake = {"power_preference": "low-power", "on_unsupported": "error", "require": ["accelerated"]}
    assert ContextOptions.parse(**camel) == ContextOptions.parse(**snake)
    for name in ContextOptions.__dataclass_fields__:
        head, *tail = name.split("_")
        assert to_snake(head + "".join(map(str.capitalize, tail))) == name


def random_options(rng: random.Random) -> dict:
    kinds = ["cpu", "gpu", "npu"]
    options = {
        "power_preference": rng.choice([None, "low-power", "high-performance"]),
        "accelerated": rng.choice([None, True, False]),
        "fallback": rng.sample(kinds, rng.choice([0, 0, 1, 2, 3])) or None,
        "avoid": rng.sample(kinds, rng.choice([0, 0, 0, 1, 2])) or None,
        "prefer": rng.choice([None, None, "low-latency", "throughput", "sustained", "accuracy"]),
        "policy": rng.choice([None, None, None, *get_args(Policy)]),
        "require": rng.sample(["no-cpu-fallback", "low-power", "accelerated"], rng.choice([0, 0, 1, 2])) or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def follows(name: str, value, selection: DeviceSelection) -> bool:
    """Whether a selection follows a hint, computed independently of the code under test."""
    first = {device.kind for device in selection.tiers[0]}
    used = [device.kind for device in selection.devices]
    match name, value:
        case "power_preference", "low-power":
            return "npu" in first and "gpu" not in used
        case "power_preference", "high-performance":
            return "gpu" in first
        case "accelerated", True:
            return bool(first & {"gpu", "npu"})
        case "accelerated", False:
            return set(used) == {"cpu"}
        case "fallback", order:
            return set(used) <= set(order) and [k for k in order if k in used] == list(dict.fromkeys(used))
        case "avoid", kinds:
            return not set(kinds) & set(used)
        case "policy", word if word.startswith("prefer-"):
            return word.removeprefix("prefer-") in first
        case "policy", "max-efficiency":
            return selection.objective == "energy" or any("not measured" in note for note in selection.notes)
        case "prefer", "throughput":
            return selection.objective == "throughput"
        case "prefer", "sustained":
            return selection.objective == "energy" or any("not measured" in note for note in selection.notes)
    return True


@pytest.mark.parametrize("machine", reference.names())
def test_no_combination_of_options_violates_a_requirement_or_overrides_a_hint_without_a_note(machine):
    published = reference.machine(machine)
    power_w = {key: device.power_w for key, device in published.profile.devices.items() if device.power_w}
    rng = random.Random(machine)
    outcomes = {"selected": 0, "refused": 0, "overridden": 0}
    for _ in range(1000):
        options, policy = random_options(rng), random_options(rng) if rng.random() < 0.3 else {}
        policy.pop("require", None)
        try:
            user_options = ContextOptions.parse(**policy)
            selection = select_devices(
                ContextOptions.parse(**options), published.devices, user_options=user_options, power_w=power_w
            )
        except TrisectError:
            outcomes["refused"] += 1
            continue
        outcomes["selected"] += 1
        assert selection.devices
        assert not {d.kind for d in (*selection.devices, *selection.excluded_by_hints)} & set(user_options.avoid)
        for requirement in options.get("require", ()):
            kinds = {device.kind for device in selection.devices}
            assert kinds & ({"npu"} if requirement == "low-power" else {"gpu", "npu"})
        for name, value in options.items():
            if name != "require" and not follows(name, value, selection):
                assert any(note.startswith(f"{name}=") for note in selection.notes), (options, policy, selection)
                outcomes["overridden"] += 1
    assert min(outcomes.values()) > 50, outcomes
