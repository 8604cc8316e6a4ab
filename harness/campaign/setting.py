"""What the parts of a campaign have in common, and how each makes its subject in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.errors import CannotRun
from harness.subject.declaration import ANY, Subject
from harness.subject.loading import load
from harness.workers import Apart, WorkerLimits


@dataclass(frozen=True)
class Setting:
    """How a campaign finds and runs its subject.

    name: the subject's. refuses: as in `Subject`. limits: of each worker. place: the name under which the subject is
    loaded, where that is another. operation: what is asked of it, ANY or one of OPERATIONS. pretends: the
    architecture of the CUDA device that is pretended.
    """

    name: str
    refuses: str | None
    device: str
    limits: WorkerLimits
    place: str | None = None
    operation: str = ANY
    pretends: str | None = None

    def maker(self) -> Callable[[], Subject]:
        """Return what makes the subject in a worker.

        On the CPU it is loaded once, here. A module may initialise CUDA, which no fork survives, so there each worker
        loads it.
        """
        if self.device == "cuda":
            return self._load
        subject = self._load()
        return lambda: subject

    def _load(self) -> Subject:
        return replace(load(self.place or self.name, self.refuses), name=self.name)

    def apart(self, make: Callable[[], Subject]) -> Apart:
        """Return an examiner. Raises CannotRun where the subject cannot be made or does not run on the device."""
        apart = Apart(make, self.device, self.limits)
        subject = apart.subject
        if self.device not in subject.devices:
            apart.close()
            raise CannotRun(f"{subject.name} declares that it runs on {', '.join(subject.devices)}, not {self.device}.")
        apart.subject = replace(subject, operation=self.operation)
        return apart

    def card(self, make: Callable[[], Subject]) -> Subject:
        """Return what the subject declares, without its function."""
        apart = self.apart(make)
        apart.close()
        return apart.subject
