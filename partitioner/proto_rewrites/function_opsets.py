"""Prepares functions for inlining: one version of each opset where its operators mean the same, and distinct outputs.

A function imports opsets of its own, and an exporter's library of functions is often older than the model. Inlined, its
nodes are of the model's opset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from trisect.runtime.errors import UnsupportedModel
from trisect.runtime.tensors.onnx_tensors import bodies_of

_FunctionKey = tuple[str, str, str]
_ONNX = ("", "ai.onnx")
_VERSION_MAX = 2**31 - 1


def align_function_opsets(model: onnx.ModelProto, label: str) -> None:
    """Remove unused functions, and give model and functions the same version of each domain, in place.

    Parameters
    ----------
    model : onnx.ModelProto
    label : str
        The model's name, for errors.

    Raises
    ------
    UnsupportedModel
        With the function and the operator whose definition differs between the versions.
    """
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    used = _reachable(model.graph, functions)
    called = [f for key, f in functions.items() if key in used]
    del model.functions[:]
    model.functions.extend(called)
    versions = _versions(model.opset_import)
    for domain in sorted({_canonical(o.domain) for f in model.functions for o in f.opset_import}):
        holders = [f for f in model.functions if domain in _versions(f.opset_import)]
        if {_versions(f.opset_import)[domain] for f in holders} <= {versions.get(domain)}:
            continue
        target = _common_version(model, holders, domain, functions, label)
        for imports in (model.opset_import, *(f.opset_import for f in holders)):
            for opset in imports:
                if _canonical(opset.domain) == domain:
                    opset.version = target


def separate_function_outputs(model: onnx.ModelProto) -> None:
    """Let no function return one of its inputs, or the same tensor twice, in place.

    Inlined, such a function would merge an output of the model with an input, under one of their names.
    """
    version = _versions(model.opset_import).get("", 1)
    for function in model.functions:
        taken = {*function.input, *function.output, *(name for node in function.node for name in node.output)}
        seen = set(function.input)
        for index, name in enumerate(function.output):
            if name in seen:
                copy = f"{name}_returned"
                while copy in taken:
                    copy += "_"
                taken.add(copy)
                function.node.append(onnx.helper.make_node("Identity", [name], [copy]))
                function.output[index] = copy
                if "" not in _versions(function.opset_import):
                    function.opset_import.append(onnx.helper.make_opsetid("", version))
            seen.add(name)


def _common_version(
    model: onnx.ModelProto,
    holders: Iterable[onnx.FunctionProto],
    domain: str,
    functions: Mapping[_FunctionKey, onnx.FunctionProto],
    label: str,
) -> int:
    """Return the version in which all operators of a domain mean what they mean in their own; best the model's."""
    users: dict[tuple[str, int], str] = {}
    for function in holders:
        version = _versions(function.opset_import)[domain]
        for op_type in sorted(_operators(function.node, domain, functions)):
            users.setdefault((op_type, version), function.name)
    model_version = _versions(model.opset_import).get(domain)
    if model_version is not None:
        users.update({(op, model_version): "" for op in _operators(model.graph.node, domain, functions)})
    versions = {version for _, version in users} or {1}
    first = max(versions) if model_version is None else model_version
    newest = int(onnx.defs.onnx_opset_version())
    candidates: tuple[int, ...] = (first, *range(max(min(versions), 1), min(max(versions), newest) + 1))
    for target in candidates:
        if all(_is_same(op, domain, version, target) for op, version in users):
            return target
    op_type, version = next(key for key in users if not _is_same(key[0], domain, key[1], first))
    raise UnsupportedModel(
        f"{label}: function {users[op_type, version]!r} uses the {op_type} of version {version} of the domain "
        f"{domain or 'ai.onnx'!r}, and that of the model's version {first} may differ",
        remedy="convert the function or the model, so that both import the same version",
    )


def _is_same(op_type: str, domain: str, version: int, other: int) -> bool:
    if version == other:
        return True
    if not all(0 < v <= _VERSION_MAX and onnx.defs.has(op_type, v, domain) for v in (version, other)):
        return False
    schemas = [onnx.defs.get_schema(op_type, v, domain) for v in (version, other)]
    return schemas[0].since_version == schemas[1].since_version


def _operators(
    nodes: Iterable[onnx.NodeProto], domain: str, functions: Mapping[_FunctionKey, onnx.FunctionProto]
) -> set[str]:
    """Return the operators of a domain in nodes and their bodies, calls of functions left out."""
    return {
        node.op_type
        for node in _with_bodies(nodes)
        if _canonical(node.domain) == domain and _key(node.domain, node.op_type, node.overload) not in functions
    }


def _reachable(graph: onnx.GraphProto, functions: Mapping[_FunctionKey, onnx.FunctionProto]) -> set[_FunctionKey]:
    used: set[_FunctionKey] = set()
    pending: list[Iterable[onnx.NodeProto]] = [graph.node]
    while pending:
        for node in _with_bodies(pending.pop()):
            key = _key(node.domain, node.op_type, node.overload)
            if key in functions and key not in used:
                used.add(key)
                pending.append(functions[key].node)
    return used


def _with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        for body in bodies_of(node):
            pending.extend(body.node)


def _key(domain: str, name: str, overload: str) -> _FunctionKey:
    return _canonical(domain), name, overload


def _canonical(domain: str) -> str:
    return "" if domain in _ONNX else domain


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_canonical(opset.domain): opset.version for opset in imports}
