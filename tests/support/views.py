"""Views of a microbatch from columns side by side, and with some of them changed."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from megaent.types import OldTokens, PolicyView, TokenTerms

_OLD = {item.name for item in fields(OldTokens)}
_TERMS = {item.name for item in fields(TokenTerms)}


def policy_view(**columns: Any) -> PolicyView:
    """Every column by its name; the terms that a loss does not read need not be given."""
    like = columns["advantage"]
    unread = {"weight": torch.ones_like(like), "minibatch": torch.zeros_like(like, dtype=torch.int64)}
    columns = unread | columns
    return PolicyView(
        old=OldTokens(**{name: columns.pop(name) for name in sorted(_OLD)}),
        terms=TokenTerms(**{name: columns.pop(name) for name in sorted(_TERMS)}),
        **columns,
    )


def changed(view: PolicyView, **columns: Any) -> PolicyView:
    """``view`` with other columns, wherever they belong."""
    old = {name: columns.pop(name) for name in list(columns) if name in _OLD}
    terms = {name: columns.pop(name) for name in list(columns) if name in _TERMS}
    return replace(view, old=replace(view.old, **old), terms=replace(view.terms, **terms), **columns)
