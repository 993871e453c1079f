"""What older versions of scikit-learn do not have."""

from __future__ import annotations

from typing import Any

__all__ = ["CallbackSupportMixin"]

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class _NoCallbacks:
        """Stands for the context of callbacks where there are none."""

        def subcontext(self, **_: Any) -> _NoCallbacks:
            return self

        def call_on_fit_task_begin(self, **_: Any) -> None:
            """Nobody is told."""

        def call_on_fit_task_end(self, **_: Any) -> bool:
            """Nobody asks to stop."""
            return False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's class; ``set_callbacks`` needs scikit-learn 1.9."""

        def _init_callback_context(self, **_: Any) -> _NoCallbacks:
            return _NoCallbacks()
