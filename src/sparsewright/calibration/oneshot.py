"""One-shot pruning of a trained model with calibration data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from torch import nn

from sparsewright.base import SparsityAlgorithm
from sparsewright.calibration.batches import read_batches
from sparsewright.calibration.blocks import Block, BlocksLike, find_blocks
from sparsewright.calibration.entries import filters, read_entries
from sparsewright.calibration.jobs import Job, make_jobs, restore
from sparsewright.calibration.owl_levels import owl_levels
from sparsewright.calibration.progress_bar import progress_bar
from sparsewright.calibration.quiet import quiet, restored_on_failure
from sparsewright.calibration.replay import Replay, forward_by_default
from sparsewright.calibration.target import Target
from sparsewright.calibration.watch import watching
from sparsewright.configure import ConfigLike
from sparsewright.core.inference import outside_inference_mode
from sparsewright.errors import AttachError, CalibrationError
from sparsewright.group import Group
from sparsewright.session.route import all_or_nothing, attach_routed, initialize, sessions_of
from sparsewright.session.summary import log_summary
from sparsewright.wording import first_of

Batch = TypeVar("Batch")

_ENOUGH = 128  # inputs after which the norm of a feature is known to about 6%

logger = logging.getLogger("sparsewright")


def oneshot(
    model: nn.Module,
    config: ConfigLike,
    batches: Iterable[Batch] | None = None,
    *,
    forward: Callable[[nn.Module, Batch], object] | None = None,
    blocks: BlocksLike = None,
) -> SparsityAlgorithm:
    """Prune a trained model in one shot, with a few batches of data and without training.

    ::

        sparsity = sparse.oneshot(model, {"method": "wanda", "sparsity": 0.5}, batches)

    The model is pruned block by block, in order of execution. The inputs of a block are computed
    by the pruned blocks before it, and its statistics are taken while it is still dense. Then all
    its weights are pruned. Only one block has statistics at a time, and its inputs are kept on the
    CPU. Statistics are float32, or float64 if the weights are; weights keep their dtype. The same
    call gives the same bits on the same machine.

    The model must run its blocks in the same way for every batch. The data runs in eval mode and
    without gradients. If the call fails or is interrupted, the model is as before.

    Args:
        model: the trained model. `nn.Linear`, transformers' `Conv1D`, `nn.Conv2d` and all other
            matrices are supported, as are the stacks of matrices of fused experts.
        config: a dict, or a list of dicts for different weights, with these keys:

            - `method`: `"magnitude"`, `"wanda"`, `"sparsegpt"`, `"ria"` or `"dsnot"`.
            - `sparsity`: the level, 0..1; you can leave it out for N:M.
            - `structure`: as for `configure`; by default the structure of the method.
            - `distribution`: as for `configure`, or `"owl"`, or `{"type": "owl", "m": 5, "spread":
              0.08}`. Under OWL, a weight outside of all blocks counts as a block.
            - `reconstruct`: True: correct the live weights as SparseGPT does.
            - `param_filter`: as for `configure`.
            - the options of the method.
        batches: the data: an iterable of whatever `forward` accepts. Magnitude needs none.
        forward: `forward(model, batch)` runs the model. By default, a batch is a tensor, a tuple or
            list of positional arguments, or a mapping of keyword arguments. If the model accepts
            an `attention_mask` of shape `[batch, tokens]`, padding does not count.
        blocks: the blocks: a glob of module names such as `"encoder.layers.*"`, or a list of globs
            and modules. By default, the modules in each `nn.ModuleList` or `nn.Sequential` whose
            modules have one class. A layer outside of all blocks is a block.

    Returns:
        The algorithm that holds the masks: a `Static`, or a `Group` of them if the config has
        several entries. Apply it to an optimizer to fine-tune the sparse model, or call its
        `remove()` to get a plain model.

    Raises:
        OptionError: a key, a method or a value is unknown, an option is missing, options do not
            work together, or `blocks` does not fit the model.
        OptionTypeError: an argument has the wrong type.
        CalibrationError: the data does not fit the model, or the inputs of a layer are not finite.
        ScoreError: a weight contains NaN.
        AttachError, ShapeError: a weight cannot have a mask, or does not fit the structure.
    """
    entries = read_entries(config)
    needing = [entry.method.name for entry in entries if entry.needs_data]
    data = read_batches(batches, f"method {needing[0]!r}" if needing else "")
    if sessions_of(model):
        problem = "it is sparse already; call sparsewright.remove(model) first, which keeps zeros"
        raise AttachError(type(model).__name__, problem)
    routes = list(filters(entries))
    owner = routes[0][1] if len(routes) == 1 else Group(routes)
    with ExitStack() as stack:
        stack.enter_context(outside_inference_mode())
        stack.enter_context(all_or_nothing(owner.session, model))
        attach_routed(owner.session, model, routes)
        initialize(owner.session, owner.algorithms)
        jobs = make_jobs(model, entries, owner.sparse_params.values())
        found = find_blocks(model, [job.target for job in jobs], blocks)
        stack.enter_context(restored_on_failure(lambda: restore(jobs)))
        stack.enter_context(quiet(model))
        _prune(found, jobs, Replay(model, data, forward or forward_by_default))
        log_summary("oneshot", owner.sparse_params.values(), owner.session.left_dense)
    return owner


def _prune(blocks: Sequence[Block], jobs: Sequence[Job], replay: Replay) -> None:
    """Prune the weights of each block."""
    by_target = {id(job.target): job for job in jobs}
    needs_data = any(job.entry.needs_data for job in jobs)
    _spread_by_owl(blocks, jobs, replay)
    levels = {id(job): job.level for job in jobs}  # of the dense model
    walk = replay.walk(blocks) if needs_data else ((block, _nothing) for block in blocks)
    with progress_bar(len(blocks), "oneshot") as bar:
        for block, run in walk:
            own = [by_target[id(target)] for target in block.targets]
            _measure([job.target for job in own if job.entry.needs_data], run, replay)
            for job in own:
                job.prune(levels[id(job)])
                job.target.statistics = None
            bar.update()


def _nothing() -> None:
    """Run nothing: no method needs data."""


def _measure(targets: Sequence[Target], run: Callable[[], None], replay: Replay) -> None:
    """Run a block on all batches, and take the statistics of its weights.

    Raises:
        CalibrationError: an input is NaN or infinite.
    """
    if not targets:
        return
    with watching(targets, lambda: replay.padding):
        run()
    for target in targets:
        if not target.inputs.is_finite:
            raise CalibrationError(
                target.name,
                "its inputs, or their squares, contain NaN or infinity; check the calibration "
                "data, or run the model in float32",
            )
    _warn_of_few_tokens(targets)
    for target in targets:
        target.inputs.fill_unseen()


def _warn_of_few_tokens(targets: Sequence[Target]) -> None:
    """Log the weights that received no inputs, and those that received few.

    Products of features need as many inputs as features; for norms, 128 inputs are enough.
    """
    unseen, few = list[str](), list[str]()
    for target in targets:
        tokens = target.inputs.tokens.tolist()
        features = target.inputs.squares.shape[1]
        enough = features if target.needs_products else min(features, _ENOUGH)
        for index, number in enumerate(tokens):
            name = f"{target.name}[{index}]" if len(tokens) > 1 else target.name
            if number == 0:
                unseen.append(name)
            elif number < enough:
                few.append(f"{name} ({number} for {features} features)")
    if unseen:
        logger.warning(
            "no calibration data reached %s, so |w| ranks these weights; use more batches, or "
            "exclude them with param_filter",
            first_of(unseen),
        )
    if few:
        logger.warning(
            "few inputs reached %s; use more batches for reliable statistics", first_of(few)
        )


def _spread_by_owl(blocks: Sequence[Block], jobs: Sequence[Job], replay: Replay) -> None:
    """Set the levels of entries with OWL, from one pass over the dense model."""
    asking = [job for job in jobs if job.entry.owl is not None]
    if not asking:
        return
    for job in asking:
        job.target.needs_products = False
    _measure([job.target for job in asking], replay.run, replay)
    for entry in {id(job.entry): job.entry for job in asking}.values():
        own = [job for job in asking if job.entry is entry]
        assert entry.owl is not None
        level = own[0].level
        levels = owl_levels(blocks, [job.target for job in own], level, entry.owl)
        entry.algorithm.distribution = {"layers": levels}
    for job in asking:
        job.target.statistics = None
        job.target.needs_products = job.entry.needs_products
