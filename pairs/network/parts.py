"""The network in parts that share its layers: for training, and for prediction.

split, connect    images -> activations of what is frozen -> outputs; every
                  image passes the trunk once, and stored activations can
                  take the place of the images
photo_model       single photos -> class probabilities and features
class_map_model   single photos -> where each class is seen
pair_head         two features -> different / same
"""

import hashlib
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from pairs.network.layers import KERNELS, as_product

# Output of a training graph instead of `bin_out`: what that head says of every pair.
ALL_PAIRS = "all_pairs"


def split(
    model: keras.Model, cut: int | None, all_pairs: bool = False
) -> tuple[keras.Model, keras.Model]:
    """Cuts a model in two that share its layers.

    Args:
        model: `build_model(...)`.
        cut: index into the trunk's `operations`, of the one whose output is passed
            on, see `Trunk.cut`; None cuts after the feature.
        all_pairs: `above` has `all_pairs` instead of `bin_out`: what that head says
            of every pair of the batch, shape `(batch, batch, 2)`.

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
        if all_pairs:
            cosines = model.get_layer("cosine").all_pairs(feature)
            outputs[ALL_PAIRS] = model.get_layer("bin_out")(cosines)
        else:
            outputs["bin_out"] = same_or_not(model, [feature, second])
    return below, keras.Model(inputs, outputs, name="above")


def is_paired(model: keras.Model) -> bool:
    """Whether a model of `build_model` has the pair head."""
    return "bin_out" in model.output


def compares_all_pairs(model: keras.Model) -> bool:
    """Whether the pair head of a model is trained on every pair of a batch."""
    return is_paired(model) and any(layer.name == "cosine" for layer in model.layers)


def same_or_not(model: keras.Model, features: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """The pair head of `model` on two features."""
    compare = "cosine" if compares_all_pairs(model) else "square"
    return model.get_layer("bin_out")(model.get_layer(compare)(features))


def unfreeze(model: keras.Model, cut: int | None) -> None:
    """Sets which layers of the trunk train: `layers.KERNELS` above a cut.

    Compile the model afterwards: until then Keras trains what it did before.

    Args:
        model: `build_model(...)`.
        cut: as of `split`; None freezes the whole trunk.
    """
    for index, operation in enumerate(model.get_layer("trunk").operations):
        trains = cut is not None and index > cut
        layers = [operation]
        if isinstance(operation, keras.Sequential):  # ConvNeXt's, between two stages
            operation.trainable = trains
            layers = operation.layers
        for layer in layers:
            layer.trainable = trains and isinstance(layer, KERNELS)


def resized(model: keras.Model, trunk: keras.Model) -> keras.Model:
    """The same network, with the same weights, for photos of another size.

    Args:
        model: `build_model(...)`.
        trunk: `build_trunk(...)` of the same name for that size; its weights are
            overwritten.
    """
    trunk.set_weights(model.get_layer("trunk").get_weights())
    shape = trunk.input_shape[1:]
    images = [keras.Input(shape, dtype="uint8", name=image.name) for image in model.inputs]
    return keras.models.clone_model(
        model,
        input_tensors=images,
        clone_function=lambda layer: trunk if layer.name == "trunk" else layer,
    )


def uses_xla(jit: bool = False) -> bool:
    """Whether to compile with XLA, asked for or not.

    Keras would, on a GPU. It has exhausted 6 GB cards, and on a CPU it is four
    times slower. JAX has nothing else.
    """
    return jit or keras.backend.backend() == "jax"


def forget_models() -> None:
    """`keras.utils.clear_session`, which alone would forget the dtype policy, too."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)


def for_prediction(model: keras.Model) -> keras.Model:
    """The same model; without XLA where Keras would turn it on by itself."""
    model.jit_compile = uses_xla()
    return model


def split_trunk(model: keras.Model, cut: int | None) -> tuple[keras.Model, keras.Model | None]:
    """The trunk of `split`, in two parts.

    Returns:
        `(below, upper)`: `below` as there, `upper` from its activations to the
        pooled feature; None where `cut` is, because nothing is left.
    """
    trunk = model.get_layer("trunk")
    image = keras.Input(trunk.input_shape[1:], dtype="uint8", name="img_1")
    lower = trunk if cut is None else keras.Model(trunk.input, trunk.operations[cut].output)
    activation = lower(model.get_layer("scale")(image), training=False)
    below = for_prediction(keras.Model(image, activation, name="below"))
    if cut is None:
        return below, None
    upper = keras.Model(trunk.operations[cut].output, trunk.output)
    upper = keras.models.clone_model(upper, clone_function=as_product)  # same layers
    return below, for_prediction(upper)


def digest(variables: Iterable[keras.Variable]) -> str:
    """SHA-256 of the values of variables: equal only if bit for bit the same."""
    sha = hashlib.sha256()
    for variable in variables:
        sha.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return sha.hexdigest()


def classify(model: keras.Model, feature: keras.KerasTensor, number: int) -> keras.KerasTensor:
    """Dropout and softmax `number` of `model` on a feature."""
    return model.get_layer(f"ctg_out_{number}")(model.get_layer(f"dropout_{number}")(feature))


