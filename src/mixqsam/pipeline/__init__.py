"""The stages in order, each result kept under the hash of its inputs; no maths here.

checkpoint + images → ranges → analysis → allocation → quantized model → directory → evaluation
"""
