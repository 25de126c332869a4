"""A web page and a JSON endpoint that segment images with trained networks (extra: serve)."""
