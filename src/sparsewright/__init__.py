"""Sparse training for PyTorch: RigL, SET, GMP, STE and static masks in your own training loop.

::

    import sparsewright as sparse

    sparsity = sparse.configure({"algorithm": "rigl", "sparsity": 0.9, "update": {"freq": 100}})
    sparsity.apply(model)
    sparsity.apply(optimizer)
"""

from sparsewright import calibration, distributions, errors, init, nn, schedules, structures, utils
from sparsewright.algorithms import STE
from sparsewright.attachments import find, remove
from sparsewright.base import SparseParameter, SparsityAlgorithm
from sparsewright.calibration.oneshot import oneshot
from sparsewright.configure import configure, default_sparse_param_filter
from sparsewright.core.packing import pack_masks, unpack_masks
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.events import MaskUpdate
from sparsewright.gmp import GMP
from sparsewright.group import Group
from sparsewright.kernels import info
from sparsewright.metrics import log_metrics
from sparsewright.rigl import RigL
from sparsewright.session.convert import compress, decompress
from sparsewright.session.weight_update import WeightUpdate
from sparsewright.set import SET
from sparsewright.static import Static
from sparsewright.storage.compressed_file import load_compressed, save_compressed

__version__ = "0.1.0"

__all__ = [
    "GMP",
    "SET",
    "STE",
    "DynamicSparsityAlgorithm",
    "Group",
    "MaskUpdate",
    "RigL",
    "SparseParameter",
    "SparsityAlgorithm",
    "Static",
    "WeightUpdate",
    "calibration",
    "compress",
    "configure",
    "decompress",
    "default_sparse_param_filter",
    "distributions",
    "errors",
    "find",
    "info",
    "init",
    "load_compressed",
    "log_metrics",
    "nn",
    "oneshot",
    "pack_masks",
    "remove",
    "save_compressed",
    "schedules",
    "structures",
    "unpack_masks",
    "utils",
]
