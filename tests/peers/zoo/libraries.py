"""Small models of many libraries, each made with weights at random by the library's own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch


def _yolo(config: str, task: str = "DetectionModel") -> Any:
    from ultralytics.nn import tasks

    return getattr(tasks, task)(config, verbose=False)


def _torchvision(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model(name)


def _timm(name: str) -> Any:
    import timm

    return timm.create_model(name)


def _unet() -> Any:
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None)


def _diffusers_unet() -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )


def _diffusers_vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)


def _lora() -> Any:
    import peft

    from tests.peers.zoo.families import make

    return peft.get_peft_model(make("gpt2"), peft.LoraConfig(r=2, target_modules=["c_attn"]))


def _sentences() -> Any:
    from sentence_transformers import SentenceTransformer, models

    return SentenceTransformer(modules=[models.BoW(["a", "b"]), models.Dense(2, 3)], device="cpu")


def _graph() -> Any:
    from torch_geometric import nn

    return nn.GAT(4, 8, 2, 3, heads=2)


def _graph_sequential() -> Any:
    from torch_geometric import nn

    return nn.Sequential("x, edges", [(nn.GCNConv(4, 8), "x, edges -> x"), torch.nn.ReLU(), torch.nn.Linear(8, 2)])


def _e3nn() -> Any:
    from e3nn import o3

    return o3.FullyConnectedTensorProduct("4x0e+2x1o", "1x0e+1x1o", "4x0e+2x1o")


def _policy() -> Any:
    import gymnasium
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", gymnasium.make("CartPole-v1")).policy


def _kornia() -> Any:
    import kornia

    return kornia.feature.HardNet(pretrained=False)


def _monai() -> Any:
    from monai.networks.nets import UNet

    return UNet(2, 1, 2, (4, 8), (2,))


def _vit() -> Any:
    from vit_pytorch import ViT

    return ViT(image_size=16, patch_size=8, num_classes=2, dim=8, depth=1, heads=2, mlp_dim=8)


def _x_transformer() -> Any:
    from x_transformers import Decoder, TransformerWrapper

    return TransformerWrapper(num_tokens=16, max_seq_len=8, attn_layers=Decoder(dim=8, depth=1, heads=2))


def _ema() -> Any:
    from ema_pytorch import EMA

    return EMA(torch.nn.Linear(2, 2))


def _mmengine() -> Any:
    from mmengine.model import BaseModule

    module = BaseModule()
    module.net = torch.nn.Linear(2, 2)
    return module


def _gp() -> Any:
    import gpytorch

    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=3))


def _pyro() -> Any:
    from pyro.nn import DenseNN

    return DenseNN(4, [8], [2])


def _clip() -> Any:
    import open_clip

    eye = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
    return open_clip.CLIP(8, eye, {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1})


def _face() -> Any:
    from facenet_pytorch import InceptionResnetV1

    return InceptionResnetV1()


def _tabular() -> Any:
    from pytorch_tabnet.tab_network import TabNet

    return TabNet(4, 2, group_attention_matrix=torch.eye(4))


def _lpips() -> Any:
    import lpips

    return lpips.LPIPS(net="squeeze", pnet_rand=True)


def _metric() -> Any:
    from torchmetrics import MeanMetric, MetricCollection

    return MetricCollection({"mean": MeanMetric()})


def _accelerated() -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(torch.nn.Linear(2, 2))


def _lightning() -> Any:
    from lightning.pytorch.demos.boring_classes import BoringModel

    return BoringModel()


_TORCHVISION: Final = (
    "resnet18", "densenet121", "mobilenet_v3_small", "googlenet", "swin_t", "mobilenet_v2", "squeezenet1_1",
    "shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_b0", "regnet_x_400mf",
)  # fmt: skip
_TIMM: Final = (
    "resnet18", "vit_tiny_patch16_224", "convnext_atto", "mixer_s32_224", "levit_128s", "mobilenetv3_small_050",
    "efficientnet_lite0", "regnetx_002", "ghostnet_050", "edgenext_xx_small", "mobilevit_xxs", "pit_ti_224", "tinynet_e",
    "lcnet_035",
)  # fmt: skip
MODELS: Final[dict[str, Callable[[], Any]]] = {
    "ultralytics: YOLOv8": lambda: _yolo("yolov8n.yaml"),
    "ultralytics: YOLO11": lambda: _yolo("yolo11n.yaml"),
    "ultralytics: YOLOv8 segments": lambda: _yolo("yolov8n-seg.yaml", "SegmentationModel"),
    "ultralytics: YOLO11 classifies": lambda: _yolo("yolo11n-cls.yaml", "ClassificationModel"),
    "ultralytics: YOLOv5": lambda: _yolo("yolov5n.yaml"),
    **{f"torchvision: {name}": lambda name=name: _torchvision(name) for name in _TORCHVISION},
    **{f"timm: {name}": lambda name=name: _timm(name) for name in _TIMM},
    "segmentation-models-pytorch: Unet": _unet,
    "diffusers: UNet2DModel": _diffusers_unet,
    "diffusers: AutoencoderKL": _diffusers_vae,
    "peft: LoRA": _lora,
    "sentence-transformers": _sentences,
    "torch_geometric: GAT": _graph,
    "torch_geometric: Sequential": _graph_sequential,
    "e3nn": _e3nn,
    "stable-baselines3: PPO": _policy,
    "kornia: HardNet": _kornia,
    "monai: UNet": _monai,
    "vit-pytorch": _vit,
    "x-transformers": _x_transformer,
    "ema-pytorch": _ema,
    "mmengine": _mmengine,
    "gpytorch": _gp,
    "pyro": _pyro,
    "open-clip": _clip,
    "facenet-pytorch": _face,
    "pytorch-tabnet": _tabular,
    "lpips": _lpips,
    "torchmetrics": _metric,
    "accelerate": _accelerated,
    "lightning": _lightning,
}  # fmt: skip
