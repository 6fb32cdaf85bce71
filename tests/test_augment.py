import numpy as np
import pytest
from PIL import Image

from pairs.photos import augment
from pairs.photos.read import read_photo


def stock_generator():
    """The reference's ImageDataGenerator, its numbers written out."""
    from keras._tf_keras.keras.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        rotation_range=45, shear_range=11.459155902616465, zoom_range=0.2, horizontal_flip=True
    )


def differences(images):
    """Grey levels between the stock generator's result and ours, over all images."""
    stock, ours = stock_generator(), augment.make_augmenter()
    return np.concatenate(
        [
            np.abs(
                stock.random_transform(image.astype(np.float32), seed=seed)
                - np.asarray(augment.augment(Image.fromarray(image), seed, ours))
            ).ravel()
            for seed, image in enumerate(images)
        ]
    )


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
    augment.augment(Image.new("RGB", (9, 9)), 1, augment.make_augmenter())
    assert np.random.rand() == expected


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (3, 0, 1, 7)])
def test_edges_are_repeated_as_numpy_does(pads):
    image = np.random.default_rng(0).integers(0, 256, size=(5, 6, 3)).astype(np.uint8)
    left, right, top, bottom = pads
    expected = np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")
    padded = augment.repeat_edge(Image.fromarray(image), *pads)
    np.testing.assert_array_equal(np.asarray(padded), expected)
