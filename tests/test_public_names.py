"""Public names: `__all__` lists every public name, and documented names exist."""

import ast
import importlib
import inspect
import sys
import types
from pathlib import Path
from types import ModuleType

import pytest

import sparsewright

DOCUMENTED = {
    "sparsewright": {
        *("SparsityAlgorithm", "SparseParameter", "Static", "DynamicSparsityAlgorithm", "GMP"),
        *("SET", "RigL", "Group", "configure", "default_sparse_param_filter", "init", "utils"),
        *("pack_masks", "unpack_masks", "compress", "decompress", "nn", "find", "remove"),
        *("save_compressed", "load_compressed", "log_metrics", "info"),
        *("STE", "MaskUpdate", "WeightUpdate"),
        *("errors", "schedules", "structures", "distributions", "calibration", "oneshot"),
    },
    "sparsewright.base": {"SparsityAlgorithm", "SparseParameter"},
    "sparsewright.dynamic": {"DynamicSparsityAlgorithm"},
    "sparsewright.static": {"Static"},
    "sparsewright.gmp": {"GMP"},
    "sparsewright.set": {"SET"},
    "sparsewright.rigl": {"RigL"},
    "sparsewright.group": {"Group"},
    "sparsewright.configure": {"configure", "default_sparse_param_filter"},
    "sparsewright.init": {
        *("random", "topk", "from_zeros", "checkerboard", "make_init_method", "InitMethod"),
        "from_scores",
    },
    "sparsewright.utils": {
        *("HyperParameterSchedule", "Constant", "Linear", "Exp", "Power", "Cosine", "Cycling"),
        *("Lambda", "Cubic", "make_hyperparam_schedule"),
        *("UpdateSchedule", "FreqSchedule", "ListSchedule", "make_update_schedule"),
        *("ScheduleLike", "UpdateLike"),
        *("ScoreShaper", "ScoreFlattener", "OutputGroupScoreShaper", "InputGroupScoreShaper"),
        *("make_mask_topk_sparsity", "make_mask_drop_minimum", "make_mask_grow_maximum"),
    },
    "sparsewright.structures": {
        *("ALL", "Structure", "RowStructure", "Unstructured", "Groups", "NM"),
        *("Block", "Channel", "FanIn"),
        *("StructureLike", "make_structure"),
    },
    "sparsewright.distributions": {
        *("ALL", "Distribution", "DistributionLike", "Statistics", "make_distribution"),
        *("Uniform", "ER", "ERK", "UniformPlus", "GlobalMagnitude", "LAMP", "Layers"),
        *("uniform", "er", "erk", "uniform_plus", "global_magnitude", "lamp", "owl"),
    },
    "sparsewright.calibration": {
        *("snip", "grasp", "synflow", "force", "statistics", "InputStatistics"),
    },
    "sparsewright.errors": {
        *("SparsewrightError", "SparsityWarning", "OptionError", "OptionTypeError", "LevelError"),
        *("MissingOptionError", "ExclusiveOptionsError", "IncompatibleOptionError"),
        *("UnknownOptionError",),
        *("ShapeError", "ScoreError", "AlgorithmError", "StateError", "AttachError"),
        *("ConfigError", "CheckpointError", "RunError", "ReportError", "DivergenceError"),
        *("CalibrationError", "MissingPackageError"),
    },
    "sparsewright.events": {"MaskUpdate"},
    "sparsewright.typing": {
        *("ConfigLike", "Level", "LevelLike", "ScheduleLike", "UpdateLike", "StructureLike"),
        *("DistributionLike", "FilterLike", "ParamFilter", "InitMethod", "ReplicaGroup", "Choices"),
        *("SparsityHook", "MaskUpdateHook", "LogFunction", "Removable", "Step"),
    },
    "sparsewright.algorithms": {"ALL", "Static", "GMP", "SET", "RigL", "STE"},
    "sparsewright.schedules": {
        *("ALL", "UPDATES", "HyperParameterSchedule", "UpdateSchedule"),
        *("Constant", "Linear", "Exp", "Power", "Cosine", "Cycling", "Lambda", "Cubic"),
        *("FreqSchedule", "ListSchedule", "ScheduleLike", "UpdateLike"),
    },
    "sparsewright.metrics": {"TensorBoard", "log_metrics"},
    "sparsewright.compat": {"install", "uninstall"},
}
METHODS = {
    "SparsityAlgorithm": """sparsity num_sparse_params sparse_params get_sparse_params apply
        sparsify_module sparsify_parameter sparsify_optimizer initialize prune_weight _grad_hook
        update register_target_sparsity_hook register_computed_sparsity_hook visit_state state_dict
        load_state_dict csx_annotate_sparsity remove attached""",
    "DynamicSparsityAlgorithm": "is_update_step step starts_sparse update_mask",
    "SparseParameter": "param data mask initialize prune annotate",
    "Group": "add extend __getitem__ __len__",
}


