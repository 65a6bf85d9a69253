"""``python -m benchmarks.usrn_step``: peak memory and time of a USRN training step against its plain form, one run.

ResNet-50 with 190 subclasses on crops of 320 x 320, PyTorch on the CPU. The plain form keeps the graphs of all three
passes and holds subclass logits at the crop's size. Each form runs in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

from common.command_line import run_command
from common.errors import CheckFailed
from common.paths import PROJECT

ALLOWED = 0.7
"""Largest share of the plain form's memory: what a step takes at its peak beyond what was there before it."""


def main(arguments: list[str] | None = None) -> None:
    """Run both forms and save the ratios; a check fails if ours needs too much or gives other losses."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.usrn_step", description="Memory and time of a USRN step against its plain form."
    )
    parser.add_argument("--batch", type=int, default=2, help="labelled and unlabelled images each (default: 2)")
    parser.add_argument("--crop", type=int, default=320, help="default: 320")
    parser.add_argument("--form", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.form:
        print(json.dumps(measure(parsed.form, parsed.batch, parsed.crop)))
        return
    from benchmarks.machine import save

    rows = {}
    for form in ("plain", "ours"):
        options = ["--form", form, "--batch", str(parsed.batch), "--crop", str(parsed.crop)]
        command = [sys.executable, "-m", "benchmarks.usrn_step", *options]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        rows[form] = json.loads(done.stdout.splitlines()[-1])
        print(f"{form:5} step {rows[form]['step_gib']:.2f} GiB, {rows[form]['seconds']:.1f} s", flush=True)
    ratios = {key: round(rows["ours"][key] / rows["plain"][key], 3) for key in ("step_gib", "process_gib", "seconds")}
    apart = max(abs(rows["ours"]["losses"][k] / v - 1) for k, v in rows["plain"]["losses"].items() if v)
    figures = {"batch": parsed.batch, "crop": parsed.crop, **rows, "ours_over_plain": ratios, "losses_apart": apart}
    save("usrn_step", " ".join(["python -m benchmarks.usrn_step", *(arguments or sys.argv[1:])]), figures)
    if ratios["step_gib"] > ALLOWED or apart > 1e-4:
        raise CheckFailed(f"memory of a step {ratios['step_gib']} of the plain form's, losses {apart:.1e} apart")


def measure(form: str, batch: int, crop: int) -> dict:
    """Return memory, processor seconds and losses of one step without dropout (Linux)."""
    import numpy as np
    import torch

    from common.experiment import compose
    from common.methods.interface import Clock
    from common.methods.usrn.subclasses import parent_table
    from tests.oracles.usrn import plain_losses
    from torch_impl.methods.usrn.usrn import USRN
    from torch_impl.session import Session

    torch.set_num_threads(1)
    config = compose(
        "voc/662/usrn",
        ["network.backbone_weights=null", "network.aspp_dropout=0.0", "network.head_dropout=[0.0, 0.0]",
         "trainer.device=cpu", "method.threshold=0.02"],
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def images():
        return rng.standard_normal((batch, 3, crop, crop)).astype(np.float32)

    labels = rng.integers(0, 21, (batch, crop, crop)).astype(np.uint8)
    subclass = rng.integers(0, 190, (batch, crop, crop)).astype(np.uint8)
    labelled = {"ids": ["a"] * batch, "image": images(), "label": labels, "subclass": subclass}
    data = {"labelled": labelled, "unlabelled": {"ids": ["b"] * batch, "weak": images(), "strong": images()}}
    method = USRN(config, Session(config))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before, started = status("VmRSS"), time.process_time()
    if form == "ours":
        losses = method.step(data, Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=2))
    else:
        tensors = {
            part: {name: torch.from_numpy(value) for name, value in values.items() if name != "ids"}
            for part, values in data.items()
        }
        parents = torch.from_numpy(parent_table(config.method.subclass_counts))
        network = method.student.train()
        losses = method.optimizer.differentiate(lambda: plain_losses(network, tensors, parents, config.method))
        method.optimizer.step(Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=2))
    peak = status("VmHWM")
    return {
        "step_gib": round(peak - before, 3),
        "process_gib": round(peak, 3),
        "seconds": round(time.process_time() - started, 2),
        "losses": losses,
    }


def status(key: str) -> float:
    """Return an entry of this process's status in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) / 2**20


if __name__ == "__main__":
    raise SystemExit(run_command(main))
