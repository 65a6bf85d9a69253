"""From lists to batches: sampling, workers, what an epoch shows."""
