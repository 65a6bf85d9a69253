"""Golden kinds of USRN's tables and schedules: ``mapping``, ``palettes``, ``poly_lr``, ``derived_schedule``."""

from __future__ import annotations

import re

import numpy as np

from common.config.schema import CountedSteps
from common.experiment import compose
from common.methods.interface import Clock
from common.methods.usrn.subclasses import parent_table
from common.methods.usrn.usrn import USRNBaselineSettings, USRNSettings
from common.reports.palettes import colours
from common.splits.registry import registry
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.usrn.data import cases

DATASETS = {"voc": "voc", "city": "cityscapes"}
PUBLISHED = {"165": "voc", "331": "voc", "662": "voc", "93": "cityscapes", "186": "cityscapes", "372": "cityscapes"}


def mapping(golden: Golden, framework: None) -> list[Check]:
    """Subclass to class; for a published split also the numbers that its experiment has."""
    checks = []
    for case in cases(golden, "in_split"):
        counts = golden[f"in_split_{case}"].tolist()
        parents = parent_table(counts)[golden[f"in_sub_{case}"]]
        checks.append(exact(f"out_parent_{case}", parents, golden[f"out_parent_{case}"]))
        if case in PUBLISHED:
            config = compose(f"{PUBLISHED[case]}/{case}/usrn")
            checks.append(exact(f"subclass_counts of {config.name}", config.method.subclass_counts, counts))
            checks.append(exact(f"subclasses of {config.name}", config.network.subclasses, sum(counts)))
    return checks


def palettes(golden: Golden, framework: None) -> list[Check]:
    """Colours of the prediction images."""
    checks = []
    for case in cases(golden, "out"):
        rows = golden[f"out_{case}"]
        checks.append(exact(f"out_{case}", colours(DATASETS[case], len(rows))[: len(rows)], rows))
    return checks


def poly_lr(golden: Golden, framework: Framework) -> list[Check]:
    """Both groups' rates at every step, also where the authors' counter and the epochs disagree."""
    shapes = {
        "encoder.conv1.weight": (2, 3, 3, 3),
        "encoder.conv2.weight": (2, 2, 3, 3),
        "decoder.pred.weight": (2, 2, 1, 1),
    }
    network, checks = framework.mini_net(shapes, lambda *_: None), []
    for case in cases(golden, "hp_epochs"):
        epochs, loop, counted, base = (
            golden.number(f"hp_{name}_{case}") for name in ("epochs", "loop_length", "iters_per_epoch", "base_lr")
        )
        numbers = {"lr": base / 10, "head_lr_times": 10.0}
        rules = {"authors": CountedSteps(**numbers, lr_counter="authors", counted_steps=counted)}
        if loop == counted:
            rules["true_steps"] = CountedSteps(**numbers)
        for rule, config in rules.items():
            optimizer, rates = framework.module("optimizer").Optimizer(network, config), []
            for iteration in range(epochs * loop + 1):
                epoch, step = divmod(iteration, loop)
                clock = Clock(epoch=epoch, step=step, iteration=iteration, epochs=epochs, iterations_per_epoch=loop)
                rates.append(optimizer.rates(clock)[::-1])  # the authors' group 0 is everything outside the encoder
            checks.append(close(f"out_lr_{case} ({rule})", rates[:-1], golden[f"out_lr_{case}"]))
            checks.append(close(f"out_lr_after_{case} ({rule})", rates[-1], golden[f"out_lr_after_{case}"]))
    return checks


def derived_schedule(golden: Golden, framework: None) -> list[Check]:
    """Batches, lengths and epochs of every configuration on 1, 2 and 4 GPUs, from our experiments' settings."""
    checks = []
    for name, facts in golden.document.items():
        if not isinstance(facts, dict):
            continue  # what does not start there: all our experiments resolve, see ``mapping``
        dataset, kind, gpus = re.match(r"(voc|city)_\w+?_(baseline|usrn)@(\d+)gpu", name).groups()
        labelled, processes = facts["n_labeled_examples"], int(gpus)
        method = "usrn" if kind == "usrn" else "usrn_baseline"
        config = compose(f"{DATASETS[dataset]}/{labelled}/{method}")
        batch = config.loader.batch_labelled
        rule = {"iters_rule": "per_process"}
        steps = USRNSettings(**rule).steps_per_epoch(labelled, batch, processes)
        unlabelled = registry()[config.dataset.name].lists[config.split.id].unlabelled.count
        ours = {
            "iter_per_epoch": steps,
            "epochs": config.trainer.epochs,
            "total_iterations_if_loop_is_iter_per_epoch": steps * config.trainer.epochs,
            "batch_per_gpu": batch // processes,
            "unlabelled_batch_per_gpu": batch // processes,
            "labelled_loader_length": USRNBaselineSettings(**rule).steps_per_epoch(labelled, batch, processes),
            "unlabelled_loader_length": USRNBaselineSettings(**rule).steps_per_epoch(unlabelled, batch, processes),
        }
        checks += [exact(f"{key} of {name}", value, facts[key]) for key, value in ours.items()]
        checks.append(exact(f"early_stop of {name} acts", facts["early_stop"] < facts["epochs"], np.False_))
    return checks
