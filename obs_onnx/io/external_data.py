"""External data: the files beside a model that its weights lie in, and which of them may be read.

A file is named relative to the folder of the model. Where the model is a link, that is the folder of the
link, or of what it leads to (the next link, or the file): a cache keeps both under other names elsewhere.
What is read lies in one of these folders, or in the ``blobs`` of a Hugging Face cache whose ``snapshots``
hold one of them (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

import onnx

from obs_onnx.passes.errors import ModelError

__all__ = ["check_external", "data_file", "folders_of", "location_of", "possible_files"]

_MOST_LINKS = 40  # from a name to a file, as Linux follows


def folders_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The folders of a model's name, of every link that it leads to, and of its file, without doubles."""
    folders, name = [], os.fspath(path)
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(os.path.dirname(name))
        folders.append(folder)
        name = os.path.join(folder, os.path.basename(name))
        if not os.path.islink(name):
            break
        name = os.path.join(folder, os.readlink(name))
    return tuple(dict.fromkeys(folders))


def location_of(tensor: onnx.TensorProto) -> str:
    """What a tensor calls the file that it lies in."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def possible_files(location: str, folders: Sequence[str]) -> list[str]:
    """Where a file of that name may lie, best first; Windows separates folders by a backslash."""
    spellings = dict.fromkeys((location, location.replace("\\", "/")))
    return [os.path.join(folder, spelling) for folder in folders for spelling in spellings]


def data_file(location: str, folders: Sequence[str], subject: str) -> str:
    """The real path of a file that a model may read.

    Args:
        location: as the model names it.
        folders: of the model; :func:`folders_of`.
        subject: what begins an error message.

    Raises:
        ModelError: it is not there, or somewhere else.
    """
    if "\0" in location:
        raise ModelError(f"{subject} has a name that no file can have; export the model again")
    if os.path.isabs(location) or PureWindowsPath(location).drive:
        raise ModelError(
            f"{subject} is named by an absolute path, which lies outside the folder of the model; "
            "export the model again with a name relative to it"
        )
    roots = tuple(_roots(folders))
    outside = False
    for path in possible_files(location, folders):
        real = os.path.realpath(path)
        inside = bool(location) and any(real.startswith(os.path.join(root, "")) for root in roots)
        if inside and os.path.isfile(real):
            return real
        outside |= not inside
    if outside:
        raise ModelError(f"{subject} lies outside the folder of the model; copy it beside the model")
    raise ModelError(f"{subject} is missing; copy that file beside the model")


def _roots(folders: Sequence[str]) -> Iterator[str]:
    """Folders without links in their names."""
    for folder in folders:
        yield os.path.realpath(folder)
        parts = Path(os.path.realpath(folder)).parts
        for number, part in enumerate(parts[:-1]):
            if part == "snapshots":
                yield os.path.join(*parts[:number], "blobs")


def check_external(
    tensor: onnx.TensorProto, needed: int, where: str, folders: Sequence[str], sums: dict[str, str]
) -> None:
    """Raise ModelError unless the data of a tensor is where it says, and whole.

    Args:
        tensor: whose data lies in a file.
        needed: bytes that its shape needs.
        where: what error messages call the model.
        folders: of the model; :func:`folders_of`.
        sums: check sums found so far, by file; grows.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    subject = f"the external data {location!r} of tensor {tensor.name!r} in {where}"
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
    except ValueError as error:
        raise ModelError(f"{subject} has a broken offset or length; export the model again") from error
    if tensor.data_type == onnx.TensorProto.STRING:
        raise ModelError(f"{subject} holds strings, which external data cannot; export the model again")
    path = data_file(location, folders, subject)
    if offset < 0 or length < 0 or (entries.get("length") and length != needed):
        raise ModelError(
            f"{subject} is broken: shape {list(tensor.dims)} needs {needed} bytes, {length} are declared; "
            "export the model again"
        )
    found = os.path.getsize(path)
    if offset + needed > found:
        raise ModelError(
            f"{subject} is truncated: {offset + needed} bytes are needed, the file has {found}; "
            "export or download it again"
        )
    if wanted := entries.get("checksum"):
        if path not in sums:
            sums[path] = _sha1(path)
        if wanted.lower() != sums[path]:
            raise ModelError(
                f"{subject} has not the check sum {wanted[:40]!r} that the model names: "
                "export or download it again"
            )


def _sha1(path: str) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
