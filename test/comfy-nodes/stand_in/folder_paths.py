"""Folders of the throw-away ComfyUI tree that the tests run in."""

from __future__ import annotations

import os

base_path = os.environ["PACK_TEST_ROOT"]
folder_names_and_paths = {"clip_vision": ([os.path.join(base_path, "models", "clip_vision")], {".safetensors"})}


def get_folder_paths(folder: str) -> list[str]:
    return list(folder_names_and_paths[folder][0])


def get_user_directory() -> str:
    return os.path.join(base_path, "user")


def get_input_directory() -> str:
    return os.path.join(base_path, "input")


def get_output_directory() -> str:
    return os.path.join(base_path, "output")


def get_annotated_filepath(name: str) -> str:
    if name.endswith(" [output]"):
        return os.path.join(get_output_directory(), name[: -len(" [output]")])
    return os.path.join(get_input_directory(), name)


def get_filename_list(folder: str) -> list[str]:
    return sorted(os.listdir(os.path.join(base_path, "models", folder)))


def get_full_path(folder: str, name: str) -> str | None:
    path = os.path.join(base_path, "models", folder, name)
    return path if os.path.isfile(path) else None


def get_full_path_or_raise(folder: str, name: str) -> str:
    path = get_full_path(folder, name)
    if path is None:
        raise FileNotFoundError(name)
    return path
