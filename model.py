"""The network: one shared trunk, two softmax heads, and "the same class or not".

    img_1 --> trunk --> feature 1 --> dropout --> ctg_out_1   typeid of img_1
                           |
                         square   --------------> bin_out     different / same
                           |
    img_2 --> trunk --> feature 2 --> dropout --> ctg_out_2   typeid of img_2

Images enter as bytes, `(batch, size, size, 3)` in 0..255; the model scales them
itself. `same` is output 1 of `bin_out`. All three losses are cross-entropies,
weighted 1, 1 and 0.5 (`LOSS_WEIGHTS` in pairs/training/recipe.py). In training
the second image is always another image of the same batch, so every image
passes the trunk once, and the second feature is gathered by the permutation
(`connect` in pairs/network/parts.py).

Source: the seed; the verification loss of arXiv:1611.05666.
"""

import keras

from pairs.network import trunks
from pairs.network.layers import SquaredDifference, TypeidHead
from pairs.training import recipe


def build_model(
    trunk: keras.Model,
    typeids: list[str],
    num_photos: list[int] | None = None,
    paired: bool = True,
) -> keras.Model:
    """Puts the heads on the trunk. This is the model that is saved.

    Args:
        trunk: `build_trunk(...)`.
        typeids: the classes in the order of their labels.
        num_photos: training photos of each; None: unknown.
        paired: False leaves one image, its softmax, and no pair: the
            "softmax only" systems of the seed's table.

    Returns:
        a model with inputs `img_1` (and `img_2`), outputs a dict of
        `ctg_out_1` (and `ctg_out_2`, shape `(batch, len(typeids))`, and
        `bin_out`, shape `(batch, 2)`), all probabilities.
    """
    scale = keras.layers.Rescaling(*trunks.INPUT_SCALE, name="scale")
    images = [
        keras.Input(trunk.input_shape[1:], dtype="uint8", name=f"img_{number}")
        for number in ((1, 2) if paired else (1,))
    ]
    # training=False: BatchNormalization uses its moving statistics, always.
    features = [trunk(scale(image), training=False) for image in images]
    # Half precision ends at the feature: a softmax and its loss need the weights' own.
    dtype = keras.config.dtype_policy().variable_dtype
    outputs = {
        f"ctg_out_{number}": TypeidHead(typeids, num_photos, name=f"ctg_out_{number}", dtype=dtype)(
            keras.layers.Dropout(recipe.DROPOUT, name=f"dropout_{number}", dtype=dtype)(feature)
        )
        for number, feature in enumerate(features, start=1)
    }
    if paired:
        square = SquaredDifference(name="square", dtype=dtype)(features)
        same = keras.layers.Dense(2, activation="softmax", name="bin_out", dtype=dtype)
        outputs["bin_out"] = same(square)
    return keras.Model(images, outputs, name="pair_model" if paired else "softmax_model")
