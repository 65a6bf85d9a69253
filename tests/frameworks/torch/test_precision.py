"""Number formats, recomputing, accumulation and the order in memory: what they change, and what not."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.checkpoints.checkpoint import read  # noqa: E402
from common.command_line import run_command  # noqa: E402
from common.experiment import compose  # noqa: E402
from common.methods.interface import Clock  # noqa: E402
from common.runs.run_folder import RunFolder  # noqa: E402
from common.training.trainer import Trainer  # noqa: E402
from torch_impl.methods import method_class  # noqa: E402
from torch_impl.networks import build_network  # noqa: E402
from torch_impl.session import Session  # noqa: E402
from torch_impl.train import main as train  # noqa: E402

SMALL = ("trainer.device=cpu", "trainer.threads=1", "network.width=16")


def made(*overrides: str, experiment: str = "shapes/12/suponly"):
    """A method at its start."""
    config = compose(experiment, [*SMALL, *overrides])
    return method_class(config.method.name)(config, Session(config))


def batch(seed: int = 0) -> dict:
    """Noise, labelled and not."""
    rng = np.random.default_rng(seed)
    images = [rng.standard_normal((2, 3, 33, 33)).astype(np.float32) for _ in range(2)]
    labels = rng.integers(0, 6, (2, 33, 33)).astype(np.uint8)
    return {
        "labelled": {"ids": ["a", "b"], "image": images[0], "label": labels},
        "unlabelled": {"ids": ["c", "d"], "image": images[1]},
    }


def clock(iteration: int) -> Clock:
    """Where a run of one epoch stands."""
    return Clock(epoch=0, step=iteration, iteration=iteration, epochs=1, iterations_per_epoch=10)


def tensors(method) -> dict[str, np.ndarray]:
    """All tensors of the networks and of the state."""
    networks = {f"{role}/{name}": value for role, part in method.networks().items() for name, value in part.items()}
    return networks | method.state()


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Whether both have the same tensors, bit for bit."""
    return list(first) == list(second) and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("experiment", ["shapes/12/suponly", "shapes/12/mean_teacher", "shapes/12/cps"])
def test_recomputing_the_encoder_changes_no_number(experiment):
    results = []
    for overrides in ((), ("trainer.recompute=true",)):
        method = made(*overrides, experiment=experiment)
        losses = [method.step(batch(index), clock(index)) for index in range(2)]
        results.append((losses, tensors(method)))
    assert results[0][0] == results[1][0] and same(results[0][1], results[1][1])


def test_recomputing_with_statistics_that_move_again_is_noticed(monkeypatch):
    from contextlib import nullcontext

    from torch_impl.networks import layers

    plain = made()
    plain.step(batch(), clock(0))
    monkeypatch.setattr(layers, "_unmoved_statistics", lambda network: nullcontext())
    moved = made("trainer.recompute=true")
    moved.step(batch(), clock(0))
    assert not same(plain.networks()["student"], moved.networks()["student"])


