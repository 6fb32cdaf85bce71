"""The network in parts that share its layers: for training, and for prediction.

split, connect    images -> activations of what is frozen -> outputs; every
                  image passes the trunk once, and stored activations can
                  take the place of the images
photo_model       single photos -> class probabilities and features
class_map_model   single photos -> where each class is seen
pair_head         two features -> different / same
"""

import keras

from model import is_paired, uses_xla


class MatrixProduct(keras.layers.Layer):
    """A 1x1 convolution, or the 1x1 half of a separable one, as a matrix product.

    The same numbers (up to rounding) from the same weights, but on a CPU
    TensorFlow's gradient of a 1x1 convolution takes up to seven times as long
    as that of the product. Part of the training graph only, never saved.

    Args:
        convolution: the layer whose weights are used and trained.
    """

    def __init__(self, convolution):
        super().__init__(name=f"{convolution.name}_product")
        self.convolution = convolution

    @staticmethod
    def fits(layer):
        """Whether a layer can be computed this way."""
        if isinstance(layer, keras.layers.SeparableConv2D):
            is_1x1 = True
        else:
            is_1x1 = type(layer) is keras.layers.Conv2D and layer.kernel_size == (1, 1)
        return is_1x1 and layer.dilation_rate == (1, 1) and layer.data_format == "channels_last"

    def call(self, images):
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


def as_product(layer):
    """The layer itself, or `MatrixProduct` of it where that fits."""
    return MatrixProduct(layer) if MatrixProduct.fits(layer) else layer


def split(model, cut):
    """Cuts a model in two that share its layers.

    Args:
        model: `build_model(...)`.
        cut: index of the trunk layer whose output is passed on; None cuts
            after the pooled feature.

    Returns:
        `(below, above)`: `below` maps `img_1` to activations; `above` maps
        `activation` and `partner` (int32, shape `(batch,)`: which image of the
        batch is the second one) to the outputs of `model`.
    """
    below, upper = split_trunk(model, cut)
    activation = keras.Input(below.output_shape[1:], name="activation")
    feature = activation
    if upper is not None:
        feature = upper(activation, training=False)
    outputs = {"ctg_out_1": classify(model, feature, 1)}
    inputs = {"activation": activation}
    if is_paired(model):
        inputs["partner"] = keras.Input((), dtype="int32", name="partner")
        second = keras.ops.take(feature, inputs["partner"], axis=0)
        outputs["ctg_out_2"] = classify(model, second, 2)
        square = model.get_layer("square")([feature, second])
        outputs["bin_out"] = model.get_layer("bin_out")(square)
    return below, keras.Model(inputs, outputs, name="above")


def for_prediction(model):
    """The same model; without XLA where Keras would turn it on by itself."""
    model.jit_compile = uses_xla()
    return model


def split_trunk(model, cut):
    """The trunk of `split`, in two parts.

    Returns:
        `(below, upper)`: `below` as there, `upper` from its activations to the
        pooled feature; None where `cut` is, because nothing is left.
    """
    trunk = model.get_layer("trunk")
    image = keras.Input(trunk.input_shape[1:], dtype="uint8", name="img_1")
    lower = trunk if cut is None else keras.Model(trunk.input, trunk.layers[cut].output)
    activation = lower(model.get_layer("scale")(image), training=False)
    below = for_prediction(keras.Model(image, activation, name="below"))
    if cut is None:
        return below, None
    upper = keras.Model(trunk.layers[cut].output, trunk.output)
    upper = keras.models.clone_model(upper, clone_function=as_product)  # same layers
    return below, for_prediction(upper)


def classify(model, feature, number):
    """Dropout and softmax `number` of `model` on a feature."""
    return model.get_layer(f"ctg_out_{number}")(model.get_layer(f"dropout_{number}")(feature))


def connect(below, above):
    """Joins the two parts of `split`: every image passes the trunk once.

    Returns:
        `keras.Model`: inputs `img_1` and, if paired, `partner`; outputs those of
        the two-image model on `img_1` and `img_1[partner]`.
    """
    inputs = {"img_1": keras.Input(below.input_shape[1:], dtype="uint8", name="img_1")}
    parts = {"activation": below(inputs["img_1"])}
    if "partner" in above.input:
        inputs["partner"] = parts["partner"] = keras.Input((), dtype="int32", name="partner")
    return keras.Model(inputs, above(parts), name="one_pass")


def photo_model(model, head="mean"):
    """Single photos to class probabilities and features.

    Args:
        model: `build_model(...)`.
        head: "mean" of the softmax heads, or one of them: "first", "second" (a
            model without pair has only the first).

    Returns:
        `keras.Model`: uint8 images to a dict of `probabilities`, shape
        `(batch, classes)`, and `feature`, shape `(batch, 2048)`.
    """
    below, _ = split(model, None)
    numbers = {"first": [1], "second": [2], "mean": [1, 2]}[head] if is_paired(model) else [1]
    heads = [classify(model, below.output, number) for number in numbers]
    mean = keras.layers.average(heads) if len(heads) > 1 else heads[0]
    # Distances are sums of 2048 squares; in bfloat16 such a sum has lost a third.
    feature = keras.ops.cast(below.output, model.get_layer("ctg_out_1").variable_dtype)
    outputs = {"probabilities": mean, "feature": feature}
    return for_prediction(keras.Model(below.input, outputs, name="photo_model"))


def class_map_model(model):
    """Single photos to a map of where each class is seen.

    The trunk ends in an average pool and the heads are linear on it, so the
    gradients of Grad-CAM (arXiv:1610.02391, section 3.1) are the heads' weights.

    Returns:
        `keras.Model`: uint8 images to an array of shape
        `(batch, rows, columns, classes)`: each place's share of the logit (the
        mean of the softmax heads' kernels).
    """
    trunk = model.get_layer("trunk")
    image = keras.Input(trunk.input_shape[1:], dtype="uint8")
    places = keras.Model(trunk.input, trunk.layers[-1].input)
    heads = [f"ctg_out_{number}" for number in ((1, 2) if is_paired(model) else (1,))]
    kernel = sum(model.get_layer(head).kernel for head in heads) / len(heads)
    activation = places(model.get_layer("scale")(image), training=False)
    class_maps = keras.ops.matmul(activation, keras.ops.convert_to_tensor(kernel))
    return for_prediction(keras.Model(image, class_maps))


def pair_head(model):
    """Two features to the probabilities of "different" and "same", `(batch, 2)`."""
    shape = model.get_layer("trunk").output_shape[1:]
    features = [keras.Input(shape), keras.Input(shape)]
    same = model.get_layer("bin_out")(model.get_layer("square")(features))
    return for_prediction(keras.Model(features, same))
