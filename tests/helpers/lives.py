"""Algorithms, masks and checks for tests of models that are copied, moved or resumed."""

import sparsewright as sparse
from helpers.support import assert_pruned

MAKE = {
    "static": lambda level: sparse.Static(level),
    "topk": lambda level: sparse.Static(level, init_method="topk"),
    "rigl": lambda level: sparse.RigL(sparsity=level, update=2),
    "group": lambda level: sparse.Group({"*.weight": sparse.SET(sparsity=level, update=2)}),
    "compressed": lambda level: sparse.Static(level, storage="compressed"),
    "shadowed": lambda level: sparse.STE(level),
    "erk": lambda level: sparse.Static(level, distribution="erk"),
    "2:4": lambda level: sparse.Static(structure="2:4"),
}


def masks(model):
    state = model.state_dict()
    return {key: value.clone() for key, value in state.items() if key.endswith("_mask")}


def assert_sparse(sparsity, *optimizers):
    """Assert that pruned entries are zero, or not stored if the weights are compressed."""
    if sparsity.storage == "compressed":
        assert all(p.param.numel() == p.kept for p in sparsity.sparse_params.values())
    else:
        assert_pruned(sparsity, *optimizers)


def level_of(sparsity):
    parameters = sparsity.sparse_params.values()
    return 1 - sum(p.kept for p in parameters) / sum(p.shape.numel() for p in parameters)
