"""Keeps the shape of the project: who may import whom, small modules, complete packaging, a stable face."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import trisect

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("runtime", "profiles", "scheduler", "partitioner", "llm", "bench", "trisect")
MAY_IMPORT = {
    "runtime": set(),
    "profiles": {"runtime"},
    "scheduler": {"runtime", "profiles"},
    "partitioner": {"runtime", "profiles", "scheduler"},
    "llm": {"runtime", "profiles", "scheduler", "partitioner"},
    "bench": set(ROOMS),
    "trisect": set(ROOMS),
}
LONGEST_MODULE = 350
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def ours(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, relative ones resolved, wherever in the file they stand."""
    inside = path.relative_to(ROOT)
    package = ["trisect", *(part for part in inside.parent.parts if inside.parts[0] != "trisect")]
    if inside.parts[0] == "trisect":
        package = list(inside.parent.parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from trisect import api` names a module; `from trisect.api import split` a thing in one.
            yield from (f"{name}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "trisect":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "trisect"


@pytest.mark.parametrize("path", MODULES, ids=ours)
def test_a_room_imports_only_what_stands_below_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    known = {room_of(module) for module in imports(path)} - {None, room}
    assert known <= MAY_IMPORT[room], f"{ours(path)} imports {sorted(map(str, known - MAY_IMPORT[room]))}"


@pytest.mark.parametrize("path", MODULES, ids=ours)
def test_rooms_are_never_imported_by_their_bare_folder_name(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & (set(ROOMS) - {"trisect"})


@pytest.mark.parametrize("path", MODULES, ids=ours)
def test_a_module_is_short_and_says_why_it_exists(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{ours(path)} has no docstring"


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_paths_that_a_page_names_exist(page: str) -> None:
    """Paths from the root, and names of modules in some package."""
    text = (ROOT / page).read_text()
    paths = set(re.findall(rf"`((?:{'|'.join(ROOMS)}|tests)/[\w./-]*)`", text))
    missing = [path for path in paths if not (ROOT / path).exists()]
    known = [*MODULES, *(ROOT / "tests").rglob("*.py")]
    modules = set(re.findall(r"`([\w/]+\.py)`", text))
    missing += [name for name in modules if not any(path.as_posix().endswith(f"/{name}") for path in known)]
    assert not missing


def test_every_package_is_listed_for_installation() -> None:
    folders = {path.parent.relative_to(ROOT) for path in MODULES if not ours(path).startswith("bench/acceptance/")}
    names = {
        ".".join(folder.parts if folder.parts[0] == "trisect" else ("trisect", *folder.parts)) for folder in folders
    }
    settings = PYPROJECT["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(names)
    for folder in folders:
        assert (ROOT / folder / "__init__.py").is_file()
    mapped = {folder: name for name, folder in settings["package-dir"].items()}
    assert mapped == {room: room if room == "trisect" else f"trisect.{room}" for room in ROOMS}


DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python", "pynvml": "nvidia-ml-py"}
"""Of modules that are named otherwise than the distribution that brings them, for where that is not installed."""


def test_every_foreign_package_used_is_declared() -> None:
    project = PYPROJECT["project"]
    extras = [requirement for group in project["optional-dependencies"].values() for requirement in group]
    declared = {re.split(r"[<>=!~;\[ ]", text)[0] for text in project["dependencies"]}
    optional = {re.split(r"[<>=!~;\[ ]", text)[0] for text in extras}

    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    distributions = importlib.metadata.packages_distributions()
    missing = []
    for path in MODULES:
        may_be_missing = ours(path).startswith(("bench/peers", "bench/study"))
        allowed = {canonical(name) for name in (declared | optional if may_be_missing else declared)}
        for module in {module.split(".")[0] for module in imports(path)} - {"trisect"} - sys.stdlib_module_names:
            owners = {canonical(name) for name in distributions.get(module, [DISTRIBUTIONS.get(module, module)])}
            if not owners & allowed:
                missing.append(f"{ours(path)} imports {module}")
    assert not missing


def test_constraints_pin_every_direct_dependency_and_name_no_index() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    project = PYPROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {name.partition(";")[0].replace("_", "-").lower() for group in groups for name in group}
    assert wanted <= pinned


def test_public_names_exist_and_are_guarded() -> None:
    assert sorted(trisect.__all__) == [
        "Constraints",
        "Device",
        "Plan",
        "Problem",
        "Schedule",
        "Session",
        "Solution",
        "Trace",
        "TrisectError",
        "__version__",
        "can_run",
        "create_context",
        "devices",
        "generate",
        "op_support_limits_per_device",
        "pareto",
        "replan",
        "solve",
        "split",
        "strategy",
        "study",
        "verify",
    ]
    for name in trisect.__all__:
        assert getattr(trisect, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        trisect.nonsense  # noqa: B018


def test_public_names_are_typed_as_they_are_found() -> None:
    """What a type checker is told of the face is where the face really gets it."""
    tree = ast.parse((ROOT / "trisect" / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    told = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        module = str(node.module) if node.level == 0 else f"trisect.{node.module}"
        told.update({alias.asname: f"{module}.{alias.name}" for alias in node.names})
    homes = trisect._HOMES
    assert told == {name: f"trisect.{home}.{name}" for name, home in homes.items()}


def test_importing_the_face_loads_no_engine() -> None:
    heavy = ["onnx", "onnxruntime", "openvino", "ray", "numpy", "networkx", "huggingface_hub"]
    code = f"import sys, trisect, trisect.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
