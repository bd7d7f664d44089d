"""Times of day, dates and lengths of time: equal as people read them. Standard library only.

Each rule says True, False, or None where neither answer is of its kind.
"""

import re

_TIME = re.compile(r"(\d{1,2})(?::(\d{2})(?::(\d{2}))?)?\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)
_MONTHS = "january february march april may june july august september october november december".split()  # noqa: SIM905
_MONTH = r"([A-Za-z]{3,9})\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:\s*,?\s*(\d{4}))?"
_MONTH_FIRST = re.compile(rf"{_MONTH}\s+{_DAY}{_YEAR}")
_DAY_FIRST = re.compile(rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}{_YEAR}")
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})")


def times(wanted: str, given: str) -> bool | None:
    """`5:00 p.m.`, `5 PM` and `17:00` are one; `5:00` will do for either half of the day, `5` alone for none."""
    a, b = _time(wanted), _time(given)
    if a is None or b is None:
        return None
    (hour, rest, half), (other_hour, other_rest, other_half) = a, b
    if rest != other_rest:
        return False
    if half and other_half:
        return (hour % 12, half) == (other_hour % 12, other_half)
    if half or other_half:
        (twelve, which), other = ((hour, half), other_hour) if half else ((other_hour, other_half), hour)
        return twelve == other or twelve % 12 + (12 if which == "p" else 0) == other
    return hour == other_hour


def _time(text: str) -> tuple[int, tuple[int, int], str] | None:
    """Hour, minute and second, and `a`, `p` or nothing."""
    found = _TIME.fullmatch(text.strip())
    if not found or (found.group(2) is None and found.group(4) is None):
        return None
    hour, minute, second, half = found.groups()
    return int(hour), (int(minute or 0), int(second or 0)), (half or "").casefold()


def dates(wanted: str, given: str) -> bool | None:
    """`June 20`, `20 June`, `June 20th` and `the 20th of June` are one, and `2024-06-20` is no difference.

    A year that only one of them names is no fault.
    """
    a, b = _date(wanted), _date(given)
    if a is None and b is None:
        return None
    if a is None or b is None:
        return False
    return a[1:] == b[1:] and (a[0] == b[0] or not a[0] or not b[0])


def _date(text: str) -> tuple[int, int, int] | None:
    """Year (0 where there is none), month and day."""
    text = text.strip().replace("^{th}", "th")
    if found := _ISO.fullmatch(text):
        year, month, day = map(int, found.groups())
        return (year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None
    if found := _MONTH_FIRST.fullmatch(text):
        name, day_text, year_text = found.groups()
    elif found := _DAY_FIRST.fullmatch(text):
        day_text, name, year_text = found.groups()
    else:
        return None
    month = next((i for i, full in enumerate(_MONTHS, 1) if full == name.casefold() or full[:3] == name.casefold()), 0)
    return (int(year_text or 0), month, int(day_text)) if month else None
