"""``python -m common.check_data``: every file of an experiment opened once, every problem named."""
