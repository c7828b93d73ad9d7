"""GoogLeNet as BVLC trained it for Caffe, after `szegedy2015`: neither timm's nor torchvision's.

Without batch norm, with local response normalisation, real 5 x 5 convolutions, and pools that round
up. Tensors have the names of the Caffe model.
"""

import torch
from torch import Tensor, nn

REDUCED = {  # channels: 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches, joined: 1 x 1, 3 x 3 and 5 x 5 convolutions, and a pool."""

    def __init__(self, n: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pooled = widths
        layers = {
            "1x1": nn.Conv2d(n, one, 1),
            "3x3_reduce": nn.Conv2d(n, three_in, 1),
            "3x3": nn.Conv2d(three_in, three, 3, padding=1),
            "5x5_reduce": nn.Conv2d(n, five_in, 1),
            "5x5": nn.Conv2d(five_in, five, 5, padding=2),
            "pool_proj": nn.Conv2d(n, pooled, 1),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.pool = nn.MaxPool2d(3, 1, padding=1, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        def after(x: Tensor, *names: str) -> Tensor:
            for name in names:
                x = self.get_submodule(name)(x).relu()
            return x

        branches = [
            after(x, "1x1"),
            after(x, "3x3_reduce", "3x3"),
            after(x, "5x5_reduce", "5x5"),
            after(self.pool(x), "pool_proj"),
        ]
        return torch.cat(branches, dim=1)


class GoogLeNet(nn.Module):
    """Images (n, 3, 224, 224) to 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.ModuleDict({"7x7_s2": nn.Conv2d(3, 64, 7, 2, padding=3)})
        self.conv2 = nn.ModuleDict(
            {"3x3_reduce": nn.Conv2d(64, 64, 1), "3x3": nn.Conv2d(64, 192, 3, padding=1)}
        )
        n = 192
        for name, widths in REDUCED.items():
            self.add_module(f"inception{name}", Inception(n, widths))
            n = widths[0] + widths[2] + widths[4] + widths[5]
        self.loss3 = nn.ModuleDict({"classifier": nn.Linear(n, 1000)})
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.pool(self.conv1["7x7_s2"](x).relu()))
        for layer in self.conv2.values():
            x = layer(x).relu()
        x = self.pool(self.norm(x))
        for name in REDUCED:
            if name in ("4a", "5a"):
                x = self.pool(x)
            x = self.get_submodule(f"inception{name}")(x)
        return self.loss3["classifier"](x.mean(dim=(2, 3)))