def connect(below: keras.Model, above: keras.Model) -> keras.Model:
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


def photo_model(
    models: Sequence[keras.Model], head: str = "mean", cut: int | None = None
) -> keras.Model:
    """Single photos to class probabilities and features, of one model or several together.

    Args:
        models: of `build_model(...)`, all for images of one size.
        head: "mean" of the softmax heads, or one of them: "first", "second" (a
            model without pair has only the first).
        cut: as of `split`; up to there all models are the same, and photos pass
            that part once. None: each model has a trunk of its own.

    Returns:
        a model from uint8 images to `probabilities`, shape
        `(batch, classes)`, the mean of all models, and `feature`, shape
        `(batch, features * len(models))`, their features side by side.
    """
    if len(models) == 1:
        return for_prediction(photo_part(models[0], head, None, "photo_model"))
    below, _ = split_trunk(models[0], cut)
    shared = below.input if cut is None else below.output
    found = [
        photo_part(model, head, cut, f"model_{number}")(shared)
        for number, model in enumerate(models, start=1)
    ]
    outputs = {
        "probabilities": keras.layers.average([each["probabilities"] for each in found]),
        "feature": keras.ops.concatenate([each["feature"] for each in found], axis=-1),
    }
    return for_prediction(keras.Model(below.input, outputs, name="photo_model"))


def photo_part(model: keras.Model, head: str, cut: int | None, name: str) -> keras.Model:
    """`photo_model` of one model, from its images (`cut` is None) or from activations on."""
    below, upper = split_trunk(model, cut)
    if upper is None:
        start, feature = below.input, below.output
    else:
        start = keras.Input(below.output_shape[1:])
        feature = upper(start, training=False)
    numbers = {"first": [1], "second": [2], "mean": [1, 2]}[head] if is_paired(model) else [1]
    heads = [classify(model, feature, number) for number in numbers]
    outputs = {
        "probabilities": keras.layers.average(heads) if len(heads) > 1 else heads[0],
        # Distances are sums of, say, 2048 squares; in bfloat16 such a sum has lost a third.
        "feature": keras.ops.cast(feature, model.get_layer("ctg_out_1").variable_dtype),
    }
    return keras.Model(start, outputs, name=name)


def shared_cut(models: Sequence[keras.Model], cut: int) -> int | None:
    """The cut, if up to there the trunks of all models are the same, bit by bit; else None."""
    digests = {digest(split_trunk(model, cut)[0].weights) for model in models}
    return cut if len(digests) == 1 else None


def class_map_model(model: keras.Model) -> keras.Model:
    """Single photos to a map of where each class is seen.

    The trunk ends in an average pool and the heads are linear on it, so the
    gradients of Grad-CAM (arXiv:1610.02391, section 3.1) are the heads' weights.
    Where a LayerNormalization follows the pool (ConvNeXt), it is linear, too, but
    for its division by the feature's deviation: one number for the whole photo.

    Returns:
        `keras.Model`: uint8 images to an array of shape
        `(batch, rows, columns, classes)`: each place's share of the logit (the
        mean of the softmax heads' kernels); their mean is the logit, but for biases.
    """
    trunk = model.get_layer("trunk")
    image = keras.Input(trunk.input_shape[1:], dtype="uint8")
    last = trunk.layers[-1]
    is_pool = isinstance(last, keras.layers.GlobalAveragePooling2D)
    pool = last if is_pool else trunk.layers[-2]
    places = keras.Model(trunk.input, pool.input)
    heads = [f"ctg_out_{number}" for number in ((1, 2) if is_paired(model) else (1,))]
    kernel = sum(model.get_layer(head).kernel for head in heads) / len(heads)
    activation = places(model.get_layer("scale")(image), training=False)
    if not is_pool:
        activation = normalized_places(activation, last)
    class_maps = keras.ops.matmul(activation, keras.ops.convert_to_tensor(kernel))
    return for_prediction(keras.Model(image, class_maps))


def normalized_places(
    activation: keras.KerasTensor, normalization: keras.layers.LayerNormalization
) -> keras.KerasTensor:
    """What each place brings to a feature that is normalised after the pool.

    Args:
        activation: shape `(batch, rows, columns, channels)`.
        normalization: of their mean over the places.

    Returns:
        the same shape; its mean over the places is the feature without beta.
    """
    activation = keras.ops.cast(activation, normalization.variable_dtype)
    feature = keras.ops.mean(activation, axis=(1, 2), keepdims=True)
    variance = keras.ops.var(feature, axis=-1, keepdims=True)
    centred = activation - keras.ops.mean(activation, axis=-1, keepdims=True)
    gains = keras.ops.convert_to_tensor(normalization.gamma)
    return centred / keras.ops.sqrt(variance + normalization.epsilon) * gains


def pair_head(model: keras.Model) -> keras.Model:
    """Two features to the probabilities of "different" and "same", `(batch, 2)`."""
    shape = model.get_layer("trunk").output_shape[1:]
    features = [keras.Input(shape), keras.Input(shape)]
    return for_prediction(keras.Model(features, same_or_not(model, features)))
