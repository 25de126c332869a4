"""Write predictions: pictures, GeoTIFF, arrays, GeoJSON, COCO and Label Studio."""
