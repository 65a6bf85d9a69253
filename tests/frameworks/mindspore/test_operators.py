"""A training step uses only operators that MindSpore documents for Ascend: those of ``mindspore_impl/OPERATORS.md``, which names all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("mindspore")

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import nn, ops  # noqa: E402

from tests.places import PROJECT  # noqa: E402

IMPLEMENTATION = PROJECT / "mindspore_impl"
NOT_IN_A_STEP = ("checkpoint.py", "device.py", "eval.py", "features.py", "predictor.py", "segmenter.py", "train.py")
PYTHONS = set().union(*map(dir, (dict, list, str, set, bytes, np.random.Generator)))
"""Method names that may be meant for something else than a tensor."""

NO_OPERATORS = {"asnumpy", "value", "item", "ndim", "name", "shape", "dtype", "size", "requires_grad", "set_dtype"}
"""What tensors have that computes nothing on the device."""

SAME_AS = {"astype": "cast"}
"""Methods of tensors whose operator has another name."""

COMPILATION = {"HyperMap", "MultitypeFuncGraph", "partial"}
"""Names of ``mindspore.ops`` that build graphs; the documentation lists no processors for some of them."""


def used(paths: list[Path]) -> set[str]:
    """Return the operators, as ``ops.NAME`` or ``nn.NAME``, that some files name, those behind a tensor's methods included."""
    operators = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or ast.unparse(node.value) in ("np", "math", "ms"):
                continue
            if isinstance(node.value, ast.Name) and node.value.id in ("ops", "nn"):
                operators.add(f"{node.value.id}.{node.attr}")
            elif node.attr in set(dir(ms.Tensor)) - PYTHONS - NO_OPERATORS and hasattr(
                ops, SAME_AS.get(node.attr, node.attr)
            ):
                operators.add(f"ops.{SAME_AS.get(node.attr, node.attr)}")
    return operators - {f"ops.{name}" for name in COMPILATION} - {"nn.Cell", "nn.CellList", "nn.SequentialCell"}


def of_a_step() -> list[Path]:
    """Return the files whose code runs in training steps."""
    return [path for path in sorted(IMPLEMENTATION.rglob("*.py")) if path.name not in NOT_IN_A_STEP]


def listed() -> set[str]:
    """Return what the list names."""
    return set(re.findall(r"^- `((?:ops|nn)\.\w+)`", (IMPLEMENTATION / "OPERATORS.md").read_text(), re.MULTILINE))


def platforms(operator: str) -> str:
    """Return the processors that the installed documentation lists for an operator."""
    package, name = operator.split(".")
    text = getattr({"ops": ops, "nn": nn}[package], name).__doc__ or ""
    return " ".join(re.findall("Ascend|GPU|CPU", text.partition("Supported Platforms:")[2].partition("Examples:")[0]))


def test_the_list_names_what_a_step_uses():
    assert used(of_a_step()) == listed()


@pytest.mark.parametrize("operator", sorted(listed()))
def test_every_operator_is_documented_for_ascend(operator: str):
    assert "Ascend" in platforms(operator)


def test_an_operator_of_the_cpu_only_is_noticed(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        "from mindspore import ops\n\ndef f(x):\n    return ops.uniform(x, 0, 1).masked_fill(x > 0, 1).items()\n"
    )
    assert used([path]) == {"ops.uniform", "ops.masked_fill"}
    assert "Ascend" not in platforms("ops.uniform") and "CPU" in platforms("ops.uniform")
