"""Benchmarks for airspeed velocity (`asv run`), and `peers.py`, the comparison with other libraries."""
