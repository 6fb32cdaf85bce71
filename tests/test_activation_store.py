import ast
import collections
import dataclasses
import os
import resource

import keras
import numpy as np
import pytest
from conftest import COLOURS, SIZE, SMALL_CUT, make_photo, make_run

import train
from model import build_model
from pair_generator import PairBatches
from pairs.devices.cluster import ALONE, Cluster
from pairs.errors import UserError
from pairs.network import parts
from pairs.network.files import load_model
from pairs.out_of_memory import is_out_of_memory
from pairs.photos.fit import FITS
from pairs.photos.read import Photos, read_photo
from pairs.training import activation_store, memory, room, stage, store_folder
from pairs.training.batches import KerasBatches
from pairs.training.checkpoint import Checkpoint
from pairs.training.log import RunLog
from pairs.training.recipe import STAGES_2017

HEADS = STAGES_2017[0]


@pytest.fixture
def photos(tmp_path):
    paths = [str(tmp_path / f"{number}.jpg") for number in range(5)]
    for number, path in enumerate(paths):
        make_photo(path, COLOURS["10"], seed=number)
    return Photos(paths, np.array([0, 1, 0, 1, 0], np.int32), ["a", "b"])


@pytest.fixture(scope="module")
def below(built_small_trunk):
    keras.utils.set_random_seed(1)
    return parts.split(build_model(built_small_trunk, ["a", "b"]), SMALL_CUT)[0]


def open_store(tmp_path, below, photos, dtype="float32", **more):
    return activation_store.open_store(make_run(tmp_path, cache=dtype), below, photos, **more)


def same_rows(rows, others):
    # A row's last bits depend on its place in the batch on some processors.
    atol = 1e-5 * np.abs(others).max()
    return [np.allclose(row, other, atol=atol) for row, other in zip(rows, others, strict=True)]


