import concurrent.futures

import numpy as np
import pytest
from conftest import assert_one_line_error, run_script
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from pair_generator import (
    PairBatches,
    note_on_pairs,
    parse_args,
    swap_pairs,
    swap_partners,
    validation_partners,
)
from pairs.errors import UserError
from pairs.photos.draw import draw_pairs, shown
from pairs.photos.find import find_class_photos
from pairs.photos.read import Photos, read_photo

SIZE = 40


def photos_of(labels):
    """`Photos` without files, for everything that reads none."""
    return Photos([f"{n}.jpg" for n in range(len(labels))], np.array(labels, np.int32), ["a", "b"])


def random_batches(count=300):
    rng = np.random.default_rng(0)
    for _ in range(count):
        size, classes = rng.integers(2, 40), rng.integers(1, 30)
        yield rng.integers(0, classes, size=size), rng


@pytest.mark.parametrize("swap", [swap_partners, validation_partners])
def test_partners_are_a_permutation_and_no_image_meets_itself(swap):
    for labels, rng in random_batches():
        partner = swap(labels, rng)
        assert sorted(partner) == list(range(len(labels)))
        assert (partner != np.arange(len(labels))).all()


def test_every_image_whose_class_is_there_twice_is_in_a_positive_pair():
    for labels, rng in random_batches():
        partner = swap_partners(labels, rng)
        same = labels == labels[partner]
        in_positive_pair = same.copy()
        in_positive_pair[partner[same]] = True
        twice = np.bincount(labels)[labels] > 1
        assert (in_positive_pair == twice).all()
        # At most one pair is lost, where a lonely image joins a cycle.
        assert same.sum() >= twice.sum() - 1


@given(st.lists(st.integers(0, 6), min_size=2, max_size=70), st.integers(0, 2**32 - 1))
def test_any_batch_is_paired_as_promised(labels, seed):
    labels = np.array(labels)
    for swap in (swap_partners, validation_partners):
        partner = swap(labels, np.random.default_rng(seed))
        assert sorted(partner.tolist()) == list(range(len(labels)))
        assert (partner != np.arange(len(labels))).all()
    same = labels == labels[swap_partners(labels, np.random.default_rng(seed))]
    assert same.sum() >= (np.bincount(labels)[labels] > 1).sum() - 1


@pytest.mark.parametrize("batch", [24, 32, 64])
def test_share_of_positive_pairs_of_a_hundred_classes_is_the_expected_one(batch):
    # An image has a partner unless all others are of the 99 other classes.
    expected = 1 - 0.99 ** (batch - 1)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 100, size=batch) for _ in range(600)]
    found = np.mean([(labels == labels[swap_partners(labels, rng)]).mean() for labels in draws])
    assert found == pytest.approx(expected, abs=0.015)


def test_a_batch_of_one_has_no_pairs():
    with pytest.raises(ValueError, match="at least 2"):
        swap_partners(np.array([3]), np.random.default_rng(0))


@pytest.mark.parametrize("num_classes", [2, 12, 24, 1000])
def test_validation_batches_hold_both_kinds_of_pairs(num_classes):
    labels = np.repeat(np.arange(num_classes), 6)[:6000]
    batches = PairBatches(photos_of(labels), SIZE, 32, seed=0, validation=True)
    same = np.concatenate([batches.pairs(step)[2]["bin_out"] for step in range(len(batches))])
    assert 0.4 < same.mean() < (0.7 if num_classes == 2 else 0.6)
    for step in range(len(batches) - 1):
        assert 0 < batches.pairs(step)[2]["bin_out"].sum() < 32


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("count", [2, 3, 31, 32, 33, 34, 65, 100])
def test_every_photo_is_used_once_an_epoch(count, validation):
    labels = np.arange(count) % 7
    batches = PairBatches(photos_of(labels), SIZE, 32, seed=0, validation=validation)
    parts = [batches.indices(step) for step in range(len(batches))]
    assert sorted(np.concatenate(parts)) == list(range(count))
    assert min(len(part) for part in parts) >= 2
    assert max(len(part) for part in parts) <= 33
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_batches_shorter_than_a_pair_are_refused():
    with pytest.raises(UserError, match="batch size 1"):
        PairBatches(photos_of([0, 1]), SIZE, 1, seed=0)
    with pytest.raises(UserError, match="1 photos"):
        PairBatches(photos_of([0]), SIZE, 8, seed=0)


