"""Evaluation on Ray: pairs, generation, measuring, reports (docs/metrics.md)."""
