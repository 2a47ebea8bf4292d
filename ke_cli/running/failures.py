"""What failed in a run and why, and when so much has failed that there is no use in going on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ke_cli.config.schema import StopFailed
from ke_cli.errors import UserError


@dataclass
class Failures:
    """The units that were tried by this process, and the reasons why cases failed, now or before.

    Args:
        limit: When to stop; None for never.
        directory: Of the run, for messages.
    """

    limit: StopFailed | None
    directory: Path
    tried: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Count the cases of some whole units."""
        self.tried += len({line["unit"] for line in lines})
        self.failed += len({line["unit"] for line in lines if line["status"] != "ok"})
        self.reasons.update(line["error"] for line in lines if line["error"])

    def recall(self, errors: Iterable[str]) -> None:
        """Take in why cases failed that are not tried again."""
        self.reasons.update(filter(None, errors))

    def refuse_hopeless(self) -> None:
        """End a run of which too large a share fails.

        Raises:
            UserError: At least ``after`` units were tried, and more than ``share`` of them failed.
        """
        limit = self.limit
        if limit is None or self.tried < limit.after or self.failed <= limit.share * self.tried:
            return
        raise UserError(
            f"the run was stopped: {self.failed} of the {self.tried} units tried failed; {self.most_often()}",
            where=str(self.directory),
            allowed=f"up to {100 * limit.share:g} % once {limit.after} units were tried (stop_failed)",
            hint="the same command tries them again; stop_failed=null goes on however many fail",
        )

    def nothing_finished(self, *, retried: bool) -> UserError:
        """The error for a run that has tried everything and finished nothing.

        Args:
            retried: Whether the same command tries failed units again.
        """
        return UserError(
            "; ".join(filter(None, ("no unit could be finished", self.most_often()))),
            where=str(self.directory),
            hint="the same command tries them again" if retried else "retry_failed=true tries them again",
        )

    def most_often(self) -> str:
        """The reason that most failures have; nothing where none is known."""
        for reason, cases in self.reasons.most_common(1):
            return f"the reason for {cases} of {self.reasons.total()} cases: {reason}"
        return ""
