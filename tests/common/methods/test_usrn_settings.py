"""USRN's settings, numbers of subclasses, epochs and draws, which both frameworks share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.experiment import compose
from common.images.geometry import reflect_pad, size_of_long_side
from common.loading.plan import Plan
from common.methods.interface import OWN_LABEL, Clock, Stream
from common.methods.usrn.augment import LabelledAndUnlabelledCrop, apply_strong, draw_strong
from common.methods.usrn.subclasses import LabelFolder, check_counts, counts_by_share, offsets, parent_table
from common.methods.usrn.usrn import USRNBaselineSettings, USRNSettings
from common.networks.dropout import draw_masks
from common.networks.plan import map_sizes
from common.rng import generator
from common.splits.resolve import resolve
from common.training.schedules import learning_rate

PUBLISHED = {
    "voc/165": 201, "voc/331": 177, "voc/662": 190, "cityscapes/93": 111, "cityscapes/186": 130, "cityscapes/372": 124,
}  # fmt: skip


@pytest.mark.parametrize("encoder", ["resnet50", "resnet101"])
@pytest.mark.parametrize("split", PUBLISHED)
def test_every_published_setting_resolves(split, encoder):
    baseline, usrn = (compose(f"{split}/{name}", [f"network.encoder={encoder}"]) for name in ("usrn_baseline", "usrn"))
    assert baseline.network.subclasses == 0 and usrn.network.subclasses == PUBLISHED[split]
    assert sum(usrn.method.subclass_counts) == PUBLISHED[split]
    assert len(usrn.method.subclass_counts) == len(usrn.dataset.classes)
    images = {"voc": 10582, "cityscapes": 2975}[usrn.dataset.name]
    passes = {"voc": 80, "cityscapes": 480}[usrn.dataset.name]
    for config in (baseline, usrn):
        assert config.trainer.epochs == images // int(split.partition("/")[2]) * passes
        assert config.optimizer.lr * config.optimizer.head_lr_times == pytest.approx(
            {"voc": 0.01, "cityscapes": 0.02}[usrn.dataset.name]
        )
        assert (config.evaluation.protocol, config.evaluation.pad_multiple) == ("whole", 8)


def test_numbers_by_share():
    assert counts_by_share([100, 1, 0, 50], 0.1) == (7, 1, 1, 4)
    assert counts_by_share([30, 70], 0.1) == (3, 7)  # whole units are not rounded up
    assert counts_by_share([0, 0], 0.1) == (1, 1)
    with pytest.raises(UserError, match="method.subclass_share = 0.001"):
        counts_by_share([1000, 1000], 0.001)
    assert offsets((3, 1, 2)).tolist() == [0, 3, 4]
    assert parent_table((3, 1, 2))[[0, 2, 3, 4, 5, 6, 255]].tolist() == [0, 0, 1, 2, 2, 6, 255]
    with pytest.raises(ValueError, match="at least one"):
        check_counts((1, 0))


def test_length_of_an_epoch():
    ours = USRNSettings()
    assert ours.steps_per_epoch(662, 8) == 82 == USRNBaselineSettings().steps_per_epoch(662, 8)
    assert USRNSettings(iters_rule="per_process").steps_per_epoch(662, 8, groups=4) == 331
    assert USRNBaselineSettings(iters_rule="per_process").steps_per_epoch(662, 8, groups=4) == 83


def plan(*overrides: str) -> Plan:
    config = compose("shapes/12/usrn", ["trainer.iterations_per_epoch=null", "loader.batch_labelled=4", *overrides])
    return Plan(resolve(open_dataset(config.dataset), config.split), config.streams(), config)


def labelled_tasks(plan: Plan) -> list[tuple]:
    return [[(t.image_id, t.step, t.position) for t in tasks if t.stream == "labelled"] for tasks in plan.tasks(1)]


def test_epochs_of_the_loader_and_cached_replay():
    assert plan().iterations_per_epoch == 3
    longer = ["method.iters_rule=per_process", "trainer.groups=2"]
    fresh, cached = (plan(*longer, f"loader.labelled_replay={kind}") for kind in ("fresh", "cached"))
    assert fresh.iterations_per_epoch == cached.iterations_per_epoch == 6
    drawn, replayed = labelled_tasks(fresh), labelled_tasks(cached)
    assert drawn[:3] == replayed[:3] == replayed[3:] and drawn[3:] != drawn[:3]
    with pytest.raises(UserError, match="do not fill one batch"):
        plan("loader.batch_labelled=14")


def test_authors_counter_saw_tooths():
    config = dataclasses.replace(compose("voc/662/usrn").optimizer, lr=1.0)
    authors = dataclasses.replace(config, lr_counter="authors", counted_steps=6)

    def rates(settings, loop):
        clocks = [
            Clock(epoch=i // loop, step=i % loop, iteration=i, epochs=4, iterations_per_epoch=loop) for i in range(12)
        ]
        return [learning_rate(settings, clock) for clock in clocks]

    assert rates(authors, 6) == pytest.approx(rates(config, 6))
    assert sorted(rates(config, 3), reverse=True) == rates(config, 3)
    assert sorted(rates(authors, 4), reverse=True) != rates(authors, 4)
    with pytest.raises(UserError, match="counted_steps"):
        compose("shapes/12/usrn", ["optimizer.lr_counter=authors"])


def test_geometry_of_the_crops():
    assert size_of_long_side(100, 50, 40) == (40, 20) and size_of_long_side(50, 100, 41) == (21, 41)
    labelled, rng = LabelledAndUnlabelledCrop(crop=40, base_size=56), np.random.default_rng(0)
    for crop, sides in ((labelled, (28, 112)), (labelled.unlabelled, (44, 112))):
        drawn = [crop.draw(50, 64, rng).long_side for _ in range(400)]
        assert (min(drawn), max(drawn)) == sides


def test_views_share_their_geometry_and_labels_follow():
    image = np.random.default_rng(0).integers(0, 256, (50, 64, 3), dtype=np.uint8)
    label = (image[..., 0] // 43).astype(np.uint8)
    labelled = LabelledAndUnlabelledCrop(crop=40, base_size=56, labelled_jitter=True)
    sample = labelled.unlabelled(image, {}, np.random.default_rng(1))
    assert sample["weak"].shape == sample["strong"].shape == (3, 40, 40) and set(sample) == {"weak", "strong"}
    both = labelled(image, {"label": label, "subclass": label}, np.random.default_rng(2))
    np.testing.assert_array_equal(both["label"], both["subclass"])
    plain = dataclasses.replace(labelled, labelled_jitter=False)(image, {}, np.random.default_rng(2))
    assert not np.array_equal(plain["image"], both["image"])


def test_strong_view():
    rng = np.random.default_rng(0)
    draws = [draw_strong(rng) for _ in range(500)]
    shares = [np.mean([bool(getattr(d, name)) for d in draws]) for name in ("blur", "jitter", "grey")]
    assert np.allclose(shares, (0.5, 0.8, 0.2), atol=0.06)
    image = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    grey = next(d for d in draws if d.grey)
    assert (np.ptp(apply_strong(image, grey), axis=2) == 0).all()


def test_element_masks_have_the_maps_sizes():
    @dataclasses.dataclass
    class Layer:
        p: float
        kind: str
        channels: int
        place: str

    config = compose("voc/662/usrn").network
    sizes = map_sizes(config, (321, 65), pooled=True)
    assert sizes == {"high": (21, 5), "low": (81, 17), "output": (40, 8)}
    sites = [Layer(0.5, "element", 3, "high"), Layer(0.1, "element", 2, "output"), Layer(0.2, "channel", 4, "low")]
    first, again = (draw_masks(sites, 2, generator(0, "test"), sizes) for _ in range(2))
    assert [mask.shape for mask in first] == [(2, 3, 21, 5), (2, 2, 40, 8), (2, 4, 1, 1)]
    assert all(np.array_equal(a, b) and a.dtype == np.float32 for a, b in zip(first, again))
    assert set(np.unique(first[0])) == {0.0, 2.0} and first[1].mean() == pytest.approx(1, abs=0.05)


def test_images_too_small_for_reflection_are_refused():
    images = np.arange(3 * 9 * 12, dtype=np.float32).reshape(1, 3, 9, 12)
    padded = reflect_pad(images, 8)
    assert padded.shape == (1, 3, 16, 16) and np.array_equal(padded[..., 9:, :12], images[..., 7:0:-1, :])
    with pytest.raises(UserError, match="pad_multiple=1"):
        reflect_pad(images[:, :, :3], 8)


def test_subclass_labels_come_from_their_folder():
    config = compose("shapes/12/usrn", ["method.subclass_labels=somewhere"])
    first, second = config.streams()
    assert first.labels == OWN_LABEL | {"subclass": LabelFolder("somewhere")}
    assert second == Stream(name="unlabelled", source="unlabelled", pipeline=config.augment.unlabelled)
