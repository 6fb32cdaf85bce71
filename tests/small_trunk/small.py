"""A trunk of 14 layers in Xception's place: a residual block frozen, one layer above it."""

from pairs.network.trunks import Trunk

SMALL = Trunk(
    "Small",
    min_image_size=71,
    blocks="after closed",
    weights_file="no file",
)


def work(connection, contender, *setting):
    """`timm_speed.work` in a process of its own, where the plain port has the small trunk, too."""
    from benchmarks import reference, timm_speed

    reference.APPLICATIONS["xception"] = (build, 10)
    timm_speed.work(connection, contender, *setting)


def build(weights, include_top, pooling, input_shape):
    """As `keras.applications.Xception`."""
    from keras import Input, Model, layers

    assert (weights, include_top, pooling) == (None, False, "avg")
    image = x = Input(input_shape)
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Activation("relu", name=f"stem_{filters}")(x)
    left = x
    x = layers.SeparableConv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Add(name="closed")([left, x])  # the real one is cut behind an Add, too
    x = layers.SeparableConv2D(24, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    return Model(image, layers.GlobalAveragePooling2D()(x))
