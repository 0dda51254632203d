"""Checkpoints that training libraries write themselves, each after two steps: the file, the weights, and how to ask for them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from tests.peers.zoo.trainers import STEPS, Net, batches, trained


class Saved(NamedTuple):
    """A file or folder; the `state_dict()` that its weights are, None where it has none; and the root to ask for."""

    path: Path
    expected: dict[str, Any] | None
    root: str | None = None


def dataset() -> torch.utils.data.Dataset[Any]:
    return torch.utils.data.TensorDataset(*map(torch.cat, zip(*batches(), strict=True)))


# -- PyTorch Lightning and what is built on it --------------------------------------------------------------------------


def _lit(pl: Any, net: nn.Module | None = None) -> Any:
    class Lit(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, width: int = 8, path: Path = Path("data")) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = net or Net()
            self.register_buffer("seen", torch.zeros((), dtype=torch.long))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), 0.01)
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 100)}

    return Lit()


def _fitted(pl: Any, model: Any, folder: Path, **options: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(max_steps=STEPS, accelerator="cpu", default_root_dir=folder, **quiet, **options)
    trainer.fit(model, torch.utils.data.DataLoader(dataset(), 6))
    return trainer


def lightning(folder: Path) -> Saved:
    import lightning.pytorch as pl
    from lightning.pytorch import callbacks

    model = _lit(pl)
    kept = callbacks.ModelCheckpoint(folder, "best", every_n_train_steps=1, save_last=True)
    _fitted(pl, model, folder, callbacks=[kept, callbacks.EarlyStopping("x", strict=False)])
    return Saved(folder / "last.ckpt", model.state_dict())


def lightning_weights(folder: Path) -> Saved:
    import lightning.pytorch as pl

    model = _lit(pl)
    _fitted(pl, model, folder, enable_checkpointing=False).save_checkpoint(folder / "w.ckpt", weights_only=True)
    return Saved(folder / "w.ckpt", model.state_dict())


def lightning_swa(folder: Path) -> Saved:
    import lightning.pytorch as pl
    from lightning.pytorch import callbacks

    model = _lit(pl)
    averaging = callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=1)
    _fitted(pl, model, folder, callbacks=[averaging], enable_checkpointing=False).save_checkpoint(folder / "swa.ckpt")
    return Saved(folder / "swa.ckpt", model.state_dict())


def lightning_script(folder: Path) -> Saved:
    import lightning.pytorch as pl

    script = torch.jit.script(_lit(pl).net.eval())
    script.save(folder / "lit.pt")
    return Saved(folder / "lit.pt", script.state_dict())


def pytorch_lightning(folder: Path) -> Saved:
    import pytorch_lightning as pl

    model = _lit(pl)
    _fitted(pl, model, folder, enable_checkpointing=False).save_checkpoint(folder / "pl.ckpt")
    return Saved(folder / "pl.ckpt", model.state_dict())


def fabric(folder: Path) -> Saved:
    from lightning.fabric import Fabric

    runner = Fabric(accelerator="cpu")
    net = Net()
    model, optimizer = runner.setup(net, torch.optim.AdamW(net.parameters(), 0.01))
    for x, y in batches():
        runner.backward(functional.cross_entropy(model(x), y))
        optimizer.step()
    runner.save(folder / "fabric.ckpt", {"model": model, "optimizer": optimizer, "iteration": STEPS})
    return Saved(folder / "fabric.ckpt", net.state_dict())


# -- Loops of other kinds -----------------------------------------------------------------------------------------------


def ignite(folder: Path) -> Saved:
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import Checkpoint, DiskSaver

    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    trainer = create_supervised_trainer(net, optimizer, functional.cross_entropy)
    kept = Checkpoint(
        {"model": net, "optimizer": optimizer, "trainer": trainer}, DiskSaver(str(folder), require_empty=False)
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, kept)
    trainer.run(list(batches()), 1)
    return Saved(folder / str(kept.last_checkpoint), net.state_dict())


def ignite_model(folder: Path) -> Saved:
    from ignite.handlers import Checkpoint, DiskSaver

    net = Net()
    kept = Checkpoint({"model": net}, DiskSaver(str(folder), require_empty=False))
    from ignite.engine import Engine

    kept(Engine(lambda *_: None))
    return Saved(folder / str(kept.last_checkpoint), net.state_dict())


def _skorch(folder: Path) -> Any:
    import numpy as np
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, max_epochs=2, verbose=0)
    return net.fit(np.random.default_rng(7).normal(size=(12, 4)).astype("f4"), np.arange(12, dtype="i8") % 2)


def skorch_params(folder: Path) -> Saved:
    net = _skorch(folder)
    net.save_params(f_params=str(folder / "params.pt"))
    return Saved(folder / "params.pt", net.module_.state_dict())


def skorch_itself(folder: Path) -> Saved:
    net = _skorch(folder)
    torch.save(net, folder / "skorch.pt")
    return Saved(folder / "skorch.pt", None)


def skorch_advised(folder: Path) -> Saved:
    """The weights of the net that is refused, saved as the refusal advises."""
    net = torch.load(skorch_itself(folder).path, weights_only=False)  # we wrote this file ourselves, one line above
    net.save_params(f_params=str(folder / "net.pt"))
    return Saved(folder / "net.pt", net.module_.state_dict())


def skorch_pickle(folder: Path) -> Saved:
    net = _skorch(folder)
    (folder / "skorch.pkl").write_bytes(pickle.dumps(net))
    return Saved(folder / "skorch.pkl", None)


def _row(number: int) -> torch.Tensor:
    return torch.full((4,), float(number))


def _class(number: int) -> int:
    return number % 2


def _learner(folder: Path) -> Any:
    from fastai.data.all import Datasets
    from fastai.learner import Learner

    items = Datasets(list(range(12)), [[_row], [_class]], splits=[list(range(6)), list(range(6, 12))])
    data = items.dataloaders(bs=6)
    from fastai.callback.progress import ProgressCallback

    learner = Learner(data, Net(), loss_func=nn.CrossEntropyLoss(), path=folder)
    learner.remove_cb(ProgressCallback)
    learner.fit(1)
    return learner


def fastai(folder: Path) -> Saved:
    learner = _learner(folder)
    return Saved(Path(learner.save("m")), learner.model.state_dict())


def fastai_weights(folder: Path) -> Saved:
    learner = _learner(folder)
    return Saved(Path(learner.save("w", with_opt=False)), learner.model.state_dict())


def fastai_export(folder: Path) -> Saved:
    learner = _learner(folder)
    learner.export(folder / "export.pkl")
    return Saved(folder / "export.pkl", learner.model.state_dict())


def opacus(folder: Path) -> Saved:
    from opacus import PrivacyEngine

    net = nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.Linear(8, 2))
    engine = PrivacyEngine(accountant="rdp")
    module, optimizer, loader = engine.make_private(
        module=net, optimizer=torch.optim.SGD(net.parameters(), 0.01), data_loader=torch.utils.data.DataLoader(dataset(), 6),
        noise_multiplier=1.0, max_grad_norm=1.0,
    )  # fmt: skip
    for x, y in loader:
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    engine.save_checkpoint(path=folder / "dp.pt", module=module, optimizer=optimizer)
    return Saved(folder / "dp.pt", net.state_dict())


def opacus_module(folder: Path) -> Saved:
    from opacus import GradSampleModule

    module = GradSampleModule(nn.Sequential(nn.Linear(4, 2)))
    torch.save(module, folder / "gsm.pt")
    return Saved(folder / "gsm.pt", module.state_dict())


def catalyst(folder: Path) -> Saved:
    from catalyst import dl

    net = Net()
    runner = dl.SupervisedRunner()
    runner.train(
        model=net, criterion=nn.CrossEntropyLoss(), optimizer=torch.optim.Adam(net.parameters(), 0.01), num_epochs=2,
        loaders={"train": torch.utils.data.DataLoader(dataset(), 6)}, logdir=str(folder),
        callbacks=[dl.CheckpointCallback(str(folder), mode="runner")],
    )  # fmt: skip
    return Saved(max(folder.glob("**/runner*.pth")), net.state_dict())


def mmengine(folder: Path) -> Saved:
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor, y: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
            return {"loss": functional.cross_entropy(self.net(torch.stack(x)), torch.stack(y))}

    model = Model()
    Runner(
        model, str(folder), train_dataloader={"batch_size": 6, "dataset": dataset(), "sampler": {"type": "DefaultSampler", "shuffle": False}, "collate_fn": {"type": "pseudo_collate"}},
        train_cfg={"by_epoch": True, "max_epochs": 1}, optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        default_scope="mmengine", param_scheduler=[{"type": "StepLR", "step_size": 1}],
    ).train()  # fmt: skip
    return Saved(folder / "epoch_1.pth", model.state_dict())


def _deepspeed(folder: Path, zero: int) -> nn.Module:
    """Two steps with DeepSpeed, whose optimizer is cut into parts from stage 1 of ZeRO on; saved in `folder`."""
    import os

    import deepspeed as ds

    os.environ |= {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29555",
    }
    net = Net()
    optimizer = {"type": "Adam", "params": {"lr": 0.01, "torch_adam": True}}
    config = {"train_batch_size": 6, "optimizer": optimizer, "zero_optimization": {"stage": zero}}
    engine, *_ = ds.initialize(model=net, model_parameters=net.parameters(), config=config, dist_init_required=True)
    for x, y in batches():
        engine.backward(functional.cross_entropy(engine(x), y))
        engine.step()
    engine.save_checkpoint(str(folder), tag="step2")
    return net


def deepspeed(folder: Path) -> Saved:
    return Saved(folder / "step2" / "mp_rank_00_model_states.pt", _deepspeed(folder, 0).state_dict())


def deepspeed_zero(folder: Path) -> Saved:
    return Saved(folder / "step2" / "mp_rank_00_model_states.pt", _deepspeed(folder, 1).state_dict())


def deepspeed_refused(folder: Path) -> Saved:
    _deepspeed(folder, 1)
    return Saved(folder, None)


def deepspeed_joined(folder: Path) -> Saved:
    """Joined as the refusal advises: by the program that DeepSpeed writes beside the parts."""
    import subprocess
    import sys

    net = _deepspeed(folder, 1)
    subprocess.run(
        [sys.executable, "zero_to_fp32.py", ".", "joined"], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    # The program puts buffers first.
    names = torch.load(folder / "joined" / "pytorch_model.bin", weights_only=True)
    return Saved(folder / "joined", {name: net.state_dict()[name] for name in names})


def ray_train(folder: Path) -> Saved:
    from ray.train.torch import TorchCheckpoint

    net = Net()
    trained(net)
    TorchCheckpoint.from_model(net).to_directory(str(folder / "ray"))
    return Saved(folder / "ray" / "model.pt", net.state_dict())


def ray_state(folder: Path) -> Saved:
    from ray.train.torch import TorchCheckpoint

    net = Net()
    TorchCheckpoint.from_state_dict(net.state_dict()).to_directory(str(folder / "ray"))
    return Saved(folder / "ray" / "model.pt", net.state_dict())


def accelerate_model(folder: Path) -> Saved:
    from accelerate import Accelerator

    accelerator, net = Accelerator(cpu=True), Net()
    accelerator.save_model(accelerator.prepare(net), str(folder / "out"), safe_serialization=False)
    return Saved(folder / "out", net.state_dict())


def accelerate_save(folder: Path) -> Saved:
    from accelerate import Accelerator

    accelerator, net = Accelerator(cpu=True), Net()
    accelerator.save({"model": net.state_dict(), "step": 2}, str(folder / "a.bin"))
    return Saved(folder / "a.bin", net.state_dict())


def torch_metric_learning(folder: Path) -> Saved:
    from pytorch_metric_learning.utils import common_functions

    net = Net()
    common_functions.save_model(net, str(folder / "trunk_best.pth"))
    return Saved(folder / "trunk_best.pth", net.state_dict())


def schedule_and_scaler(folder: Path) -> Saved:
    net = nn.DataParallel(Net())
    optimizer = trained(net.module)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.LambdaLR(optimizer, _rate), torch.optim.lr_scheduler.StepLR(optimizer, 3)],
        [2],
    )
    state = {"net": net.module.state_dict(), "acc": 91.5, "epoch": 2, "optimizer": optimizer.state_dict(),
             "scheduler": schedule.state_dict(), "scaler": torch.amp.GradScaler("cpu").state_dict(),
             "rng": torch.get_rng_state()}  # fmt: skip
    torch.save(state, folder / "ckpt.t7")
    return Saved(folder / "ckpt.t7", net.module.state_dict())


def _rate(step: int) -> float:
    return 1 / (step + 1)


def averaged_module(folder: Path) -> Saved:
    net = Net()
    average = torch.optim.swa_utils.AveragedModel(net)
    trained(net, lambda: average.update_parameters(net))
    torch.save({"model": copy.deepcopy(net), "swa_n": 2}, folder / "m.pt")
    return Saved(folder / "m.pt", net.state_dict())


# What a file is called in the table: the package that wrote it, and the form.
FRAMEWORKS: Final[dict[str, Callable[[Path], Saved]]] = {
    "torch: a loop with a schedule and a scaler": schedule_and_scaler,
    "torch: a module beside a count": averaged_module,
    "lightning: ModelCheckpoint": lightning,
    "lightning: weights only": lightning_weights,
    "lightning: SWA": lightning_swa,
    "lightning: scripted": lightning_script,
    "lightning: Fabric": fabric,
    "pytorch-lightning: save_checkpoint": pytorch_lightning,
    "pytorch-ignite: Checkpoint": ignite,
    "pytorch-ignite: a model alone": ignite_model,
    "skorch: save_params": skorch_params,
    "skorch: torch.save of the net": skorch_itself,
    "skorch: that net, saved as advised": skorch_advised,
    "skorch: pickle": skorch_pickle,
    "fastai: learner.save": fastai,
    "fastai: without optimizer": fastai_weights,
    "fastai: export": fastai_export,
    "opacus: save_checkpoint": opacus,
    "opacus: the wrapped module": opacus_module,
    "catalyst: CheckpointCallback": catalyst,
    "mmengine: Runner": mmengine,
    "deepspeed: save_checkpoint": deepspeed,
    "deepspeed: ZeRO, the model's part": deepspeed_zero,
    "deepspeed: ZeRO, the folder": deepspeed_refused,
    "deepspeed: ZeRO, joined as advised": deepspeed_joined,
    "ray: TorchCheckpoint of a model": ray_train,
    "ray: TorchCheckpoint of a state dict": ray_state,
    "accelerate: save_model": accelerate_model,
    "accelerate: save": accelerate_save,
    "pytorch-metric-learning: save_model": torch_metric_learning,
}
