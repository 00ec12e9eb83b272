"""Sparse training for PyTorch: Static, GMP, SET and RigL behind one documented API.

::

    import sparsewright as sparse

    sparsity = sparse.configure({"algorithm": "rigl", "sparsity": 0.9, "update": {"freq": 100}})
    sparsity.apply(model)
    sparsity.apply(optimizer)
"""

from sparsewright import distributions, init, nn, structures, utils
from sparsewright.base import SparseParameter, SparsityAlgorithm
from sparsewright.configure import configure, default_sparse_param_filter
from sparsewright.core.packing import pack_masks, unpack_masks
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.gmp import GMP
from sparsewright.group import Group
from sparsewright.metrics import log_metrics
from sparsewright.rigl import RigL
from sparsewright.session.convert import compress, decompress
from sparsewright.set import SET
from sparsewright.static import Static
from sparsewright.storage.compressed_file import load_compressed, save_compressed

__version__ = "0.1.0"

__all__ = [
    "GMP",
    "SET",
    "DynamicSparsityAlgorithm",
    "Group",
    "RigL",
    "SparseParameter",
    "SparsityAlgorithm",
    "Static",
    "compress",
    "configure",
    "decompress",
    "default_sparse_param_filter",
    "distributions",
    "init",
    "load_compressed",
    "log_metrics",
    "nn",
    "pack_masks",
    "save_compressed",
    "structures",
    "unpack_masks",
    "utils",
]
