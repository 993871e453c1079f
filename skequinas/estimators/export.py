"""A fitted estimator as plain torch, and as ONNX."""

from __future__ import annotations

import copy
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skequinas.io.images import as_images
from skequinas.io.preprocessing import Preprocessing
from skequinas.runtime.process import fitting_state

__all__ = ["ExportMixin"]


class ExportMixin(ABC):
    """`to_torch` and `to_onnx` for an estimator with ``preprocessing_`` and ``module_``."""

    preprocessing_: Preprocessing
    module_: nn.Sequential
    image_shape_: tuple[int, ...]
    n_features_in_: int

    def to_torch(self) -> nn.Sequential:
        """The fitted model as one plain torch network, with the preprocessing and the meaning of the outputs inside.

        Returns
        -------
        torch.nn.Sequential
            From raw images (n, channels, height, width) of any real type, on the scale that they had in `fit`, to
            probabilities in the order of ``classes_``, or to targets (n, n_outputs). It is on the CPU, in eval mode.

        Examples
        --------
        >>> import torch
        >>> from sklearn.datasets import load_digits
        >>> from skequinas import EquivariantNASClassifier
        >>> X, y = load_digits(n_class=3, return_X_y=True)
        >>> model = EquivariantNASClassifier(search="none", max_epochs=1, random_state=0).fit(X, y)
        >>> network = model.to_torch()
        >>> network(torch.from_numpy(X[:5]).reshape(5, 1, 8, 8)).shape
        torch.Size([5, 3])
        """
        check_is_fitted(self)
        with fitting_state():
            parts = copy.deepcopy([self.preprocessing_, *self.module_])
            return nn.Sequential(*parts, self._output_layer()).eval().requires_grad_(False)

    def to_onnx(self, path: str | PathLike[str]) -> None:
        """Write the network of `to_torch` to an ONNX file, for any number of images.

        Needs the packages of ``pip install "skequinas[onnx]"``.

        Parameters
        ----------
        path : str or path-like
            The model there takes float32 "images" (n, channels, height, width) and gives "outputs".
        """
        check_is_fitted(self)
        try:
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError('to_onnx needs onnx and onnxscript: pip install "skequinas[onnx]"') from error
        images = as_images(np.zeros((2, self.n_features_in_), dtype=np.float32), self.image_shape_)
        batch = torch.export.Dim("n", min=1)
        with warnings.catch_warnings(), fitting_state(), _quiet("torch.onnx"):
            warnings.simplefilter("ignore")  # of the exporter's own making
            torch.onnx.export(
                self.to_torch(),
                (images,),
                str(path),
                input_names=["images"],
                output_names=["outputs"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )

    @abstractmethod
    def _output_layer(self) -> nn.Module:
        """From what the network puts out to what the user asks for, as a layer."""


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger for a while."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
