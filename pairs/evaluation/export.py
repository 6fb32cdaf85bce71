"""A trained model as one file that needs neither Keras nor this project: ONNX, LiteRT, SavedModel.

Pixels go in as bytes, and out come what `predict.py` says: calibrated probabilities and
features. Models of folds are exported together, as the mean of what each says. The typeids
travel inside, and how a photo becomes a square. How it must be read: docs/export.md.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from pairs.errors import UserError
from pairs.evaluation.metrics import LEAST
from pairs.evaluation.predictor import Predictor
from pairs.files import flush, replacing, temporary_path
from pairs.network.similarity import SHARPNESS, TINY, Similarity

ONNX, LITERT = ".onnx", ".tflite"
# The facts that travel with the model, and their files where it cannot hold them itself.
FACTS = {"typeids": "typeids.json", "fit": "fit.txt"}
# What Keras' ONNX exporter imports; the other two need nothing that TensorFlow lacks.
ONNX_NEEDS = ("tf2onnx", "onnx")


def is_folder(path: str) -> bool:
    """Whether an export of this name is a SavedModel: it has neither ending of a file."""
    return not path.endswith((ONNX, LITERT))


def why_not(path: str) -> str | None:
    """The reason why nothing can be exported to a path, or None. Loads no Keras."""
    missing = [name for name in ONNX_NEEDS if not importlib.util.find_spec(name)]
    suffix = pathlib.Path(path).suffix
    if suffix not in ("", ONNX, LITERT):
        return (
            f"{suffix} is no format; {ONNX}, {LITERT}, or a name without an ending for the folder "
            f"of a SavedModel"
        )
    if path.endswith(ONNX) and missing:
        return f"{' and '.join(missing)} not installed; pip install -r requirements-export.txt"
    if is_folder(path) and os.path.lexists(pathlib.Path(path)):
        return "is there already; delete it, or choose another name"
    return None


def export(predictor: Predictor, path: str) -> None:
    """Writes what a `Predictor` says of single photos to a file, whole or not at all.

    The exported model maps `images`, uint8, shape `(batch, side, side, 3)`, to
    `probabilities`, float32, shape `(batch, classes)`, with the temperature of
    `calibration.json`, and `feature`, float32, shape `(batch, features * models)`, of
    length 1, as `Predictor.unit` returns them.

    Args:
        predictor: without other views or heads; those of mixed precision among its
            models are replaced by ones that compute in float32.
        path: ends in ".onnx" or ".tflite"; else a folder, a SavedModel.

    Raises:
        UserError: the backend is not TensorFlow, or it cannot be written.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UserError(
            f"--export: KERAS_BACKEND is {backend!r}, 'tensorflow' is needed; the model files are "
            f"the same on all backends"
        )
    from tensorflow.errors import OpError

    model = exported_model(predictor)
    signature = [keras.InputSpec(shape=model.input_shape, dtype="uint8", name="images")]
    facts = {"typeids": json.dumps(predictor.typeids), "fit": predictor.fit}
    form, write = "LiteRT", write_litert
    if is_folder(path):
        form, write = "a SavedModel", write_folder
    elif path.endswith(ONNX):
        form, write = "ONNX", write_onnx
    try:
        write(model, signature, facts, path)
    except OpError as error:  # TensorFlow's own, of a full disk
        reason = re.sub(r"{{.*?}}", "", error.message).strip()  # the names of its nodes
        raise UserError(f"{path}: could not be written ({reason})") from error
    side = predictor.image_size
    print(
        f"{path}: {form}, {len(predictor.typeids)} classes, photos of {side} x {side} pixels, "
        f"fit {predictor.fit}{predictor.calibration.remark()}"
    )


def exported_model(predictor: Predictor) -> Any:
    """The model to export, `keras.Model`, in float32."""
    import keras

    from pairs.network import frozen

    # tf2onnx takes no bfloat16, and a phone may not compute in it.
    predictor.models = [frozen.in_float32(model) for model in predictor.models]
    side = predictor.image_size
    images = keras.Input((side, side, 3), dtype="uint8", name="images")
    found = predictor.photo_model(images)
    features = keras.ops.split(found["feature"], len(predictor.models), axis=-1)
    units = [
        unit(feature, similarity)
        for feature, similarity in zip(features, predictor.similarities, strict=True)
    ]
    probabilities = found["probabilities"]
    if predictor.head == "all":
        centres = [
            keras.ops.softmax(SHARPNESS * keras.ops.matmul(each, similarity.centres.T))
            for each, similarity in zip(units, predictor.similarities, strict=True)
            if similarity  # each has one, or there is no such head
        ]
        probabilities = (probabilities + sum(centres) / len(centres)) / 2
    log = keras.ops.log(keras.ops.maximum(probabilities, LEAST))
    outputs = {
        # As `metrics.apply_temperature`.
        "probabilities": keras.ops.softmax(log / predictor.calibration.temperature),
        "feature": keras.ops.concatenate(units, axis=-1) / len(units) ** 0.5,
    }
    return keras.Model(images, outputs, name="exported")


