"""Which unlabeled images to annotate next, and drafts of their masks to correct."""

from semiseg.suggestion.run import Suggestions, suggest

__all__ = ["Suggestions", "suggest"]
