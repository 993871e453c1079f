"""Bridges to other libraries, each in a module of its own that is imported only when it is asked for."""
