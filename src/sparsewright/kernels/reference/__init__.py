"""Reference kernels in plain torch, for any device, layout and dtype that torch supports.

They define the correct results. Each operation is one plain function and a check of its arguments.
"""

from sparsewright.kernels.reference.grouping import (
    check_groups,
    expand_groups,
    pool_groups,
    select_n_m,
    select_tiles,
)
from sparsewright.kernels.reference.masking import (
    check_mask,
    check_masks,
    check_rows,
    count_changes,
    count_rows,
    entries_finite,
    prune_,
)
from sparsewright.kernels.reference.pooling import check_blocks, expand_blocks, pool_blocks
from sparsewright.kernels.reference.ranking import (
    NanError,
    check_select,
    count_largest,
    order_keys,
    raise_nan,
    select,
)
from sparsewright.kernels.reference.splitmix import check_uniform, uniform_
from sparsewright.kernels.reference.squares import (
    LIMB,
    MANTISSA,
    gather_squares,
    tabulate_squares,
)
from sparsewright.kernels.reference.tiles import SIDE, expand_tiles, pool_tiles

__all__ = [
    "LIMB",
    "MANTISSA",
    "SIDE",
    "NanError",
    "check_blocks",
    "check_groups",
    "check_mask",
    "check_masks",
    "check_rows",
    "check_select",
    "check_uniform",
    "count_changes",
    "count_largest",
    "count_rows",
    "entries_finite",
    "expand_blocks",
    "expand_groups",
    "expand_tiles",
    "gather_squares",
    "order_keys",
    "pool_blocks",
    "pool_groups",
    "pool_tiles",
    "prune_",
    "raise_nan",
    "select",
    "select_n_m",
    "select_tiles",
    "tabulate_squares",
    "uniform_",
]
