"""Folders that the library of Hugging Face, datasets, has written."""

from __future__ import annotations

import json
import os
from collections.abc import Collection

from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.urls import FileSystem, Storage, is_url


def data_files(folder: str, storage: Storage = ()) -> Collection[str] | None:
    """Return the names of the files of a Hugging Face dataset; None if a folder holds none.

    Others beside them are results that its library keeps, of which the rows would count twice.

    Args:
        folder: The folder that ``Dataset.save_to_disk`` has written, or its URL.
        storage: Options of the file system of a URL.

    Raises:
        OptionError: If the rows are to be taken by an index, which is not followed.
    """
    try:
        name = os.path.join(folder, "state.json")
        remote = is_url(folder)
        with FileSystem(name, storage).open() if remote else open(name, "rb") as file:
            state = json.load(file)
        names = {str(entry["filename"]) for entry in state["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise OptionError(
            f"dataset {folder!r} takes its rows by an index, which is not followed here: "
            "call flatten_indices() before save_to_disk"
        )
    return names
