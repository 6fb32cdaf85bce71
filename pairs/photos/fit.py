"""How a photo of any shape becomes the square that the network sees: `train.py --fit`."""

from PIL import Image, ImageOps

FITS = SQUASH, CROP, PAD = "squash", "crop", "pad"
# Bilinear with antialiasing. ImageDataGenerator's own default, nearest
# neighbour, drops the fur between the sampled pixels.
RESAMPLING = Image.Resampling.BILINEAR
# Between -1 and 1, as the network scales pixels, it is all but 0: what its convolutions
# themselves pad with. Repeated edge pixels were far worse: docs/experiments.md.
GREY = (127, 127, 127)


def fit_photo(image: Image.Image, image_size: int, fit: str | None) -> Image.Image:
    """Makes an image as large, and of the shape, that is asked for.

    Args:
        image: RGB, upright.
        image_size: side in pixels.
        fit: "squash": resized to a square, whatever its shape (the way of 2017);
            "crop": its largest centred square; "pad": the whole image in the middle of
            grey. None: the whole image and no square; `image_size` is its longer side.
    """
    square = (image_size, image_size)
    if fit == CROP:
        return ImageOps.fit(image, square, RESAMPLING)
    if fit == PAD:
        return ImageOps.pad(image, square, RESAMPLING, GREY)
    if fit is None:
        ratio = image_size / max(image.size)
        square = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.resize(square, RESAMPLING)
