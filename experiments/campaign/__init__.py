"""``python -m experiments.campaign FILE.yaml``: many training runs, one row and log each, and the page made of them."""
