"""An addition is one record or one file, and one line."""

from __future__ import annotations

import pytest
from touch_counts import ADDITIONS, touched, use

MOST = {
    "option": (0, 2),  # the field, and its use
    "target": (0, 3),  # the cost, the record, and its name
    "criterion": (1, 1),
    "runtime": (1, 2),  # the line, and the extra
    "operator": (0, 2),  # the record, and the version that was read
}


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.kind)
def test_an_addition_touches_little_and_works(addition, tmp_path):
    files, lines = touched(addition)
    assert (files, lines) == MOST[addition.kind]
    use(addition, tmp_path)
