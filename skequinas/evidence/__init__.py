"""What held-out data say about symmetries: tests, measures, and the report on what was learned."""

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
from skequinas.evidence.verdict import Evidence, holm, indistinct, largest_accepted, level_band

__all__ = [
    "Evidence",
    "LearnedSymmetry",
    "ScoreTest",
    "effective_invariance",
    "gather_evidence",
    "holm",
    "indistinct",
    "largest_accepted",
    "layer_distances",
    "level_band",
    "lie_derivative",
    "measured_change",
    "moved_outputs",
    "orbit_test",
    "relaxation_p_values",
    "score_test",
    "symmetry_evidence",
]
