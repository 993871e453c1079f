"""What comes in and goes out: arrays of any form to images, and files of arrays and JSON."""

from skequinas.io.files import array_from_json, array_to_json, read_file, write_file
from skequinas.io.images import Preprocessing, as_array, as_images, as_rows, infer_image_shape

__all__ = [
    "Preprocessing",
    "array_from_json",
    "array_to_json",
    "as_array",
    "as_images",
    "as_rows",
    "infer_image_shape",
    "read_file",
    "write_file",
]
