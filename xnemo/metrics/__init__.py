"""What the paper measures, written down (docs/metrics.md): pure functions on pictures and on series of them."""
