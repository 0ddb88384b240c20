"""Limiting laws of random matrices, one a module."""

from rmtnet.laws.marchenko_pastur import MarchenkoPastur

__all__ = ["MarchenkoPastur"]
