"""Several ranks: launcher, process group, Fabric."""
