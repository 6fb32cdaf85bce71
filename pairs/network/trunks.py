"""The trunk: a network of `keras.applications` without its top, and its weights.

Scaled images enter, an average-pooled feature comes out. One table, `TRUNKS`,
says what the project knows of each; reading it needs no Keras. If ImageNet
weights cannot be had, the BatchNormalization statistics of a random trunk are
estimated, so that its features can be learned from.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pairs.errors import UserError
from pairs.out_of_memory import raise_if_out_of_memory

if TYPE_CHECKING:
    import keras

# Bytes to [-1, 1]: `(scale, offset)` of what the ImageNet weights expect, unless a
# trunk has layers of its own for that.
INPUT_SCALE = (1 / 127.5, -1.0)
BYTES = (1.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A network of `keras.applications` and where the recipe cuts it.

    A cut is a place where all that lies above reads a single tensor: "after LAYER",
    or "before LAYER" where Keras numbers the layer below anew at each build.

    Attributes:
        builder: its name in `keras.applications`.
        min_image_size: the smallest side in pixels that it accepts.
        blocks: the cut above which layers train once blocks do.
        weights_file: Keras' own name of the ImageNet weights.
        scales_itself: it takes bytes, and its first layers scale them.
    """

    builder: str
    min_image_size: int
    blocks: str
    weights_file: str
    scales_itself: bool = False

    @property
    def input_scale(self) -> tuple[float, float]:
        """`(scale, offset)` from bytes to what the trunk takes."""
        return BYTES if self.scales_itself else INPUT_SCALE

    def cut(self, trunk: "keras.Model") -> int:
        """Index into `trunk.operations`: whose output is all that the trained ones read.

        Operations are the layers and, in ConvNeXt, sums that are no layers.

        Args:
            trunk: `build_trunk(...)` of this row.
        """
        side, name = self.blocks.split()
        layer = trunk.get_layer(name)
        passed_on = layer.output if side == "after" else layer.input
        outputs = [operation.output for operation in trunk.operations]
        return next(index for index, output in enumerate(outputs) if output is passed_on)


