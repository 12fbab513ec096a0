from sample_reports import make_bound, make_report

__all__ = ["make_bound", "make_report"]