def test_rows_are_what_the_frozen_layers_make_of_each_photo(tmp_path, below, photos):
    store = open_store(tmp_path, below, photos)
    images = np.stack([read_photo(path, SIZE) for path in photos.paths])
    expected = below.predict(images, verbose=0)
    rows = store.read(np.array([3, 0, 3]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected[[3, 0, 3]], atol=1e-5 * np.abs(expected).max())


def test_a_store_is_computed_once(tmp_path, below, photos, capsys):
    first = open_store(tmp_path, below, photos)
    changed = first.shard(0).stat().st_mtime_ns
    again = open_store(tmp_path, below, photos)
    assert again == first
    assert first.shard(0).stat().st_mtime_ns == changed
    said = capsys.readouterr().out
    assert "computed once and stored" in said
    assert "there already" in said


def test_a_killed_run_goes_on_after_its_last_shard(tmp_path, below, photos, monkeypatch, capsys):
    whole = open_store(tmp_path / "whole", below, photos).read(np.arange(5))
    monkeypatch.setattr(activation_store, "SHARD_ROWS", 2)
    monkeypatch.setattr(activation_store, "TOLD_EVERY", 0)
    store = open_store(tmp_path, below, photos)
    told = [line for line in capsys.readouterr().out.splitlines() if "frozen layers: " in line]
    assert [line.split()[2] for line in told] == ["2", "4", "5"]
    assert told[-1] == "frozen layers: 5 of 5 photos, 0 s left"
    written = [store.shard(number).stat().st_mtime_ns for number in range(3)]
    store.shard(1).unlink()
    again = open_store(tmp_path, below, photos)
    assert "there already" not in capsys.readouterr().out
    for number in (0, 2):
        assert store.shard(number).stat().st_mtime_ns == written[number]
    order = np.array([4, 1, 3, 0, 2])
    np.testing.assert_allclose(again.read(order), whole[order], atol=1e-5 * np.abs(whole).max())


def test_a_batch_of_more_shards_than_files_may_be_open_is_read(
    tmp_path, below, photos, monkeypatch
):
    monkeypatch.setattr(activation_store, "SHARD_ROWS", 1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 10 + max(int(name) for name in os.listdir("/proc/self/fd"))
    rows = np.arange(3 * (limit + 1), dtype=np.float32).reshape(-1, 3)
    for number, row in enumerate(rows):
        np.save(tmp_path / f"{number:05}.npy", row[None])
    store = activation_store.ActivationStore(tmp_path, len(rows))
    order = np.random.default_rng(0).permutation(len(rows))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        np.testing.assert_array_equal(store.read(order), rows[order])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_store_half_built_on_a_disk_now_full_waits_for_room(
    tmp_path, below, photos, monkeypatch, capsys
):
    monkeypatch.setattr(activation_store, "SHARD_ROWS", 2)
    store = open_store(tmp_path, below, photos)
    store.shard(2).unlink()
    usage = collections.namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage(2e9, 1e9, 1e9))
        with pytest.raises(UserError, match=r"1.1 GB for all else, 1\.0 GB free; make room"):
            open_store(tmp_path, below, photos)
    assert len(list(store.path.iterdir())) == 2  # of three shards: nothing is lost
    assert open_store(tmp_path, below, photos) == store
    assert len(list(store.path.iterdir())) == 3


def test_what_was_not_stored_when_a_run_began_is_not_stored_when_there_is_room(
    tmp_path, below, photos, monkeypatch, capsys
):
    usage = collections.namedtuple("usage", "total used free")
    for free, said in ((1e9, "1.0 GB free: not stored but"), (9e12, "as decided when there was")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage(1e13, 0, free))
        assert open_store(tmp_path, below, photos) is None
        assert said in capsys.readouterr().out


def test_each_process_builds_some_of_the_shards(tmp_path, below, photos, monkeypatch):
    monkeypatch.setattr(activation_store, "SHARD_ROWS", 2)
    monkeypatch.setattr(Cluster, "barrier", lambda _: None)
    found = []
    for process in range(2):
        devices = Cluster(process, num_processes=2, num_devices=2)
        run = make_run(tmp_path, devices=devices)
        store = activation_store.open_store(run, below, photos)
        found.append(sorted(path.name for path in store.path.iterdir()))
    assert found == [["00000.npy", "00002.npy"], ["00000.npy", "00001.npy", "00002.npy"]]


def test_a_changed_photo_or_weight_is_never_read_from_an_old_store(tmp_path, below, photos):
    old = open_store(tmp_path, below, photos)
    make_photo(photos.paths[1], COLOURS["pug"], seed=77)
    new = open_store(tmp_path, below, photos)
    assert new.path != old.path
    same = same_rows(new.read(np.arange(5)), old.read(np.arange(5)))
    assert same == [True, False, True, True, True]

    other_order = Photos(photos.paths[::-1], photos.labels, photos.typeids)
    paths = {old.path, new.path, open_store(tmp_path, below, other_order).path}
    paths.add(open_store(tmp_path, below, photos, "float16").path)
    kernel = below.layers[-1].layers[1].kernel
    kernel.assign(kernel * 1.0001)
    paths.add(open_store(tmp_path, below, photos).path)
    assert len(paths) == 5


def test_every_fit_has_a_store_of_its_own(tmp_path, below, photos):
    keys = {
        activation_store.store_key(below, dataclasses.replace(photos, fit=fit), make_run(tmp_path))
        for fit in FITS
    }
    assert len(keys) == 3


def test_a_photo_that_vanished_gets_the_activation_of_a_neighbour(tmp_path, below, photos):
    os.remove(photos.paths[2])
    rows = open_store(tmp_path, below, photos).read(np.arange(5))
    assert same_rows(rows, rows[[2] * 5]) == [False, False, True, False, True]


def test_what_a_killed_run_left_does_not_count_as_used(tmp_path, below, photos):
    leftover = tmp_path / "activations" / ("0" * 32) / ".tmp-1234.npy"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half a store")
    open_store(tmp_path, below, photos)
    assert not leftover.exists()


def test_float16_takes_half_the_disk_and_off_takes_none(tmp_path, below, photos):
    exact, half = (open_store(tmp_path, below, photos, dtype) for dtype in ("float32", "float16"))
    sizes = [store.shard(0).stat().st_size for store in (exact, half)]
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.01)
    assert open_store(tmp_path, below, photos, "off") is None


def test_a_disk_too_small_is_said_and_nothing_is_written(
    tmp_path, below, photos, monkeypatch, capsys
):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(2e9, 1e9, 1e9))
    assert open_store(tmp_path, below, photos) is None
    assert "not stored but computed in every epoch" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.npy"))
    # A run that goes on when there is room computes as it did: the same bits.
    monkeypatch.undo()
    assert open_store(tmp_path, below, photos) is None
    assert "not stored but computed in every epoch" in capsys.readouterr().out
    assert [path.suffix for path in (tmp_path / "activations").iterdir()] == [".off"]
    store_folder.remove_activations(tmp_path)
    assert open_store(tmp_path, below, photos)