TRUNKS = {
    # Of 14 blocks 12, 13 and 14 (layer 105 is the Add that closes block 11).
    "xception": Trunk(
        "Xception",
        min_image_size=71,
        blocks="before block12_sepconv1_act",
        weights_file="xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    # The top two inception blocks, as in the Keras documentation's own fine-tuning
    # example: layers from 249 on.
    "inceptionv3": Trunk(
        "InceptionV3",
        min_image_size=75,
        blocks="after mixed8",
        weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    # Of 16 blocks the last 3.
    "resnet50v2": Trunk(
        "ResNet50V2",
        min_image_size=32,
        blocks="after conv4_block6_out",
        weights_file="resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    # Of 40 blocks the last 6, of 57 the last 9; and the convolution above.
    "efficientnetv2s": Trunk(
        "EfficientNetV2S",
        min_image_size=32,
        blocks="after block6i_add",
        weights_file="efficientnetv2-s_notop.h5",
        scales_itself=True,
    ),
    "efficientnetv2m": Trunk(
        "EfficientNetV2M",
        min_image_size=32,
        blocks="after block6n_add",
        weights_file="efficientnetv2-m_notop.h5",
        scales_itself=True,
    ),
    # Of 18 blocks the last 3, of 36 the last 6.
    "convnexttiny": Trunk(
        "ConvNeXtTiny",
        min_image_size=32,
        blocks="before convnext_tiny_downsampling_block_2",
        weights_file="convnext_tiny_notop.h5",
        scales_itself=True,
    ),
    "convnextbase": Trunk(
        "ConvNeXtBase",
        min_image_size=32,
        blocks="before convnext_base_stage_2_block_24_depthwise_conv",
        weights_file="convnext_base_notop.h5",
        scales_itself=True,
    ),
}


def build_trunk(
    name: str, image_size: int, pretrained: str, weights_folder: str | pathlib.Path = "weights"
) -> "keras.Model":
    """Builds the headless trunk: scaled images to average-pooled features.

    Args:
        name: key of `TRUNKS`.
        image_size: side in pixels.
        pretrained: "none" for random weights, "imagenet", or a weights file.
        weights_folder: where a file brought by the user may lie; or beside it.

    Returns:
        a model named "trunk", output shape `(batch, features)`: 2048 of them for
        Xception. Its attribute `input_scale` is that of the row.

    Raises:
        UserError: the weights are not there or do not fit.
    """
    import keras

    trunk = TRUNKS[name]

    def build(weights):
        shape = (image_size, image_size, 3)
        built = getattr(keras.applications, trunk.builder)(
            weights=weights, include_top=False, pooling="avg", input_shape=shape
        )
        # Not by its argument `name`: Keras makes layer and file names of that.
        renamed = keras.Model(built.input, built.output, name="trunk")
        renamed.input_scale = trunk.input_scale
        for layer in renamed.layers:
            # EfficientNet drops blocks at random. In `fit` Keras 3.15 does so even where
            # `training=False` was asked for, and stored activations know nothing of it.
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        return renamed

    if pretrained == "none":
        return build(None)
    file: pathlib.Path | None = pathlib.Path(pretrained)
    if pretrained == "imagenet":
        file = find_brought(pathlib.Path(weights_folder), trunk.weights_file)
    if file is None:
        try:
            return build("imagenet")  # lets Keras download it
        except Exception as error:  # Keras raises a bare Exception without network
            raise_if_out_of_memory(error)
            raise UserError(
                f"no ImageNet weights for {name}: the download failed ({error}). Put "
                f"{trunk.weights_file} into {weights_folder}, or use --pretrained FILE or none"
            ) from error
    model = build(None)
    load_all_weights(model, file, name)
    return model


def find_brought(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """A file that the user brought, there or one above: weights/ serves weights/second, too."""
    places = [place / name for place in (folder, folder.absolute().parent)]
    return next((path for path in places if path.is_file()), None)


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
            with named_for_keras(file) as named:
                trunk.load_weights(str(named))
    except Exception as error:  # whatever a damaged or foreign file leads to
        raise_if_out_of_memory(error)
        sentence = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(
            f"{expected}; another --trunk, or a model with heads? ({sentence[:150]})"
        ) from error
    missed = [
        weight.path
        for weight in trunk.weights
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all()
    ]
    if missed:
        raise UserError(f"{expected} (no numbers for {len(missed)} weights, e.g. {missed[0]})")


@contextlib.contextmanager
def named_for_keras(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """A weights file under a name that says what it is: by that alone Keras reads it.

    What Keras 3 saves must end in ".weights.h5", and nothing else in ".h5" may.
    """
    ending = ".weights.h5"
    try:
        import h5py

        with h5py.File(file) as opened:
            is_new = "layers" in opened and "layer_names" not in opened.attrs
    except OSError:  # not HDF5: a .keras file, or damaged
        yield file
        return
    if is_new == file.name.endswith(ending):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        renamed = pathlib.Path(folder, f"trunk{ending if is_new else '.h5'}")
        shutil.copyfile(file, renamed)
        yield renamed


def estimate_statistics(trunk: "keras.Model", batches: Iterable[np.ndarray]) -> None:
    """Gives a random trunk the BatchNormalization statistics of real images.

    All our stages use the moving statistics; the initial ones (mean 0, variance
    1) let random weights shrink a feature to 1e-5, and no head learns from that.
    ConvNeXt has none, and nothing happens.

    Args:
        trunk: `build_trunk(...)` with random weights; changed in place.
        batches: float32 arrays, shape `(batch, size, size, 3)`, scaled by its
            `input_scale`.

    Raises:
        UserError: memory is too small.
    """
    import keras

    normalizations = [
        layer for layer in trunk.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not normalizations:
        return
    momenta = [layer.momentum for layer in normalizations]
    trunk.trainable = True
    for number, images in enumerate(batches):
        for layer in normalizations:  # the plain mean over all batches
            layer.momentum = number / (number + 1)
        try:
            trunk(keras.ops.convert_to_tensor(images), training=True)
        except Exception as error:
            raise_if_out_of_memory(error)
            raise
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
