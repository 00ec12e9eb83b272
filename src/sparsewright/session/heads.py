"""Output heads: the layers that turn a model's features into logits, scores or boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn

from sparsewright.session.placed import PlacedWeight, paths_above

_DECLARED_BY = ("get_output_embeddings", "get_classifier")  # of transformers and timm
_HEAD = re.compile(r"(^|_)(head|classifier)_?\d*$")
_NO_VOCABULARY = re.compile(r"pos|wpe|type|time")  # tables of positions, segments, time steps
_LAST = ("fc", "score", "qa_outputs")  # heads only if they are the last layer after blocks


def output_heads(model: nn.Module, weights: Sequence[PlacedWeight]) -> set[str]:
    """Return the full names of the weights in a model's output heads.

    These layers are heads:

    - a layer that the model returns from `get_output_embeddings` (transformers) or
      `get_classifier` (timm);
    - a layer of an `nn.AdaptiveLogSoftmaxWithLoss` inside the model;
    - the last layer of a module that holds an embedding, if the layer has one output for each
      embedding entry;
    - the last layer of a module named as a head or classifier, or inside a module `heads`;
    - a layer named `fc`, `score` or `qa_outputs` that is the last one after numbered blocks.

    A layer inside a numbered block is not a head unless the model declares it. If the model is an
    `nn.Sequential`, its last layer is not a head.

    Args:
        model: the model.
        weights: all its parameters with their places.
    """
    layers = [weight for weight in weights if weight.is_of_layer]
    last = {path: weight for weight in layers for path in paths_above(weight.path)}
    declared = {id(param) for head in _declared(model) for param in head.parameters()}
    heads = {weight.name for weight in layers if id(weight.param) in declared}
    tables = [weight for weight in weights if _is_vocabulary(weight)]
    heads.update(weight.name for weight in _over_vocabulary(tables, layers))
    named = {weight.name for weight in _named(layers, last)}
    return heads if len(named) == len(layers) else heads | named  # a head follows other layers


def _declared(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that the model, or a module in it, declares as heads."""
    for module in model.modules():
        if isinstance(module, nn.AdaptiveLogSoftmaxWithLoss) and module is not model:
            yield module
        for method in _DECLARED_BY:
            if callable(getattr(type(module), method, None)):
                try:
                    head = getattr(module, method)()
                except Exception:  # not the convention: it needs arguments, or has no head
                    continue
                heads = head if isinstance(head, tuple | list | nn.ModuleList) else [head]
                yield from (each for each in heads if isinstance(each, nn.Module))


def _is_vocabulary(weight: PlacedWeight) -> bool:
    is_table = isinstance(weight.layer, nn.Embedding | nn.EmbeddingBag)
    return is_table and not _NO_VOCABULARY.search(weight.path.rpartition(".")[2])


def _over_vocabulary(
    tables: Sequence[PlacedWeight], layers: Sequence[PlacedWeight]
) -> Iterator[PlacedWeight]:
    outside = (layer for layer in layers if not _is_numbered(layer.path.rpartition(".")[0]))
    last = {path: layer for layer in outside for path in paths_above(layer.path)}
    for table in tables:
        for path in paths_above(table.path):
            layer = last.get(path)
            if layer is not None and layer.rows == table.rows:
                yield layer


def _is_numbered(path: str) -> bool:
    return any(part.isdigit() for part in path.split("."))


def _named(layers: Sequence[PlacedWeight], last: dict[str, PlacedWeight]) -> Iterator[PlacedWeight]:
    blocks = {above for layer in layers for above in _above_blocks(layer.path)}
    for path, layer in last.items():
        parent, _, name = path.rpartition(".")
        if _is_numbered(path):
            continue
        is_last = last[parent] is layer and parent in blocks
        is_task = parent.rpartition(".")[2] == "heads"
        if _HEAD.search(name) or is_task or (name in _LAST and is_last):
            yield layer


def _above_blocks(path: str) -> Iterator[str]:
    """Yield the modules above a layer's numbered blocks: `layer1`, `""` for `layer1.0.conv`."""
    *parts, _ = path.split(".")
    for above in paths_above(".".join(parts)):
        if above.rpartition(".")[2].isdigit():
            yield from list(paths_above(above))[1:]
