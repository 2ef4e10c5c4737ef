"""Times ComfyUI's own get_filename_list on a folder: first call and median of further ones, as one JSON line.

Arguments: COMFYUI_CHECKOUT FOLDER. The folder is listed as a type without extension set, so that every file counts.
"""

import json
import statistics
import sys
import time

checkout, folder = sys.argv[1], sys.argv[2]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, checkout)
import folder_paths  # noqa: E402

folder_paths.add_model_folder_path("misc", folder)


def timed() -> float:
    begin = time.perf_counter()
    folder_paths.get_filename_list("misc")
    return (time.perf_counter() - begin) * 1000


first = timed()
print(json.dumps({"first": first, "again": statistics.median(timed() for _ in range(201)), "files": len(folder_paths.get_filename_list("misc"))}))