def unit(feature: Any, similarity: Similarity | None) -> Any:
    """`Similarity.unit` as layers: a model's features, shape `(batch, features)`, in its space."""
    from keras import ops

    if similarity:
        centred = feature - similarity.mean
        shrunk = ops.matmul(centred, similarity.axes * (1 - similarity.gains))
        feature = centred - ops.matmul(shrunk, similarity.axes.T)
    length = ops.sqrt(ops.sum(ops.square(feature), axis=-1, keepdims=True))
    return feature / ops.maximum(length, TINY)


def write_onnx(model: Any, signature: list[Any], facts: dict[str, str], path: str) -> None:
    """Writes an ONNX file; the facts are its metadata."""
    import onnx

    with replacing(path) as temporary:
        with warnings.catch_warnings(), spared_memory():
            warnings.simplefilter("ignore", FutureWarning)  # Keras looks for `np.object`
            model.export(temporary, "onnx", verbose=False, input_signature=signature)
        written = onnx.load(temporary)
        check_onnx(written, path)
        onnx.helper.set_model_props(written, facts)
        onnx.save(written, temporary)


def check_onnx(written: Any, path: str) -> None:
    """Raises a UserError if tf2onnx left in an ONNX model what it cannot translate.

    It only logs that, and writes TensorFlow's operation, or one more input.
    """
    import onnx

    operations = sorted({node.op_type for node in written.graph.node})
    foreign = [operation for operation in operations if not onnx.defs.has(operation)]
    foreign += [value.name for value in written.graph.input if value.name != "images"]
    if foreign:
        raise UserError(
            f"{path}: tf2onnx cannot translate this trunk ({', '.join(foreign)}); export it as "
            f".tflite or as a SavedModel"
        )


@contextlib.contextmanager
def spared_memory() -> Iterator[None]:
    """A context: tf2onnx keeps fewer copies of the weights; two folds took 9 GB, and take 5."""
    from tf2onnx.graph import Node

    # Else it copies the graph, weights included, before each of its optimizers.
    os.environ["TF2ONNX_CATCH_ERRORS"] = "FALSE"
    update_proto = Node.update_proto

    def update_all_but_constants(node: Any, external_tensor_storage: Any = None) -> None:
        # After each optimizer it writes the constants anew, and protobuf frees none of
        # the old ones; the file is made from what the node itself holds.
        if not node.is_const():
            update_proto(node, external_tensor_storage)

    Node.update_proto = update_all_but_constants
    try:
        yield
    finally:
        Node.update_proto = update_proto


def write_litert(model: Any, signature: list[Any], facts: dict[str, str], path: str) -> None:
    """Writes a LiteRT file; the facts are attached as a zip archive, as its metadata tools do."""
    with replacing(path) as temporary:
        model.export(temporary, "litert", verbose=False, input_signature=signature)
        with zipfile.ZipFile(temporary, "a") as archive:
            for name, text in facts.items():
                archive.writestr(FACTS[name], text)


def write_folder(model: Any, signature: list[Any], facts: dict[str, str], path: str) -> None:
    """Writes a SavedModel; the facts are files in its folder."""
    import keras

    archive = keras.export.ExportArchive()
    # Not `model.export`: that stores every weight twice.
    archive.add_endpoint("serve", lambda images: model(images, training=False), signature)
    with new_folder(pathlib.Path(path)) as temporary:
        archive.write_out(temporary, verbose=False)
        for name, text in facts.items():
            (temporary / FACTS[name]).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """As `files.replacing`, for a folder that is not there yet."""
    temporary = temporary_path(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # a killed run's
        yield temporary
        for place in [*temporary.rglob("*"), temporary]:
            flush(place)
        temporary.rename(path)
        with contextlib.suppress(OSError):  # as there
            flush(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{path}: could not be written ({error})") from error
        raise
