"""Golden kinds ``checkpoint_layout`` (the authors' files are read) and ``edge_cases`` (what their program dies of)."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from common.checkpoints.checkpoint import Checkpoint, read
from common.checkpoints.layouts import DIALECTS
from common.errors import UserError
from common.evaluation.metrics import ConfusionMatrix
from tests.goldens.frameworks import Framework
from tests.goldens.golden import STEP, Check, Golden, close, exact
from tests.goldens.seeded import seeded_state
from tests.goldens.u2pl.networks import DEFAULT
from tests.goldens.u2pl.steps import StandInSession, case_file, run_step

ROLES = {"model_state": "student", "teacher_state": "teacher"}
EPOCH, BEST_MIOU = 3, 0.625


def checkpoint_layout(golden: Golden, framework: Framework) -> list[Check]:
    """Write a file of each described layout as the authors do, with and without ``module.``, and read it."""
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        for file_name in (text.split()[0] for text in golden.document["files"]):
            for layout, keys in golden.document.items():
                if isinstance(keys, dict):
                    for prefix in ("module.", ""):
                        path = Path(folder) / file_name
                        payload = authors_payload(layout, keys, prefix)
                        write_pth(payload, path)
                        checks += compare(
                            f"{file_name}, {layout}, {prefix or 'no prefix'}", read(path), payload, prefix
                        )
    return checks


def authors_payload(layout: str, keys: dict[str, str], prefix: str) -> dict:
    """Return arrays and plain values for every key of a layout; raises KeyError for a key that we do not know."""
    variant = "voc_suponly_r101" if layout == "train_sup" else "voc_semi_r101"
    shapes = Golden(DEFAULT / f"manifest_{variant}.json").document["state_dict"]
    shapes = {prefix + name: [1] * len(shape) for name, shape in shapes.items()}
    values = {
        "epoch": EPOCH,
        "model_state": seeded_state(shapes, 1),
        "teacher_state": seeded_state(shapes, 2),
        "optimizer_state": None,
        "best_miou": np.float64(BEST_MIOU),
        "class_criterion": np.full((3, 19), 0.5, np.float32),
        "cutmix_bank": np.zeros((19, 7), np.float32),
    }
    return {key: values[key] for key in keys}


def write_pth(payload: dict, path: Path) -> None:
    """Save ``payload`` with tensors instead of arrays, and the state of a real optimiser, as the authors do."""
    import torch

    def tensors(value):
        if isinstance(value, dict):
            return {key: tensors(item) for key, item in value.items()}
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr": 0.1}], lr=0.1, momentum=0.9, weight_decay=1e-4)
    parameter.sum().backward()
    optimizer.step()
    content = tensors(payload)
    if "optimizer_state" in payload:
        content["optimizer_state"] = optimizer.state_dict()
    torch.save(content, path)


def compare(quantity: str, checkpoint: Checkpoint, payload: dict, prefix: str) -> list[Check]:
    """Roles, names, values, what lies beside the networks, and the network that evaluation takes."""
    dialect, networks = DIALECTS["u2pl"], {role: payload[key] for key, role in ROLES.items() if key in payload}
    found_by_role = {role: checkpoint.only(role).networks["model"] for role in networks if has_role(checkpoint, role)}
    wrong = 0
    for role, tensors in networks.items():
        expected = {dialect.neutral_name(name.removeprefix(prefix)): array for name, array in tensors.items()}
        loaded = found_by_role.get(role, {})
        wrong += len(expected.keys() ^ loaded.keys())
        wrong += sum(not np.array_equal(loaded.get(name), array) for name, array in expected.items())
    beside = {name for name in ("class_criterion", "cutmix_bank") if name in payload}
    plain = checkpoint.meta.origin.values
    return [
        exact(f"{quantity}: networks", [len(checkpoint.networks), *found_by_role], [len(networks), *networks]),
        exact(f"{quantity}: names and values", wrong, 0),
        exact(f"{quantity}: deployed network", checkpoint.only().meta.role, list(networks)[-1]),
        exact(f"{quantity}: epoch, best_miou", [plain.get("epoch"), plain.get("best_miou")], [EPOCH, BEST_MIOU]),
        exact(f"{quantity}: banks", sum(not np.array_equal(checkpoint.state.get(n), payload[n]) for n in beside), 0),
    ]


def has_role(checkpoint: Checkpoint, role: str) -> bool:
    """Whether the checkpoint can give the network of ``role``."""
    try:
        checkpoint.only(role)
    except UserError:
        return False
    return True


def edge_cases(golden: Golden, framework: Framework) -> list[Check]:
    """Each case by its name; raises KeyError for one that we do not know."""
    return [check for name, case in golden.document.items() for check in EDGE_CASES[name](case, framework)]


def all_ignored(case: dict, framework: Framework) -> list[Check]:
    """No pixel has a pseudo-label: the loss and its gradient are 0."""
    pseudo, size = framework.module("pseudo_labels"), (2, 6, 7)
    target = framework.constant(np.full(size, 255, np.uint8))
    kept, threshold = pseudo.drop_unreliable(framework.constant(np.ones(size, np.float32)), target, 80.0)
    logits = np.linspace(-1, 1, 2 * 5 * 6 * 7, dtype=np.float32).reshape(2, 5, 6, 7)
    loss, (gradient,) = framework.gradients(lambda scores: pseudo.unsupervised_loss(scores, kept), logits)
    return [
        exact("all_ignored: there is no threshold", threshold is None, True),
        exact("all_ignored: target", framework.array(kept), np.full(size, 255)),
        exact("all_ignored: loss", loss, 0.0),
        exact("all_ignored: gradient", gradient, np.zeros_like(logits)),
    ]


def prototype_at_first_step(case: dict, framework: Framework) -> list[Check]:
    """A momentum prototype that is not zero in the first step: its decay is 0, so the loss is the one without it."""
    golden = Golden(DEFAULT / "train_step_city_0.npz")
    session = StandInSession(Golden(case_file(golden.path)).document, framework)
    settings = session.config.method
    contrastive = dataclasses.replace(settings.contrastive, anchor_ema=True)
    config = dataclasses.replace(session.config, method=dataclasses.replace(settings, contrastive=contrastive))
    method = framework.module("methods.u2pl.u2pl").U2PL(config, session)
    state = method.state() | {"prototype": np.ones_like(method.state()["prototype"])}
    method.restore(method.networks(), state)
    step = run_step(golden, method, framework, session.calls)
    return [
        close("contra_prototype_nonzero_with_i_iter_0: contra", step.seen["contra"], golden["contra"], STEP),
        exact("contra_prototype_nonzero_with_i_iter_0: finite", np.isfinite(method.state()["prototype"]).all(), True),
    ]


def foreign_label(case: dict, framework: Framework) -> list[Check]:
    """A label equal to the number of classes is refused, not counted as the last class; the rest counts as there."""
    prediction, truth = (np.array(case[name], np.uint8) for name in ("pred", "gt"))
    confusion = ConfusionMatrix(case["num_classes"])
    try:
        confusion.update(prediction, truth)
        refused = False
    except UserError:
        refused = True
    empty = int(confusion.matrix.sum())
    known = truth != case["num_classes"]
    confusion.update(prediction[known], truth[known])
    theirs = np.array(case["target"]) - (np.arange(case["num_classes"]) == case["num_classes"] - 1) * (~known).sum()
    return [
        exact("metric_label_equal_to_num_classes: refused", refused, True),
        exact("metric_label_equal_to_num_classes: nothing counted", empty, 0),
        exact("metric_label_equal_to_num_classes: target of the other pixels", confusion.truth(), theirs),
    ]


EDGE_CASES = {
    "all_ignored": all_ignored,
    "contra_prototype_nonzero_with_i_iter_0": prototype_at_first_step,
    "metric_label_equal_to_num_classes": foreign_label,
}
