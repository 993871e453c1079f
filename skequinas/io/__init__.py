"""What comes in and goes out: arrays of any form to images, and files of arrays and JSON."""

from skequinas.io.checkpoints import Checkpoint, Keeper
from skequinas.io.files import FileError, array_from_json, array_to_json, read_file, reading, write_file
from skequinas.io.images import Preprocessing, as_array, as_images, as_rows, infer_image_shape

__all__ = [
    "Checkpoint",
    "FileError",
    "Keeper",
    "Preprocessing",
    "array_from_json",
    "array_to_json",
    "as_array",
    "as_images",
    "as_rows",
    "infer_image_shape",
    "read_file",
    "reading",
    "write_file",
]
