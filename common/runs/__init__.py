"""The folder of a training run and the snapshots in it."""
