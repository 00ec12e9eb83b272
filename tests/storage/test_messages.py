"""Errors and warnings of storages and taps say what is wrong and what to do."""

import logging

import pytest
import torch
from torch import Tensor, nn

from sparsewright.errors import AttachError, ShapeError
from sparsewright.layers import why_not_compress
from sparsewright.nn import SparseLinear
from sparsewright.storage import MaskedStorage, ShadowedStorage, hold
from sparsewright.storage.probe import StateKinds
from sparsewright.storage.states import OptimizerState
from sparsewright.taps.whole import WholeTap


def masked_linear():
    layer = nn.Linear(4, 3)
    layer.register_buffer("weight_mask", torch.ones(3, 4, dtype=torch.bool))
    return layer


def test_a_module_that_was_freed():
    storage = MaskedStorage(masked_linear(), "weight")
    with pytest.raises(AttachError, match=r"^weight: its module was freed; keep a ref"):
        _ = storage.module


def test_values_that_moved_to_another_module():
    layer = SparseLinear(4, 3, sparsity=0.5)
    storage = hold(layer, "values", "compressed", "values", {})
    problem = (
        "^values: the values of a compressed layer cannot move to another module; "
        r"call sparsewright\.decompress\(model\) first$"
    )
    with pytest.raises(AttachError, match=problem):
        storage.move(nn.Module(), "values")


def test_a_shadow_of_another_shape():
    layer, shadows = masked_linear(), {}
    storage = ShadowedStorage(layer, "weight", "0.weight", shadows)
    shadows["0.weight"] = torch.zeros(5)
    problem = (
        r"^the shadow of 0\.weight of shape \(5,\): its weight has shape \(3, 4\); "
        "load this model's own state$"
    )
    with pytest.raises(ShapeError, match=problem):
        _ = storage.shadow


def test_parameters_that_no_kernel_compresses():
    assert why_not_compress(nn.Linear(4, 3)) == ""
    assert why_not_compress(nn.LayerNorm(4)) == "no kernel for LayerNorm layers"
    assert why_not_compress(nn.Linear(4, 3), "bias") == (
        "the kernel for Linear layers compresses only `weight`"
    )
    layer = nn.Linear(4, 3)
    nn.utils.parametrizations.weight_norm(layer)
    assert why_not_compress(layer) == "no kernel for ParametrizedLinear layers"


class Unreadable(Tensor):
    """A tensor class that can be neither dequantized nor copied to."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (Tensor.dequantize, Tensor.copy_):
            raise RuntimeError("not supported")
        return super().__torch_function__(func, types, args, kwargs)


def test_state_that_cannot_be_pruned_is_logged_once(caplog):
    mask = torch.zeros(3, dtype=torch.bool)
    codes = {"codes": torch.ones(3, dtype=torch.uint8)}
    state = OptimizerState("LowBit", codes, StateKinds())
    with caplog.at_level(logging.WARNING, "sparsewright"):
        for _ in range(2):
            assert not list(state.entries(torch.Size([3]), mask))
            state.prune(torch.ones(3).as_subclass(Unreadable), mask)
    assert [record.message for record in caplog.records] == [
        "LowBit: its state 'codes' is quantized, so dropped connections keep their entries in it; "
        "their weights and gradients are pruned",
        "LowBit: its state of type Unreadable cannot be read, so dropped connections keep their "
        "entries in it; their weights and gradients are pruned",
    ]


def test_a_gradient_that_did_not_pass_the_hook():
    param = nn.Parameter(torch.ones(3))
    tap = WholeTap(param, torch.ones(3, dtype=torch.bool))
    tap.arm()
    problem = (
        r"^a sparse weight of shape \(3,\): torch lost the hook on its gradient; torch 2\.9 and "
        r"earlier lose it when .* Save weight\.detach\(\) instead, or use torch 2\.10 or later$"
    )
    with pytest.raises(AttachError, match=problem):
        tap.commit(torch.ones(3))
