"""What reading skipped, assumed and stated, item by item."""

from dataclasses import dataclass, field

from .assumptions import Assumed, as_confirmed, assume
from .images import LeftOut, skip
from .masks import MaskRule


@dataclass(slots=True)
class Record:
    """What reading skipped and assumed; nothing may be if `strict`."""

    strict: bool
    confirmed: frozenset[str]
    skipped: list[LeftOut] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)  # of the files themselves
    spacing: list[tuple[float, float]] = field(default_factory=list)  # mm per pixel: down, across
    groups_by: str = ""

    def skip(self, item: LeftOut) -> None:
        skip(item, self.skipped, self.strict)

    def assume(self, given: Assumed) -> None:
        confirmed = as_confirmed(given, self.confirmed)
        if confirmed is not None:
            self.stated.append(confirmed)
        else:
            assume(given, self.assumed, self.strict)

    def facts(self, n_identical: int, rule: MaskRule | None) -> dict[str, object]:
        """What was found and assumed, for `run.json`."""
        facts: dict[str, object] = {
            "assumed": self.assumed,
            "identical_images": n_identical,
            "mask_kind": rule.kind if rule is not None else "",
            "stated": self.stated,
            "pixel_spacing_mm": self.spacing
            and {"smallest": self.spacing[0], "largest": self.spacing[-1]},
            "masks": rule.stated() if rule is not None else {},
            "groups_by": self.groups_by,
        }
        return {key: value for key, value in facts.items() if value}
