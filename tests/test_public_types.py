"""Public signatures use named types; `Any` is allowed only where no better type exists."""

import ast
import inspect
import sys
import typing

import pytest

from test_public_names import DOCUMENTED, load

# Matplotlib's axes, as matplotlib may be missing; and values in state dicts and optimizer states,
# which torch annotates as Any too.
ANY = {
    *("HyperParameterSchedule.plot: ax", "HyperParameterSchedule.plot: return"),
    *("UpdateSchedule.plot: ax", "UpdateSchedule.plot: return"),
    *("SparseParameter.show: ax", "SparseParameter.show: return"),
    *("HyperParameterSchedule.state_dict: return", "Cycling.state_dict: return"),
    "HyperParameterSchedule.load_state_dict: state_dict",
    "Cycling.load_state_dict: state_dict",
    *("Resumable.state_dict: return", "Resumable.load_state_dict: state_dict"),
    *("pack_masks: state_dict", "pack_masks: return"),
    *("unpack_masks: state_dict", "unpack_masks: return"),
    "SparseParameter.states: return",
}


def parts(hint):
    """Yield a type and all types that it contains."""
    yield hint
    for inner in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from parts(inner)


def is_any(annotation, module):
    """Return whether an annotation contains `Any`, directly or through a named type."""
    if not isinstance(annotation, str):  # already evaluated, as in a TypedDict
        text = getattr(annotation, "__forward_arg__", None)
        return is_any(text, module) if text else typing.Any in parts(annotation)
    names = [node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)]
    hints = [vars(sys.modules[module]).get(name) for name in names]
    return "Any" in names or any(typing.Any in parts(hint) for hint in hints)


def functions(value):
    """Yield the functions, methods and property accessors of a public object."""
    members = dict(inspect.getmembers(value)) if inspect.isclass(value) else {}
    shown = [m for name, m in members.items() if name[0] != "_" or name in ("__init__", "__call__")]
    for member in (value, *shown):
        for function in (member, getattr(member, "fget", None), getattr(member, "fset", None)):
            if inspect.isfunction(function) and function.__module__.startswith("sparsewright."):
                yield function


def annotations(value):
    """Yield name, annotation and module of each parameter, result and attribute."""
    for function in functions(value):
        for parameter, annotation in function.__annotations__.items():
            yield f"{function.__qualname__}: {parameter}", annotation, function.__module__
    for cls in inspect.getmro(value) if inspect.isclass(value) else ():
        if cls.__module__.startswith("sparsewright."):
            for name, annotation in inspect.get_annotations(cls).items():
                if not name.startswith("_"):
                    yield f"{cls.__name__}.{name}", annotation, cls.__module__


def public():
    for module in DOCUMENTED:
        for name in load(module).__all__:
            yield f"{module}.{name}", getattr(load(module), name)


def test_no_public_signature_says_any():
    found = {each for _, value in public() for each in annotations(value)}
    assert len(found) > 500
    assert {name for name, annotation, module in found if is_any(annotation, module)} == ANY


def test_no_public_alias_stands_for_any():
    assert [name for name, value in public() if typing.Any in parts(value)] == []


@pytest.mark.parametrize(
    ("annotation", "found"),
    [("Any", True), ("dict[str, Any]", True), ("Alias | None", True), ("str | Named", False)],
)
def test_any_is_found(annotation, found, monkeypatch):
    module = sys.modules[__name__]
    alias = typing.Callable[[int, typing.Any], str]
    monkeypatch.setattr(module, "Alias", alias, raising=False)
    monkeypatch.setattr(module, "Named", str | None, raising=False)
    assert is_any(annotation, __name__) == found
