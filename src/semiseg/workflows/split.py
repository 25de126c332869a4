"""Make labeled lists, or derive cheaper annotation from full masks."""

from semiseg.data.splits.make_splits import make_split as split

__all__ = ["split"]