def load(name):
    """Return a module by its path (the attribute `sparsewright.configure` is a function)."""
    importlib.import_module(name)

    return sys.modules[name]


@pytest.fixture(autouse=True)
def _without_compat():
    yield
    load("sparsewright.compat").uninstall()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_all_is_what_is_documented(name):
    module = load(name)
    assert set(module.__all__) == DOCUMENTED[name]
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name != "sparsewright.utils"])
def test_what_a_public_module_defines_without_underscore_is_in_all(name):
    module = load(name)
    defined = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }
    # Helpers that other modules of the library call.
    helpers = {
        "call_init_method",
        "reads_weights",
        "score_of",
        "name_of_init_method",
        "read_routes",
        "stop",
        "warn",
        "needs",
    }
    assert defined - helpers <= set(module.__all__)


def test_root_attributes_are_public_names_or_modules():
    loose = {
        key
        for key, value in vars(sparsewright).items()
        if not key.startswith("_") and not isinstance(value, ModuleType)
    }
    assert loose <= set(sparsewright.__all__)


def test_configure_is_callable_and_an_import_path():
    from sparsewright.configure import (
        configure,
        default_sparse_param_filter,
    )

    assert sparsewright.configure is configure
    assert callable(sparsewright.configure)
    assert sparsewright.default_sparse_param_filter is default_sparse_param_filter
    assert sparsewright.configure(0.5)[0].num_sparse_params == 0


def test_utils_only_reexports():
    for name in set(sparsewright.utils.__all__) - {"ScheduleLike", "UpdateLike"}:
        home = getattr(sparsewright.utils, name).__module__
        assert home.startswith(
            ("sparsewright.core.", "sparsewright.schedules.", "sparsewright.structures.")
        )
    assert sparsewright.utils.ScheduleLike is sparsewright.schedules.ScheduleLike
    assert sparsewright.utils.UpdateLike is sparsewright.schedules.UpdateLike


@pytest.mark.parametrize("cls", METHODS)
def test_documented_methods_exist(cls):
    for method in METHODS[cls].split():
        assert hasattr(getattr(sparsewright, cls), method), method


def objects():
    """Yield every public object and public method of the public modules, by dotted name."""
    for module_name in DOCUMENTED:
        module = load(module_name)
        yield module_name, module
        for name in module.__all__:
            value = getattr(module, name)
            is_alias = isinstance(value, types.GenericAlias)  # also a class in Python 3.10
            if is_alias or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            yield f"{module_name}.{name}", value
            if inspect.isclass(value):
                for key, member in vars(value).items():
                    is_method = inspect.isfunction(member) or isinstance(member, property)
                    if is_method and not key.startswith("_"):
                        yield f"{module_name}.{name}.{key}", member


def test_every_public_object_has_a_docstring():
    found = dict(objects())
    assert len(found) > 150
    missing = [name for name, value in found.items() if not (value.__doc__ or "").strip()]
    assert missing == []


def test_every_module_has_a_docstring():
    files = sorted(Path(sparsewright.__file__).parent.rglob("*.py"))
    assert len(files) >= 70
    assert [path for path in files if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_the_four_algorithms_are_what_they_are():
    assert issubclass(sparsewright.Static, sparsewright.SparsityAlgorithm)
    for cls in (sparsewright.GMP, sparsewright.SET, sparsewright.RigL):
        assert issubclass(cls, sparsewright.DynamicSparsityAlgorithm)
    for cls in (sparsewright.SparsityAlgorithm, sparsewright.DynamicSparsityAlgorithm):
        with pytest.raises(TypeError, match="abstract"):
            cls(0.5)


def test_the_defaults_of_the_documented_signatures():
    def defaults(cls):
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    assert defaults(sparsewright.Static)["sparsity"] is None
    assert defaults(sparsewright.SET)["drop_fraction"] == 0.3
    assert defaults(sparsewright.RigL)["drop_fraction"] == 0.3
    assert defaults(sparsewright.RigL)["balance_in_groups"] is None
    assert defaults(sparsewright.RigL)["balance_out_groups"] is None
    assert defaults(sparsewright.DynamicSparsityAlgorithm)["update"] is None
    assert defaults(sparsewright.Group)["groups"] is None
