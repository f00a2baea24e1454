"""An independent check of a schedule against the rules of its instance, on whole columns.

Nothing here is shared with the engine or a solver, so that an error in one shows in the other.
"""

from lemix_opt.validation.schedule import validate
from lemix_opt.validation.violation import TOLERANCE_BYTES, TOLERANCE_S, Violation

__all__ = ["TOLERANCE_BYTES", "TOLERANCE_S", "Violation", "validate"]
