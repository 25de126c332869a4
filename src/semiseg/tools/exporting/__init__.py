"""Export trained networks as safetensors, torch.export or ONNX, each in a directory with a model card."""

from semiseg.tools.exporting.export_config import Description, read_export

__all__ = ["Description", "read_export"]
