from easy_training import deep, easy

__all__ = ["deep", "easy"]
