"""Callbacks of training frameworks; they only forward to the recorder.  Each module needs its framework installed."""
