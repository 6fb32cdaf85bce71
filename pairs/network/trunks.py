"""The trunk: a network of `keras.applications` without its top, and its weights.

Scaled images enter, an average-pooled feature comes out. One table, `TRUNKS`,
says what the project knows of each; reading it needs no Keras. If ImageNet
weights cannot be had, the BatchNormalization statistics of a random trunk are
estimated, so that its features can be learned from.
"""

import dataclasses
import pathlib
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pairs.errors import UserError

if TYPE_CHECKING:
    import keras

# Bytes to [-1, 1]: `(scale, offset)` of what the ImageNet weights expect.
INPUT_SCALE = (1 / 127.5, -1.0)


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A network of `keras.applications` and where the recipe cuts it.

    Attributes:
        builder: its name in `keras.applications`.
        min_image_size: the smallest side in pixels that it accepts.
        unfreeze_from: index of the first layer that trains once blocks do.
        cut: index of the layer whose output is all that those layers read.
        half: the same where the trunk's upper half trains; all layers above it do.
        weights_file: Keras' own name of the ImageNet weights.
    """

    builder: str
    min_image_size: int
    unfreeze_from: int
    cut: int
    half: int
    weights_file: str

    def training_place(self, unfreeze: str | None) -> tuple[int | None, int | None]:
        """Where a stage trains.

        Args:
            unfreeze: of `recipe.Stage`.

        Returns:
            `(first, cut)`: index of the first layer that trains, and of the one whose
            output is all that the trained ones read; None, None: the trunk is frozen.
        """
        return {
            None: (None, None),
            "blocks": (self.unfreeze_from, self.cut),
            "half": (self.half + 1, self.half),
        }[unfreeze]


TRUNKS = {
    # Layer 105 is the Add that closes block 11: blocks 12, 13 and 14 are trained. The
    # upper half begins with block 9.
    "xception": Trunk(
        "Xception",
        min_image_size=71,
        unfreeze_from=105,
        cut=105,
        half=75,
        weights_file="xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    # Layer 248 is `mixed8`: the top two inception blocks, the number of the
    # Keras documentation's own fine-tuning example. Layer 196 is `mixed6`.
    "inceptionv3": Trunk(
        "InceptionV3",
        min_image_size=75,
        unfreeze_from=249,
        cut=248,
        half=196,
        weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
}


def build_trunk(
    name: str, image_size: int, pretrained: str, weights_folder: str | pathlib.Path
) -> "keras.Model":
    """Builds the headless trunk: scaled images to average-pooled features.

    Args:
        name: key of `TRUNKS`.
        image_size: side in pixels.
        pretrained: "none" for random weights, "imagenet", or a weights file.
        weights_folder: where a file brought by the user may lie.

    Returns:
        a model named "trunk", output shape `(batch, 2048)`.

    Raises:
        UserError: the weights are not there or do not fit.
    """
    import keras

    trunk = TRUNKS[name]

    def build(weights):
        shape = (image_size, image_size, 3)
        return getattr(keras.applications, trunk.builder)(
            weights=weights, include_top=False, pooling="avg", input_shape=shape, name="trunk"
        )

    if pretrained == "none":
        return build(None)
    brought = pathlib.Path(weights_folder, trunk.weights_file)
    if pretrained == "imagenet" and not brought.is_file():
        try:
            return build("imagenet")  # lets Keras download it
        except Exception as error:  # Keras raises a bare Exception without network
            raise UserError(
                f"no ImageNet weights for {name}: the download failed ({error}). Put "
                f"{trunk.weights_file} into {weights_folder}, or use --pretrained FILE or none"
            ) from error
    file = brought if pretrained == "imagenet" else pathlib.Path(pretrained)
    model = build(None)
    load_all_weights(model, file, name)
    return model


def load_all_weights(trunk: "keras.Model", file: pathlib.Path, name: str) -> None:
    """Loads a weights file into a trunk, and makes sure that nothing was missed."""
    import keras

    # Keras passes over what the file lacks and would train on random weights:
    # what is still not a number afterwards was missed.
    for weight in trunk.weights:
        weight.assign(np.full(weight.shape, np.nan, weight.dtype))
    expected = f"{file}: not the weights of {name} without its top layer"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said below, in one line
            trunk.load_weights(str(file))
    except Exception as error:  # whatever a damaged or foreign file leads to
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(f"{expected}; another --trunk? ({reason})") from error
    missed = [
        weight.path
        for weight in trunk.weights
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all()
    ]
    if missed:
        raise UserError(f"{expected} (no numbers for {len(missed)} weights, e.g. {missed[0]})")


def estimate_statistics(trunk: "keras.Model", batches: Iterable[np.ndarray]) -> None:
    """Gives a random trunk the BatchNormalization statistics of real images.

    All our stages use the moving statistics; the initial ones (mean 0, variance
    1) let random weights shrink a feature to 1e-5, and no head learns from that.

    Args:
        trunk: `build_trunk(...)` with random weights; changed in place.
        batches: float32 arrays, shape `(batch, size, size, 3)`, scaled.
    """
    import keras

    normalizations = [
        layer for layer in trunk.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in normalizations]
    trunk.trainable = True
    for number, images in enumerate(batches):
        for layer in normalizations:  # the plain mean over all batches
            layer.momentum = number / (number + 1)
        trunk(keras.ops.convert_to_tensor(images), training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
