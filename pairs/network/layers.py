"""The layers that Keras does not bring along.

`SquaredDifference`, `CosineSimilarity` and `TypeidHead` are registered, so a model
file names them and holds no code; `MatrixProduct` is in no model file.
"""

from collections.abc import Sequence
from typing import Any

import keras

from pairs.photos.fit import SQUASH

# What trains in an unfrozen block: kernels and their biases; a Dense layer is ConvNeXt's
# 1x1 convolution. What normalises or scales keeps its ImageNet weights and statistics
# (BatchNormalization, LayerNormalization, LayerScale): small batches would spoil it.
KERNELS = (
    keras.layers.Conv2D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)


@keras.saving.register_keras_serializable(package="pairs")
class SquaredDifference(keras.layers.Layer):
    """`(a - b)**2` element by element: the terms of the squared distance.

    A registered layer and not a Lambda: a Lambda is code in the model file.
    """

    def call(self, features: Any) -> Any:
        first, second = features
        return keras.ops.square(first - second)


@keras.saving.register_keras_serializable(package="pairs")
class CosineSimilarity(keras.layers.Layer):
    """The cosine of the angle between two features, shape `(batch, 1)`.

    Of features of unit length it is the squared distance in another unit:
    `|a - b|**2 = 2 - 2 cos`.
    """

    def call(self, features: Any) -> Any:
        first, second = (keras.ops.normalize(feature, axis=-1) for feature in features)
        return keras.ops.sum(first * second, axis=-1, keepdims=True)

    def all_pairs(self, feature: Any) -> Any:
        """The cosine of every pair of a batch, shape `(batch, batch, 1)`."""
        unit = keras.ops.normalize(keras.ops.cast(feature, self.compute_dtype), axis=-1)
        return keras.ops.expand_dims(keras.ops.matmul(unit, keras.ops.transpose(unit)), -1)


@keras.saving.register_keras_serializable(package="pairs")
class TypeidHead(keras.layers.Dense):
    """A softmax over the classes that knows their typeids, and how it was shown photos.

    Both travel inside the model file, so prediction needs no training folder and
    no flag, and no other order of class folders can shift a label.

    Args:
        typeids: output `i` is the probability of `typeids[i]`.
        num_photos: training photos of each class, those of all folds together; None: unknown.
        fit: how photos become squares, see `pairs.photos.fit`; files from before
            there was a choice do not say.
    """

    def __init__(
        self,
        typeids: Sequence[str],
        num_photos: Sequence[int] | None = None,
        fit: str = SQUASH,
        activation: str = "softmax",
        **kwargs: Any,
    ) -> None:
        super().__init__(len(typeids), activation=activation, **kwargs)
        self.typeids = list(typeids)
        self.num_photos = list(num_photos or [0] * len(typeids))
        self.fit = fit

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["units"]
        known = {"typeids": self.typeids, "num_photos": self.num_photos, "fit": self.fit}
        return {**config, **known}


class MatrixProduct(keras.layers.Layer):
    """A 1x1 convolution, or the 1x1 half of a separable one, as a matrix product.

    The same numbers (up to rounding) from the same weights, but on a CPU
    TensorFlow's gradient of a 1x1 convolution takes up to seven times as long
    as that of the product. In no model file: networks that begin at a cut have it.

    Args:
        convolution: the layer whose weights are used and trained.
    """

    def __init__(self, convolution: keras.Layer) -> None:
        super().__init__(name=f"{convolution.name}_product", dtype=convolution.dtype_policy)
        self.convolution = convolution

    @staticmethod
    def fits(layer: keras.Layer) -> bool:
        """Whether a layer can be computed this way."""
        if isinstance(layer, keras.layers.SeparableConv2D):
            is_1x1 = True
        else:
            is_1x1 = type(layer) is keras.layers.Conv2D and layer.kernel_size == (1, 1)
            is_1x1 = is_1x1 and layer.groups == 1
        return is_1x1 and layer.dilation_rate == (1, 1) and layer.data_format == "channels_last"

    def call(self, images: Any) -> Any:
        layer = self.convolution
        if isinstance(layer, keras.layers.SeparableConv2D):
            kernel = layer.pointwise_kernel
            images = keras.ops.depthwise_conv(
                images, layer.depthwise_kernel, strides=layer.strides, padding=layer.padding
            )
        else:
            kernel = layer.kernel
            images = images[:, :: layer.strides[0], :: layer.strides[1]]
        _, height, width, channels = images.shape
        rows = keras.ops.reshape(images, (-1, channels))
        product = keras.ops.matmul(rows, keras.ops.reshape(kernel, (channels, -1)))
        if layer.use_bias:
            product = product + layer.bias
        return layer.activation(keras.ops.reshape(product, (-1, height, width, layer.filters)))


def as_product(layer: keras.Layer) -> keras.Layer:
    """The layer itself, or `MatrixProduct` of it where that fits."""
    return MatrixProduct(layer) if MatrixProduct.fits(layer) else layer
