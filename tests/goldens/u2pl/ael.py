"""Golden kinds of U2PL with AEL: ``ael_*``, recorded from the branch ``with_AEL``."""

from __future__ import annotations

import dataclasses

import numpy as np

from common.arrays import Box
from common.images.mixing import box_mask
from common.methods.u2pl.u2pl_ael import (
    ClassBanks,
    class_probabilities,
    component_boxes,
    images_with,
    moved_average,
    paste_classes,
    proportioned_box,
)
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.u2pl import contrastive as u2pl_contrastive

HALF_AREA = 0.5
"""Share of the image that the random box covers: the first of its recorded draws."""


def confidence(golden: Golden, framework: Framework) -> list[Check]:
    """Confidence of every class in one batch, and the bank after it (all three rows; we keep the one that is used)."""
    labels = framework.constant(golden["gt"].astype(np.uint8))
    scores = framework.tensor(golden["student_logits_labelled"])
    confidences = framework.module("methods.u2pl.u2pl_ael").class_confidence(scores, labels)
    after = moved_average(golden["bank_before"], confidences, golden.number("momentum"))
    return [close("confidence", confidences, golden["confidence"]), close("bank_after", after, golden["bank_after"])]


def sample_from_bank(golden: Golden, framework: None) -> list[Check]:
    """Probabilities of the classes, and every recorded image among those that we would draw from."""
    power = 1 / 3 if golden["smooth"] else 1.0
    pairs = zip(golden["drawn_class"], golden["drawn_image"])
    strange = [pair for pair in pairs if pair[1] not in images_with(golden["bank"], pair[0])]
    return [
        close("class_probability", class_probabilities(golden["confidence"], power), golden["class_probability"]),
        exact("images that we would not draw", len(strange), 0),
    ]


def cutmix_mask(golden: Golden, framework: None) -> list[Check]:
    """The box of a large component (the recorded one, if several qualify), or the box of the recorded draws."""
    labels, recorded = golden["pred"], Box(*golden["box_y0x0y1x1"].astype(int).tolist())
    boxes = component_boxes(labels, golden.number("category"), golden.number("area_thresh") * labels.size)
    draws = golden["uniform_draws"]
    checks = [exact("used_random_half_area_box", not boxes, golden["used_random_half_area_box"])]
    if len(draws):
        checks.append(exact("area of the random box", draws[0], HALF_AREA))
        boxes = [proportioned_box(labels.shape, *draws[1:].tolist())]
    ours = recorded if recorded in boxes else (boxes or [Box(0, 0, 0, 0)])[0]
    return [
        *checks,
        exact("box_y0x0y1x1", ours, recorded),
        exact("mask", ~box_mask(labels.shape, ours), golden["mask"] > 0),
    ]


def bank_update(golden: Golden, framework: Framework) -> list[Check]:
    """The columns of both images after the teacher has seen them."""
    class_maps = framework.array(framework.tensor(golden["teacher_logits"]).argmax(1))
    banks = ClassBanks(*golden["bank_before"].shape, seed=0)
    banks.coverage = golden["bank_before"].copy()
    positions = np.array([golden.number("img_id"), golden.number("sample_id")])
    banks.update_coverage(positions, class_maps, golden.number("area_thresh"))
    return [exact("bank_after", banks.coverage, golden["bank_after"])]


def copy_paste(golden: Golden, framework: None) -> list[Check]:
    """Images and labels with the pixels of the given classes pasted over."""
    image, label, other, other_label = (golden[name] for name in ("image", "label", "paste_image", "paste_label"))
    images, labels = paste_classes(image, label, other, other_label, golden["categories"])
    return [exact("image_out", images, golden["image_out"]), exact("label_out", labels, golden["label_out"])]


def consistency(golden: Golden, framework: Framework) -> list[Check]:
    """Loss and gradient with the recorded uniform numbers, or without sampling."""
    module = framework.module("methods.u2pl.u2pl_ael")
    teacher = framework.constant(golden["teacher_confidence"])
    labels = framework.constant(golden["pseudo_label"].astype(np.uint8))
    uniform = framework.constant(golden["uniform_maps"]) if golden["sample"] else None
    gammas = golden.number("gamma"), golden.number("gamma2")

    def loss(logits):
        return module.consistency_loss(logits, teacher, labels, golden["class_confidence"], uniform, *gammas)

    value, (gradient,) = framework.gradients(loss, golden["student_logits"])
    return [
        close("loss", value, golden["loss"]),
        close("grad_student_logits", gradient, golden["grad_student_logits"]),
    ]


def contra_conf_weight(golden: Golden, framework: Framework) -> list[Check]:
    """The contrastive loss whose positives are weighted by the pixels' largest probability."""
    before, width = golden["bank_before"], golden["rep"].shape[1]
    bank = framework.module("methods.u2pl.memory_bank").MemoryBank([golden.number("queue_size")] * len(before), width)
    for class_id, rows in enumerate(before):
        bank.append(class_id, framework.constant(rows))
    draws = u2pl_contrastive.RecordedDraws(golden["anchor_index"], golden["negative_index"])
    settings, results = dataclasses.replace(u2pl_contrastive.settings(golden), conf_weight=True), []

    def loss(representation):
        results.append(u2pl_contrastive.run(golden, framework, representation, bank, draws, settings))
        return results[-1].loss

    value, (gradient,) = framework.gradients(loss, golden["rep"])
    queues = [bank.queue(class_id) for class_id in range(len(before))]
    return [
        exact("draws that do not fit", draws.misfits, 0),
        close("loss", value, golden["loss"]),
        close("grad_rep", gradient, golden["grad_rep"]),
        exact("terms of the loss", len(results[-1].class_terms), len(golden["anchor_index"])),
        exact("new_keys", results[-1].new_keys, golden["new_keys"]),
        exact("bank_after", np.concatenate(queues), golden["bank_after"]),
        exact("bank_after_rows", [len(queue) for queue in queues], golden["bank_after_rows"]),
    ]
