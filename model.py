"""The network: one shared trunk, two softmax heads, and "the same class or not".

    img_1 --> trunk --> feature 1 --> dropout --> ctg_out_1   typeid of img_1
                           |
                         square   --------------> bin_out     different / same
                           |
    img_2 --> trunk --> feature 2 --> dropout --> ctg_out_2   typeid of img_2

Images enter as bytes, `(batch, size, size, 3)` in 0..255; the model scales them
itself. `same` is output 1 of `bin_out`. In training the second image is always
another image of the same batch, so every image passes the trunk once and the
second feature is gathered by the permutation (`model_parts.connect`).

Source: the seed; the verification loss of arXiv:1611.05666.
"""

import hashlib
import pathlib
import zipfile

import keras
import numpy as np

from pairs.command_line import UserError
from pairs.photos.read import why_not_a_typeid

# Weight of each loss, the seed's.
LOSS_WEIGHTS = {"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": 0.5}
DROPOUT = 0.5
# Bytes to [-1, 1]: `(scale, offset)` of what the ImageNet weights expect.
INPUT_SCALE = (1 / 127.5, -1.0)
# How much larger than its file a model may be.
MOST_UNPACKED = 4
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.SeparableConv2D, keras.layers.DepthwiseConv2D)


@keras.saving.register_keras_serializable(package="pairs")
class SquaredDifference(keras.layers.Layer):
    """`(a - b)**2` element by element: the terms of the squared distance.

    A registered layer and not a Lambda: a Lambda is code in the model file.
    """

    def call(self, features):
        first, second = features
        return keras.ops.square(first - second)


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
    # Half precision ends at the feature: a softmax and its loss need the weights' own.
    dtype = keras.config.dtype_policy().variable_dtype
    outputs = {
        f"ctg_out_{number}": TypeidHead(typeids, num_photos, name=f"ctg_out_{number}", dtype=dtype)(
            keras.layers.Dropout(DROPOUT, name=f"dropout_{number}", dtype=dtype)(feature)
        )
        for number, feature in enumerate(features, start=1)
    }
    if paired:
        square = SquaredDifference(name="square", dtype=dtype)(features)
        same = keras.layers.Dense(2, activation="softmax", name="bin_out", dtype=dtype)
        outputs["bin_out"] = same(square)
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


def uses_xla(jit=False):
    """Whether to compile with XLA, asked for or not.

    Keras would, on a GPU. It has exhausted 6 GB cards, and on a CPU it is four
    times slower. JAX has nothing else.
    """
    return jit or keras.backend.backend() == "jax"


def compile_model(model, optimizer, jit=False):
    """Compiles with the seed's losses for the outputs that the model has.

    Args:
        model: with the outputs of `build_model`.
        optimizer: `keras.optimizers.Optimizer`, or its name.
        jit: compile with XLA.
    """
    heads = list(model.output)
    model.compile(
        optimizer=optimizer,
        loss={head: "sparse_categorical_crossentropy" for head in heads},
        loss_weights={head: LOSS_WEIGHTS[head] for head in heads},
        # Weighted: the padding of a batch that several devices share does not count.
        weighted_metrics={head: ["accuracy"] for head in heads},
        jit_compile=uses_xla(jit),
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
        check_unpacked_size(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        model.get_layer("trunk")
        classifier = model.get_layer("ctg_out_1")
        if not isinstance(classifier, TypeidHead):
            raise TypeError("it does not know its typeids")
        for typeid in classifier.typeids:
            if reason := why_not_a_typeid(typeid):
                raise ValueError(f"its typeid {typeid!r} {reason}")
    except Exception as error:  # whatever a damaged or hostile file leads to
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a model of this project ({first_line})") from error
    return model


def check_unpacked_size(path):
    """Refuses a model file that would unpack to far more than its own size.

    Keras does not compress what it saves; whoever packs a file anew may, and
    weights shrink by a tenth.

    Raises:
        ValueError: says both sizes.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    packed = pathlib.Path(path).stat().st_size
    if unpacked > MOST_UNPACKED * packed:
        raise ValueError(f"its {packed} bytes would unpack to {unpacked}")


def draw_model(model, path):
    """Draws the layers through pydot; returns a warning where that cannot be."""
    try:
        keras.utils.plot_model(model, path, show_shapes=True, show_layer_names=True, dpi=96)
    except (ImportError, OSError) as error:
        # Graphviz is not a Python package; a picture must not stop a training.
        return f"no picture of the model: {' '.join(str(error).split())}"
    return None