def kept_bytes(method) -> int:
    """Bytes that autograd keeps of the encoder's results for the backward pass."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.from_numpy(batch()["labelled"]["image"])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stages = method.student.train().encoder(images)
    del stages
    return sum(storages.values())


def test_recomputing_keeps_less():
    assert kept_bytes(made("trainer.recompute=true")) < 0.5 * kept_bytes(made())


def test_batches_are_accumulated_until_there_are_enough():
    method = made("trainer.accumulate=2", experiment="shapes/12/mean_teacher")
    start, weights = method.networks()["student"], [name for name, _ in method.student.named_parameters()]
    for index, moved in enumerate([False, True]):
        method.step(batch(index), clock(index))
        networks = method.networks()  # the teacher is the student's copy before the first step
        for role in ("student", "teacher"):
            assert any(not np.array_equal(start[name], networks[role][name]) for name in weights) == moved


def test_an_accumulated_step_takes_the_mean_gradient(monkeypatch):
    method, parts = made("trainer.accumulate=2"), []
    for index in range(2):
        alone = made()  # the same weights: no step has been made
        monkeypatch.setattr(alone.optimizer, "step", lambda clock: True)
        alone.step(batch(index), clock(index))
        parts.append([parameter.grad.clone() for parameter in alone.student.parameters()])
        method.step(batch(index), clock(index))
    for parameter, first, second in zip(method.student.parameters(), *parts):
        torch.testing.assert_close(parameter.grad, (first + second) / 2, rtol=1e-4, atol=1e-6)


def test_an_epoch_must_be_whole_steps(tmp_path, capsys):
    options = [*SMALL, "trainer.accumulate=3", "trainer.iterations_per_epoch=4", "trainer.epochs=1"]
    assert run_command(train, ["shapes/12/suponly", *options, "--run-dir", str(tmp_path / "run")]) == 2
    assert "trainer.iterations_per_epoch=3" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_order_in_memory_gives_the_same_networks_but_for_rounding():
    plain, other = made(), made("trainer.channels_last=true")
    losses = [method.step(batch(), clock(0))["loss"] for method in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    weight = other.student.encoder.layer1.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert all(value.flags.c_contiguous for value in tensors(other).values())


@pytest.mark.parametrize("option", ["trainer.channels_last=true", "trainer.precision=bf16", "trainer.precision=fp16"])
def test_a_run_goes_on_bit_for_bit(option):
    whole, first = made(option), made(option)
    for index in range(2):
        whole.step(batch(index), clock(index))
    first.step(batch(0), clock(0))
    second = made(option)
    second.restore(first.networks(), first.state())
    second.step(batch(1), clock(1))
    assert same(tensors(whole), tensors(second))
    assert ("loss_scale" in tensors(whole)) == option.endswith("fp16")


def test_a_run_that_is_asked_to_stop_ends_its_accumulated_step_first(tmp_path, monkeypatch):
    step = Trainer._step

    def step_and_stop(self, batch):
        step(self, batch)
        self.stop_asked = True  # from the first batch on

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    options = [
        *SMALL, "trainer.accumulate=2", "trainer.iterations_per_epoch=4", "trainer.epochs=1", "loader.workers=0",
        "loader.batch_labelled=2", "augment.crop=33", "dataset.images=[200, 8]",
    ]  # fmt: skip
    run_command(train, ["shapes/12/suponly", *options, "--run-dir", str(tmp_path)])
    assert read(RunFolder(tmp_path).last(".pth")).meta.iteration == 2


def test_an_overflow_leaves_the_step_out_and_halves_the_scale():
    method = made("trainer.precision=fp16")
    state = method.state()
    assert float(state["loss_scale"][0]) == 65536
    method.restore(method.networks(), state | {"loss_scale": np.float32([3e38])})
    before = dict(method.student.named_parameters())
    before = {name: value.detach().clone() for name, value in before.items()}
    method.step(batch(), clock(0))
    assert all(torch.equal(before[name], value) for name, value in method.student.named_parameters())
    assert method.state()["loss_scale"][0] == pytest.approx(1.5e38, rel=1e-6)
    method.restore(method.networks(), method.state() | {"loss_scale": np.float32([1024])})
    method.step(batch(), clock(1))
    assert any(not torch.equal(before[name], value) for name, value in method.student.named_parameters())


def test_networks_compute_in_bfloat16_and_the_rest_in_float32(monkeypatch):
    method, seen = made("trainer.precision=bf16"), []
    method.student.classifier.project.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    outputs = method.forward("student", torch.from_numpy(batch()["labelled"]["image"]), clock(0))
    assert seen == [torch.bfloat16] and {value.dtype for value in outputs.values()} == {torch.float32}
    method.predictor("student").logits(batch()["labelled"]["image"], (33, 33))
    assert seen[1:] == [torch.float32]  # evaluation is in float32
    method.step(batch(), clock(0))
    assert {p.grad.dtype for p in method.student.parameters()} == {torch.float32}


def test_training_passes_run_the_compiled_network(monkeypatch):
    runs = []
    monkeypatch.setattr(torch, "compile", lambda network: lambda *inputs: runs.append(network) or network(*inputs))
    method = made("trainer.compile=true", experiment="shapes/12/mean_teacher")
    for index in range(2):
        method.step(batch(index), clock(index))
    assert runs == 2 * [method.teacher, method.student]


STEPS, WINDOW = 200, 20


def curve(folder, *overrides: str) -> np.ndarray:
    """Mean supervised losses of every 20 of the 200 steps."""
    options = (
        "trainer.epochs=2", "trainer.iterations_per_epoch=100", "trainer.log_every=1", "trainer.evaluate_every=2",
        "dataset.images=[200, 8]", "loader.batch_labelled=4", "trainer.device=cpu", "trainer.pictures=0",
    )  # fmt: skip
    train(["shapes/24/suponly", *options, *overrides, "--run-dir", str(folder)])
    losses = [entry["losses"]["loss"] for entry in RunFolder(folder).entries() if entry["kind"] == "train"]
    return np.reshape(losses, (STEPS // WINDOW, WINDOW)).mean(1)


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(tmp_path):
    exact, bf16 = curve(tmp_path / "float32"), curve(tmp_path / "bf16", "trainer.precision=bf16")
    assert exact[-1] < 0.7 * exact[0]  # it learns
    apart = np.abs(bf16 / exact - 1)
    slower = np.abs(curve(tmp_path / "slower", "optimizer.lr=0.01") / exact - 1)  # a fifth of the rate
    assert apart.max() < 0.5 * slower.max() and apart.mean() < 0.05


@pytest.mark.slow
def test_the_network_compiles_without_a_break():
    network = build_network(compose("shapes/12/u2pl", SMALL).network, 6).eval()
    images = torch.from_numpy(batch()["labelled"]["image"])
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True)(images, wanted=("logits",))
        torch.testing.assert_close(compiled["logits"], network(images)["logits"], rtol=1e-4, atol=1e-5)
        torch.compiler.reset()
        network.register_forward_hook(lambda *call: print(float(call[2]["logits"].sum())))  # looks at a value
        with pytest.raises(Exception, match=r"(?i)graph|unsupported|break"):
            torch.compile(network, fullgraph=True)(images)
