import numpy as np
import pytest
from PIL import Image

from pairs.photos import augment
from pairs.photos.read import read_photo
from pairs.training.recipe import AUGMENTATION


def stock_generator():
    """The reference's ImageDataGenerator, its numbers written out."""
    from keras._tf_keras.keras.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        rotation_range=45, shear_range=11.459155902616465, zoom_range=0.2, horizontal_flip=True
    )


def differences(images):
    """Grey levels between the stock generator's result and ours, over all images."""
    stock = stock_generator()
    return np.concatenate(
        [
            np.abs(
                stock.random_transform(image.astype(np.float32), seed=seed)
                - np.asarray(augment.augment(Image.fromarray(image), seed, AUGMENTATION))
            ).ravel()
            for seed, image in enumerate(images)
        ]
    )


def test_the_numbers_drawn_are_those_of_the_stock_generator():
    stock = stock_generator()
    for seed in [*range(500), 2**32 - 1]:
        expected = stock.get_random_transform((9, 9, 3), seed=seed)
        drawn = augment.draw_transform(seed, AUGMENTATION)
        angles = (expected["theta"], expected["shear"])
        assert (drawn.theta, drawn.shear) == pytest.approx(angles, rel=1e-12)
        assert (drawn.zx, drawn.zy) == (expected["zx"], expected["zy"])
        assert drawn.mirror == expected["flip_horizontal"]


def test_without_flips_nothing_is_mirrored():
    ranges = {**AUGMENTATION, "horizontal_flip": False}
    assert not any(augment.draw_transform(seed, ranges).mirror for seed in range(50))


def test_200_draws_are_within_a_grey_level_of_the_stock_generator():
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, size=(side, side, 3)).astype(np.uint8)
        for side in rng.integers(9, 121, size=200)
    ]
    apart = differences(images)
    assert (apart <= 1).mean() >= 0.999
    assert apart.max() <= 2


def test_real_photos_too(shared):
    paths = sorted((shared / "dogs24" / "raw").iterdir())[::84]
    apart = differences([read_photo(path, 299) for path in paths])
    assert (apart <= 1).mean() >= 0.999
    assert apart.max() <= 2


def test_images_that_are_not_square_are_transformed_alike():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, size=(40, 67, 3)).astype(np.uint8) for _ in range(20)]
    assert differences(images).max() <= 2


def test_numpys_global_generator_is_left_alone():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    augment.augment(Image.new("RGB", (9, 9)), 1, AUGMENTATION)
    assert np.random.rand() == expected


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (3, 0, 1, 7)])
def test_edges_are_repeated_as_numpy_does(pads):
    image = np.random.default_rng(0).integers(0, 256, size=(5, 6, 3)).astype(np.uint8)
    left, right, top, bottom = pads
    expected = np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")
    padded = augment.repeat_edge(Image.fromarray(image), *pads)
    np.testing.assert_array_equal(np.asarray(padded), expected)
