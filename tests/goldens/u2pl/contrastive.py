"""Golden kinds of U2PL's contrastive loss and its memory bank: ``contra``, ``queue``."""

from __future__ import annotations

import dataclasses

import numpy as np

from common.methods.presets import resolved
from common.methods.u2pl.u2pl import ContrastiveSettings, U2PLSettings
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact


class RecordedDraws:
    """Gives the recorded indices in their order; implements :class:`common.methods.u2pl.u2pl.Draws`.

    ``misfits`` counts draws that were not recorded or reach beyond our entries. They are no exceptions, because one
    inside of what MindSpore differentiates spoils the running statistics of later steps in the same process.
    """

    def __init__(self, anchors: np.ndarray, negatives: np.ndarray, masks: np.ndarray | None = None) -> None:
        self._recorded = {"anchors": list(anchors), "negatives": list(negatives)}
        self._lengths = {"anchors": anchors.shape[1], "negatives": negatives.shape[1]}
        self._masks, self.misfits = masks, 0

    def mix_masks(self, pseudo_label: np.ndarray) -> np.ndarray | None:
        """The recorded masks, None in a step that did not mix."""
        return self._masks

    def anchors(self, candidates: int) -> np.ndarray:
        """The next term's anchors."""
        return self._next("anchors", candidates)

    def negatives(self, rows: int) -> np.ndarray:
        """The next term's negatives."""
        return self._next("negatives", rows)

    def _next(self, kind: str, limit: int) -> np.ndarray:
        recorded = self._recorded[kind]
        indices = recorded.pop(0) if recorded else np.full(self._lengths[kind], limit)
        self.misfits += int((indices >= limit).sum())
        return indices % limit


def contra(golden: Golden, framework: Framework) -> list[Check]:
    """Loss, gradient, every intermediate result and the bank afterwards."""
    capacities, width = golden["queue_size"].tolist(), golden["rep"].shape[1]
    bank = framework.module("methods.u2pl.memory_bank").MemoryBank(capacities, width)
    ends = np.cumsum(golden["bank_before_rows"])
    for class_id, rows in enumerate(np.split(golden["bank_before"], ends[:-1])):
        bank.append(class_id, framework.constant(rows))
    draws, results = RecordedDraws(golden["anchor_index"], golden["negative_index"]), []

    def loss(representation):
        results.append(run(golden, framework, representation, bank, draws, settings(golden)))
        return results[-1].loss

    value, (gradient,) = framework.gradients(loss, golden["rep"])
    result = results[-1]
    queues = [bank.queue(class_id) for class_id in range(len(capacities))]
    means, seen = golden["prototypes"], ~np.isnan(golden["prototypes"])
    checks = [
        exact("draws that do not fit", draws.misfits, 0),
        close("loss", value, golden["loss"]),
        close("grad_rep", gradient, golden["grad_rep"]),
        close("class_terms", result.class_terms, golden["class_terms"]),
        close("prototypes", framework.array(result.class_means)[seen], means[seen]),
        exact("bank_after", np.concatenate(queues), golden["bank_after"]),
        exact("bank_after_rows", [len(queue) for queue in queues], golden["bank_after_rows"]),
    ]
    for name in ("new_keys", "valid_classes", "anchor_candidates", "evaluated_position", "evaluated_bank_class"):
        checks.append(exact(name, getattr(result, name), golden[name]))
    if "prototype_after" in golden:
        checks.append(close("prototype_after", framework.array(result.prototype), golden["prototype_after"].squeeze(2)))
    return checks


def run(golden: Golden, framework: Framework, representation, bank, draws: RecordedDraws, numbers: ContrastiveSettings):
    """Return our result for the file's inputs."""
    labelled = len(golden["prob_l"])
    momentum = {}
    if "prototype_before" in golden:
        step = golden.number("i_iter")
        momentum["prototype"] = framework.constant(golden["prototype_before"].squeeze(2))
        momentum["prototype_decay"] = min(1 - 1 / step, 0.999) if step else 0.0
    return framework.module("methods.u2pl.contrastive").contrastive_loss(
        representation,
        framework.constant(golden["rep_teacher"]),
        framework.constant(np.concatenate([golden["prob_l"], golden["prob_u"]])),
        framework.constant(np.concatenate([golden["label_l"], golden["label_u"]]) > 0),
        framework.constant(golden["low_mask"][:, 0] > 0),
        framework.constant(golden["high_mask"][:, 0] > 0),
        labelled,
        bank,
        numbers,
        draws,
        **momentum,
    )


def settings(golden: Golden) -> ContrastiveSettings:
    """Return the authors' preset with the file's numbers."""
    return dataclasses.replace(
        resolved(U2PLSettings(preset="authors")).contrastive,
        low_rank=int(golden.number("cfg_low_rank")),
        high_rank=int(golden.number("cfg_high_rank")),
        anchor_threshold=golden.number("cfg_current_class_threshold"),
        negative_threshold=golden.number("cfg_current_class_negative_threshold"),
        num_queries=int(golden.number("cfg_num_queries")),
        num_negatives=int(golden.number("cfg_num_negatives")),
        temperature=golden.number("cfg_temperature"),
    )


def queue(golden: Golden, framework: Framework) -> list[Check]:
    """The queue after every append."""
    start = golden["start"]
    bank = framework.module("methods.u2pl.memory_bank").MemoryBank([golden.number("queue_size")], start.shape[1])
    bank.append(0, framework.constant(start))
    checks = []
    for step in range(golden.number("n_steps")):
        bank.append(0, framework.constant(golden[f"keys_{step}"]))
        checks.append(exact(f"queue_{step}", bank.queue(0), golden[f"queue_{step}"]))
        checks.append(exact(f"ptr_{step}", bank.counts[0], golden[f"ptr_{step}"]))
    return checks
