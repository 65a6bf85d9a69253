"""``result.json``: the outcome of one evaluation with everything that is needed to trust and repeat it."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Callable
from typing import Any

from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.evaluation.evaluate import Evaluation
from common.files import read_json, sha256, write_json_atomic

FORMAT = 1
"""Version of the layout of ``result.json``."""

ABSENT = {"zero": "counted as 0", "skip": "left out"}
"""``evaluation.absent_class`` in words."""


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(name in value for name in names)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _scores(value: Any) -> bool:
    return isinstance(value, dict) and all(_is(int, float, type(None))(score) for score in value.values())


ENTRIES = {
    "experiment": _is(str), "miou": _is(int, float), "miou_percent": _is(int, float), "images": _is(int), "iou": _scores,
    "role": _is(str, type(None)), "protocol": _has(), "split": _has("dataset", "id", "digest"),
    "runtime": _has("name", "version", "device"),
}  # fmt: skip
"""Entries that other programs rely on, and what each must be."""


def result(
    evaluation: Evaluation,
    config: ExperimentConfig,
    *,
    split_digest: str | None,
    checkpoint: str | os.PathLike | None,
    role: str | None = None,
) -> dict[str, Any]:
    """Return the content of ``result.json`` as plain JSON values.

    ``split_digest`` is the SHA-256 of the labelled list, None when it is not known; ``checkpoint`` the evaluated file,
    None for a network that has not been saved; ``role`` which of its networks was judged (``student``, ``teacher``).
    Scores are fractions, ``miou_without_first`` leaves out the first class (the background of VOC), ``miou_percent`` is rounded to
    3 decimals; the IoU of a class without any pixel is null, and so is that of ``ignored_classes``, which no label can show and no
    mean counts.
    """
    confusion = evaluation.confusion
    per_class = zip(config.dataset.classes, confusion.truth(), confusion.predicted(), confusion.intersection())
    return {
        "format": FORMAT,
        "experiment": config.name,
        "miou": evaluation.miou,
        "miou_percent": round(100 * evaluation.miou, 3),
        "miou_without_first": _number(confusion.miou(config.evaluation.absent_class, first=1)),
        "pixel_accuracy": evaluation.pixel_accuracy,
        "iou": {name: _number(value) for name, value in zip(config.dataset.classes, evaluation.iou)},
        "pixels": {
            name: {"labelled": int(labelled), "predicted": int(predicted), "correct": int(correct)}
            for name, labelled, predicted, correct in per_class
        },
        "ignored_pixels": confusion.ignored,
        "ignored_classes": [name for name, counted in zip(config.dataset.classes, confusion.counted) if not counted],
        "confusion_matrix": confusion.matrix.tolist(),
        "protocol": evaluation.protocol,
        "split": {"dataset": config.dataset.name, "id": config.split.id, "digest": split_digest},
        "checkpoint": None if checkpoint is None else {"path": str(checkpoint), "sha256": sha256(checkpoint)},
        "role": role,
        "runtime": {
            "name": evaluation.runtime.name,
            "version": evaluation.runtime.version,
            "device": evaluation.runtime.device,
        },
        "images": evaluation.images,
        "seconds": round(evaluation.seconds, 3),
        "seconds_per_image": round(evaluation.seconds_per_image, 5),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def write_result(
    path: str | os.PathLike,
    evaluation: Evaluation,
    config: ExperimentConfig,
    *,
    split_digest: str | None,
    checkpoint: str | os.PathLike | None,
    role: str | None = None,
) -> dict[str, Any]:
    """Write :func:`result` to ``path``, whole or not at all, and return it."""
    content = result(evaluation, config, split_digest=split_digest, checkpoint=checkpoint, role=role)
    write_json_atomic(path, content)
    return content


def read_result(path: str | os.PathLike) -> dict[str, Any]:
    """Read a ``result.json``; raises :class:`UserError` for an absent or damaged file or another format version."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run an evaluation first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable result file ({error}); run the evaluation again") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise UserError(f"{path}: result format {version!r}, but this program reads {FORMAT}; run the evaluation again")
    for name, check in ENTRIES.items():
        if not check(content.get(name)):
            raise UserError(f"{path}: its entry {name} is missing or damaged; run the evaluation again")
    return content


def format_table(content: dict[str, Any]) -> str:
    """Return the per-class IoU, the mean and their origin as text for a terminal; ``content`` is a :func:`result`."""
    width = max(len(name) for name in (*content["iou"], "pixel accuracy"))
    lines = [f"{'class':<{width}}  {'IoU %':>7}  {'labelled px':>13}"]
    for name, value in content["iou"].items():
        labelled = f"{content['pixels'][name]['labelled']:,}".replace(",", " ")
        lines.append(f"{name:<{width}}  {_percent(value)}  {labelled:>13}")
    note = absence(content)
    runtime = content["runtime"]
    return "\n".join(
        [
            *lines,
            "-" * len(lines[0]),
            f"{'mean IoU':<{width}}  {_percent(content['miou'])}{note and f'  ({note})'}",
            f"{'without first':<{width}}  {_percent(content.get('miou_without_first'))}",
            f"{'pixel accuracy':<{width}}  {_percent(content['pixel_accuracy'])}",
            f"{content['experiment']}: {content['images']} images in {content['seconds']:.1f} s, protocol "
            f"{content['protocol']['name']}, {runtime['name']} {runtime['version']} on {runtime['device']}",
        ]
    )


def absence(content: dict[str, Any]) -> str:
    """Return how many classes have no pixel to be judged by and what the mean makes of them, and which are ignored.

    A class that no label shows counts 0 even where it is predicted; one that is left out is one that nobody predicts, too.
    """
    rule, ignored = content["protocol"]["absent_class"], content.get("ignored_classes", [])
    pixels = [numbers for name, numbers in content["pixels"].items() if name not in ignored]
    absent = sum(not numbers["labelled"] and (rule == "zero" or not numbers["predicted"]) for numbers in pixels)
    parts = [f"{absent} absent: {ABSENT[rule]}"] if absent else []
    return "; ".join([*parts, f"{len(ignored)} ignored: {', '.join(ignored)}"] if ignored else parts)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{100 * value:7.3f}"
