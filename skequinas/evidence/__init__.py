"""What held-out data say about symmetries: tests, measures, and the report on what was learned."""

from skequinas.evidence.breaks import breaks
from skequinas.evidence.classes import SymmetryByClass, symmetry_by_class
from skequinas.evidence.costs import cost_with_interval
from skequinas.evidence.evalues import adjusted_e_values, log_e_values
from skequinas.evidence.gradients import relaxation_p_values
from skequinas.evidence.measures import (
    effective_invariance,
    layer_distances,
    lie_derivative,
    measured_change,
    moved_outputs,
)
from skequinas.evidence.orbit import gather_evidence, orbit_test, symmetry_evidence
from skequinas.evidence.report import LearnedSymmetry
from skequinas.evidence.score import ScoreTest, score_test
from skequinas.evidence.verdict import Evidence, confidence_set, holm, indistinct, largest_accepted, level_band

__all__ = [
    "Evidence",
    "LearnedSymmetry",
    "ScoreTest",
    "SymmetryByClass",
    "adjusted_e_values",
    "breaks",
    "confidence_set",
    "cost_with_interval",
    "effective_invariance",
    "gather_evidence",
    "holm",
    "indistinct",
    "largest_accepted",
    "layer_distances",
    "level_band",
    "lie_derivative",
    "log_e_values",
    "measured_change",
    "moved_outputs",
    "orbit_test",
    "relaxation_p_values",
    "score_test",
    "symmetry_by_class",
    "symmetry_evidence",
]
