"""Import rules: imports only point down, and importing the library loads few packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparsewright

ROOT = Path(sparsewright.__file__).parent
NOT_EVERYWHERE = {"fcntl", "resource"}  # part of the standard library on some systems only
OPTIONAL = {
    *("click", "rich", "yaml", "safetensors", "lightning", "transformers"),
    *("matplotlib", "plotly", "tqdm"),
}
OPTIONAL_IN_TORCH = {"torch.utils.tensorboard"}

# Ordered from top to bottom: a file may import from its own package and from those below it.
PROGRAMS = [{"cli"}, {"plan"}, {"runs"}, {"recipes", "report", "integrations"}]
ROOMS = [
    *PROGRAMS,
    {"calibration"},
    {"configure", "metrics"},
    {"group", "algorithms", "attachments"},
    {"static", "gmp", "set", "rigl"},
    {"dynamic"},
    {"base"},
    {"session"},
    {"storage"},
    {"layers"},
    {"taps"},
    {"init"},
    {"schedules", "structures", "distributions"},
    {"core"},
    {"kernels"},
    {"errors"},
    {"formats", "torch_private", "wording", "events"},
]
# Import paths that only re-export names, or are outside this order.
FACADES = {"__init__", "utils", "typing", "compat", "nn"}
ALGORITHMS = {"static", "gmp", "set", "rigl"}


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def height(room):
    return next(len(ROOMS) - index for index, rooms in enumerate(ROOMS) if room in rooms)


def is_program(room):
    return any(room in rooms for rooms in PROGRAMS)


FILES = sorted(path for path in ROOT.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]


def imports_of(path):
    """Yield `(module, names, node)` for every import statement in a file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module, [alias.name for alias in node.names], node


def rooms_imported(path):
    """Yield the packages of sparsewright from which a file imports."""
    for module, names, _ in imports_of(path):
        top, _, rest = module.partition(".")
        if top != "sparsewright":
            continue
        if rest:
            yield rest.split(".")[0]
        else:
            yield from (name for name in names or ["__init__"])


def test_every_file_is_in_a_room():
    known = set().union(*ROOMS) | FACADES
    assert {room_of(path) for path in FILES} <= known
    assert len(FILES) > 25


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_down(path):
    own = room_of(path)
    for room in set(rooms_imported(path)) - {own}:
        if own in FACADES:
            assert not is_program(room), f"{own} imports {room}"
        elif room in FACADES:  # programs use the facade, as users do
            assert is_program(own), f"{own} imports the facade {room}"
        else:
            assert height(room) < height(own), f"{own} imports {room}"


def test_a_file_name_occurs_once():
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert [name for name in names if names.count(name) > 1] == []


@pytest.mark.parametrize("path", sorted((ROOT / "formats").glob("*.py")), ids=lambda p: p.stem)
def test_formats_use_numpy_and_a_parser_only(path):
    packages = {module.partition(".")[0] for module, _, _ in imports_of(path)}
    parsers = {"yaml"} if path.stem == "yaml_text" else set()
    assert packages - set(sys.stdlib_module_names) <= {"numpy", "sparsewright", *parsers}


@pytest.mark.parametrize("path", sorted((ROOT / "report").glob("*.py")), ids=lambda p: p.stem)
def test_reports_use_no_model_code(path):
    own = {module for module, _, _ in imports_of(path) if module.startswith("sparsewright")}
    allowed = {"sparsewright.errors", "sparsewright.events"}
    lower = {name for name in own if not name.startswith("sparsewright.report")}
    assert {name for name in lower if not name.startswith("sparsewright.formats")} <= allowed
    assert not any(module.partition(".")[0] == "torch" for module, _, _ in imports_of(path))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_algorithms_never_import_each_other(name):
    assert not set(rooms_imported(ROOT / f"{name}.py")) & ALGORITHMS


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_import_inside_a_function_but_of_optional_packages(path):
    tree = ast.parse(path.read_text())
    inside = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    for node in inside:
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        is_optional = module.partition(".")[0] in OPTIONAL | NOT_EVERYWHERE
        assert is_optional or module in OPTIONAL_IN_TORCH, f"line {node.lineno}: {module}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if not is_program(room_of(path))], ids=lambda p: p.stem
)
def test_below_the_top_only_torch_and_numpy_are_used(path):
    for module, _, node in imports_of(path):
        top = module.partition(".")[0]
        optional = {
            *(("storage", "safetensors"), ("core", "matplotlib"), ("formats", "yaml")),
            ("calibration", "tqdm"),
        }
        is_late = (room_of(path), top) in optional
        # torch itself needs typing_extensions.
        packages = {"sparsewright", "torch", "numpy", "typing_extensions"}
        allowed = packages | sys.stdlib_module_names
        assert is_late or top in allowed, f"line {node.lineno}: {module}"


def test_pure_rooms_touch_no_module_or_optimizer():
    for path in FILES:
        if room_of(path) in {"schedules", "core", "kernels"}:
            modules = {module for module, _, _ in imports_of(path)}
            assert not modules & {"torch.nn", "torch.optim"}, path


def test_no_file_has_two_jobs():
    lengths = {str(path): len(path.read_text().splitlines()) for path in FILES}
    assert {path: n for path, n in lengths.items() if n > 400} == {}


def packages_loaded(statement):
    """Return the top-level packages that a statement loads in a new interpreter."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before}))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT.parent), "PATH": ""},
    )
    return set(result.stdout.split())


def test_importing_the_library_loads_torch_and_numpy_and_nothing_else():
    beneath = packages_loaded("import torch, numpy, torch.utils.hooks")
    loaded = packages_loaded("import sparsewright")
    assert "sparsewright" in loaded
    extra = {name for name in loaded - beneath if name not in sys.stdlib_module_names}
    assert {name for name in extra if not name.startswith("_")} == {"sparsewright"}
    assert not loaded & (OPTIONAL - beneath)


def test_the_library_loads_no_program_and_no_compat():
    code = (
        "import sys, sparsewright; print(*[name for name in sys.modules"
        " if name.startswith('sparsewright.')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT.parent), "PATH": ""},
    )
    loaded = {name.split(".")[1] for name in result.stdout.split()}
    assert "configure" in loaded
    assert {room for room in loaded if is_program(room)} == set()
    assert "compat" not in loaded
