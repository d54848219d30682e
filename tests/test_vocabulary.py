"""Retired words stay retired, names are unique, modules form no cycles, and folders and parameter lists stay small."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

import trisect
from tests.retired_words import RETIRED_CONSTANT, RETIRED_IDENTIFIERS, RETIRED_PHRASES, RETIRED_WORDS
from tests.test_architecture import MODULES, PACKAGES, ROOT, parsed

TESTS = sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")]
PAGES = sorted(path for package in PACKAGES for kind in ("j2", "js") for path in (ROOT / package).rglob(f"*.{kind}"))
LISTS = ROOT / "tests" / "retired_words.py"
ANY_PHRASE = re.compile("|".join(RETIRED_PHRASES), re.IGNORECASE)
MAX_MODULES_PER_FOLDER = 15
MAX_PARAMETERS = 9


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every name, attribute, parameter, function and class of a file."""
    uses_hypothesis = "from hypothesis import" in path.read_text(encoding="utf-8")
    for node in ast.walk(parsed(path)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                if name != "given" or not uses_hypothesis:  # hypothesis.given
                    yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def words_of(identifier: str) -> list[str]:
    """The words of a snake_case or CamelCase name, in small letters."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", identifier).lower().strip("_").split("_")


def retired_as(identifier: str) -> str | None:
    """What to write instead of an identifier; None for one that may stay."""
    plain = identifier.strip("_")
    if identifier.endswith("NotFoundError") or "SIMD_LANES" in identifier:  # not ours to name; a CPU's own term
        return None
    if plain in RETIRED_IDENTIFIERS:
        return RETIRED_IDENTIFIERS[plain]
    if RETIRED_CONSTANT.search(identifier):
        return "MAX or MIN"
    return next((RETIRED_WORDS[word] for word in words_of(plain) if word in RETIRED_WORDS), None)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string (docstrings included) and block of comments of a Python file."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 1:
            yield node.lineno, node.value  # a single word is a name or a key of a file format
    comments = [
        token
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT
    ]
    blocks: list[tuple[int, int, str]] = []
    for token in comments:
        text = token.string.lstrip("#:! ")
        if blocks and blocks[-1][1] == token.start[0] - 1:
            first, _, before = blocks.pop()
            blocks.append((first, token.start[0], f"{before} {text}"))
        else:
            blocks.append((token.start[0], token.start[0], text))
    yield from ((first, text) for first, _, text in blocks)


def document_text(path: Path) -> str:
    """A document without the column of a glossary that lists what not to write."""
    lines, is_glossary = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            is_glossary = is_glossary or line.split("|")[1].strip() == "instead of"
            lines.append(line.split("|", 2)[2] if is_glossary else line)
        else:
            is_glossary = False
            lines.append(line)
    return "\n".join(lines)


def retired_phrases(text: str) -> Iterator[str]:
    plain = " ".join(text.split())
    if not ANY_PHRASE.search(plain):
        return
    for phrase, instead in RETIRED_PHRASES.items():
        if match := re.search(phrase, plain, re.IGNORECASE):
            yield f"{match[0]!r}: write {instead!r}"


def test_retired_words_are_not_used_as_identifiers() -> None:
    offences = sorted(
        {
            f"{relative(path)}:{line} {name!r}: write {instead!r}"
            for path in [*MODULES, *TESTS]
            for line, name in identifiers(path)
            if (instead := retired_as(name)) is not None
        }
    )
    assert not offences, "\n".join(offences)


def test_retired_words_are_not_used_in_file_names() -> None:
    folders = {path.parent for path in [*MODULES, *TESTS]}
    names = {relative(path): path.stem for path in [*MODULES, *TESTS, *folders] if path != ROOT}
    offences = [f"{path}: write {retired_as(name)!r}" for path, name in names.items() if retired_as(name) is not None]
    assert not offences, "\n".join(sorted(offences))


def test_retired_phrases_are_not_used_in_strings_comments_and_documents() -> None:
    offences = [
        f"{relative(path)}:{line} {offence}"
        for path in [*MODULES, *TESTS]
        if path != LISTS
        for line, text in texts(path)
        for offence in retired_phrases(text)
    ]
    offences += [f"{relative(path)} {o}" for path in [*DOCUMENTS, *PAGES] for o in retired_phrases(document_text(path))]
    assert not offences, "\n".join(sorted(offences))


def test_class_names_are_unique() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(relative(path))
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert not twice


def test_module_file_names_are_unique() -> None:
    places = defaultdict(list)
    for path in MODULES:
        if path.name not in ("__init__.py", "__main__.py"):
            places[path.name].append(relative(path))
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert not twice


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "trisect":
        parts.insert(0, "trisect")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run_time_imports(path: Path, known: frozenset[str]) -> Iterator[str]:
    """Modules of this project that a module imports when it runs, in functions too, but not for type checking only."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    pending: list[ast.AST] = [parsed(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield from (name for name in (full if full in known else module,) if name in known)


def test_modules_do_not_import_each_other_in_circles() -> None:
    names = {path: module_name(path) for path in MODULES}
    known = frozenset(names.values())
    graph = nx.DiGraph()
    for path, name in names.items():
        graph.add_edges_from((name, target) for target in run_time_imports(path, known) if target != name)
    circles = [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]
    assert not circles, "\n".join(map(str, circles))


def test_folders_are_small() -> None:
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    large = {relative(folder): count for folder, count in counts.items() if count > MAX_MODULES_PER_FOLDER}
    assert not large


def test_functions_take_few_parameters() -> None:
    """Ten or more belong in a dataclass; users call public functions, commands and workloads by keywords."""
    public = {(f"trisect.{module}", name) for name, module in trisect._MODULES.items()}
    long = []
    for path in MODULES:
        if path.stem.endswith("_command"):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                is_workload = any(ast.unparse(decorator).startswith("workload(") for decorator in node.decorator_list)
                if is_workload or (module_name(path), node.name) in public:
                    continue
                own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([one for one in own if one.arg not in ("self", "cls")])
                if count > MAX_PARAMETERS:
                    long.append(f"{relative(path)}:{node.lineno} {node.name} takes {count}")
    assert not long, "\n".join(long)


def test_handlers_of_every_exception_report_it() -> None:
    """``except Exception`` raises another error, logs the exception, or uses it in what it returns."""
    silent = []
    for path in MODULES:
        for handler in (node for node in ast.walk(parsed(path)) if isinstance(node, ast.ExceptHandler)):
            if handler.type is not None and ast.unparse(handler.type) not in ("Exception", "BaseException"):
                continue
            body = [node for statement in handler.body for node in ast.walk(statement)]
            uses = any(isinstance(node, ast.Name) and node.id == handler.name for node in body)
            logs = any(isinstance(node, ast.Attribute) and ast.unparse(node.value) == "log" for node in body)
            if not (uses or logs or any(isinstance(node, ast.Raise) for node in body)):
                silent.append(f"{relative(path)}:{handler.lineno}")
    assert not silent
