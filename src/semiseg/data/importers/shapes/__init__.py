"""Importers of annotation as shapes: polygons, boxes, brush strokes and run lengths."""
