"""Slow, plain versions of the editing algorithms, written for reading: the oracles of the fast engine.

Everything here runs the whole model on all positions at every step, one fact after the other, and really
writes into the weights, which a context manager puts back from copies.
"""
