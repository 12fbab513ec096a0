from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from nets import saved_residual

from obs_onnx import pareto, prune
from obs_onnx.cli import main
from obs_onnx.cluster import opening
from obs_onnx.cluster.dask_executor import DaskExecutor
from obs_onnx.cluster.executor import IN_TURN
from obs_onnx.passes.errors import MissingRuntimeError, OptionError

FAST = {"effort": "quick", "threads": 1, "latency": False}
CHANNELS: dict[str, Any] = {"targets": {"macs": 0.5}}
WEIGHTS: dict[str, Any] = {"mode": "weights", "targets": {"sparsity": 0.6}}
SCORED = {**WEIGHTS, "criterion": "taylor", "effort": "normal"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model with its data."""
    return saved_residual(tmp_path)


@pytest.fixture
def needs_dask() -> None:
    pytest.importorskip("distributed", reason="needs obs-onnx[dask]")


def pruned(model: Path, **options: Any) -> bytes:
    prune(model, model.with_name("out.onnx"), **{**FAST, **options})
    keep = model.with_name("out.keep.json")
    return model.with_name("out.onnx").read_bytes() + (keep.read_bytes() if keep.exists() else b"")


def refused(cluster: str) -> str:
    with pytest.raises(OptionError) as caught, opening.opened(cluster):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_cluster_tasks_are_done_here() -> None:
    with opening.opened(None) as executor:
        assert executor is IN_TURN


def test_workers_give_the_same_bytes_though_one_is_killed(
    model: Path, scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, run = [], DaskExecutor.run

    def killing(self: DaskExecutor, tasks: Iterable[Any]) -> Iterator[Any]:
        for found in run(self, tasks):
            if not killed:
                killed.append(min(self.client.run(os.getpid).values()))
                psutil.Process(killed[0]).kill()
            yield found

    expected = pruned(model, **WEIGHTS)
    monkeypatch.setattr(DaskExecutor, "run", killing)
    assert pruned(model, cluster=scheduler.scheduler_address, **WEIGHTS) == expected
    assert killed


@pytest.mark.parametrize("options", [CHANNELS, SCORED], ids=["channels", "scores"])
def test_workers_give_the_same_bytes(model: Path, scheduler: Any, options: dict[str, Any]) -> None:
    expected = pruned(model, **options)
    assert pruned(model, cluster=scheduler.scheduler_address, **options) == expected


@pytest.mark.parametrize("options", [CHANNELS, WEIGHTS], ids=["channels", "weights"])
def test_moments_of_parts_of_the_data_choose_the_same(
    model: Path, scheduler: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {**FAST, **options, "memory": 3_000_000}  # several batches, and room for moments
    alone = prune(model, **small)
    shards, reduce = list[int](), DaskExecutor.reduce

    def counting(self: DaskExecutor, tasks: Any, merge: Any) -> Any:
        shards.append(len(tasks))
        return reduce(self, tasks, merge)

    monkeypatch.setattr(DaskExecutor, "reduce", counting)
    shared = prune(model, cluster=scheduler.scheduler_address, **small)
    assert shards == [2]
    assert shared.keep == alone.keep
    for name, value in alone.model.graph.initializers.items():
        here, there = (one.const_value.numpy() for one in (value, shared.model.graph.initializers[name]))
        np.testing.assert_array_equal(here == 0, there == 0)
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-6)


def test_workers_of_this_machine_share_its_threads_and_end_with_the_run(
    needs_dask: None,
) -> None:
    cores = pytest.importorskip("dask.system").CPU_COUNT
    with opening.opened("local:2") as executor:
        pids = set(executor.client.run(os.getpid).values())
        threads = set(executor.client.run(os.getenv, "OPENBLAS_NUM_THREADS").values())
    assert len(pids - {os.getpid()}) == 2
    assert threads == {str(max(1, cores // 2))}
    assert not any(map(psutil.pid_exists, pids))


def test_a_run_that_was_stopped_goes_on_with_another_cluster(model: Path, scheduler: Any) -> None:
    work = model.with_name("work")
    expected = pruned(model, work=work, **CHANNELS)
    for piece in (work / "pieces").glob("refit*"):
        piece.unlink()
    again = pruned(model, work=work, resume=True, cluster=scheduler.scheduler_address, **CHANNELS)
    assert again == expected
    assert list((work / "pieces").glob("refit*"))


def test_a_frontier_is_the_same(model: Path, scheduler: Any) -> None:
    found = []
    for cluster in (None, scheduler.scheduler_address):
        made = pareto(
            model,
            cost="macs",
            points=2,
            plot=False,
            cluster=cluster,
            output=model.with_name(str(len(found))),
            **FAST,
        )
        found.append([path.read_bytes() for path in sorted(Path(str(made.frontier.output)).glob("*.onnx"))])
    assert found[0] == found[1]
    assert found[0]


def test_workers_with_other_versions_are_refused_before_the_model_is_read(
    model: Path, scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "here", lambda: {"Python": "3.99", "scipy": "0.1"})
    model.write_bytes(b"no model")
    out = model.with_name("out.onnx")
    arguments = ["prune", str(model), "-o", str(out), "--cluster", scheduler.scheduler_address]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "instead of 3.99, scipy" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_a_scheduler_that_is_not_there_is_told_at_once(model: Path, needs_dask: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    start = time.perf_counter()
    result = CliRunner().invoke(main, ["prune", str(model), "--cluster", f"tcp://127.0.0.1:{port}"])
    assert time.perf_counter() - start < 10
    assert result.exit_code == 2
    assert f"--cluster tcp://127.0.0.1:{port}: no scheduler of dask answers there" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_server_that_is_no_scheduler_is_told(needs_dask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_ANSWER", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no scheduler of dask answers there" in refused(f"tcp://127.0.0.1:{silent.getsockname()[1]}")


def test_a_scheduler_without_workers_is_told(needs_dask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(opening, "_WORKERS", 1)
    with distributed.LocalCluster(
        n_workers=0, processes=False, host="tcp://127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as empty:
        address = empty.scheduler_address
        assert f"has no workers: start some with dask worker {address}" in refused(address)


def test_what_names_no_cluster_is_refused(model: Path) -> None:
    with pytest.raises(OptionError, match="use tcp://HOST:PORT"):
        prune(model, cluster="scheduler:8786")


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(MissingRuntimeError, match=r'pip install "obs-onnx\[dask\]"'),
        opening.opened("local:2"),
    ):
        pass