def read_all(batches, epoch, threads):
    """All batches of an epoch, asked for from many threads at once."""
    batches.epoch = epoch
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(batches.__getitem__, range(len(batches))))


def test_a_batch_is_a_function_of_seed_epoch_and_step_alone(data):
    photos = find_class_photos(data / "train")

    def images(seed, epoch, threads):
        batches = PairBatches(photos, SIZE, 4, seed, "affine")
        return np.concatenate([x["img_1"] for x, _ in read_all(batches, epoch, threads)])

    first = images(0, 0, threads=1)
    assert (images(0, 0, threads=4) == first).all()
    assert (images(0, 1, threads=1) != first).any()
    assert (images(1, 0, threads=1) != first).any()


def test_labels_say_what_the_images_are(data):
    photos = find_class_photos(data / "train")
    assert photos.typeids == ["2", "10", "pug"]
    batches = PairBatches(photos, SIZE, 6, seed=0)
    for step in range(len(batches)):
        inputs, labels = batches[step]
        assert inputs["img_1"].dtype == np.uint8
        # The classes are red, green and blue: a second look that knows no file names.
        first = inputs["img_1"].mean(axis=(1, 2)).argmax(axis=1)
        assert (first == labels["ctg_out_1"]).all()
        second = first[inputs["partner"]]
        assert (second == labels["ctg_out_2"]).all()
        assert ((first == second) == labels["bin_out"]).all()


