import datetime
import json
import os

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from rmtnet import ranks, store
from rmtnet.record import Recorder

WORLD = 2


def test_a_single_process_leads_decides_and_keeps_its_tensors():
    weight = nn.Linear(3, 2).weight
    assert ranks.is_leader() and not ranks.is_distributed()
    assert ranks.agreed(True) is True and ranks.agreed(False) is False
    assert ranks.led(lambda: "done") == "done"
    full = ranks.whole(weight)
    assert full.data_ptr() == weight.data_ptr() and not full.requires_grad
    assert ranks.whole(weight, keep=False) is None
    with pytest.raises(ZeroDivisionError):
        ranks.led(lambda: 1 // 0)


def join(rank, folder):
    torch.set_num_threads(1)
    where = {"init_method": f"file://{folder}/rendezvous", "rank": rank, "world_size": WORLD}
    # Ranks that wait for each other fail soon.
    distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=120), **where)


def error_of(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def one_rank(rank, folder):
    """What a rank of two saw, as a file: a process cannot hand an assertion back."""
    join(rank, folder)
    mesh = init_device_mesh("cpu", (WORLD,))
    reference = torch.arange(15, dtype=torch.float32).reshape(5, 3)
    # Five rows over two ranks: the shards are unequal.
    sharded = distribute_tensor(reference, mesh, [Shard(0)])
    full = ranks.whole(sharded)
    dropped = ranks.whole(sharded, keep=ranks.is_leader())
    ran, missing = [], f"{folder}/missing"
    seen = {
        "leader": ranks.is_leader(),
        "agreed": [ranks.agreed(rank == 0), ranks.agreed(rank == 1), ranks.agreed(True), ranks.agreed(False)],
        "led": ranks.led(lambda: ran.append(rank) or f"rank {rank}"),
        "ran": ran,
        "errors": [error_of(lambda: ranks.led(lambda: 1 // 0)), error_of(lambda: ranks.led(lambda: os.stat(missing)))],
        "local": list(sharded.to_local().shape),
        "full": torch.equal(full, reference) and type(full) is torch.Tensor,
        "dropped": dropped is None,
        "plain": ranks.whole(torch.full((2,), float(rank))).tolist(),
    }
    distributed.destroy_process_group()
    seen["after"] = [ranks.is_leader(), ranks.agreed(rank == 1)]
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(seen, file)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.start_processes(one_rank, (str(folder),), nprocs=WORLD, start_method="forkserver")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def test_rank_0_leads(seen):
    assert [rank["leader"] for rank in seen] == [True, False]
    assert seen[0]["after"] == [True, False] and seen[1]["after"] == [True, True]


def test_all_ranks_take_the_decision_of_rank_0(seen):
    assert [rank["agreed"] for rank in seen] == [[True, False, True, False]] * 2


def test_what_is_led_runs_on_rank_0_only_and_all_have_the_result(seen):
    assert [rank["led"] for rank in seen] == ["rank 0"] * 2
    assert [rank["ran"] for rank in seen] == [[0], []]


def test_an_error_on_rank_0_is_raised_on_all(seen):
    division, missing = seen[0]["errors"]
    assert division == "ZeroDivisionError: integer division or modulo by zero"
    assert missing.startswith("FileNotFoundError")
    assert seen[1]["errors"] == [f"RuntimeError: rank 0 failed: {text}" for text in seen[0]["errors"]]


def test_a_sharded_tensor_is_gathered_on_the_ranks_that_want_it(seen):
    assert [rank["local"] for rank in seen] == [[3, 3], [2, 3]]
    assert all(rank["full"] for rank in seen)
    assert [rank["dropped"] for rank in seen] == [False, True]


def test_a_tensor_that_is_not_sharded_is_each_ranks_own(seen):
    assert [rank["plain"] for rank in seen] == [[0.0, 0.0], [1.0, 1.0]]


# --- the recorder


def recording_rank(rank, folder):
    """Train a sharded model with a schedule that each rank answers differently."""
    join(rank, folder)
    torch.manual_seed(0)
    model = fully_shard(nn.Linear(4, 3), mesh=init_device_mesh("cpu", (WORLD,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    path, states = f"{folder}/run.zarr", []

    def see():
        states.append(get_model_state_dict(model, options=whole).get("weight"))

    def train(recorder, steps):
        for _ in range(steps):
            model(torch.ones(2, 4) * (rank + 1)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.log(loss=rank)
            see()

    see()
    with Recorder(model, path, when=lambda step: (step + rank) % 2 == 0).attach(optimizer) as recorder:
        train(recorder, 5)
    again = error_of(lambda: Recorder(model, path))
    with Recorder(model, path, mode="resume").attach(optimizer) as recorder:
        step = recorder.step
        train(recorder, 2)
    distributed.destroy_process_group()
    torch.save({"states": states, "again": again, "step": step}, f"{folder}/{rank}.pt")
    # Gloo's threads sometimes abort a process that takes its interpreter down in order.
    os._exit(0)


def test_ranks_that_would_decide_differently_record_what_rank_0_decides(tmp_path):
    arguments = (str(tmp_path),)
    multiprocessing.start_processes(recording_rank, arguments, nprocs=WORLD, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD))
    assert first["again"].startswith("FileExistsError") and "FileExistsError" in second["again"]
    assert first["step"] == second["step"] == 5, "metrics of step 5 are committed"
    run = store.open_run(tmp_path / "run.zarr")
    # Step 5 was not due; the resumed recorder records each step, from the one that it begins with.
    steps = [0, 2, 4, 5, 6, 7]
    assert run.steps.values.tolist() == steps
    expected = torch.stack([first["states"][k] for k in (0, 2, 4, 5, 6, 7)])
    (layer,) = run
    assert run[layer].values[:, 0].tobytes() == expected.numpy().tobytes()
    assert set(run.metrics["loss"].values) == {0.0}, "rank 0's own"
    assert not list(tmp_path.glob("*superseded*"))
