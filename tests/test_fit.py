"""How photos become squares, from the file to the heat map, and that everybody agrees."""

import csv
import dataclasses
import itertools
import types

import keras
import numpy as np
import pytest
from conftest import COLOURS, SIZE, make_photo
from PIL import Image, ImageDraw, ImageOps

import train
from model import build_model
from pairs.errors import UserError
from pairs.evaluation import evaluate, mistakes
from pairs.evaluation.figures import thumbnail
from pairs.evaluation.heat_maps import find_heat_maps
from pairs.evaluation.predictor import Predictor
from pairs.photos.find import find_class_photos
from pairs.photos.fit import FITS
from pairs.photos.folds import pool_sides
from pairs.photos.read import Photos, open_photo, read_photo
from pairs.photos.views import MAX_VIEWS, read_views

WIDE, TALL = (300, 200), (200, 300)


def draw_circle(path, size, radius=80):
    """Writes a photo of a white disc in its middle."""
    image = Image.new("RGB", size, "black")
    x, y = (side / 2 for side in size)
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), "white")
    image.save(path)


def extents(pixels):
    """Width, height and middle of what is white."""
    white = pixels[..., 0] > 127
    spans = [np.flatnonzero(white.any(axis=axis)) for axis in (0, 1)]
    return [np.ptp(span) + 1 for span in spans] + [span.mean() for span in spans]


@pytest.mark.parametrize("size", [WIDE, TALL])
@pytest.mark.parametrize(("fit", "diameter"), [("crop", 80), ("pad", 160 / 3)])
def test_a_circle_in_the_middle_stays_one(tmp_path, size, fit, diameter):
    draw_circle(tmp_path / "a.png", size)
    width, height, *middle = extents(read_photo(tmp_path / "a.png", 100, fit))
    assert abs(width - height) <= 1
    assert abs(width - diameter) <= 1.5
    np.testing.assert_allclose(middle, 49.5, atol=0.5)
    width, height, *_ = extents(read_photo(tmp_path / "a.png", 100))
    assert abs(width - height) > 20


