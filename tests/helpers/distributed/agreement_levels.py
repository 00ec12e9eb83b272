"""Cases of levels that several ranks compute from their shards."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from helpers.distributed.agreement import error_of, make_cases, mesh
from helpers.distributed.agreement_shards import SHAPES, counted
from helpers.support import batch
from sparsewright.distributions import global_magnitude, lamp, owl
from sparsewright.kernels.sharded import shard_like

CASES, case = make_cases()


def random_layers():
    """Yield random layers with many ties, whole and sharded in several ways, and options."""
    world = dist.get_world_size()
    placed = [(mesh(), [Shard(0)]), (mesh(world // 2, 2), [Replicate(), Shard(0)])]
    placed += [(mesh(), [Replicate()]), None]
    generator = torch.Generator().manual_seed(3)

    def draw(n):
        return int(torch.randint(n, (), generator=generator))

    for _ in range(60):
        whole, spread, size = {}, {}, 1 + draw(20)
        for number in range(1 + draw(4)):
            shape = SHAPES[draw(len(SHAPES))]
            weight = torch.randint(-size, size + 1, shape, generator=generator) / 8
            weight = weight.to((torch.float32, torch.float64, torch.bfloat16)[draw(3)])
            on = placed[draw(4)] if number else placed[0]
            whole[f"{number}"] = weight
            spread[f"{number}"] = (
                distribute_tensor(weight, *on, src_data_rank=None) if on else weight
            )
        is_large = sum(weight.numel() for weight in whole.values()) > 100
        options = {"normalize": ("none", "l2", "mean")[draw(3)], "minimum": 0.05 * is_large}
        yield whole, spread, draw(9) / 10, options


@case
def levels_by_magnitude_over_shards_are_those_over_the_whole():
    wrong, found = [], set()
    for number, (whole, spread, level, options) in enumerate(random_layers()):
        one, many = (global_magnitude(each, level, **options) for each in (whole, spread))
        found |= set(one.values())
        if one != many:
            wrong.append(number)
    return [wrong, len(found) > 50]


@case
def levels_by_lamp_over_shards_are_those_over_the_whole():
    wrong, found = [], set()
    for number, (whole, spread, level, _) in enumerate(random_layers()):
        generator = torch.Generator().manual_seed(number)
        if number % 2:  # no ties, and sums that depend on the order in floating point
            for name, weight in whole.items():
                whole[name] = torch.randn(weight.shape, generator=generator).to(weight.dtype)
                spread[name] = shard_like(whole[name], spread[name])
        one, many = lamp(whole, level), lamp(spread, level)
        found |= set(one.values())
        if one != many:
            wrong.append(number)
    return [wrong, len(found) > 50]


@case
def lamp_levels_of_shards_send_counts_only():
    """Compute the levels of 262,144 entries: ranks exchange a few tables, but no entries."""
    weights = {str(number): batch(number, 512, 256) for number in range(2)}
    spread = {
        name: distribute_tensor(weight, mesh(), [Shard(0)], src_data_rank=None)
        for name, weight in weights.items()
    }
    sent = []
    for name in ("all_reduce", "all_gather", "broadcast", "all_gather_into_tensor"):
        setattr(dist, name, counted(sent, getattr(dist, name)))
    levels = lamp(spread, 0.9)
    return [max(sent) <= 3 * 2048 * 2 * 8, len(sent) <= 6, levels == lamp(weights, 0.9)]


@case
def outliers_of_shards_are_those_of_the_whole():
    wrong = []
    for number, (whole, spread, level, _) in enumerate(random_layers()):
        blocks = [
            {name: [each.abs() ** 3] for name, each in layers.items()} for layers in (whole, spread)
        ]
        one, many = (owl(scores, level, m=2, spread=0.3) for scores in blocks)
        if one != many:
            wrong.append(number)
    return wrong


@case
def nan_in_one_layer_on_one_rank_is_told_to_all_by_lamp():
    layers = [torch.ones(8, 4), torch.ones(8, 4)]
    layers[1][7, 3] = torch.nan
    spread = [distribute_tensor(each, mesh(), [Shard(0)], src_data_rank=None) for each in layers]
    return error_of(lamp, dict(zip("ab", spread, strict=True)), 0.5)


@case
def nan_in_one_layer_on_one_rank_is_told_to_all():
    layers = [torch.ones(8, 4), torch.ones(8, 4)]
    layers[1][7, 3] = torch.nan
    spread = [distribute_tensor(each, mesh(), [Shard(0)], src_data_rank=None) for each in layers]
    return error_of(global_magnitude, dict(zip("ab", spread, strict=True)), 0.5)
