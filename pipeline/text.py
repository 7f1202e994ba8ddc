"""Figures for people."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A length of time: ``8 s``, ``3 min 20 s``, ``2 h 05 min``, ``4 d 3 h``."""
    total = round(seconds)
    if total < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{total} s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if not hours:
        return f"{minutes} min {total % 60:02d} s"
    if not days:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24} h"


def size(count: float) -> str:
    """Bytes: ``712 B``, ``4.2 MB``, ``1.3 TB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float) -> str:
    """A share of a whole, 0 to 1: ``5%``, ``0.4%``."""
    return f"{100 * share:.3g}%"


def plural(count: int, thing: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
