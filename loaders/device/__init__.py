"""Crops of raw pixels where the batch is needed: on a CUDA card, or by torch on the CPU."""
