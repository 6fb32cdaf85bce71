"""What a seed draws never changes: a run may be resumed by a later version of this code.

The numbers were printed by the version that trained the first runs. If one changes, every
run that is under way ends elsewhere.
"""

import numpy as np
import pytest
from PIL import Image

from pair_generator import PairBatches, swap_pairs
from pairs.devices.cluster import ALONE, Cluster
from pairs.evaluation import metrics
from pairs.photos.read import Photos
from pairs.photos.split import split_class
from pairs.training import settings

LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3] * 2, np.int32)


class Blank(Photos):
    """Photos without files."""

    def open(self, index, image_size):
        return Image.new("RGB", (image_size, image_size))


PHOTOS = Blank([f"{number}.jpg" for number in range(16)], LABELS, list("abcd"))


def drawn(batches, what):
    return [np.asarray(what(batches, step)).astype(int).tolist() for step in range(2)]


def partners(batches, step):
    return batches.pairs(step)[1]


def test_training_batches():
    batches = PairBatches(PHOTOS, 4, 8, 3, "mirror")
    batches.epoch = 2
    assert drawn(batches, PairBatches.indices) == [
        [11, 13, 14, 9, 8, 2, 10, 6],
        [1, 12, 5, 7, 4, 3, 15, 0],
    ]
    assert drawn(batches, partners) == [[6, 4, 7, 1, 3, 0, 5, 2], [7, 2, 4, 6, 1, 0, 3, 5]]
    assert drawn(batches, PairBatches.mirrored) == [
        [1, 1, 0, 0, 1, 0, 1, 1],
        [1, 0, 1, 1, 1, 1, 1, 0],
    ]


def test_validation_batches():
    batches = PairBatches(PHOTOS, 4, 8, 3, validation=True)
    batches.epoch = 5  # the same in every epoch
    assert drawn(batches, PairBatches.indices) == [
        [10, 2, 14, 7, 1, 9, 15, 6],
        [13, 12, 8, 0, 11, 3, 4, 5],
    ]
    assert drawn(batches, partners) == [[6, 7, 3, 2, 5, 4, 0, 1], [4, 7, 3, 2, 0, 6, 5, 1]]


def test_partners_in_groups_stay_in_their_group():
    batches = PairBatches(PHOTOS, 4, 8, 3, num_groups=2)
    assert drawn(batches, partners) == [[1, 3, 0, 2, 7, 6, 5, 4], [3, 2, 1, 0, 5, 7, 4, 6]]


def test_augmentation(monkeypatch):
    seeds = []
    monkeypatch.setattr(
        "pair_generator.augment", lambda image, seed, _: seeds.append(seed) or image
    )
    batches = PairBatches(PHOTOS, 4, 8, 3, "affine")
    batches.epoch = 2
    batches.images(1, range(3))
    assert seeds == [2791222131, 1124138155, 874196611]


def test_splits_pairs_and_swaps():
    names = [f"7_{number}.jpg" for number in range(20)]
    chosen = split_class("7", names, 0.2, 5)
    assert sorted(chosen) == ["7_0.jpg", "7_13.jpg", "7_14.jpg", "7_3.jpg"]
    first, second = metrics.sample_pairs(np.arange(12) % 3, 4).T
    assert first.tolist() == [3, 1, 4, 2, 0, 1, 9, 4]
    assert second.tolist() == [9, 10, 10, 5, 1, 3, 11, 8]
    images = np.arange(6)[:, None] * np.ones((6, 3))
    two_classes = np.eye(2)[[0, 1, 0, 1, 0, 1]]
    (((_, partner), labels),) = swap_pairs([(images, two_classes)])
    assert partner[:, 0].tolist() == [2, 5, 4, 1, 0, 3]
    assert labels["bin_out"].tolist() == [1] * 6


@pytest.mark.parametrize("num_groups", [1, 2])
def test_the_names_of_what_decides_a_result(num_groups):
    """They are compared with those in settings.json of the run."""
    devices = ALONE if num_groups == 1 else Cluster(num_devices=2, num_groups=2)
    found = settings.constants(devices)
    assert found.pop("backend") in ("tensorflow", "jax", "torch")
    if num_groups == 2:
        assert found.pop("groups of a batch") == 2
    assert found == {
        "augmentation": {
            "rotation_range": 45,
            "shear_range": pytest.approx(11.459155902616466),
            "zoom_range": 0.2,
            "horizontal_flip": True,
        },
        "plateau": {"factor": 0.1, "patience": 3, "min_lr": 1e-6},
        "resampling": "BILINEAR",
        "dropout": 0.5,
        "loss weights": {"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": 0.5},
    }
    assert settings.constants_of({"trunk": "xception", "recipe": "night", "loss": "softmax"}) == {
        "input scale": [1 / 127.5, -1.0],
        "unfreezing": "before block12_sepconv1_act",
    }
    flags = {"trunk": "xception", "recipe": "seed", "loss": "paired"}
    made = settings.make_settings(flags, [], devices, ["a"], {"train": {}, "valid": {}})
    assert list(made) == [
        *("flags", "stages", "constants", "typeids", "data", "photos", "versions")
    ]
