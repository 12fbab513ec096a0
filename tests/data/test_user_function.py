"""Functions of the user, by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ten_samples import FREE, seen

from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError


def test_module_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_feeds.py").write_text(
        "import numpy as np\n"
        "def feeds():\n    return ({'x': np.full((1, 3), i, np.float64)} for i in range(5))\n"
        "def arrays():\n    return {'x': np.ones((7, 3)), 'labels': np.arange(7)}\n"
        "def broken():\n    yield {'x': np.ones((1, 3))}\n    raise RuntimeError('disk on fire')\n"
        "def nothing():\n    return []\n"
        "def number():\n    return 7\n"
    )
    path = list(sys.path)
    source = open_source("my_feeds:feeds", FREE)
    assert seen(source) == seen(source) == [0, 1, 2, 3, 4]
    assert open_source("my_feeds:arrays", FREE).count == 7
    assert seen(open_source(f"{tmp_path / 'my_feeds.py'}:feeds", FREE)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match=r"my_feeds:broken: failed with RuntimeError: disk on fire"):
        list(open_source("my_feeds:broken", FREE))
    with pytest.raises(DataError, match="gave no data"):
        open_source("my_feeds:nothing", FREE)
    with pytest.raises(DataError, match="returned int"):
        open_source("my_feeds:number", FREE)
    with pytest.raises(DataError, match="cannot import it"):
        open_source("my_feeds:missing", FREE)
    with pytest.raises(DataError, match="cannot import it"):
        open_source("no_such_module_here:feeds", FREE)
    assert sys.path == path
