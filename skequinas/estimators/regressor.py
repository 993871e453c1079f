"""The regressor: how targets are scaled, and how outputs are scaled back."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.parameters import documented
from skequinas.estimators.preparation import check_numbers
from skequinas.nn.folding import undrawn
from skequinas.nn.networks import EquivariantNetwork
from skequinas.training import REGRESSION

__all__ = ["EquivariantNASRegressor"]


@documented
class EquivariantNASRegressor(RegressorMixin, BaseEquivariantNAS):
    """Predict numbers from images, and learn which rotations and mirrors leave them unchanged.

    ``fit`` searches for the constraints of a convolutional network: which symmetries, layer by layer, the task really
    has. The chosen network is then trained on all of the data. The targets are standardised within.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    target_scaler_ : StandardScaler
        From targets to what the network is trained for, and back.
    {attributes}

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASRegressor
    >>> X, _ = load_digits(n_class=3, return_X_y=True)
    >>> ink = X.sum(axis=1)
    >>> model = EquivariantNASRegressor(group="C4", search="none", max_epochs=3, random_state=0).fit(X, ink)
    >>> model.predict(X).shape
    (537,)
    """

    objective = REGRESSION
    target_scaler_: StandardScaler
    _signs: NDArray[np.float32]
    _flat_target: bool

    @property
    def _n_outputs(self) -> int:
        return len(self.target_scaler_.scale_)

    @property
    def _target_checks(self) -> dict[str, Any]:
        return {"multi_output": True, "y_numeric": True}

    def _encode_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None, earlier: Self | None) -> Tensor:
        self._flat_target = y.ndim == 1
        columns = y.reshape(len(y), -1).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if earlier is not None and len(earlier.target_scaler_.scale_) != columns.shape[1]:
                raise ValueError(
                    f"warm_start=True needs targets as in the earlier fit, {len(earlier.target_scaler_.scale_)} for "
                    f"each image; y has {columns.shape[1]}. Set warm_start=False to start anew."
                )
            if earlier is None:
                self.target_scaler_ = StandardScaler().fit(columns, sample_weight=weights)
            scaled = self.target_scaler_.transform(columns).astype(np.float32)
        if not (np.isfinite(scaled).all() and np.isfinite(self.target_scaler_.scale_).all()):
            raise ValueError("y has values so large that their squares overflow. Scale y to a smaller range.")
        # coded so that the first that is not the mean is positive: negated targets give the same network
        if earlier is None:
            counted = scaled if weights is None else scaled[weights > 0]
            first = (counted != 0).argmax(0)
            self._signs = np.where(np.take_along_axis(counted, first[None], 0)[0] < 0, -1.0, 1.0).astype(np.float32)
        else:
            self._signs = earlier._signs
        return self._as_trained(torch.from_numpy(scaled))

    def _as_trained(self, targets: Tensor) -> Tensor:
        return targets * torch.from_numpy(self._signs)

    def _for_user(self, network: EquivariantNetwork) -> EquivariantNetwork:
        return network.with_outputs(torch.arange(len(self._signs)), torch.from_numpy(self._signs))

    _for_training = _for_user

    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        check_numbers(y)
        columns = y.reshape(len(y), -1).astype(np.float64)
        if columns.shape[1] != self._n_outputs:
            raise ValueError(f"y has {columns.shape[1]} targets for each image; in fit there were {self._n_outputs}.")
        return torch.from_numpy(self.target_scaler_.transform(columns).astype(np.float32))

    def _strata(self, targets: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        return None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _output_layer(self) -> nn.Module:
        layer = undrawn(nn.Linear, self._n_outputs, self._n_outputs, dtype=torch.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.diag(torch.from_numpy(self.target_scaler_.scale_)))
            layer.bias.copy_(torch.from_numpy(self.target_scaler_.mean_))
        return layer

    def _respond(self, outputs: Tensor) -> Tensor:
        return outputs

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The predicted targets.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs)
            As y was in `fit`.
        """
        outputs = self._outputs(X)
        targets: NDArray[np.float64] = self.target_scaler_.inverse_transform(outputs)
        return targets.ravel() if self._flat_target else targets
