from odd_workers import nothing_stays, odd, python, runtime, script

__all__ = ["nothing_stays", "odd", "python", "runtime", "script"]
