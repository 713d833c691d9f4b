"""Speed and quality, as ratios within one run: `python -m benchmarks.NAME` from the root."""
