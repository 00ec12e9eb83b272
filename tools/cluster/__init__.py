"""Cost of sparse training on a cluster: memory, bytes moved, update time.

Run `python -m tools.cluster` in the root of the repository; see docs/scale.md. The cost of one
weight comes from `sparsewright.plan.costs`.
"""
