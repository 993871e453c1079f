"""From and to escnn: groups, networks, and the equivariance relaxation morphism for networks of escnn.

This needs the extra ``escnn``: ``pip install 'skequinas[escnn]'``.
"""

from skequinas.interop.escnn.groups import point_group
from skequinas.interop.escnn.networks import EscnnNetwork, to_escnn
from skequinas.interop.escnn.relaxation import relax_escnn

__all__ = ["EscnnNetwork", "point_group", "relax_escnn", "to_escnn"]
