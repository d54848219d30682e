"""Hints become devices: whatever is said, nothing that was required is broken and nothing gives way in silence."""

import random
from typing import get_args

import pytest

from trisect.context.choosing import choose
from trisect.context.requested_options import Policy, Wishes, to_camel, to_snake
from trisect.profiles import reference
from trisect.runtime.device import Device, Limits
from trisect.runtime.errors import InfeasibleProblem, InvalidInput, TrisectError

CPU = Device("cpu:a", "cpu", "a", "")
GPU = Device("gpu:b", "gpu", "b", "")
NPU = Device("npu:c", "npu", "c", "", limits=Limits(dtypes=("int8", "float16")))
POWER_W = {"cpu:a": 40.0, "gpu:b": 60.0, "npu:c": 10.0}


def ids(choice) -> list[list[str]]:
    return [[device.kind for device in rank] for rank in choice.ranks]


@pytest.mark.parametrize(
    ("said", "ranks", "objective"),
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
def test_each_hint_alone_is_followed_to_the_letter(said, ranks, objective):
    choice = choose(Wishes.of(**said), [CPU, GPU, NPU], power_w=POWER_W)
    assert (ids(choice), choice.objective, choice.notes) == (ranks, objective, ())


@pytest.mark.parametrize(
    ("said", "here", "note"),
    [
        (
            {"power_preference": "low-power", "accelerated": False},
            [CPU, NPU],
            "accelerated=False overridden: power_preference='low-power' outranks it",
        ),
        (
            {"power_preference": "low-power", "accelerated": True},
            [CPU, GPU],
            "accelerated=True overridden: power_preference='low-power' outranks it",
        ),
        (
            {"power_preference": "low-power"},
            [CPU, GPU],
            "power_preference='low-power' overridden: there is no NPU here",
        ),
        ({"accelerated": True}, [CPU], "accelerated=True overridden: there is no NPU and no GPU here"),
        ({"avoid": ["cpu"]}, [CPU], "avoid=['cpu'] overridden: what is left to use is cpu:a"),
        (
            {"policy": "prefer-gpu", "prefer": "throughput"},
            [CPU, GPU],
            "prefer='throughput' overridden: policy='prefer-gpu' outranks it",
        ),
    ],
)
def test_a_hint_that_gives_way_is_told_of_with_the_reason(said, here, note):
    assert choose(Wishes.of(**said), here, power_w=POWER_W).notes[-1] == note


def test_low_power_without_an_npu_leaves_the_gpu_alone():
    choice = choose(Wishes.of(power_preference="low-power", accelerated=True), [CPU, GPU], power_w=POWER_W)
    assert ids(choice) == [["cpu"]]
    assert not choice.accelerated
    assert choice.held_back == (GPU,)


def test_the_user_outranks_the_application():
    users = Wishes.of(avoid=["gpu"], power_preference="low-power")
    choice = choose(Wishes.of(power_preference="high-performance"), [CPU, GPU, NPU], users=users, power_w=POWER_W)
    assert ids(choice) == [["npu"], ["cpu"]]
    assert GPU not in choice.held_back
    assert choice.notes == (
        "power_preference='high-performance' overridden: the user's policy says power_preference='low-power'",
    )
    with pytest.raises(InfeasibleProblem, match=r"user's policy avoids every device here"):
        choose(Wishes.of(), [GPU], users=Wishes.of(avoid=["gpu"]))


def test_where_power_is_unknown_it_is_said_and_nothing_is_made_up():
    choice = choose(Wishes.of(policy="max-efficiency"), [CPU, GPU], power_w={"cpu:a": 40.0})
    assert choice.objective == "latency"
    assert ids(choice) == [["gpu"], ["cpu"]]
    assert choice.notes == (
        "policy='max-efficiency': the power of gpu:b is not measured, so NPUs come before GPUs and these before CPUs",
    )


@pytest.mark.parametrize(
    ("require", "here"), [("no-cpu-fallback", [CPU]), ("accelerated", [CPU]), ("low-power", [CPU, GPU])]
)
def test_a_requirement_that_cannot_hold_is_an_error_and_names_what_there_is(require, here):
    with pytest.raises(InfeasibleProblem, match=rf"require='{require}' cannot hold: .* cpu:a"):
        choose(Wishes.of(require=[require]), here)


@pytest.mark.parametrize(
    "said",
    [
        {"require": ["accelerated"], "avoid": ["gpu", "npu"]},
        {"require": ["no-cpu-fallback"], "fallback": ["cpu"]},
        {"require": ["low-power"], "power_preference": "high-performance"},
        {"require": ["low-power"], "avoid": ["npu"]},
        {"require": ["accelerated"], "policy": "prefer-cpu"},
        {"require": ["accelerated"], "accelerated": False},
    ],
)
def test_hints_against_requirements_are_refused(said):
    with pytest.raises(InvalidInput, match="contradicts"):
        Wishes.of(**said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"power_preferences": "low-power"}, "did you mean 'power_preference'"),
        ({"power_preference": "lowpower"}, "did you mean 'low-power'"),
        ({"policy": "prefer-tpu"}, "did you mean"),
        ({"fallback": 3}, "is a list of words"),
        ({"accelerated": "yes"}, "is true or false"),
        ({"avoid": ["tpu"]}, "there is no avoid 'tpu'"),
        ({"power_preference": "low-power", "powerPreference": "low-power"}, "given twice"),
        ({"prefer": "x" * 10_000}, "there is no prefer"),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest(said, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        Wishes.of(**said)
    assert len(str(caught.value)) < 400


def test_names_map_one_to_one_to_a_pages():
    said = {"powerPreference": "low-power", "onUnsupported": "error", "require": ["accelerated"]}
    assert Wishes.of(**said).to_camel() == said
    for name in Wishes.__dataclass_fields__:
        assert to_snake(to_camel(name)) == name


def any_wishes(rng: random.Random) -> dict:
    kinds = ["cpu", "gpu", "npu"]
    said = {
        "power_preference": rng.choice([None, "low-power", "high-performance"]),
        "accelerated": rng.choice([None, True, False]),
        "fallback": rng.sample(kinds, rng.choice([0, 0, 1, 2, 3])) or None,
        "avoid": rng.sample(kinds, rng.choice([0, 0, 0, 1, 2])) or None,
        "prefer": rng.choice([None, None, "low-latency", "throughput", "sustained", "accuracy"]),
        "policy": rng.choice([None, None, None, *get_args(Policy)]),
        "require": rng.sample(["no-cpu-fallback", "low-power", "accelerated"], rng.choice([0, 0, 1, 2])) or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def follows(name: str, value, choice) -> bool:
    """Whether a hint is borne out, said again in other words than the code's."""
    first = {device.kind for device in choice.ranks[0]}
    used = [device.kind for device in choice.devices]
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
            return choice.objective == "energy" or any("not measured" in note for note in choice.notes)
        case "prefer", "throughput":
            return choice.objective == "throughput"
        case "prefer", "sustained":
            return choice.objective == "energy" or any("not measured" in note for note in choice.notes)
    return True


@pytest.mark.parametrize("machine", reference.names())
def test_of_any_combination_no_requirement_breaks_and_no_hint_gives_way_in_silence(machine):
    found = reference.machine(machine)
    power_w = {key: device.power_w for key, device in found.profile.devices.items() if device.power_w}
    rng = random.Random(machine)
    outcomes = {"chosen": 0, "refused": 0, "overridden": 0}
    for _ in range(1000):
        said, users_said = any_wishes(rng), any_wishes(rng) if rng.random() < 0.3 else {}
        users_said.pop("require", None)
        try:
            users = Wishes.of(**users_said)
            choice = choose(Wishes.of(**said), found.devices, users=users, power_w=power_w)
        except TrisectError:
            outcomes["refused"] += 1
            continue
        outcomes["chosen"] += 1
        assert choice.devices
        assert not {d.kind for d in (*choice.devices, *choice.held_back)} & set(users.avoid)
        for requirement in said.get("require", ()):
            kinds = {device.kind for device in choice.devices}
            assert kinds & ({"npu"} if requirement == "low-power" else {"gpu", "npu"})
        for name, value in said.items():
            if name != "require" and not follows(name, value, choice):
                assert any(note.startswith(f"{name}=") for note in choice.notes), (said, users_said, choice)
                outcomes["overridden"] += 1
    assert min(outcomes.values()) > 50, outcomes
