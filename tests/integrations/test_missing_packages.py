"""Importing an integration without its package names the extra to install."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_the_error_names_the_extra(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None; import sparsewright.integrations.{package}"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        f"sparsewright.errors.MissingPackageError: SparsityCallback needs the package "
        f"'{package}', which cannot be imported; run pip install 'sparsewright[{package}]'"
    )
