"""What a run learns from and is judged by, as digests, so that it is continued with the same images only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.splits.registry import digest
from common.splits.split import Split


def data_digests(dataset: Dataset, split: Split, config: ExperimentConfig) -> dict[str, str]:
    """Return the SHA-256 of the labelled, unlabelled and validation list, and of the subclass labels where there are some."""
    digests = {
        "labelled list": split.digest,
        "unlabelled list": split.unlabelled_digest,
        "validation list": digest(dataset.val_ids),
    }
    subclass_digest = getattr(config.method, "subclass_digest", "")
    return digests | ({"subclass labels": subclass_digest} if subclass_digest else {})


def require_same_data(saved: Mapping[str, str], now: Mapping[str, str], last: Path) -> None:
    """Raise :class:`UserError` with both digests if ``last`` was written by a run over other data.

    Files from before digests were saved have none, and nothing is compared then.
    """
    for part, before in saved.items():
        if now.get(part) != before:
            raise UserError(
                f"the {part} is not the one this run began with: its digest is {before} in {last} and "
                f"{now.get(part, 'missing')} now; resume with the data of the run, or start anew in another --run-dir"
            )
