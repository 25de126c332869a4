"""A local page and a JSON endpoint that segment images by trained networks: the extra ``serve``."""

from semiseg.tools.serving.server import serve

__all__ = ["serve"]
