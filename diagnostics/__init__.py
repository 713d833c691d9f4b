"""What one sees of a run: heatmaps and statistics of a fixed probe, the record of metrics and events, progress, alarms.

Importing this loads nothing heavy: no wandb, no matplotlib, not even torch. Take things from the file they are in.
"""
