"""Write predictions: pictures, GeoTIFF, arrays, GeoJSON, COCO, Label Studio, LabelMe and YOLO."""
