"""Samples that a smaller model puts into another class than the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ChangedSample"]


@dataclass(frozen=True)
class ChangedSample:
    """One of them; what it holds is for the page alone.

    Attributes:
        sample: its number in the held-out data, counted from 0.
        before, after: classes, of the dense and of the smaller model.
        sure_before, sure_after: probability that each model gives to its own class.
        label: of the data, if it has one.
        pictures: of inputs that are images, as PNG in base64.
        texts: of all other inputs.
    """

    sample: int
    before: int
    after: int
    sure_before: float
    sure_after: float
    label: int | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Without what it holds: data of users is on the page alone."""
        named = ("sample", "before", "after", "sure_before", "sure_after", "label")
        return {name: getattr(self, name) for name in named}
