from latency_cache import cache_folder

__all__ = ["cache_folder"]
