"""What each part of a campaign starts with: its subject, made in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.errors import CannotRun
from harness.subject.declaration import ANY, Subject
from harness.subject.loading import load
from harness.workers import Apart, Limits


@dataclass(frozen=True)
class Setting:
    """What the parts of a campaign have in common.

    name: the subject's. refuses: as in `Subject`. limits: of each worker. place: where the subject is found, if not
    under its name. operation: what is asked of it, ANY or one of OPERATIONS.
    """

    name: str
    refuses: str | None
    device: str
    limits: Limits
    place: str | None = None
    operation: str = ANY

    def maker(self) -> Callable[[], Subject]:
        """What makes the subject in a worker.

        On the CPU it is loaded once, here; a module may wake CUDA, which no fork survives, so there it is not.
        """
        if self.device == "cuda":
            return self._load
        subject = self._load()
        return lambda: subject

    def _load(self) -> Subject:
        return replace(load(self.place or self.name, self.refuses), name=self.name)

    def apart(self, make: Callable[[], Subject]) -> Apart:
        """An examiner. Raises CannotRun where there is no subject, or it does not run on the device."""
        apart = Apart(make, self.device, self.limits)
        subject = apart.subject
        if self.device not in subject.devices:
            apart.close()
            raise CannotRun(f"{subject.name} declares that it runs on {', '.join(subject.devices)}, not {self.device}.")
        apart.subject = replace(subject, operation=self.operation)
        return apart

    def card(self, make: Callable[[], Subject]) -> Subject:
        """What the subject says of itself."""
        apart = self.apart(make)
        apart.close()
        return apart.subject
