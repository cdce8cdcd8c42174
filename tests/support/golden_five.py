"""Worked cases of the five methods CEEH, EGRC, SENT, LESS and ETR."""

from __future__ import annotations

from collections.abc import Callable

from support import golden_ceeh_egrc, golden_sent_less_etr
from support.golden_ceeh_egrc import Case

FAMILIES: dict[str, Callable[[Case], Case]] = golden_ceeh_egrc.FAMILIES | golden_sent_less_etr.FAMILIES
