"""Speed and memory, measured.

``python -m benchmarks [NAME ...]``. Ratios against a rival in the same run.
"""
