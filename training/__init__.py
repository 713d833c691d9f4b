"""What a run needs besides networks and data: optimisers, schedule, checkpoints, stopping. Imports nothing itself."""