def test_stores_are_removed_but_for_those_in_use(tmp_path, below, photos):
    kept, old = (open_store(tmp_path, below, photos, dtype) for dtype in ("float32", "float16"))
    store_folder.remove_stores(tmp_path, keep=[kept.path])
    assert kept.shard(0).is_file()
    assert not old.path.exists()
    store_folder.remove_activations(tmp_path)
    assert not (tmp_path / "activations").exists()


@pytest.mark.slow
def test_stored_activations_change_no_loss_and_no_weight(data, tmp_path, small_trunk):
    """The last stage, two epochs, read from the store and computed anew."""

    def last_stage(cache):
        weights = tmp_path / cache
        flags = f"--image-size {SIZE} --batch-size 6 --pretrained none --epochs 0 0 2 --workers 2"
        args = [*flags.split(), "--data", data, "--weights", weights, "--cache", cache]
        train.train(train.parse_args([str(arg) for arg in args]))
        assert not (weights / "activations").exists()
        with (weights / "log.csv").open() as file:
            header, *rows = (line.strip().split(",") for line in file)
        columns = [number for number, name in enumerate(header) if name.endswith("loss")]
        losses = np.array([[float(row[number]) for number in columns] for row in rows])
        model = load_model(weights / "plain-last.keras")
        return losses, [weight.numpy() for weight in model.weights]

    stored_losses, stored = last_stage("float32")
    losses, anew = last_stage("off")
    np.testing.assert_allclose(stored_losses, losses, rtol=1e-5)
    for one, two in zip(stored, anew, strict=True):
        # By the array's norm: a single weight near 0 has no digits to compare.
        assert np.linalg.norm(one - two) <= 1e-5 * np.linalg.norm(two)


def test_running_out_of_memory_names_the_batch_size_to_try(photos):
    import tensorflow as tf

    class Full(keras.Model):
        def fit(self, *args, **kwargs):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    batches = KerasBatches(PairBatches(photos, SIZE, 32, seed=0), ["ctg_out_1"], 1, None, ALONE)
    smaller = "batch size 32: add --batch-size 24 and --restart; or, if nvidia-smi lists other"
    with pytest.raises(UserError, match=smaller):
        stage.fit(Full(), batches, HEADS, [], Checkpoint())
    assert [memory.smaller_share(size, ALONE) for size in (64, 32, 24, 16, 8, 4, 3, 2)] == [
        *(48, 24, 16, 8, 6, 3, 2, None)
    ]
    for devices, batch_size, advice in (
        # Where photos pass what is frozen, no batch size helps.
        (ALONE, None, "add a smaller --image-size"),
        (ALONE, 2, "add a smaller --image-size"),
        # Of 6 devices, one that can be divided among them: 8 images each become 6.
        (Cluster(num_devices=6), 48, "add --batch-size 36 and"),
        (Cluster(num_devices=2, num_groups=2), 8, "add a smaller --image-size"),
    ):
        with (
            pytest.raises(UserError, match=f"in stage heads.*: {advice}"),
            memory.memory_errors(HEADS, devices, batch_size),
        ):
            raise MemoryError
    assert not is_out_of_memory(ValueError("shapes differ"))
    # XLA's own words, where autotuning and launching failed on a full card.
    for words in (
        "NOT_FOUND: All configs failed during profiling or were excluded from selection.\n"
        "Failures (5):\nEXECUTION FAILED: RESOURCE_EXHAUSTED: Out of memory while trying to "
        "allocate 353.64MiB with allocator GPU_0_bfc on device 0.",
        "INTERNAL: CUDA error: Failed to instantiate CUDA graph: "
        "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested for launch",
    ):
        assert is_out_of_memory(RuntimeError(words))


def test_a_full_disk_is_not_called_full_memory(tmp_path):
    """TensorFlow's name of both errors is the same, as of a summary on a full disk."""
    import tensorflow as tf

    full = tf.errors.ResourceExhaustedError(None, None, "/board/events; No space left on device")
    assert not is_out_of_memory(full)
    words = r"no room on a disk that stage heads writes to .*make room and run the same"
    with pytest.raises(UserError, match=words), memory.memory_errors(HEADS, ALONE, 32):
        raise full
    with pytest.raises(UserError, match="as it was"), memory.memory_errors(HEADS, ALONE, 32):
        raise UserError("No space left on device, as it was")


