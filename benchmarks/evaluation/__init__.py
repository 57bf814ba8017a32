"""The study behind docs/explanation/evaluation.md.

It trains small networks on one CPU core, and has the commands for large networks on a GPU.
"""
