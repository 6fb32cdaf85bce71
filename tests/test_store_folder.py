"""Stores of activations come and go; nothing else beside them does."""

import pathlib

import pytest

from pairs.errors import UserError
from pairs.training import run_folder, store_folder

KEY = "0123456789abcdef" * 2
# What may lie on a disk that activations are linked to.
FOREIGN = ("thesis.txt", "holiday/photo.jpg", "holiday/.tmp-1", ".tmp-2", "cafe/00000.npy", "x.off")


def fill(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def begin(weights):
    """A weights folder with a store, a half-written shard, and a decision against another."""
    folder = store_folder.store_folder(weights)
    fill(folder, (f"{KEY}/00000.npy", f"{KEY}/.tmp-00001.npy", f"{KEY[::-1]}.off"))
    return folder


def make_weights(tmp_path, name, disk=None):
    weights = tmp_path / name
    weights.mkdir()
    if disk:
        (weights / "activations").symlink_to(disk)
    return weights


@pytest.fixture
def disk(tmp_path):
    fill(tmp_path / "disk", FOREIGN)
    return tmp_path / "disk"


@pytest.mark.parametrize("remove", [store_folder.remove_activations, run_folder.set_aside])
def test_of_a_linked_disk_only_what_a_run_stored_is_removed(tmp_path, disk, remove):
    weights = make_weights(tmp_path, "weights", disk)
    begin(weights)
    assert len(files(disk)) == len(FOREIGN) + 3
    remove(weights)
    assert files(disk) == set(FOREIGN)
    assert {path.name for path in disk.iterdir()} == {name.partition("/")[0] for name in FOREIGN}
    assert (weights / "activations").is_symlink()
    remove(weights)
    assert files(disk) == set(FOREIGN)
    assert [path.name for path in weights.iterdir()] == ["activations"]


def test_two_runs_behind_one_link_keep_theirs_apart(tmp_path, disk):
    first, second = (make_weights(tmp_path, name, disk) for name in ("first", "second"))
    own, others = begin(first), begin(second)
    assert own != others
    store_folder.remove_stores(second)
    store_folder.remove_activations(second)
    assert not others.exists()
    assert files(own) == {f"{KEY}/00000.npy", f"{KEY}/.tmp-00001.npy", f"{KEY[::-1]}.off"}
    moved = first.rename(tmp_path / "moved")
    assert store_folder.store_folder(moved) == moved / "activations" / own.name


@pytest.mark.parametrize("link", [True, False])
def test_half_written_shards_are_removed_and_decisions_stay(tmp_path, disk, link):
    folder = begin(make_weights(tmp_path, "weights", disk if link else None))
    fill(folder, FOREIGN)
    store_folder.remove_leftovers(folder)
    assert files(folder) == {f"{KEY}/00000.npy", f"{KEY[::-1]}.off", *FOREIGN}
    store_folder.remove_stores(tmp_path / "weights")
    assert files(folder) == {f"{KEY[::-1]}.off", *FOREIGN}


def test_without_a_link_too_other_files_stay(tmp_path):
    weights = make_weights(tmp_path, "weights")
    folder = begin(weights)
    assert folder == weights / "activations"
    fill(folder, FOREIGN)
    store_folder.remove_activations(weights)
    assert files(folder) == set(FOREIGN)


@pytest.mark.parametrize("name", ["", "..", "../..", ".", "holiday", "/", "pairs-12", "\udcff"])
def test_a_damaged_name_behind_a_link_removes_nothing(tmp_path, disk, name):
    weights = make_weights(tmp_path, "weights", disk)
    (weights / ".activations").write_bytes(name.encode("utf-8", "surrogateescape"))
    fill(disk, [f"{KEY}/00000.npy"])
    before = files(disk)
    store_folder.remove_activations(weights)
    store_folder.remove_stores(weights)
    assert files(disk) == before
    assert store_folder.store_folder(weights).parent == weights / "activations"


def test_a_link_to_a_disk_that_is_not_there_is_one_line(tmp_path):
    weights = make_weights(tmp_path, "weights", pathlib.Path("/not/mounted"))
    with pytest.raises(UserError, match=r"a link to no folder\. Mount the disk"):
        store_folder.store_folder(weights)
    store_folder.remove_activations(weights)
    assert (weights / "activations").is_symlink()
