"""What sparse training of a model takes on a cluster: memory, bytes moved, time of an update.

`python -m tools.cluster`, in the root of the repository; see docs/scale.md. What one weight costs
comes from `sparsewright.plan.costs`.
"""
