"""Choices that are files, listed as the bridge lists them, so that a name means the same on both sides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import folder_paths

OUTPUT_SUFFIX = " [output]"
FEATURE_ENDINGS = (".safetensors",)
EMBEDS_ENDINGS = (".safetensors", ".ipadpt")
ADAPTER_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

Source = dict[str, Any]


def list_files(source: Source) -> list[str]:
    """The names to choose from; those of `before` are no files."""
    return [*source.get("before", []), *_names(source)]


def file_identity(source: Source, name: str) -> str:
    """A text that changes when the file does; empty where there is none."""
    try:
        status = os.stat(_path(source, name) or "")
    except OSError:
        return ""
    return f"{status.st_size}-{int(status.st_mtime * 1000)}"


def _names(source: Source) -> list[str]:
    kind = source["kind"]
    if kind == "models":
        return folder_paths.get_filename_list(source["folder"])
    if kind == "ipadapters":
        return sorted({name for _folder, name in _files_beside("ipadapter", ADAPTER_ENDINGS)})
    if kind == "face-packs":
        found = _files_beside("insightface", (".onnx",))
        return sorted({os.path.basename(os.path.dirname(os.path.join(folder, name))) for folder, name in found})
    endings, is_deep = (EMBEDS_ENDINGS, True) if kind == "embeds-files" else (FEATURE_ENDINGS, False)
    names = []
    places = {folder_paths.get_input_directory(): "", folder_paths.get_output_directory(): OUTPUT_SUFFIX}
    for folder, suffix in places.items():
        found = sorted(name for name in _walk(folder, endings, followlinks=False) if is_deep or "/" not in name)
        names += [name + suffix for name in found]
    return names


def _path(source: Source, name: str) -> str | None:
    kind = source["kind"]
    if name in source.get("before", []) or kind == "face-packs":
        return None
    if kind == "models":
        return folder_paths.get_full_path(source["folder"], name)
    if kind == "ipadapters":
        found = _files_beside("ipadapter", ADAPTER_ENDINGS)
        return next((os.path.join(folder, file) for folder, file in found if file == name), None)
    return folder_paths.get_annotated_filepath(name)


def _files_beside(kind: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Folder and name of every file in folders that ComfyUI itself does not know: configured, or beside clip_vision."""
    known = folder_paths.folder_names_and_paths
    folders = [*folder_paths.get_folder_paths(kind)] if kind in known else []
    folders += [os.path.join(os.path.dirname(folder), kind) for folder in folder_paths.get_folder_paths("clip_vision")]
    for folder in dict.fromkeys(map(os.path.abspath, folders)):
        # As ComfyUI lists models: people link their folders together.
        for name in _walk(folder, endings, followlinks=True):
            yield folder, name


def _walk(folder: str, endings: tuple[str, ...], *, followlinks: bool) -> Iterator[str]:
    """Names below a folder, with slashes on every system."""
    for place, _folders, files in os.walk(folder, followlinks=followlinks):
        for file in files:
            if file.lower().endswith(endings):
                yield os.path.relpath(os.path.join(place, file), folder).replace(os.sep, "/")
