"""Which unlabeled images to annotate next, and drafts of their masks to correct."""

from semiseg.tools.suggestion.suggest_images import Suggestions, suggest

__all__ = ["Suggestions", "suggest"]