def test_mirrored_rows_are_what_the_frozen_layers_make_of_mirrored_photos(tmp_path, below, photos):
    store = open_store(tmp_path, below, photos, mirror=True)
    images = np.stack([read_photo(path, SIZE) for path in photos.paths])
    as_they_are = below.predict(images, verbose=0)
    mirrored = below.predict(images[:, :, ::-1], verbose=0)
    rows = store.read(np.array([4, 0, 4]), np.array([True, False, False]))
    expected = np.stack([mirrored[4], as_they_are[0], as_they_are[4]])
    np.testing.assert_allclose(rows, expected, atol=1e-5 * np.abs(expected).max())
    assert (rows[0] != rows[2]).any()


def test_a_store_with_mirror_images_is_another_store(tmp_path, below, photos):
    with_them = open_store(tmp_path, below, photos, mirror=True)
    assert open_store(tmp_path, below, photos).path != with_them.path


def test_batches_from_a_store_mirror_the_same_images_as_batches_from_photos(
    tmp_path, below, photos
):
    store = open_store(tmp_path, below, photos, mirror=True)
    pairs = PairBatches(photos, SIZE, 5, 3, "mirror")
    seen = set()
    for pairs.epoch in range(4):
        inputs, _ = KerasBatches(pairs, ["bin_out"], 1, store, ALONE)[0]
        images, _ = pairs[0]
        expected = below.predict(images["img_1"], verbose=0)
        np.testing.assert_allclose(
            inputs["activation"], expected, atol=1e-5 * np.abs(expected).max()
        )
        seen |= set(zip(pairs.indices(0).tolist(), pairs.mirrored(0).tolist(), strict=True))
    assert len(seen) > 7  # of 5 photos, most were seen both ways


def test_the_pooled_feature_is_made_of_the_activations_that_a_later_stage_reads(
    tmp_path, built_small_trunk, photos
):
    model = build_model(built_small_trunk, ["a", "b"])
    whole, _ = parts.split(model, None)
    below, upper = parts.split_trunk(model, SMALL_CUT)
    lower = open_store(tmp_path, below, photos, mirror=True)
    moved = [path + ".away" for path in photos.paths]
    for old, new in zip(photos.paths, moved, strict=True):
        os.rename(old, new)  # no photo is read again
    store = open_store(tmp_path, whole, photos, mirror=True, source=(lower, upper))
    images = np.stack([read_photo(path, SIZE) for path in moved])
    expected = whole.predict(np.concatenate([images, images[:, :, ::-1]]), verbose=0)
    rows = store.read(np.tile(np.arange(5), 2), np.repeat([False, True], 5))
    np.testing.assert_allclose(rows, expected, atol=1e-5 * np.abs(expected).max())


def below_of(trunk, cut=SMALL_CUT):
    return parts.split(build_model(trunk, ["a", "b"]), cut)[0]


def test_another_image_size_or_precision_is_another_store(
    tmp_path, below, photos, built_small_trunk, small_trunk
):
    """The same weights, the same photos."""
    from pairs.network import trunks

    paths = {open_store(tmp_path, below, photos).path}
    larger = trunks.build_trunk("xception", SIZE + 10, "none")
    larger.set_weights(built_small_trunk.get_weights())
    paths.add(open_store(tmp_path, below_of(larger), photos).path)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = trunks.build_trunk("xception", SIZE, "none")
        mixed.set_weights(built_small_trunk.get_weights())
        paths.add(open_store(tmp_path, below_of(mixed), photos).path)
    finally:
        keras.config.set_dtype_policy("float32")
    assert len(paths) == 3


def test_another_version_of_what_computes_is_another_store(tmp_path, below, photos, monkeypatch):
    import importlib.metadata

    keys = {activation_store.store_key(below, photos, make_run(tmp_path))}
    version = importlib.metadata.version
    for package in (keras.backend.backend(), "keras", "numpy", "pillow"):
        with monkeypatch.context() as patched:
            patched.setattr(
                "importlib.metadata.version",
                lambda name, package=package: "0.0" if name == package else version(name),
            )
            keys.add(activation_store.store_key(below, photos, make_run(tmp_path)))
    assert len(keys) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "of another run", "gone"])
