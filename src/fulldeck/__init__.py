"""fulldeck: instructions that make a PyTorch model accurate, fast, small, served and watched.

Names resolve lazily, so that `import fulldeck` costs nothing: every instruction by its class name
(`fulldeck.OnnxExport`) or by its function's name, and the entry points listed here.
"""

__version__ = "0.1.0"