def by_hand(path, image_size):
    """What the network saw of a photo before there was a choice, through Pillow alone."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * image_size, 2 * image_size))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(upright.resize((image_size, image_size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "turned.jpg", "grey.jpg"])
@pytest.mark.parametrize("size", [(1283, 640), (90, 301)])
def test_squashed_as_ever_bit_for_bit(tmp_path, name, size):
    make_photo(tmp_path / name, COLOURS["2"], seed=1, size=size)
    with Image.open(tmp_path / name) as image:
        image.load()
    exif = Image.Exif()
    exif[0x0112] = 6 if name == "turned.jpg" else 1
    image.convert("L" if name == "grey.jpg" else "RGB").save(tmp_path / name, exif=exif)
    expected = by_hand(tmp_path / name, 75)
    np.testing.assert_array_equal(read_photo(tmp_path / name, 75), expected)
    np.testing.assert_array_equal(read_photo(tmp_path / name, 75, "squash"), expected)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_square_photo_is_the_same_in_every_fit(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    make_photo(path, COLOURS["2"], seed=1, size=(333, 333))
    for fit in FITS:
        np.testing.assert_array_equal(read_photo(path, 75, fit), by_hand(path, 75))


@pytest.mark.parametrize("turn", [1, 6])  # 6: stored lying, shown upright
def test_a_crop_leaves_the_sides_out_and_padding_shows_them(tmp_path, turn):
    stripes = Image.new("RGB", (300, 100), "red")
    stripes.paste("lime", (100, 0, 200, 100))
    stripes.paste("blue", (200, 0, 300, 100))
    exif = Image.Exif()
    exif[0x0112] = turn
    stripes.save(tmp_path / "a.png", exif=exif)
    cropped, padded = (read_photo(tmp_path / "a.png", 90, fit) for fit in ("crop", "pad"))
    if turn == 6:
        cropped, padded = (pixels.transpose(1, 0, 2) for pixels in (cropped, padded))
    assert (cropped[:, 1:-1] == (0, 255, 0)).all()  # at the rim the filter sees its neighbours
    assert (padded[:30] == 127).all()
    assert (padded[60:] == 127).all()
    for place, colour in ((0, (255, 0, 0)), (45, (0, 255, 0)), (89, (0, 0, 255))):
        assert (padded[30:60, place] == colour).all()


@pytest.mark.parametrize("size", [(8, 8), (900, 8), (8, 900), (12, 9), (1201, 1200)])
def test_any_shape_becomes_a_square(tmp_path, size):
    make_photo(tmp_path / "a.jpg", COLOURS["2"], seed=0, size=size)
    for fit, side in itertools.product(FITS, (31, 64)):
        assert read_photo(tmp_path / "a.jpg", side, fit).shape == (side, side, 3)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_large_jpeg_decoded_at_reduced_scale_loses_nothing(tmp_path, fit):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, size=(9, 16, 3)).astype(np.uint8))
    smooth.resize((1600, 900), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=92)
    with Image.open(tmp_path / "a.jpg") as image:
        image.load()
    image.save(tmp_path / "a.png")  # which has no reduced scale
    one, other = (
        read_photo(tmp_path / f"a.{kind}", 100, fit).astype(int) for kind in ("jpg", "png")
    )
    assert np.abs(one - other).max() <= 3


@pytest.mark.parametrize("fit", FITS)
def test_views_are_of_what_the_fit_shows(tmp_path, fit):
    make_photo(tmp_path / "a.png", COLOURS["2"], seed=1, size=(120, 64))
    views = read_views(tmp_path / "a.png", 56, MAX_VIEWS, fit)
    large = read_photo(tmp_path / "a.png", 64, fit)
    np.testing.assert_array_equal(views[0], read_photo(tmp_path / "a.png", 56, fit))
    np.testing.assert_array_equal(views[1::2], views[::2, :, ::-1])
    np.testing.assert_array_equal(views[2], large[4:60, 4:60])
    np.testing.assert_array_equal(views[10], large[8:, 8:])


def test_photos_remember_their_fit(tmp_path):
    make_photo(tmp_path / "a.png", COLOURS["2"], seed=1, size=WIDE)
    photos = Photos(2 * [str(tmp_path / "a.png")], np.array([0, 1]), ["a", "b"], ["x", "y"])
    assert photos.fit == "squash"
    photos = dataclasses.replace(photos, fit="crop")
    for some in (photos, photos.take([1]), pool_sides([photos, photos])):
        pixels = np.asarray(some.open(0, 50))
        np.testing.assert_array_equal(pixels, read_photo(tmp_path / "a.png", 50, "crop"))


@pytest.mark.parametrize("fit", FITS)
def test_a_heat_map_lies_where_the_network_looked(tmp_path, fit, small_trunk):
    """It is that of the square, saved and shown to the same model as it is."""
    from pairs.network.trunks import build_trunk

    keras.utils.set_random_seed(0)
    model = build_model(build_trunk("xception", SIZE, "none"), ["a", "b"], fit=fit)
    make_photo(tmp_path / "a.png", COLOURS["2"], seed=1, size=WIDE)
    open_photo(tmp_path / "a.png", SIZE, fit).save(tmp_path / "square.png")
    predictors = [
        types.SimpleNamespace(models=[model], image_size=SIZE, fit=each) for each in (fit, "squash")
    ]
    paths = [str(tmp_path / "a.png")], [str(tmp_path / "square.png")]
    maps = [
        np.stack(find_heat_maps(predictor, 2 * path, np.array([0, 1])))
        for predictor, path in zip(predictors, paths, strict=True)
    ]
    assert maps[0].max() > 0
    np.testing.assert_array_equal(*maps)


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """Wide photos whose sides tell nothing, of classes of 8, 6 and 4 (to validate: 3, 2, 1)."""
    folder, rng = tmp_path_factory.mktemp("lopsided"), np.random.default_rng(0)
    for label, (typeid, colour) in enumerate(COLOURS.items()):
        for side, count in (("train", 8 - 2 * label), ("valid", 3 - label)):
            (folder / side / typeid).mkdir(parents=True)
            for number in range(count):
                sides = rng.integers(0, 256, 3)
                pixels = np.clip(rng.normal(sides, 30, (80, 200, 3)), 0, 255)
                pixels[:, 60:140] = np.clip(rng.normal(colour, 60, (80, 80, 3)), 0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / side / typeid / f"{number}.png")
    return folder


@pytest.fixture
def cropping(lopsided, tmp_path, small_trunk):
    """A weights folder after one stage of `--fit crop --balance`, one head."""
    flags = f"--loss softmax --fit crop --balance --epochs 6 0 0 --image-size {SIZE}"
    words = ["--data", str(lopsided), "--weights", str(tmp_path), *flags.split()]
    train.train(train.parse_args([*words, "--batch-size", "4", "--pretrained", "none"]))
    return tmp_path, words


@pytest.mark.slow
def test_prediction_sees_what_validation_saw(cropping, lopsided):
    """The model file alone says how; the lowest loss of validation comes out of `predict.py`."""
    weights, words = cropping
    predictor = Predictor(weights)
    assert predictor.fit == "crop"
    valid = find_class_photos(lopsided / "valid", predictor.typeids)

    def balanced_loss():
        found = predictor.predict(valid.paths).probabilities
        losses = -np.log(found[np.arange(len(valid)), valid.labels])
        return np.mean([losses[valid.labels == label].mean() for label in range(3)])

    with (weights / "log.csv").open() as file:
        best = min(float(row["val_loss"]) for row in csv.DictReader(file))
    assert balanced_loss() == pytest.approx(best, rel=1e-4)
    predictor.fit = "squash"
    assert balanced_loss() != pytest.approx(best, rel=1e-2)
    predictor.fit = "crop"
    check_report(predictor, valid)
    with pytest.raises(UserError, match="--fit was crop, is now pad") as refused:
        train.train(train.parse_args([*words, "--batch-size", "4", "--fit", "pad"]))
    assert "\n" not in str(refused.value)


def check_report(predictor, valid):
    """The page shows photos, heat maps and neighbours as the network sees them."""
    wrong = Photos(valid.paths, (valid.labels + 1) % 3, valid.typeids)
    evaluation = evaluate.evaluate(predictor, wrong, predictor.predict(wrong.paths))
    shown = mistakes.describe_mistakes(evaluation, predictor, valid)

    def as_seen(side):
        return {thumbnail(open_photo(path, side, "crop"), side) for path in valid.paths}

    cards = {mistake["image"] for mistake in shown}
    near = {near["image"] for each in shown for near in each["near"]}
    assert cards
    assert near
    assert cards <= as_seen(mistakes.CARD)
    assert near <= as_seen(mistakes.NEIGHBOUR)
