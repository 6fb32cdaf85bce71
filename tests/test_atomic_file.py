import csv
import os
import pathlib
import stat

import pytest

from pairs import files
from pairs.errors import UserError


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """A rename that survives a power cut while the bytes do not leaves an empty file."""
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("flush the folder" if is_folder else "flush the file")
        fsync(descriptor)

    def note_replace(source, target):
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_text(tmp_path / "a.txt", "x")
    assert done == ["flush the file", "rename", "flush the folder"]


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail_half_way():
        with files.replacing(file) as temporary:
            temporary.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_special_files_and_folders_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    os.mknod(tmp_path / "null", stat.S_IFIFO | 0o600)
    for name in ("pipe", "folder", "link", "null"):
        before = (tmp_path / name).stat()
        with pytest.raises(UserError, match="not a regular file"):
            files.write_text(tmp_path / name, "x")
        assert (tmp_path / name).stat() == before
    with pytest.raises(UserError, match="not a regular file"):
        files.write_text("/dev/null", "x")
    assert stat.S_ISCHR(pathlib.Path("/dev/null").stat().st_mode)


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "there" / "file.txt")
    for text in ("made", "replaced"):  # first it leads to nothing
        files.write_text(link, text)
        assert link.is_symlink()
        assert (tmp_path / "there" / "file.txt").read_text() == text
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(
        UserError, match=r"cannot be written|could not be written|not a regular file"
    ):
        files.write_text(tmp_path / "loop", "x")


def test_no_cell_is_run_by_a_spreadsheet_and_numbers_stay_numbers(tmp_path):
    formulas = ["=1+1", "+1", "-2+3", "@SUM(A1)"]
    rows = [[cell, -1.5, 2, "a,b"] for cell in [*formulas, "plain", "a=b"]]
    files.write_csv(tmp_path / "a.csv", ["name", "x", "y", "z"], rows)
    with (tmp_path / "a.csv").open(newline="") as file:
        header, *read = csv.reader(file)
    assert header == ["name", "x", "y", "z"]
    assert [row[0] for row in read] == [*(f"'{cell}" for cell in formulas), "plain", "a=b"]
    # Where people write decimal commas, a spreadsheet splits at semicolons.
    split = ["a;=1+1", "a;b\t@SUM(A1)", "a;'=1", 'a;"=1+1;b', "a;'\"=1"]
    files.write_csv(tmp_path / "split.csv", ["p_a;=1+1"], [[cell] for cell in split])
    text = (tmp_path / "split.csv").read_text()
    for delimiter in ",;\t":
        for row in csv.reader(text.splitlines(), delimiter=delimiter):
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    assert [files.unguard_cell(row[0]) for row in csv.reader(text.splitlines())][1:] == split
    assert {tuple(row[1:]) for row in read} == {("-1.5", "2", "a,b")}


@pytest.mark.parametrize("name", ['a,"b".jpg', "a\nb.jpg", "a\rb.jpg", "a\r\nb.jpg", " .jpg"])
def test_a_name_is_one_cell_of_one_row(tmp_path, name):
    files.write_csv(tmp_path / "table.csv", ["image", "typeid"], [[name, "2"], ["b.jpg", 3.5]])
    with (tmp_path / "table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["image", "typeid"], [name, "2"], ["b.jpg", "3.5"]]
    assert (tmp_path / "table.csv").read_text().endswith("\nb.jpg,3.5\n")
