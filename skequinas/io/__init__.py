"""What comes in and goes out: arrays of any form to images, and files of arrays and JSON."""

from skequinas.io.checkpoints import Checkpoint, Keeper
from skequinas.io.files import FileError, array_from_json, array_to_json, read_file, reading, write_file
from skequinas.io.images import as_array, as_images, as_rows, infer_image_shape
from skequinas.io.preprocessing import Preprocessing
from skequinas.io.stored import ImageFiles, StoredImages, is_stored, taken_from

__all__ = [
    "Checkpoint",
    "FileError",
    "ImageFiles",
    "Keeper",
    "Preprocessing",
    "StoredImages",
    "array_from_json",
    "array_to_json",
    "as_array",
    "as_images",
    "as_rows",
    "infer_image_shape",
    "is_stored",
    "read_file",
    "reading",
    "taken_from",
    "write_file",
]