def test_a_damaged_shard_is_one_line_and_computed_anew(
    tmp_path, below, photos, damage, monkeypatch
):
    monkeypatch.setattr(activation_store, "SHARD_ROWS", 2)
    store = open_store(tmp_path, below, photos)
    whole = store.read(np.arange(5))
    shard = store.shard(1)
    content = shard.read_bytes()
    if damage == "of another run":
        np.save(shard, np.zeros((2, 3), np.float32))
    elif damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(
            {"cut": content[:-1000], "empty": b"", "garbage": b"\x93NUMPY\x01\x00"}[damage]
        )
    if damage != "of another run":
        with pytest.raises(UserError, match="damaged"):
            store.read(np.arange(5))
    written = [store.shard(number).stat().st_mtime_ns for number in (0, 2)]
    again = open_store(tmp_path, below, photos)
    assert [store.shard(number).stat().st_mtime_ns for number in (0, 2)] == written
    np.testing.assert_allclose(again.read(np.arange(5)), whole, atol=1e-5 * np.abs(whole).max())


def test_where_a_quota_leaves_no_room_the_line_says_how_to_go_on(
    tmp_path, below, photos, monkeypatch
):
    def full(*_):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(np.lib.format, "write_array_header_2_0", full)
    with pytest.raises(UserError, match=r"quota exceeded.*--cache off"):
        open_store(tmp_path, below, photos)


def test_what_a_store_needs_is_counted_in_bytes(tmp_path, below, photos, monkeypatch, capsys):
    needed = 2 * 5 * 17 * 17 * 16 * 4  # views, photos, rows, columns, channels, bytes
    spare = room.SPARE_BYTES
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, needed + spare - 1))
    assert open_store(tmp_path / "short", below, photos, mirror=True) is None
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, needed + spare))
    store = open_store(tmp_path / "enough", below, photos, mirror=True)
    assert store.shard(0).stat().st_size == pytest.approx(needed, abs=200)  # and a header
    assert "0.2 MB of 1.1 GB free: computed once and stored" in capsys.readouterr().out


def test_the_models_to_come_have_their_place_on_the_disk(tmp_path):
    (tmp_path / "start.keras").write_bytes(b"\0" * 1000)
    models = 1000 * 7  # best and last of three stages, and the final one
    assert room.spare_bytes(make_run(tmp_path)) == room.SPARE_BYTES + models
    log = RunLog(tmp_path, list(STAGES_2017), folds_left=4)
    assert room.spare_bytes(make_run(tmp_path, log=log)) == room.SPARE_BYTES + 5 * models


def test_models_that_will_not_fit_are_refused_to_the_byte(tmp_path, monkeypatch):
    needed = 2 * 7 * 1000 + 3 * 1000  # models of two folds, and a checkpoint
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, needed))
    room.check_models_fit(tmp_path, STAGES_2017, 2, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, needed - 1))
    with pytest.raises(UserError, match=r"will take 0\.0 MB, 0\.0 MB are free; make room"):
        room.check_models_fit(tmp_path, STAGES_2017, 2, 1000)


@pytest.mark.parametrize("folds", [False, True])
def test_without_a_store_what_is_left_of_one_is_removed(tmp_path, built_small_trunk, photos, folds):
    """`--cache off` is the way out of a full disk."""
    model_parts = stage.Parts(build_model(built_small_trunk, ["a", "b"]), SMALL_CUT)
    run = make_run(tmp_path, pool=photos if folds else None)
    stage.open_stores(run, STAGES_2017[1], model_parts, photos, photos)
    assert len(list(tmp_path.glob("activations/*"))) == 1
    off = dataclasses.replace(run, cache="off")
    assert stage.open_stores(off, STAGES_2017[1], model_parts, photos, photos) == (None, None)
    assert not list(tmp_path.glob("activations/*"))


def test_rows_are_mapped_and_not_read_into_memory(tmp_path, below, photos):
    """A store may be larger than the computer's memory."""
    assert isinstance(open_store(tmp_path, below, photos).open_shard(0), np.memmap)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (513, 4, 3, 7)])
def test_shards_are_opened_without_pythons_parser(dtype, shape, tmp_path, monkeypatch):
    """In threads it has ended in a SystemError, at random: python/cpython#106905."""
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    np.save(tmp_path / "00000.npy", array)
    called = []
    for name in ("parse", "literal_eval"):
        monkeypatch.setattr(ast, name, lambda *_: called.append("ast"))
    shard = activation_store.ActivationStore(tmp_path, len(array)).open_shard(0)
    assert not called
    assert shard.dtype == array.dtype
    np.testing.assert_array_equal(shard, array)


def test_a_shard_in_another_order_is_not_read_as_if_it_were_in_ours(tmp_path):
    np.save(tmp_path / "00000.npy", np.asfortranarray(np.ones((4, 3), np.float32)))
    with pytest.raises(UserError, match="damaged"):
        activation_store.ActivationStore(tmp_path, 4).open_shard(0)
