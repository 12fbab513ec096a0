"""The worker as one text, for a Python that has nothing of this project."""

from __future__ import annotations

from importlib import resources

__all__ = ["bundle", "library"]

_FILES = ("frames", "arrays", "models", "cores", "server")  # each imports only those before it
_PACKAGE = "obs_onnx_worker"
_LIBRARY = """\
import sys, types
def add(name, text=""):
    module = sys.modules[name] = types.ModuleType(name)
    module.__package__, module.__path__ = {package!r}, []
    exec(compile(text, name + ".py", "exec"), module.__dict__)
add({package!r})
{files}"""


def library() -> str:
    """A text that, when run, makes the worker's files importable as ``obs_onnx_worker.frames`` and so on."""
    folder = resources.files("obs_onnx.runtimes.command.worker")
    texts = {name: folder.joinpath(f"{name}.py").read_text(encoding="utf-8") for name in _FILES}
    files = "".join(f"add({f'{_PACKAGE}.{name}'!r}, {text!r})\n" for name, text in texts.items())
    return _LIBRARY.format(package=_PACKAGE, files=files)


def bundle() -> str:
    """A text that, when run, is the worker; also the content of a ``worker.py`` that is copied by hand."""
    return f"{library()}sys.modules['{_PACKAGE}.server'].main()\n"
