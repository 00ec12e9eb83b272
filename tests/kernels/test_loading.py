"""Import in fresh processes if the extension is missing, broken or disabled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparsewright
from sparsewright.kernels import info, native

SHOW = (
    "from sparsewright.kernels import info; i = info(); print(i['active'], i['isa'], i['why_not'])"
)


def run(tmp_path=None, **env):
    """Run SHOW, from the copy in tmp_path/sparsewright if `tmp_path` is given."""
    prefix = ""
    if tmp_path:  # remove the import hook of an editable install, which would take precedence
        prefix = (
            "import sys; sys.meta_path[:] = [f for f in sys.meta_path if isinstance(f, type)]; "
        )
        prefix += f"sys.path.insert(0, {str(tmp_path)!r}); "
    done = subprocess.run(
        [sys.executable, "-c", prefix + SHOW],
        capture_output=True,
        text=True,
        env={**os.environ, "SPARSEWRIGHT_KERNELS": "auto", **env},
        check=True,
    )
    return done.stdout.strip(), done.stderr


def copy_package(tmp_path):
    source = Path(sparsewright.__file__).parent
    ignore = shutil.ignore_patterns("*.so", "*.pyd", "csrc", "__pycache__")
    shutil.copytree(source, tmp_path / "sparsewright", ignore=ignore)
    return tmp_path / "sparsewright" / "kernels"


def test_absent_extension_is_quiet(tmp_path):
    copy_package(tmp_path)
    out, err = run(tmp_path)
    assert out.startswith("reference")
    assert "the extension is not installed (the package was built without a C++ compiler)" in out
    assert not err


def test_broken_extension_is_reported(tmp_path):
    (copy_package(tmp_path) / "_native.abi3.so").write_bytes(b"not a library")
    out, err = run(tmp_path)
    assert out.startswith("reference")
    assert "the extension cannot be loaded: " in out
    assert "RuntimeWarning: the extension cannot be loaded: " in err
    assert "; using the plain torch kernels" in err


def test_extension_of_another_version_is_reported(tmp_path):
    (copy_package(tmp_path) / "_native.py").write_text("abi = -1")
    out, err = run(tmp_path)
    assert out.startswith("reference")
    assert "_native.py was built for another version; rebuild it" in out
    assert "RuntimeWarning" in err


def test_switched_off():
    out, err = run(SPARSEWRIGHT_KERNELS="reference")
    assert out.startswith("reference")
    assert "disabled by SPARSEWRIGHT_KERNELS=reference" in out
    assert not err
    _, err = run(SPARSEWRIGHT_KERNELS="fast")
    assert "ignoring SPARSEWRIGHT_KERNELS='fast'; set it to 'auto' or 'reference'" in err


def test_switched_off_an_empty_list_is_nothing_to_prune():
    code = "from sparsewright.kernels import prune_many_; prune_many_([], [])"
    env = {**os.environ, "SPARSEWRIGHT_KERNELS": "reference"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_lower_instruction_set():
    if info()["active"] == "reference":
        pytest.skip("no compiled kernels here")
    out, err = run(SPARSEWRIGHT_ISA="portable")
    assert out.split()[:2] == ["native", "portable"]
    assert not err
    out, err = run(SPARSEWRIGHT_ISA="sse9")
    assert out.split()[0] == "native"
    assert "ignoring SPARSEWRIGHT_ISA: unknown instruction set" in err


BY_ATTRIBUTES = """
import sys, torch
del torch.Tensor.__dlpack_c_exchange_api__
from sparsewright.kernels import native
assert not native.module().has_exchange_api
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.skipif(
    not (native.module() and native.module().has_exchange_api),
    reason="there are no native kernels, or this torch has no exchange API",
)
def test_tensors_are_read_by_their_attributes_where_torch_has_no_table_of_functions():
    """The tests that depend on memory layout pass without the exchange API (torch before 2.10)."""
    files = [str(Path(__file__).with_name(name)) for name in ("test_prune.py", "test_counts.py")]
    files += [f"{Path(__file__).with_name('test_csr.py')}::{name}" for name in MEMORY_TESTS]
    done = subprocess.run([sys.executable, "-c", BY_ATTRIBUTES, *files], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


MEMORY_TESTS = ("test_bfloat16_values", "test_what_is_written_to_is_never_a_converted_copy")


def test_fallbacks_are_counted():
    before = sum(info()["fallbacks"].values())
    native.note_fallback("prune_", "a test")
    assert sum(info()["fallbacks"].values()) == before + 1
