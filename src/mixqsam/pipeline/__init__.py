"""The stages in order; the cache stores each result under the hash of its inputs. This package holds no maths.

checkpoint + images → ranges → analysis → allocation → quantized model → directory → evaluation
"""
