"""The structure of the project: allowed imports, small modules, complete packaging, stable public names."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import trisect

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runtime", "profiles", "scheduler", "partitioner", "llm", "bench", "trisect")
MAY_IMPORT = {
    "runtime": set(),
    "profiles": {"runtime"},
    "scheduler": {"runtime", "profiles"},
    "partitioner": {"runtime", "profiles", "scheduler"},
    "llm": {"runtime", "profiles", "scheduler", "partitioner"},
    "bench": set(PACKAGES),
    "trisect": set(PACKAGES),
}
MAX_LINES = 350
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names of the modules that a file imports anywhere, relative imports resolved."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    inside = path.relative_to(ROOT)
    package = ["trisect", *(part for part in inside.parent.parts if inside.parts[0] != "trisect")]
    if inside.parts[0] == "trisect":
        package = list(inside.parent.parts)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from trisect import api` names a module; `from trisect.api import split` a thing in one.
            yield from (f"{name}.{alias.name}" for alias in node.names)


def package_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "trisect":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "trisect"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_package_imports_only_packages_below_it(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    known = {package_of(module) for module in imports(path)} - {None, package}
    assert known <= MAY_IMPORT[package], f"{relative(path)} imports {sorted(map(str, known - MAY_IMPORT[package]))}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_packages_are_never_imported_by_their_folder_name(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & (set(PACKAGES) - {"trisect"})


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_is_short_and_has_a_docstring(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    if text.strip():
        assert ast.get_docstring(parsed(path)), f"{relative(path)} has no docstring"


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_paths_that_a_page_names_exist(page: str) -> None:
    """Paths from the root, and names of modules in some package."""
    text = (ROOT / page).read_text()
    paths = set(re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests)/[\w./-]*)`", text))
    missing = [path for path in paths if not (ROOT / path).exists()]
    known = [*MODULES, *(ROOT / "tests").rglob("*.py")]
    modules = set(re.findall(r"`([\w/]+\.py)`", text))
    missing += [name for name in modules if not any(path.as_posix().endswith(f"/{name}") for path in known)]
    assert not missing


def test_every_package_is_listed_for_installation() -> None:
    folders = {path.parent.relative_to(ROOT) for path in MODULES if not relative(path).startswith("bench/acceptance/")}
    names = {
        ".".join(folder.parts if folder.parts[0] == "trisect" else ("trisect", *folder.parts)) for folder in folders
    }
    settings = PYPROJECT["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(names)
    for folder in folders:
        assert (ROOT / folder / "__init__.py").is_file()
    mapped = {folder: name for name, folder in settings["package-dir"].items()}
    assert mapped == {name: name if name == "trisect" else f"trisect.{name}" for name in PACKAGES}


DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python", "pynvml": "nvidia-ml-py"}
"""Module -> its distribution, where the names differ, for modules that are not installed."""


def test_every_third_party_package_used_is_declared() -> None:
    project = PYPROJECT["project"]
    extras = [requirement for group in project["optional-dependencies"].values() for requirement in group]
    declared = {re.split(r"[<>=!~;\[ ]", text)[0] for text in project["dependencies"]}
    optional = {re.split(r"[<>=!~;\[ ]", text)[0] for text in extras}

    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    distributions = importlib.metadata.packages_distributions()
    missing = []
    for path in MODULES:
        may_be_missing = relative(path).startswith(("bench/peers", "bench/study"))
        allowed = {canonical(name) for name in (declared | optional if may_be_missing else declared)}
        for module in {module.split(".")[0] for module in imports(path)} - {"trisect"} - sys.stdlib_module_names:
            owners = {canonical(name) for name in distributions.get(module, [DISTRIBUTIONS.get(module, module)])}
            if not owners & allowed:
                missing.append(f"{relative(path)} imports {module}")
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


def test_dir_lists_public_names_only() -> None:
    assert [name for name in dir(trisect) if not name.startswith("__")] == sorted(
        set(trisect.__all__) - {"__version__"}
    )


def test_public_names_have_the_same_module_for_type_checkers_and_at_run_time() -> None:
    tree = ast.parse((ROOT / "trisect" / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        module = str(node.module) if node.level == 0 else f"trisect.{node.module}"
        typed.update({alias.asname: f"{module}.{alias.name}" for alias in node.names})
    assert typed == {name: f"trisect.{module}.{name}" for name, module in trisect._MODULES.items()}


def test_importing_trisect_loads_no_engine() -> None:
    heavy = ["onnx", "onnxruntime", "openvino", "ray", "numpy", "networkx", "huggingface_hub"]
    code = f"import sys, trisect, trisect.cli.application; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_child_processes_search_no_current_folder_for_modules(path: Path) -> None:
    commands = re.findall(r"\[\s*sys\.executable,\s*([^,\]]+)", path.read_text(encoding="utf-8"))
    assert all(first in ('"-P"', '"-I"') for first in commands), f"{relative(path)}: start Python with -P"


CLI_MODULES = [p for p in (ROOT / "trisect/cli").rglob("*.py") if p.name not in ("output.py", "__init__.py")]


@pytest.mark.parametrize("path", CLI_MODULES, ids=relative)
def test_commands_print_by_the_functions_that_escape(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    calls = re.findall(r"(?<![\w.])print\(|typer\.echo|sys\.stdout\.write|sys\.stderr\.write|Console\(", text)
    assert not calls, f"{relative(path)}: print by trisect.cli.output, not by {calls}"
