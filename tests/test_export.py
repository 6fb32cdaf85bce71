"""Exported files, in the runtimes that they are for, beside what `predict.py` says."""

import csv
import errno
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import COLOURS, ROOT, SIZE, make_photo, run_script
from keras.src.applications import convnext as convnext_builder
from PIL import Image

import predict
from pairs.errors import UserError
from pairs.evaluation import export as exporting
from pairs.evaluation.calibration import Calibration, write_calibration
from pairs.evaluation.export import export
from pairs.evaluation.metrics import apply_temperature
from pairs.evaluation.predictor import Predictor
from pairs.files import file_digest, write_json
from pairs.photos.find import find_photos
from pairs.photos.read import read_photo

pytestmark = [
    pytest.mark.slow,
    # Its successor is another package (docs/export.md); it runs the same files.
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated"),
]
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tf2onnx", "onnx", "onnxruntime"))),
    reason="needs tf2onnx, onnx and onnxruntime (requirements-dev.txt)",
)
PROGRAM = re.search(
    r"^```python\n(.+?)^```", (ROOT / "docs/export.md").read_text(encoding="utf-8"), re.M | re.S
)[1]


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory):
    """The training's folder, with a temperature that changes what is said."""
    folder = tmp_path_factory.mktemp("export") / "weights"
    shutil.copytree(trained, folder)
    write_calibration(folder, Calibration(temperature=0.4, photos=100))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos: as they are, large and turned, grey, half transparent, CMYK."""
    folder = tmp_path_factory.mktemp("photos")
    colours = list(COLOURS.values())
    for number, colour in enumerate(colours):
        make_photo(folder / f"{number}.png", colour, number, size=(288, 432))
    paths = sorted(folder.iterdir())
    with Image.open(paths[0]) as image:
        image.save(folder / "a.jpg")
    turned = Image.Exif()
    turned[274] = 6
    with Image.open(paths[1]) as image:
        image.resize((1200, 700)).save(folder / "b.jpg", exif=turned)
        image.convert("L").save(folder / "c.png")
        image.convert("CMYK").save(folder / "d.jpg")
    with Image.open(paths[2]) as image:
        image.putalpha(image.convert("L"))
        image.save(folder / "e.png")
    for path in paths:
        path.unlink()
    return folder


@needs_onnx
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_the_program_of_the_docs_says_what_predict_says(fit, weights, photos, tmp_path, capsys):
    # With class centres and without; what is of another head is not calibrated.
    predictor = Predictor(weights, head="all" if fit == "crop" else None)
    place, square = tmp_path / "model.onnx", f"{SIZE} x {SIZE} pixels"
    fitted = "; not calibrated yet: see --evaluate" if fit == "crop" else ""
    if fit == predictor.fit:  # the command itself
        done = run_script("predict.py", "--weights", weights, "--export", place)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        predictor.fit = fit
        export(predictor, str(place))
        printed = capsys.readouterr().out
    assert printed == f"{place}: ONNX, 3 classes, photos of {square}, fit {fit}{fitted}\n"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *find_photos(photos)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    said = {}
    for line in done.stdout.splitlines():
        path, typeid, probability = line.split("\t")
        said.setdefault(pathlib.Path(path).stem, {})[typeid] = float(probability)
    predictions = predictor.predict(find_photos(photos))
    predict.write_table(predictor, predictions, predictor.calibration, {}, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    assert said.keys() == rows.keys() == set("abcde")
    for name, row in rows.items():
        expected = {row[f"typeid_{n}"]: float(row[f"probability_{n}"]) for n in (1, 2, 3)}
        assert said[name] == pytest.approx(expected, abs=1e-4)
    # A program that read all photos alike would pass, too, if they looked alike to it.
    assert np.ptp([shares["pug"] for shares in said.values()]) > 0.01


def run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": images}), strict=True))
    facts = session.get_modelmeta().custom_metadata_map
    return found, facts["typeids"], facts["fit"]


def run_litert(path, images):
    import tensorflow as tf

    found = tf.lite.Interpreter(str(path)).get_signature_runner()(images=images)
    archive = zipfile.ZipFile(path)
    return found, archive.read("typeids.json"), archive.read("fit.txt").decode()


def run_saved_model(path, images):
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    served = model.signatures["serving_default"](images=images)
    found = {name: tensor.numpy() for name, tensor in served.items()}
    for name, tensor in model.serve(images).items():  # as docs/export.md asks
        np.testing.assert_allclose(tensor, found[name], atol=1e-6)
    return found, (path / "typeids.json").read_bytes(), (path / "fit.txt").read_text().strip()


RUNTIMES = [
    pytest.param("m.onnx", run_onnx, marks=needs_onnx),
    ("m.tflite", run_litert),
    ("m", run_saved_model),
]


def assert_says_the_same(predictor, run, path, photos):
    """A file says of photos, alone and three at a time, what a predictor does."""
    paths = find_photos(photos)[:3]
    predictions = predictor.predict(paths)
    temperature = predictor.calibration.temperature
    expected = {
        "probabilities": apply_temperature(predictions.probabilities, temperature),
        "feature": predictor.unit(predictions.features),
    }
    images = np.stack([read_photo(path, predictor.image_size, predictor.fit) for path in paths])
    for batch in (images[:1], images):
        found, typeids, fit = run(path, batch)
        assert json.loads(typeids) == predictor.typeids
        assert fit == predictor.fit
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], values[: len(batch)], atol=1e-4)


@pytest.mark.parametrize(("name", "run"), RUNTIMES)
def test_every_runtime_says_what_the_model_says(name, run, weights, photos, tmp_path):
    predictor = Predictor(weights)
    predictor.fit = "pad"
    assert predictor.calibration.temperature == 0.4
    assert predictor.similarities[0] is not None
    export(predictor, str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert_says_the_same(predictor, run, tmp_path / name, photos)


@needs_onnx
def test_models_of_folds_are_one_file(weights, photos, tmp_path, capsys):
    folds = tmp_path / "folds"
    for number, stage in ((1, "plain"), (2, "heads")):  # of the second no similarity is known
        (folds / f"fold-{number}").mkdir(parents=True)
        shutil.copy(weights / f"{stage}-best.keras", folds / f"fold-{number}" / "model.keras")
    shutil.copy(weights / "similarity.npz", folds / "fold-1")
    held_out = {file_digest(path): 1 + n % 2 for n, path in enumerate(find_photos(photos))}
    write_json(folds / "folds.json", {"folds": 2, "held_out": held_out})
    predictor = Predictor(folds)
    assert len(predictor.models) == 2
    assert [similarity is None for similarity in predictor.similarities] == [False, True]
    export(predictor, str(tmp_path / "m.onnx"))
    assert "not calibrated yet: see --evaluate" in capsys.readouterr().out
    assert_says_the_same(predictor, run_onnx, tmp_path / "m.onnx", photos)


@needs_onnx
def test_a_model_of_mixed_precision_is_exported_in_float32(weights, photos, tmp_path, small_trunk):
    import keras

    from model import build_model
    from pairs.network.trunks import build_trunk

    exact = Predictor(weights)
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        trunk = build_trunk("xception", SIZE, "none")
        mixed = build_model(trunk, exact.typeids)
    finally:
        keras.config.set_dtype_policy(policy)
    mixed.set_weights(exact.models[0].get_weights())
    mixed.save(tmp_path / "model.keras")
    predictor = Predictor(tmp_path)
    assert predictor.models[0].get_layer("trunk").layers[1].compute_dtype == "bfloat16"
    export(predictor, str(tmp_path / "m.onnx"))
    exact.calibration, exact.similarities = predictor.calibration, predictor.similarities
    assert_says_the_same(exact, run_onnx, tmp_path / "m.onnx", photos)


@pytest.fixture
def convnext(tmp_path, monkeypatch):
    """A weights folder of a small ConvNeXt that computes in bfloat16."""
    import keras

    from model import build_model
    from pairs.network import trunks

    def small(weights, include_top, pooling, input_shape):
        sizes = {"depths": (1, 1, 2, 1), "projection_dims": (8, 16, 24, 32), "default_size": 224}
        return convnext_builder.ConvNeXt(
            **sizes,
            name="small",
            layer_scale_init_value=1.0,
            weights=weights,
            include_top=include_top,
            pooling=pooling,
            input_shape=input_shape,
        )

    row = trunks.Trunk("Small", 32, "before small_downsampling_block_2", "none", True)
    monkeypatch.setattr(keras.applications, "Small", small, raising=False)
    monkeypatch.setitem(trunks.TRUNKS, "small", row)
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.utils.set_random_seed(0)  # some random weights magnify what runtimes round off
        trunk = trunks.build_trunk("small", 32, "none")
        build_model(trunk, ["2", "10", "pug"]).save(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy(policy)
    return tmp_path


def test_a_convnext_of_mixed_precision_is_exported_in_float32_too(convnext, photos):
    from pairs.network import frozen

    export(Predictor(convnext), str(convnext / "m.tflite"))
    exact = Predictor(convnext)
    exact.models = [frozen.in_float32(model) for model in exact.models]
    assert_says_the_same(exact, run_litert, convnext / "m.tflite", photos)


@needs_onnx
def test_what_onnx_cannot_hold_is_said_and_not_written(convnext):
    with pytest.raises(UserError, match=r"cannot translate this trunk .*Erfc.*; export it as"):
        export(Predictor(convnext), str(convnext / "m.onnx"))
    assert [path.name for path in convnext.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_a_full_disk_leaves_nothing(name, weights, tmp_path, monkeypatch):
    import keras
    import tensorflow as tf

    def fail_in_file(model, path, *_, **__):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail_in_folder(archive, path, *_, **__):
        path.mkdir()
        (path / "half").touch()
        raise tf.errors.ResourceExhaustedError(
            None, None, "{{function_node __wrapped__SaveV2}} half; No space left on device"
        )

    monkeypatch.setattr(keras.Model, "export", fail_in_file)
    # The backend's own class, which `ExportArchive` makes.
    monkeypatch.setattr(type(keras.export.ExportArchive()), "write_out", fail_in_folder)
    with pytest.raises(UserError, match=r"could not be written .*No space left") as refused:
        export(Predictor(weights), str(tmp_path / name))
    assert "function_node" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said(weights, tmp_path, monkeypatch):
    import keras

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else name)
    assert exporting.why_not("m.onnx") == (
        "tf2onnx and onnx not installed; pip install -r requirements-export.txt"
    )
    assert exporting.why_not("m.tflite") is None
    assert exporting.why_not("m.h5").startswith(".h5 is no format")
    (tmp_path / "m").mkdir()
    for name in ("m", "m/"):
        assert exporting.why_not(f"{tmp_path}/{name}").startswith("is there already")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND is 'jax', 'tensorflow' is needed"):
        export(Predictor(weights), "m.onnx")
