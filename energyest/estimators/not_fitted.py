"""The error for a model that is used before it is fitted."""

from __future__ import annotations

from sklearn import exceptions
from sklearn.utils.validation import check_is_fitted

from energyest.errors import EstimateError


class NotFittedError(EstimateError, exceptions.NotFittedError):
    """A model was used before it was fitted; both this package's and scikit-learn's error."""


def check_fitted(model: object) -> None:
    """Raise an error if a model is not fitted.

    Raises:
        NotFittedError: the model is not fitted.
    """
    try:
        check_is_fitted(model)
    except exceptions.NotFittedError:
        name = type(model).__name__
        raise NotFittedError(f"{name} is not fitted: call fit() or load() first") from None
