"""Compare sparse methods with dense training on a small character-level GPT.

    python benchmarks/charlm.py --write docs/results.md

Trains the recipe `charlm` with its defaults from several seeds: dense, and with Static, SET, RigL
and GMP at each level, masked and compressed. Prints the mean validation loss in nats per character,
its standard deviation over the seeds and the CPU time of a run. Also compares SET with Static and
RigL with SET.
"""

from methods import Metric, command

LOSS = Metric("loss", 1.0, 4, "nats per character")

main = command("charlm", LOSS)

if __name__ == "__main__":
    main()
