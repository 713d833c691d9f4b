"""Runs on a Slurm cluster: submit, survive, requeue, look. Nothing here imports torch or the rest of the repository."""
