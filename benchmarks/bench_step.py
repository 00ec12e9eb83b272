"""Time of a masked training step, relative to the dense step.

The model is a transformer of 19M weights (d = 512, 6 layers) with all linear weights 90% sparse.
Dense and masked steps alternate in one process. `AdamW` is torch's default loop, `AdamW fused` its
fused kernel, and `SGD` has momentum and weight decay. For the dynamic algorithms, `period` is the
mean over 100 steps, one of which updates the masks.
"""

from __future__ import annotations

import argparse
import statistics

import harness
import torch

import sparsewright as sparse

OPTIMIZERS = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-4),
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=1e-4, fused=True),
    "SGD": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9, weight_decay=1e-2),
}

ALGORITHMS = {
    "static": {"algorithm": "static", "sparsity": 0.9},
    "gmp": {
        "algorithm": "gmp",
        "sparsity": {"type": "cubic", "init": 0.0, "final": 0.9, "begin": 0, "end": 100_000},
        "update": {"freq": 100},
    },
    "set": {"algorithm": "set", "sparsity": 0.9, "update": {"freq": 100}},
    "rigl": {"algorithm": "rigl", "sparsity": 0.9, "update": {"freq": 100}},
}


class Trainer:
    """Train one model with its optimizer on one fixed batch."""

    def __init__(self, config, x, width, layers, optimizer="AdamW"):
        torch.manual_seed(0)
        self.model, self.x = harness.Transformer(width, layers), x
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.sparsity = None
        if config is not None:
            self.sparsity = sparse.configure(config)
            self.sparsity.apply(self.model)
            self.sparsity.apply(self.optimizer)

    def step(self):
        """Do one training step."""
        self.optimizer.zero_grad()
        self.model(self.x).square().mean().backward()
        self.optimizer.step()

    def move_to(self, step):
        """Set the number of finished steps, so that the next step can be an update step."""
        state = self.sparsity.state_dict()
        state["algorithms"][0]["steps"] = [step]
        self.sparsity.load_state_dict(state)


def measure(name, optimizer, tokens, rounds, width, layers):
    x = torch.randn(1, tokens, width)
    dense = Trainer(None, x, width, layers, optimizer)
    masked = Trainer(ALGORITHMS[name], x, width, layers, optimizer)
    case = f"{name}, {optimizer}, {tokens} tokens"
    times = harness.interleave({"dense": dense.step, "masked": masked.step}, rounds)
    rows = [harness.compare("step", case, times["masked"], "dense", times["dense"])]
    if name != "static":
        updating = {"dense": dense.step, "update": masked.step}
        cpu, wall = [], []
        for _ in range(3):
            masked.move_to(99)
            times = harness.interleave(updating, 1, warm_up=0)
            for kind, ratios in enumerate((cpu, wall)):
                ratios.append(times["update"][kind][0] / times["dense"][kind][0])
        mean = [
            (99 * a + statistics.median(b)) / 100
            for a, b in ((rows[0].ratio, cpu), (rows[0].wall_ratio, wall))
        ]
        rows.append(
            harness.Row(
                "step",
                f"{case}, period",
                "dense",
                *mean,
                rows[0].cpu_ms,
                rows[0].wall_ms,
            )
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 512, 2048])
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS))
    parser.add_argument("--optimizers", nargs="*", default=list(OPTIMIZERS))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for tokens in args.tokens:
        rounds = max(3, args.rounds * 128 // tokens) if tokens > 512 else args.rounds
        for name in args.algorithms:
            for optimizer in args.optimizers:
                rows += measure(name, optimizer, tokens, rounds, args.width, args.layers)
    harness.report(rows, "step")


if __name__ == "__main__":
    main()
