from __future__ import annotations

import pytest

from obs_onnx.cluster.versions import check_workers, differences, here
from obs_onnx.passes.errors import OptionError


class Workers:
    """Answers for workers, each with a version of numpy, or what asking for it raised."""

    def __init__(self, *numpy: object) -> None:
        self._numpy = numpy

    def run(self, function, *names: str, on_error: str) -> dict[str, object]:
        assert on_error == "return"
        if names != ("numpy",):
            return {f"tcp://{number}": function(*names) for number, _ in enumerate(self._numpy)}
        return {f"tcp://{number}": one for number, one in enumerate(self._numpy)}


def test_this_process_has_what_it_wants() -> None:
    wanted = here()
    assert {"Python", "obs-onnx", "numpy", "scipy", "onnxruntime"} <= {*wanted, "onnxruntime"}
    assert differences(wanted, wanted) == ""
    check_workers(Workers(wanted["numpy"], wanted["numpy"]), "tcp://s:1", wanted)


def test_another_version_is_told_and_a_missing_one_too() -> None:
    found = differences({"numpy": "2", "scipy": "1", "Python": "3.12"}, {"numpy": "1", "Python": "3.12"})
    assert found == "numpy 1 instead of 2, no scipy"


@pytest.mark.parametrize(
    ("numpy", "said"),
    [
        (["0.1"], r"worker tcp://0 has numpy 0\.1 instead of [\d.]+: start workers in the same environment"),
        (["good", ModuleNotFoundError("numpy")], "worker tcp://1 has no numpy: start"),
        (["0.1", "good", "0.2"], "worker tcp://0 has numpy 0.1 .*, and 1 more workers are not right"),
    ],
)
def test_workers_with_other_versions_are_refused_in_one_line(numpy: list[object], said: str) -> None:
    wanted = here()
    answers = [wanted["numpy"] if one == "good" else one for one in numpy]
    with pytest.raises(OptionError, match=said) as caught:
        check_workers(Workers(*answers), "tcp://s:1", wanted)
    assert "\n" not in str(caught.value)
