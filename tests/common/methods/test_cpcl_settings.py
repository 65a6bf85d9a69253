"""CPCL and CPS: published settings by name, epochs as their tables say, switches, and settings that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from common.config.schema import TrainerConfig
from common.errors import UserError
from common.experiment import compose
from common.loading.plan import Plan
from common.methods.cpcl.cpcl import disagreement
from common.runs.snapshots import due
from common.splits.split import Split

EPOCHS = {
    # split: (samples, iterations per epoch, epochs, all iterations)
    "cityscapes/186/cpcl": (2790, 174, 128, 22_272),
    "cityscapes/372/cpcl": (2604, 162, 137, 22_194),
    "cityscapes/744/cpcl": (2232, 139, 160, 22_240),
    "cityscapes/1488/cpcl": (1488, 93, 240, 22_320),
    "cityscapes/186/cpcl_bs3": (2790, 930, 128, 119_040),
    "cityscapes/372/cpcl_bs3": (2604, 868, 137, 118_916),
    "cityscapes/744/cpcl_bs3": (2232, 744, 160, 119_040),
    "cityscapes/1488/cpcl_bs3": (1488, 496, 240, 119_040),
    "voc/662/cpcl": (9921, 1240, 32, 39_680),
    "voc/1323/cpcl": (9260, 1157, 34, 39_338),
    "voc/2646/cpcl_r101": (7937, 992, 40, 39_680),
    "voc/5291/cpcl": (5291, 661, 60, 39_660),
    "voc/92/cpcl": (9921, 1240, 32, 39_680),
    "voc/183/cpcl": (9260, 1157, 34, 39_338),
    "voc/366/cpcl": (7937, 992, 40, 39_680),
    "voc/732/cpcl": (5291, 661, 60, 39_660),
    "voc/1464/cpcl": (9260, 1157, 34, 39_338),
    "cityscapes/186/cps_cutmix": (2790, 348, 128, 44_544),
    "cityscapes/372/cps": (2604, 325, 137, 44_525),
    "cityscapes/744/cps": (2232, 279, 160, 44_640),
    "cityscapes/1488/cps_cutmix_r101": (1488, 186, 240, 44_640),
    "voc/1323/cps": (9260, 1157, 34, 39_338),
    "voc/183/cps_cutmix": (10_582, 1322, 30, 39_660),
}


def lists(labelled: int, unlabelled: int) -> Split:
    """Return a split of made-up images."""
    ids = [tuple(f"{kind}{index:05}" for index in range(count)) for kind, count in (("l", labelled), ("u", unlabelled))]
    return Split(id="x", labelled=ids[0], unlabelled=ids[1], digest="", unlabelled_digest="", origin="")


@pytest.mark.parametrize("name", EPOCHS)
def test_length_of_training_is_the_table_s(name):
    config = compose(name)
    samples, each, epochs, total = EPOCHS[name]
    plan = Plan(lists(11, 10_582), config.streams(), config)
    assert config.loader.samples == samples and config.trainer.epochs == epochs
    assert plan.iterations_per_epoch == each and each * epochs == total


PUBLISHED = {
    "cityscapes/{}/cpcl": (("186", "372", "744", "1488"), (69.92, 74.60, 76.98, 78.17)),
    "voc/{}/cpcl": (("662", "1323", "2646", "5291"), (71.66, 73.74, 74.58, 75.30)),
    "voc/{}/cpcl_r101": (("662", "1323", "2646", "5291"), (73.44, 76.40, 77.16, 77.67)),
    "voc/{}/cpcl ": (("92", "183", "366", "732", "1464"), (61.88, 67.02, 72.14, 74.25, 76.47)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_scores(name):
    splits, scores = PUBLISHED[name]
    published = [compose(name.strip().format(split)).reference.published_miou for split in splits]
    assert tuple(published) == scores


def test_settings_of_both_data_sets():
    voc, city = compose("voc/1323/cpcl"), compose("cityscapes/372/cpcl")
    assert (voc.optimizer.lr, city.optimizer.lr) == (0.005, 0.01)
    assert (voc.loader.batch_labelled, city.loader.batch_unlabelled) == (8, 16)
    assert (voc.method.unsup_weight, city.method.unsup_weight) == (1.0, 5.0)
    assert (voc.augment.crop, city.augment.crop) == (512, 800)
    assert (voc.evaluation.stride, city.evaluation.stride) == (342, 534)
    assert voc.criterion.type == "ce" and not voc.criterion.class_weights
    assert city.criterion.min_kept_per_image == 50_000 and len(city.criterion.class_weights) == 19
    assert voc.optimizer.decay_on == city.optimizer.decay_on == "kernels" and voc.optimizer.head_lr_times == 1
    assert voc.split.id == "cps_1323" and compose("voc/732/cpcl").split.id == "cps_732"
    assert compose("voc/183/cpcl").split.unlabelled == "all" and voc.split.unlabelled == "rest"


def test_settings_of_cps():
    plain, mixed = compose("voc/1323/cps"), compose("voc/1323/cps_cutmix")
    assert (plain.method.cutmix, plain.method.unsup_weight) == (False, 1.5)
    assert (mixed.method.cutmix, mixed.method.unsup_weight) == (True, 1.0)
    assert (mixed.optimizer.lr, mixed.optimizer.weight_decay) == (0.0025, 4e-4)
    city = compose("cityscapes/372/cps_cutmix_r101")
    assert (city.optimizer.weight_decay, city.method.unsup_weight, city.network.encoder) == (8e-4, 5.0, "resnet101")
    assert not city.criterion.class_weights and city.criterion.min_kept_per_image == 50_000
    assert [len(config.streams()) for config in (plain, mixed)] == [2, 3]


def test_the_unlabelled_list_of_few_supervision_is_cut_only_on_request():
    split = lists(7, 40)
    short = ["loader.samples=24", "loader.batch_labelled=4", "loader.batch_unlabelled=4"]
    used = {}
    for switch in ("false", "true"):
        config = compose("voc/183/cpcl", [*short, f"loader.truncate_unlabelled={switch}"])
        plan = Plan(split, config.streams(), config)
        tasks = [task for epoch in range(12) for step in plan.tasks(epoch) for task in step]
        used[switch] = {task.image_id for task in tasks if task.stream == "unlabelled"}
    assert used["true"] == set(split.unlabelled[:24]) and used["false"] == set(split.unlabelled)


def test_the_streams_draw_independently():
    config = compose("voc/1323/cpcl", ["loader.samples=24", "loader.batch_labelled=4", "loader.batch_unlabelled=4"])
    plan = Plan(lists(7, 24), config.streams(), config)
    orders = {}
    for tasks in plan.tasks(0):
        for task in tasks:
            orders.setdefault(task.stream, []).append(task.image_id)
    assert orders["unlabelled"] != orders["unlabelled_other"]
    assert sorted(orders["unlabelled"]) == sorted(orders["unlabelled_other"])
    assert sorted(orders["labelled"])[:3] == ["l00000"] * 3  # 24 places of 7 files: three rounds and three more


def test_disagreement_counts_one_agreement_of_every_class():
    counts = np.array([[3, 2, 0], [0, 4, 0], [0, 0, 0]])
    computed = disagreement(counts)
    raw = np.array([0 / 4 + 2 / 6, 2 / 7 + 0 / 5, 0.0])
    np.testing.assert_allclose(computed.scores, raw / (raw.sum() + 1e-6), rtol=1e-15)
    assert computed.overlap == 10 / 12
    assert computed.first_wins[0, 1] and not computed.first_wins[1, 0] and not computed.first_wins.diagonal().any()


def test_without_any_disagreement_scores_are_zero():
    for variant in ("head", "legacy_2022"):
        computed = disagreement(np.diag([5, 0, 2]), variant)
        assert not computed.scores.any() and not computed.first_wins.any() and computed.overlap == 1


def test_snapshots_follow_the_authors_rule():
    kept = [
        epoch for epoch in range(34) if due(TrainerConfig(epochs=34, snapshot_every=2, snapshot_after_part=6), epoch)
    ]
    assert kept == [*range(6, 34, 2), 33]
    assert [epoch for epoch in range(4) if due(TrainerConfig(epochs=4, snapshot_every=1), epoch)] == [0, 1, 2, 3]
    assert not due(TrainerConfig(epochs=4), 3)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("camvid/1_3/cpcl", [], "1_4"),
        ("voc/663/cpcl", [], "662"),
        ("voc/1323/cpcl", ["branch=3"], "evaluation.branch = 3 is not one of 1, 2, mean"),
        ("voc/1323/u2pl", ["branch=2"], "evaluation.branch = 2"),
        ("voc/1323/cpcl", ["method.variant=legacy"], "legacy_2022"),
        ("voc/1323/cpcl", ["criterion.class_weights=[1.0, 2.0]"], "21 classes"),
        ("voc/1323/cpcl", ["loader.tail=epoch"], "epoch_permutation"),
        ("voc/1323/cpcl", ["evaluation.accumulate=mean_logits"], "sum_logits"),
        ("voc/1323/cpcl", ["augment.scales=[]"], "scales"),
        ("voc/1323/cps", ["method.legacy_grad_scale=0"], "legacy_grad_scale"),
    ],
)
def test_bad_settings_are_one_line(name, overrides, message):
    with pytest.raises(UserError) as caught:
        compose(name, overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_epoch_shorter_than_a_batch_is_refused():
    config = compose("voc/1323/cpcl", ["loader.samples=7"])
    with pytest.raises(UserError, match="loader.samples = 7"):
        Plan(lists(3, 20), config.streams(), config)


def test_a_base_that_is_not_there_is_named(tmp_path):
    import shutil

    from common.paths import CONFIGS

    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    (configs / "methods" / "other.yaml").write_text("base: cpcll\n")
    with pytest.raises(UserError, match="other.yaml: unknown method 'cpcll'; did you mean 'cpcl'"):
        compose("voc/1323/other", configs=configs)
