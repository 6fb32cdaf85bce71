"""The network: one shared trunk, two softmax heads, and "the same class or not".

    img_1 --> trunk --> feature 1 --> dropout --> ctg_out_1   typeid of img_1
                           |
                         square   --------------> bin_out     different / same
                           |
    img_2 --> trunk --> feature 2 --> dropout --> ctg_out_2   typeid of img_2

Images enter as bytes, `(batch, size, size, 3)` in 0..255; the model scales them
itself. `same` is output 1 of `bin_out`. In training the second image is always
another image of the same batch, so every image passes the trunk once and the
second feature is gathered by the permutation (`connect`).

Source: the seed; the verification loss of arXiv:1611.05666.
"""

import hashlib
import pathlib
import zipfile

import keras
import numpy as np

from command_line import UserError

# Weight of each loss, the seed's.
LOSS_WEIGHTS = {"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": 0.5}
DROPOUT = 0.5
# Bytes to [-1, 1]: `(scale, offset)` of what the ImageNet weights expect.
INPUT_SCALE = (1 / 127.5, -1.0)
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.SeparableConv2D, keras.layers.DepthwiseConv2D)


@keras.saving.register_keras_serializable(package="pairs")
class SquaredDifference(keras.layers.Layer):
    """`(a - b)**2` element by element: the terms of the squared distance.

    A registered layer and not a Lambda: a Lambda is code in the model file.
    """

    def call(self, features):
        first, second = features
        return keras.ops.square(first - second)


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


@keras.saving.register_keras_serializable(package="pairs")
class TypeidHead(keras.layers.Dense):
    """A softmax over the classes that knows their typeids.

    The names travel inside the model file, so prediction needs no training
    folder and no other order of class folders can shift a label.

    Args:
        typeids: list of str; output `i` is the probability of `typeids[i]`.
        num_photos: list of int, training photos of each class; None: unknown.
    """

    def __init__(self, typeids, num_photos=None, activation="softmax", **kwargs):
        super().__init__(len(typeids), activation=activation, **kwargs)
        self.typeids = list(typeids)
        self.num_photos = list(num_photos or [0] * len(typeids))

    def get_config(self):
        config = super().get_config()
        del config["units"]
        return {**config, "typeids": self.typeids, "num_photos": self.num_photos}


def build_model(trunk, typeids, num_photos=None, paired=True):
    """Puts the heads on the trunk. This is the model that is saved.

    Args:
        trunk: `build_trunk(...)`.
        typeids: list of str, the classes in the order of their labels.
        num_photos: list of int, training photos of each; None: unknown.
        paired: False leaves one image, its softmax, and no pair: the
            "softmax only" systems of the seed's table.

    Returns:
        `keras.Model`: inputs `img_1` (and `img_2`), outputs a dict of
        `ctg_out_1` (and `ctg_out_2`, shape `(batch, len(typeids))`, and
        `bin_out`, shape `(batch, 2)`), all probabilities.
    """
    scale = keras.layers.Rescaling(*INPUT_SCALE, name="scale")
    images = [
        keras.Input(trunk.input_shape[1:], dtype="uint8", name=f"img_{number}")
        for number in ((1, 2) if paired else (1,))
    ]
    # training=False: BatchNormalization uses its moving statistics, always.
    features = [trunk(scale(image), training=False) for image in images]
    outputs = {
        f"ctg_out_{number}": TypeidHead(typeids, num_photos, name=f"ctg_out_{number}")(
            keras.layers.Dropout(DROPOUT, name=f"dropout_{number}")(feature)
        )
        for number, feature in enumerate(features, start=1)
    }
    if paired:
        square = SquaredDifference(name="square")(features)
        outputs["bin_out"] = keras.layers.Dense(2, activation="softmax", name="bin_out")(square)
    return keras.Model(images, outputs, name="pair_model" if paired else "softmax_model")


def resized(model, trunk):
    """The same network, with the same weights, for photos of another size.

    Args:
        model: `build_model(...)`.
        trunk: `build_trunk(...)` of the same name for that size; its weights are
            overwritten.
    """
    classifier = model.get_layer("ctg_out_1")
    other = build_model(trunk, classifier.typeids, classifier.num_photos, is_paired(model))
    other.set_weights(model.get_weights())
    return other


def is_paired(model):
    """Whether a model of `build_model` has the pair head."""
    return "bin_out" in model.output


