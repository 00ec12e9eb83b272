"""Compare sparse methods with dense training of LeNet-300-100 on the full Fashion-MNIST.

    python benchmarks/fashion.py --write docs/results.md

Trains the recipe `fashion` with its defaults from several seeds: dense, and with Static, SET, RigL
and GMP at each level, masked and compressed. Prints the mean test accuracy in percent, its standard
deviation over the seeds and the CPU time of a run. Also compares SET with Static and RigL with SET.
"""

from methods import Metric, command

ACCURACY = Metric("accuracy", 100.0, 2, "points of accuracy")

main = command("fashion", ACCURACY)

if __name__ == "__main__":
    main()
