"""Networks take batches in the order in memory that they are fastest in, if they run in it."""

import numpy as np
import pytest
import torch
from torch import nn

from scalecut import cut_after, load_network, make_scenes
from scalecut.cut.verify import verify_cut
from scalecut.data.decoding import fitted
from scalecut.features.extract import Computation, extract_features
from scalecut.networks.network import Preprocessing, order_of, ordered, take_statistics
from scalecut.networks.selection import chosen_points
from scalecut.pathology.finetune import Parts, Training, finetuned


class Viewed(nn.Module):
    """As networks were written before `flatten`: `view` refuses channels last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8 * 7 * 7, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(len(x), -1))


FORWARD = {
    "view": Viewed.forward,
    "view of halves": lambda self, x: self.fc(halves(self.conv(x)).flatten(1)),
    "flatten": lambda self, x: self.fc(self.conv(x).flatten(1)),
}


def halves(x):
    """As attention to shuffled channels does: the view of one image works in any order."""
    return x.view(2 * len(x), x.shape[1] // 2, *x.shape[2:]).reshape(x.shape)


@pytest.mark.parametrize("last", FORWARD)
def test_batches_have_the_order_in_memory_that_a_network_can_take(last, monkeypatch):
    monkeypatch.setattr(Viewed, "forward", FORWARD[last])
    torch.manual_seed(0)
    module, batches = Viewed().eval(), torch.randn(2, 5, 3, 16, 16)
    expected = torch.channels_last if last == "flatten" else torch.contiguous_format
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert order_of(module, batches[0, :1]) is expected
    assert ordered(module, batches[0, :1]) is expected
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    take_statistics(module, batches)
    maps = module.conv[0](batches.flatten(0, 1)).detach().unflatten(0, (2, 5))
    torch.testing.assert_close(module.conv[1].running_mean, maps.mean(dim=(0, 1, 3, 4)))


def test_networks_that_refuse_channels_last_are_probed_cut_and_tuned(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    torch.manual_seed(0)
    module = Viewed().eval()
    own = Preprocessing(16, 16)
    network = load_network(module, preprocessing=own)
    scenes = make_scenes(8, seed=0)
    points, _ = chosen_points(network)
    found = extract_features(network, scenes.images, points, Computation(engine="torch"))
    shown = [fitted(image.decode(), own.frame(), own.interpolation) for image in scenes.images]
    with torch.inference_mode():
        expected = module(own.tensor(np.stack(shown))).numpy()
    np.testing.assert_allclose(found.matrices["logits"], expected, rtol=1e-4, atol=1e-5)
    cut = cut_after(network, "conv")
    assert verify_cut(network, cut, pairs=1, batch_size=1).largest_difference == 0
    one = nn.Sequential(module, nn.Linear(4, 1))
    parts = Parts(np.arange(4), np.arange(4, 8))
    training = Training(epochs=1)
    given = one, scenes.images, scenes.measure, parts, tmp_path / "fits"
    fit = finetuned(*given, preprocessing=own, training=training)
    assert np.isfinite(fit.predictions).all()
