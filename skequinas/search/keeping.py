"""What a checkpoint keeps of a search: every candidate that is done, so that none is trained twice."""

from __future__ import annotations

import json

from skequinas.evidence.verdict import evidence_from_json
from skequinas.io.checkpoints import Checkpoint
from skequinas.search.evaluation import Evaluation, Proposal
from skequinas.training import DataPart
from skequinas.training.monitor import Clock

__all__ = ["identity_of", "keep_candidate", "known_candidate"]


def identity_of(proposal: Proposal, validation: DataPart) -> str:
    """All that a candidate's evaluation follows from, but for the weights of its parent, which follow from others."""
    return json.dumps([proposal.to_dict(), len(validation)], sort_keys=True)


def keep_candidate(
    checkpoint: Checkpoint, asked: Proposal, identity: str, evaluation: Evaluation, trouble: str, clock: Clock
) -> None:
    """Keep what became of a proposal, what went wrong, and its clock; its training is of no use any more."""
    row, tensors = evaluation.to_state()
    evidence = evaluation.evidence
    own = None if evidence is None else {name: list(values) for name, values in evidence.items()}
    kept = {"row": row, "tensors": tensors, "evidence": own, "shares": evaluation.share_history, "trouble": trouble}
    checkpoint.write(_name(asked), kept | {"clock": clock.state_dict(), "identity": identity})
    checkpoint.remove(f"training-{asked.number}")


def known_candidate(
    checkpoint: Checkpoint, proposal: Proposal, identity: str, clock: Clock
) -> tuple[Evaluation, str] | None:
    """What became of a proposal and what went wrong, if that was kept; its clock is set, its network on the CPU."""
    kept = checkpoint.read(_name(proposal))
    if kept is None or kept["identity"] != identity:
        return None
    evaluation = Evaluation.from_state(kept["row"], kept["tensors"])
    evaluation.share_history = kept["shares"]
    clock.load_state_dict(kept["clock"])
    if kept["evidence"] is not None:
        evaluation.evidence = evidence_from_json(kept["evidence"], proposal.architecture.group)
    return evaluation, kept["trouble"]


def _name(proposal: Proposal) -> str:
    return f"candidate-{proposal.number}"
