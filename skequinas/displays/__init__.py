"""Pictures of what was learned, in scikit-learn's Display convention.

The constructor takes plain data, ``from_estimator`` makes a display of a fitted estimator and draws it, and ``plot``
draws it again. All need matplotlib: ``pip install "skequinas[plot]"``.
"""

from skequinas.displays.bootstrap import BootstrapDisplay
from skequinas.displays.classes import SymmetryByClassDisplay
from skequinas.displays.gain import SymmetryGainDisplay
from skequinas.displays.orbit import OrbitDisplay
from skequinas.displays.search import SearchDisplay
from skequinas.displays.symmetry import SymmetryDisplay

__all__ = [
    "BootstrapDisplay",
    "OrbitDisplay",
    "SearchDisplay",
    "SymmetryByClassDisplay",
    "SymmetryDisplay",
    "SymmetryGainDisplay",
]
