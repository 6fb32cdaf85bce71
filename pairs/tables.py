"""Reads tables that people bring: CSV as they write it, or as a spreadsheet does."""

import csv
import io
import pathlib

from pairs.errors import UserError

# Which of them a spreadsheet writes depends on the language of its user.
DELIMITERS = ",;\t"
DAMAGED = "no table of text; save it as CSV in UTF-8, or download it again"
NOT_TEXT = "not UTF-8 text; save it as text in UTF-8, a table as CSV"


def read_text(path: str | pathlib.Path, place: str) -> str:
    """The text of a file, in UTF-8, with or without a byte order mark.

    Args:
        path: of the file.
        place: how an error begins.

    Raises:
        UserError: no such file, or no text.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{place}: no such file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: {NOT_TEXT}") from error
    if "\0" in text:
        raise UserError(f"{place}: {NOT_TEXT}")
    return text


def split_rows(
    text: str, delimiter: str, place: str, skip_spaces: bool = False
) -> list[tuple[int, list[str]]]:
    """The rows of a table with the number of their last line; none that is empty.

    Args:
        text: of the table.
        delimiter: between cells.
        place: how an error begins.
        skip_spaces: those behind a delimiter are not of the cell: a quote may follow.

    Raises:
        UserError: it is damaged.
    """
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=skip_spaces, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{place}, line {reader.line_num}: {DAMAGED} ({error})") from error
