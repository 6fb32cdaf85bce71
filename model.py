"""The network: one shared trunk, two softmax heads, and "the same class or not".

    img_1 --> trunk --> feature 1 --> dropout --> ctg_out_1   typeid of img_1
                           |
                   square, or cosine -----------> bin_out     different / same
                           |
    img_2 --> trunk --> feature 2 --> dropout --> ctg_out_2   typeid of img_2

Images enter as bytes, `(batch, size, size, 3)` in 0..255; the model scales them
itself. `same` is output 1 of `bin_out`. In training the second image is always
another image of the same batch, so every image passes the trunk once, and the
second feature is gathered by the permutation (`connect` in pairs/network/parts.py).

The three losses of 2017 are cross-entropies, weighted 1, 1 and 0.5, and its pair head
looks at the squared difference of the features, number by number. With
`Recipe.all_pairs` (pairs/training/recipe.py) it looks at their cosine, one number, so
that every pair of a batch can be compared in one matrix product.

Source: the entry of 2017; the verification loss of arXiv:1611.05666; for all pairs the
sigmoid loss of arXiv:2303.15343, there of images and texts, and the supervised
contrastive loss of arXiv:2004.11362.
"""

import keras
import numpy as np

from pairs.network.layers import CosineSimilarity, SquaredDifference, TypeidHead
from pairs.photos.fit import SQUASH
from pairs.training import recipe

# Kernel and bias of a pair head on cosines: the logit of "same" is 10 cos - 6.
COSINE_START = [np.array([[-5.0, 5.0]]), np.array([3.0, -3.0])]


def build_model(
    trunk: keras.Model,
    typeids: list[str],
    num_photos: list[int] | None = None,
    paired: bool = True,
    all_pairs: bool = False,
    fit: str = SQUASH,
) -> keras.Model:
    """Puts the heads on the trunk. This is the model that is saved.

    Args:
        trunk: `build_trunk(...)`; its `input_scale` becomes the layer `scale`.
        typeids: the classes in the order of their labels.
        num_photos: training photos of each, those of all folds together; None: unknown.
        paired: False leaves one image, its softmax, and no pair: the
            "softmax only" systems of 2017.
        all_pairs: the pair head looks at the cosine of the features.
        fit: how photos become squares; the model only remembers it.

    Returns:
        a model with inputs `img_1` (and `img_2`), outputs a dict of
        `ctg_out_1` (and `ctg_out_2`), shape `(batch, len(typeids))`, and, if paired,
        `bin_out`, shape `(batch, 2)`: all probabilities.
    """
    scale = keras.layers.Rescaling(*trunk.input_scale, name="scale")
    images = [
        keras.Input(trunk.input_shape[1:], dtype="uint8", name=f"img_{number}")
        for number in ((1, 2) if paired else (1,))
    ]
    # training=False: BatchNormalization uses its moving statistics, always.
    features = [trunk(scale(image), training=False) for image in images]
    # Half precision ends at the feature: a softmax and its loss need the weights' own.
    dtype = keras.config.dtype_policy().variable_dtype
    outputs = {
        f"ctg_out_{number}": TypeidHead(
            typeids, num_photos, fit, name=f"ctg_out_{number}", dtype=dtype
        )(keras.layers.Dropout(recipe.DROPOUT, name=f"dropout_{number}", dtype=dtype)(feature))
        for number, feature in enumerate(features, start=1)
    }
    if paired:
        compare: keras.layers.Layer = (
            CosineSimilarity(name="cosine", dtype=dtype)
            if all_pairs
            else SquaredDifference(name="square", dtype=dtype)
        )
        same = keras.layers.Dense(2, activation="softmax", name="bin_out", dtype=dtype)
        outputs["bin_out"] = same(compare(features))
        if all_pairs:
            same.set_weights(COSINE_START)
    return keras.Model(images, outputs, name="pair_model" if paired else "softmax_model")
