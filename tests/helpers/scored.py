"""Reference implementations of the scores before training, and what they must leave as it was."""

from __future__ import annotations

import copy

import torch
from torch import nn

from helpers.twins import best, kept_exactly


def squares(model, batch):
    """Return the mean square of a model's output."""
    return model(batch).pow(2).mean()


def weights_of(model):
    """Return the matrices of a model by full name."""
    return {name: param for name, param in model.named_parameters() if param.ndim > 1}


def differentiated(model, losses):
    """Return the gradient of the mean of some losses, found by `backward` on a copy in eval mode.

    Args:
        model: the model.
        losses: functions of a model.
    """
    twin = copy.deepcopy(model).eval()
    (sum(loss(twin) for loss in losses) / len(losses)).backward()
    return {name: param.grad for name, param in weights_of(twin).items()}


def hessian_product(model, losses):
    """Return w * (H g) of the mean of some losses, with the whole Hessian H of all matrices."""
    twin = copy.deepcopy(model).eval()
    weights = weights_of(twin)
    sizes = [weight.numel() for weight in weights.values()]

    def loss(flat):
        parts = flat.split(sizes)
        shaped = {
            name: part.reshape(weight.shape)
            for (name, weight), part in zip(weights.items(), parts, strict=True)
        }

        def run(*args, **kwargs):
            return torch.func.functional_call(twin, shaped, args, kwargs)

        return sum(each(run) for each in losses) / len(losses)

    flat = torch.cat([weight.detach().reshape(-1) for weight in weights.values()])
    gradient = torch.autograd.functional.jacobian(loss, flat)
    scores = flat * (torch.autograd.functional.hessian(loss, flat) @ gradient)
    return {
        name: part.reshape(weight.shape)
        for (name, weight), part in zip(weights.items(), scores.split(sizes), strict=True)
    }


def chosen(scores, level):
    """Return masks of the highest of all scores, by a sorted list."""
    flat = [value for score in scores.values() for value in score.flatten().tolist()]
    kept = best(flat, list(range(len(flat))), kept_exactly(level, len(flat)))
    marks = torch.tensor([index in kept for index in range(len(flat))])
    parts = marks.split([score.numel() for score in scores.values()])
    return {
        name: part.reshape(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def pruned(model, masks):
    """Return a copy of a model with pruned matrices."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in weights_of(twin).items():
            weight *= masks[name]
    return twin


def everything_of(model: nn.Module) -> dict[str, object]:
    """Return all that a calibration must leave as it was, with bit-equal copies of tensors."""
    found: dict[str, object] = {"random": torch.get_rng_state().clone()}
    for path, module in model.named_modules():
        found[f"{path}: attributes"] = {key: id(value) for key, value in vars(module).items()}
        found[f"{path}: hooks"] = [
            (key, list(value)) for key, value in vars(module).items() if key.endswith("_hooks")
        ]
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            key = f"{path}.{name}"
            found[f"{key}: id"] = id(tensor)
            if tensor is None:
                continue
            found[key] = tensor.detach().clone()
            facts = (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.requires_grad)
            hooks = (tensor._backward_hooks, tensor._post_accumulate_grad_hooks)
            found[f"{key}: facts"] = (*facts, *map(str, hooks))
            found[f"{key}.grad: id"] = id(tensor.grad)
            if tensor.grad is not None:
                found[f"{key}.grad"] = tensor.grad.clone()
    return found