def unfreeze(model, from_layer):
    """Sets which layers of the trunk train: convolutions from an index on.

    Compile the model afterwards; before, Keras goes on as it was.

    Args:
        model: `build_model(...)`.
        from_layer: index into `trunk.layers`; None freezes the whole trunk.
    """
    for index, layer in enumerate(model.get_layer("trunk").layers):
        trains = from_layer is not None and index >= from_layer
        layer.trainable = trains and isinstance(layer, CONVOLUTIONS)


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


def split_trunk(model, cut):
    """The trunk of `split`, in two parts.

    Returns:
        `(below, upper)`: `below` as there, `upper` from its activations to the
        pooled feature; None where `cut` is, because nothing is left.
    """
    trunk = model.get_layer("trunk")
    image = keras.Input(trunk.input_shape[1:], dtype="uint8", name="img_1")
    lower = trunk if cut is None else keras.Model(trunk.input, trunk.layers[cut].output)
    below = keras.Model(image, lower(model.get_layer("scale")(image), training=False), name="below")
    if cut is None:
        return below, None
    upper = keras.Model(trunk.layers[cut].output, trunk.output)
    return below, keras.models.clone_model(upper, clone_function=as_product)  # same layers


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
    outputs = {"probabilities": mean, "feature": below.output}
    return keras.Model(below.input, outputs, name="photo_model")


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
    return keras.Model(image, keras.ops.matmul(activation, keras.ops.convert_to_tensor(kernel)))


def pair_head(model):
    """Two features to the probabilities of "different" and "same", `(batch, 2)`."""
    shape = model.get_layer("trunk").output_shape[1:]
    features = [keras.Input(shape), keras.Input(shape)]
    return keras.Model(features, model.get_layer("bin_out")(model.get_layer("square")(features)))


def smoothed_crossentropy(smoothing):
    """Cross-entropy of softmax heads against labels that are not quite certain.

    Args:
        smoothing: share of the probability that is spread over all classes.

    Source: label smoothing, arXiv:1512.00567, section 7.
    """

    def crossentropy(labels, probabilities):
        num_classes = probabilities.shape[-1]
        one_hot = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), num_classes)
        targets = one_hot * (1 - smoothing) + smoothing / num_classes
        return keras.ops.categorical_crossentropy(targets, probabilities)

    return crossentropy


def compile_model(model, optimizer, label_smoothing=0.0):
    """Compiles with the seed's losses for the outputs that the model has.

    Args:
        model: with the outputs of `build_model`.
        optimizer: `keras.optimizers.Optimizer`, or its name.
        label_smoothing: of the class heads, see `smoothed_crossentropy`.
    """
    heads = list(model.output)
    losses = dict.fromkeys(heads, "sparse_categorical_crossentropy")
    if label_smoothing:
        smoothed = smoothed_crossentropy(label_smoothing)
        losses.update({head: smoothed for head in heads if head != "bin_out"})
    model.compile(
        optimizer=optimizer,
        loss=losses,
        loss_weights={head: LOSS_WEIGHTS[head] for head in heads},
        metrics={head: ["accuracy"] for head in heads},
        # XLA: four times slower on a CPU, and it has exhausted 6 GB cards. JAX
        # has nothing else.
        jit_compile=keras.backend.backend() == "jax",
    )


def digest(variables):
    """SHA-256 of the values of variables: equal only if bit for bit the same."""
    sha = hashlib.sha256()
    for variable in variables:
        sha.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return sha.hexdigest()


def load_model(path):
    """Loads a model file without running code from it (Keras' safe mode).

    Raises:
        UserError: no such file, or not a model of this project.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: no such model; python train.py makes one")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a model of this project (not a .keras file, or cut short)")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        model.get_layer("trunk")
        if not isinstance(model.get_layer("ctg_out_1"), TypeidHead):
            raise TypeError("it does not know its typeids")
    except Exception as error:  # whatever a damaged or hostile file leads to
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a model of this project ({first_line})") from error
    return model


def draw_model(model, path):
    """Draws the layers through pydot; returns a warning where that cannot be."""
    try:
        keras.utils.plot_model(model, path, show_shapes=True, show_layer_names=True, dpi=96)
    except (ImportError, OSError) as error:
        # Graphviz is not a Python package; a picture must not stop a training.
        return f"no picture of the model: {' '.join(str(error).split())}"
    return None