def test_the_command_draws_a_sheet_of_pairs(data, tmp_path):
    out = tmp_path / "pairs.png"
    flags = ("--data", data / "train", "--out", out, "--batch-size", 6, "--fit", "pad")
    done = run_script("pair_generator.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "6 pairs" in done.stdout
    with Image.open(out) as sheet:
        assert sheet.size == (4 * (2 * 160 + 24), 2 * (160 + 16 + 22))
        colours = {colour for _, colour in sheet.getcolors(sheet.width * sheet.height)}
    assert (40, 140, 60) in colours  # the frame of a pair of one class
    assert (127, 127, 127) in colours  # around photos of 90 x 80


def test_the_drawing_is_augmented_as_the_recipe_is(data, tmp_path):
    photos = [read_photo(path, 160) for path in find_class_photos(data / "train").paths]
    for recipe, as_they_are in (("seed", False), ("tuned", True)):
        out = tmp_path / f"{recipe}.png"
        flags = ("--data", data / "train", "--out", out, "--batch-size", 18, "--recipe", recipe)
        done = run_script("pair_generator.py", *flags)
        assert done.returncode == 0
        # Of three classes nearly all pairs are of one; `tuned` compares all pairs in any case.
        assert ("of the pairs show the same class" in done.stdout) == (recipe == "seed")
        drawn = np.asarray(Image.open(out))[8:168, 8:168]
        views = [view for photo in photos for view in (photo, photo[:, ::-1])]
        assert any((view == drawn).all() for view in views) == as_they_are
    done = run_script("pair_generator.py", "--recipe", "tuned", "--no-augment")
    assert_one_line_error(done, "--recipe and --no-augment cannot be combined")
    done = run_script("pair_generator.py", "--image-size", "2049")
    assert_one_line_error(done, "--image-size 2049: at most 2048 pixels")


def test_no_drawing_takes_the_place_of_a_photo(data):
    photo = next((data / "train" / "2").glob("*.jpg"))
    before = photo.read_bytes()
    done = run_script("pair_generator.py", "--data", data / "train", "--out", photo)
    assert_one_line_error(done, "among the photos of --data")
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "a.gif"], "must end in .png or .jpg"),
        (["--out", "nowhere/a.png"], "the folder nowhere does not exist"),
        (["--seed", "-1"], "0 or more is needed"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_any_photo_is_read(flags, words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_args(flags)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_sheet_of_very_many_pairs_is_still_a_jpeg():
    images = np.broadcast_to(np.uint8(9), (4000, 60, 60, 3))
    zeros = np.zeros(4000, int)
    labels = {"ctg_out_1": zeros, "ctg_out_2": zeros, "bin_out": zeros}
    assert max(draw_pairs(({"img_1": images, "partner": zeros}, labels), ["a"]).size) <= 65500


def test_training_pairs_every_class_that_is_there_twice():
    """Validation halves them; two classes show the difference."""
    batches = PairBatches(photos_of([0, 1] * 60), SIZE, 24, seed=0)
    same = np.concatenate([batches.pairs(step)[2]["bin_out"] for step in range(len(batches))])
    assert same.mean() > 0.9
    assert same.dtype == np.int32


def test_two_images_are_a_batch():
    batches = PairBatches(photos_of([0, 1, 0, 1]), SIZE, 2, seed=0)
    assert len(batches) == 2
    assert batches.pairs(0)[1].tolist() == [1, 0]


def test_steps_epochs_seeds_and_uses_draw_numbers_of_their_own():
    """A photo that meets the same partner in every epoch teaches less."""
    photos = photos_of([0] * 64)

    def drawn(seed=0, epoch=0, step=0, validation=False):
        batches = PairBatches(photos, SIZE, 16, seed, "mirror", validation)
        batches.epoch = epoch
        return batches.pairs(step)[1].tolist(), batches.mirrored(step).tolist()

    first = drawn()
    for other in (drawn(step=1), drawn(epoch=1), drawn(seed=1)):
        assert first[0] != other[0]
        assert first[1] != other[1]
    assert drawn() == first
    assert drawn(validation=True) == drawn(validation=True, epoch=5)
    batches = PairBatches(photos, SIZE, 16, seed=0)
    numbers = [
        batches.rng(use, step, epoch).integers(2**63)
        for use in range(1, 4)
        for step in range(4)
        for epoch in range(4)
    ]
    assert len(set(numbers)) == len(numbers)


def test_mirroring_turns_half_of_the_images_and_nothing_else_does():
    batches = PairBatches(photos_of([0] * 4000), SIZE, 4000, seed=0, augment="mirror")
    mirrored = batches.mirrored(0)
    assert mirrored.dtype == bool
    assert mirrored.mean() == pytest.approx(0.5, abs=0.05)
    for augment in (None, "affine"):
        batches = PairBatches(photos_of([0] * 40), SIZE, 40, seed=0, augment=augment)
        assert not batches.mirrored(0).any()
        assert batches.mirrored(0).dtype == bool


@pytest.mark.parametrize("augment", [None, "mirror", "affine"])
def test_each_way_to_augment_does_what_its_name_says(augment, data):
    photos = find_class_photos(data / "train")
    batches = PairBatches(photos, SIZE, 9, seed=0, augment=augment)
    seen = set()
    for step in range(len(batches)):
        indices = batches.indices(step)
        plain = np.stack([read_photo(photos.paths[index], SIZE) for index in indices])
        images = batches[step][0]["img_1"]
        as_it_is = (images == plain).all(axis=(1, 2, 3))
        turned = (images == plain[:, :, ::-1]).all(axis=(1, 2, 3))
        seen |= {
            ("plain" if a else "mirrored" if b else "other")
            for a, b in zip(as_it_is, turned, strict=True)
        }
    assert seen == {None: {"plain"}, "mirror": {"plain", "mirrored"}, "affine": {"other"}}[augment]


def test_every_image_is_transformed_in_its_own_way(data, monkeypatch):
    seeds = []
    photos = find_class_photos(data / "train")
    many = photos.take(np.tile(np.arange(len(photos)), 20))
    batches = PairBatches(many, 8, 30, seed=0, augment="affine")
    monkeypatch.setattr(
        "pair_generator.augment", lambda image, seed, *_: seeds.append(int(seed)) or image
    )
    for step in range(len(batches)):
        batches.images(step, range(30))
    assert len(set(seeds)) == len(seeds) == 360


def batches_of_numbers(*sizes):
    """Batches whose images are their own numbers, in classes of three."""
    start = 0
    for size in sizes:
        numbers = np.arange(start, start + size)
        yield np.tile(numbers[:, None, None, None], (1, 2, 2, 3)).astype(np.float32), numbers // 3
        start += size


def check_swapped(swapped, images, classes):
    (first, second), labels = swapped
    np.testing.assert_array_equal(first, images)
    numbers = second[:, 0, 0, 0]
    assert sorted(numbers) == sorted(images[:, 0, 0, 0])
    assert (numbers != images[:, 0, 0, 0]).all()  # nobody meets itself
    assert labels["ctg_out_1"].tolist() == classes.tolist()
    assert labels["ctg_out_2"].tolist() == (numbers // 3).tolist()
    assert labels["bin_out"].tolist() == (classes == numbers // 3).astype(int).tolist()
    assert {array.dtype for array in labels.values()} == {np.dtype(np.int32)}
    # A class that is in the batch twice is swapped with itself.
    twice = np.bincount(classes)[classes] > 1
    assert labels["bin_out"].sum() >= twice.sum() - 1


@pytest.mark.parametrize("form", ["integers", "column", "one-hot", "floats"])
def test_any_batches_of_images_become_pairs(form):
    sizes = (8, 7, 1, 2)
    forms = {
        "integers": lambda classes: classes,
        "column": lambda classes: classes[:, None],
        "one-hot": lambda classes: np.eye(9)[classes],
        "floats": lambda classes: classes.astype(np.float32),
    }
    given_ = [(images, forms[form](classes)) for images, classes in batches_of_numbers(*sizes)]
    expected = [batch for batch in batches_of_numbers(*sizes) if len(batch[1]) > 1]
    found = list(swap_pairs(iter(given_), seed=1))
    assert len(found) == len(expected) == 3  # the batch of one has no pairs
    for swapped, (images, classes) in zip(found, expected, strict=True):
        check_swapped(swapped, images, classes)


def test_the_seed_decides_who_meets_whom():
    def second(seed):
        (swapped,) = swap_pairs(batches_of_numbers(30), seed)
        return swapped[0][1]

    np.testing.assert_array_equal(second(0), second(0))
    assert (second(0) != second(1)).any()


@pytest.mark.parametrize(
    "batch", [np.zeros((4, 2, 2, 3)), (np.zeros((4, 2)),), (np.zeros((4, 2)), np.zeros(3))]
)
def test_a_batch_that_is_something_else_is_refused(batch):
    with pytest.raises(ValueError, match=r"\(images, labels\) is expected|one each"):
        next(swap_pairs([batch]))


@pytest.mark.slow
def test_the_two_image_model_trains_behind_a_real_flow_from_directory(data, built_small_trunk):
    import keras
    from keras._tf_keras.keras.preprocessing.image import ImageDataGenerator

    from model import build_model
    from pairs.network.parts import unfreeze
    from pairs.training.optimizer import compile_model

    side = built_small_trunk.input_shape[1]
    flow, sparse = (
        ImageDataGenerator(horizontal_flip=True).flow_from_directory(
            data / "train",
            (side, side),
            classes=["2", "10", "pug"],
            class_mode=class_mode,
            batch_size=7,
            seed=0,
        )
        for class_mode in ("categorical", "sparse")
    )
    labels, others = (next(swap_pairs(each))[1] for each in (flow, sparse))
    for head in ("ctg_out_1", "ctg_out_2", "bin_out"):
        np.testing.assert_array_equal(labels[head], others[head])
    keras.utils.set_random_seed(0)
    model = build_model(built_small_trunk, ["2", "10", "pug"])
    unfreeze(model, None)
    compile_model(model, keras.optimizers.Adam(0.01))
    fitted = model.fit(
        swap_pairs(flow), steps_per_epoch=len(flow), epochs=20, shuffle=False, verbose=0
    )
    history = fitted.history
    assert history["ctg_out_1_accuracy"][-1] > history["ctg_out_1_accuracy"][0]
    assert history["ctg_out_2_accuracy"][-1] > 0.7  # three colours


@pytest.mark.parametrize(("num_classes", "noted"), [(2, True), (3, True), (40, False)])
def test_batches_that_hold_hardly_any_other_pair_are_noted(num_classes, noted):
    photos = photos_of(np.arange(320) % num_classes)
    note = note_on_pairs(PairBatches(photos, SIZE, 32, seed=0))
    assert bool(note) == noted
    if noted:
        assert "% of the pairs show the same class" in note
        assert "--recipe tuned" in note
        assert not note_on_pairs(PairBatches(photos, SIZE, 2, seed=0))


def test_a_typeid_is_drawn_as_wide_as_its_place():
    """A letter that the font lacks would be an empty box."""
    font = ImageFont.load_default(size=14)
    typeids = ["pug", "\u85cf\u7352", "caf\xe9", "an_uncommonly_long_name_of_a_breed"]
    # Pillow's font has no letter beyond ASCII.
    drawn = [shown(label, typeids, font, 80) for label in range(3)]
    assert drawn == ["pug", "(no. 2)", "(no. 3)"]
    short = shown(3, typeids, font, 80)
    assert short.startswith("an_unc")
    assert short.endswith("...")
    assert 60 < font.getlength(short) <= 80
    assert shown(3, typeids, font, 0) == ""
