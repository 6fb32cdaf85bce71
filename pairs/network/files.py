"""Model files: saved whole, loaded without running code from them.

A `.keras` file may come from anywhere; what is loaded here is one of ours, or
one line says why not.
"""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator

import keras

from pairs.errors import UserError
from pairs.files import replacing
from pairs.network.layers import TypeidHead
from pairs.network.parts import resized
from pairs.network.trunks import build_trunk
from pairs.out_of_memory import raise_if_out_of_memory
from pairs.photos.find import why_not_a_typeid
from pairs.photos.fit import FITS

# How much larger than its file a model may be.
MOST_UNPACKED = 4


def load_model(path: str | pathlib.Path) -> keras.Model:
    """Loads a model file without running code from it (Keras' safe mode).

    Raises:
        UserError: no such file, not a model of this project, or no memory for it.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: no such model; python train.py makes one")
    pathlib.Path(path).open("rb").close()  # `zipfile` calls what may not be read no zip file
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a model of this project (not a .keras file, or cut short)")
    try:
        check_unpacked_size(path)
        with undrawn_weights():
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        model.get_layer("trunk")
        classifier = model.get_layer("ctg_out_1")
        if not isinstance(classifier, TypeidHead):
            raise TypeError("it does not know its typeids")
        if len(classifier.num_photos) != len(classifier.typeids):
            raise ValueError("its classes and their numbers of photos differ in length")
        if classifier.fit not in FITS:
            raise ValueError(f"its fit {classifier.fit!r} is none of {', '.join(FITS)}")
        for typeid in classifier.typeids:
            if reason := why_not_a_typeid(typeid):
                raise ValueError(f"its typeid {typeid!r} {reason}")
    except Exception as error:  # whatever a damaged or hostile file leads to
        raise_if_out_of_memory(error)
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a model of this project ({first_line})") from error
    return model


def load_at_size(path: pathlib.Path, trunk_name: str, image_size: int) -> keras.Model:
    """Loads a model file for photos of a size, whatever it was trained on before."""
    model = load_model(path)
    if model.get_layer("trunk").input_shape[1] == image_size:
        return model
    return resized(model, build_trunk(trunk_name, image_size, "none"))


@contextlib.contextmanager
def undrawn_weights() -> Iterator[None]:
    """Kernels start as zeros instead of random numbers: those of the file replace them.

    Drawing 21 million numbers takes a quarter of the time in which Keras loads a model.
    Its initializers stay what they are, so a clone of the model is drawn.
    """
    random = keras.initializers.VarianceScaling
    draw = random.__call__
    random.__call__ = keras.initializers.Zeros.__call__
    try:
        yield
    finally:
        random.__call__ = draw


def check_unpacked_size(path: str | pathlib.Path) -> None:
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


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Saves a model file, whole or not at all."""
    with replacing(path) as temporary:
        model.save(temporary)


def draw_model(model: keras.Model, path: pathlib.Path) -> str | None:
    """Draws the layers through pydot; returns a warning where that cannot be."""
    try:
        with replacing(path) as temporary:
            shown = {"show_shapes": True, "show_layer_names": True, "dpi": 96}
            keras.utils.plot_model(model, temporary, **shown)
    except Exception as error:  # a broken Graphviz is an AssertionError of pydot
        # It is not a Python package; a picture must not stop a training.
        return f"no picture of the model: {' '.join(str(error).split())}"
    return None
