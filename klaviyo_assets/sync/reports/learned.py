"""What reports have shown of when messages were sent: recipients by message and day.

What belongs here: remembering it, and its JSON form, which every commit of a report carries. What
does not: how it is found out (`place`).

On which days a message was sent has nothing to do with the conversion metric, and what was sent on
a day that is over stays as it is: found out once, it spares every other metric, and every later
fetch, the requests. A sum proves it anew each time: were more sent since, the total would differ.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import cast

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.model.report import Days

UnitKey = tuple[str, str]
"""A message and the channel it went through."""


class Learned:
    """Recipients by day, and stretches without any, of messages that had to be asked about."""

    def __init__(self) -> None:
        """Know nothing."""
        self.forgotten: set[UnitKey] = set()
        self._sent: dict[UnitKey, dict[date, float]] = {}
        self._none: dict[UnitKey, tuple[Days, ...]] = {}

    def units(self) -> list[UnitKey]:
        """Return everything that something is known of, in order."""
        return sorted({*self._sent, *self._none})

    def sent(self, unit: UnitKey) -> Mapping[date, float]:
        """Return the days known to have recipients, with their number."""
        return self._sent.get(unit, {})

    def none(self, unit: UnitKey) -> tuple[Days, ...]:
        """Return the stretches of days known to have none, ascending and apart."""
        return self._none.get(unit, ())

    def note(self, unit: UnitKey, days: Days, recipients: float) -> None:
        """Remember what was sent in a stretch; recipients are only of use for a single day."""
        sent, none = dict(self.sent(unit)), self.none(unit)
        if recipients <= 0:
            sent = {day: count for day, count in sent.items() if day not in days}
            none = _united((*none, days))
        elif len(days) == 1:
            sent[days.first] = recipients
            none = tuple(part for each in none for part in _without(each, days.first))
        self._sent[unit], self._none[unit] = sent, none

    def forget(self, unit: UnitKey) -> None:
        """Know nothing of a unit any more: it turned out wrong."""
        self._sent.pop(unit, None)
        self._none.pop(unit, None)
        self.forgotten.add(unit)

    def take(self, other: "Learned") -> None:
        """Add what `other` knows, forget what it forgot; where both know a day, it counts."""
        for unit in other.forgotten:
            self.forget(unit)
        for unit in other.units():
            for day, recipients in other.sent(unit).items():
                self.note(unit, Days(day, day), recipients)
            for days in other.none(unit):
                self.note(unit, days, 0)

    def to_json(self) -> dict[str, object]:
        """Return it as a JSON object."""
        return {
            f"{message_id}/{channel}": {
                "sent": {
                    day.isoformat(): recipients
                    for day, recipients in sorted(self.sent((message_id, channel)).items())
                },
                "none": [
                    [each.first.isoformat(), each.last.isoformat()]
                    for each in self.none((message_id, channel))
                ],
            }
            for message_id, channel in self.units()
        }


def learned_from_json(written: object) -> Learned:
    """Return what `to_json` wrote; nothing for None.

    Raises:
        ConfigError: it was not written by this version.
    """
    learned = Learned()
    if written is None:
        return learned
    try:
        for name, facts in cast("Mapping[str, Mapping[str, object]]", written).items():
            message_id, _, channel = name.rpartition("/")
            unit = (message_id, channel)
            for day, recipients in cast("Mapping[str, float]", facts["sent"]).items():
                learned.note(unit, _stretch(day, day), float(recipients))
            for first, last in cast("list[list[str]]", facts["none"]):
                learned.note(unit, _stretch(first, last), 0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "what the lake knows of when messages were sent cannot be read "
            f"({type(error).__name__}); was it written by another version of klaviyo_assets?"
        ) from error
    return learned


def _stretch(first: str, last: str) -> Days:
    return Days(date.fromisoformat(first), date.fromisoformat(last))


def _without(stretch: Days, day: date) -> tuple[Days, ...]:
    if day not in stretch:
        return (stretch,)
    before = (stretch.first, day - timedelta(days=1))
    after = (day + timedelta(days=1), stretch.last)
    return tuple(Days(*each) for each in (before, after) if each[0] <= each[1])


def _united(stretches: tuple[Days, ...]) -> tuple[Days, ...]:
    """Return the same days in as few stretches as possible, ascending."""
    united: list[Days] = []
    for each in sorted(stretches):
        if united and (each.first - united[-1].last).days <= 1:
            united[-1] = Days(united[-1].first, max(united[-1].last, each.last))
        else:
            united.append(each)
    return tuple(united)
