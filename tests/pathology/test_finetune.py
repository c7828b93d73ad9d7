"""Tiny networks learn the areas of drawn discs; the training loop is written out in NumPy."""

import copy
import os
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from scalecut import DataError, Preprocessing, load_network
from scalecut.cut.network import cut_after
from scalecut.data.images import Image
from scalecut.errors import ModelError, OutputError
from scalecut.features.extract import Computation
from scalecut.networks.network import seeded, tensors_sha256
from scalecut.networks.selection import chosen_points
from scalecut.pathology import finetune as module_under_test
from scalecut.pathology.finetune import (
    LAST,
    RESULT,
    Fit,
    Parts,
    Training,
    _History,
    finetuned,
    mixed_type,
)

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

SIDE = 32
OWN = Preprocessing(SIDE, SIDE)
TRAINED, VALIDATED, TESTED = np.arange(33), np.arange(33, 53), np.arange(53, 73)
PARTS, THREE = Parts(TRAINED, TESTED), Parts(TRAINED, TESTED, VALIDATED)
QUICK = Training(epochs=3, learning_rate=1e-2)
ON_CPU = Computation(batch_size=8, device="cpu")


class Tiny(nn.Module):
    """With what makes a fit depend on its order: batch norm and dropout."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.dropout(x))


def tiny(dropout=0.2):
    return seeded(lambda: Tiny(dropout), 0)


def linear():
    """Linear regression on mean colours."""
    return seeded(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)), 0)


def discs(n=73, side=SIDE, seed=0):
    """Bright discs on noise, and their areas in pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    images, areas = [], []
    for number in range(n):
        disc = x**2 + y**2 < rng.uniform(0.1 * side, 0.45 * side) ** 2
        pixels = rng.integers(0, 100, (side, side, 3), dtype=np.uint8)
        pixels[disc] = 220
        images.append(Image(f"disc {number}", pixels))
        areas.append(disc.sum())
    return images, np.array(areas, dtype=np.float64)


def colours(n=40, seed=0):
    """Images of one colour each, and a target that is linear in it, but for noise."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (n, 3), dtype=np.uint8)
    images = [Image(f"{k}", np.tile(value, (4, 4, 1))) for k, value in enumerate(values)]
    target = values @ np.array([0.5, -0.2, 0.1]) + 20 + rng.normal(0, 5, n)
    return images, target, Preprocessing(4, 4).tensor(np.stack([i.source for i in images]))


def fit_of(place, module=None, parts=PARTS, training=QUICK, **changes):
    images, target = discs()
    given = {"images": images, "target": target, "preprocessing": OWN}
    given |= {"computation": ON_CPU, **changes}
    return finetuned(
        tiny() if module is None else module,
        given.pop("images"),
        given.pop("target"),
        parts,
        place,
        training=training,
        **given,
    )


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in Fit.__slots__)


def killed_at(n_done):
    def tell(loss, done, total):
        if done >= n_done:
            raise KeyboardInterrupt

    return tell


def batches_of(monkeypatch, kind=Tiny):
    """Sizes of the batches that networks of this kind are trained on from now on."""
    sizes, forward = [], kind.forward

    def watched(self, x):
        if self.training:
            sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(kind, "forward", watched)
    return sizes


# --- training ------------------------------------------------------------------------------


def test_loss_drops_and_areas_of_new_discs_are_predicted(tmp_path):
    training = replace(QUICK, epochs=12, learning_rate=3e-2)
    found = fit_of(tmp_path, tiny(dropout=0.0), THREE, training)
    _, target = discs()
    held = target[TESTED]
    assert found.losses[-1] < 0.5 * found.losses[0]
    assert found.validation_losses[-1] < 0.5 * found.validation_losses[0]
    assert np.mean((found.predictions - held) ** 2) < 0.5 * held.var()
    assert found.epoch == len(found.losses) == len(found.validation_losses) == 12


@pytest.mark.parametrize("raw", [False, True])
def test_training_is_adam_on_the_mean_squared_error_of_whole_batches(tmp_path, raw):
    images, target, inputs = colours()
    parts = Parts(np.arange(30), np.arange(30, 40))
    rate, epochs = 0.03, 4
    training = Training(epochs=epochs, learning_rate=rate, raw_target=raw)
    found = finetuned(
        linear(), images, target, parts, tmp_path, preprocessing=Preprocessing(4, 4),
        training=training, computation=replace(ON_CPU, batch_size=30),
    )  # fmt: skip
    own = target[:30]
    mean, scale = (0.0, 1.0) if raw else (own.mean(), own.std())
    features = np.column_stack([inputs.mean((2, 3)).numpy(), np.ones(40)]).astype(np.float64)
    head = linear()[2]
    weights = np.append(head.weight.detach().numpy(), head.bias.item()).astype(np.float64)
    first, second, losses = np.zeros(4), np.zeros(4), []
    for step in range(1, epochs + 1):
        residual = features[:30] @ weights - (own - mean) / scale
        losses.append(np.mean(residual**2))
        gradient = 2 * features[:30].T @ residual / 30
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(
        found.predictions, mean + scale * features[30:] @ weights, rtol=1e-4, atol=1e-4
    )


def test_the_unit_of_the_target_does_not_matter(tmp_path):
    _, target = discs()
    px, other = fit_of(tmp_path), fit_of(tmp_path, target=3 * target + 7)
    np.testing.assert_allclose(other.predictions, 3 * px.predictions + 7, rtol=1e-4)
    np.testing.assert_allclose(other.losses, px.losses, rtol=1e-4)


def test_the_target_is_standardised_by_the_training_part_unless_it_is_raw(tmp_path):
    """A network that outputs 0 and does not learn has the losses of the target alone."""
    still = linear()
    nn.init.zeros_(still[2].weight)
    nn.init.zeros_(still[2].bias)
    _, target = discs()
    standing = replace(QUICK, learning_rate=1e-12, epochs=1)
    own, held = target[TRAINED], target[VALIDATED]
    found = fit_of(tmp_path, still, THREE, standing)
    np.testing.assert_allclose(found.losses, 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        found.validation_losses, np.mean((held - own.mean()) ** 2) / own.var(), rtol=1e-5
    )
    np.testing.assert_allclose(found.predictions, own.mean(), rtol=1e-6)
    raw = fit_of(tmp_path, still, THREE, replace(standing, raw_target=True))
    np.testing.assert_allclose(raw.losses, np.mean(own**2), rtol=1e-5)
    np.testing.assert_allclose(raw.predictions, 0.0, atol=1e-6)


# --- batches -------------------------------------------------------------------------------


def test_every_image_is_in_one_batch_of_two_or_more_per_epoch(tmp_path, monkeypatch):
    sizes = batches_of(monkeypatch)
    for n, expected in ((2, [2]), (9, [9]), (10, [8, 2]), (16, [8, 8]), (33, [8, 8, 8, 9])):
        fit_of(tmp_path, parts=Parts(TRAINED[:n], TESTED[:1]), training=replace(QUICK, epochs=2))
        assert sizes == expected * 2
        sizes.clear()


def test_the_order_changes_from_epoch_to_epoch_and_with_the_seed(tmp_path):
    seen = []

    class Recording(nn.Sequential):
        def forward(self, x):
            if self.training:
                seen.append(x.mean((1, 2, 3)))
            return super().forward(x)

    module = Recording(*linear())
    for seed in (0, 1):
        fit_of(tmp_path, module, training=replace(QUICK, epochs=2), seed=seed)
    epochs = torch.cat(seen).reshape(4, len(TRAINED)).numpy()
    orders = [tuple(np.argsort(epoch)) for epoch in epochs]
    assert len(set(orders)) == 4
    np.testing.assert_array_equal(np.sort(epochs, axis=1)[1:], np.sort(epochs, axis=1)[:-1])


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_images_are_fitted_once_whether_they_are_kept_in_memory_or_not(tmp_path, monkeypatch, fit):
    images, target = discs(side=40)
    files = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.png"
        PIL.Image.fromarray(image.source[:, :36]).save(path)
        files.append(Image(image.name, path))
    given = {"images": files, "target": target, "training": replace(QUICK, epochs=1)}
    given["computation"] = replace(ON_CPU, fit=fit)
    kept = fit_of(tmp_path / "kept", **given)
    monkeypatch.setattr(module_under_test, "MOST_BYTES", 0)
    assert same(fit_of(tmp_path / "decoded each time", **given), kept)


def test_bfloat16_is_mixed_and_predictions_are_of_float32(tmp_path):
    seen = set()
    module = tiny()
    module.conv.register_forward_hook(
        lambda conv, args, output: seen.add((conv.training, conv.weight.dtype, output.dtype))
    )
    found = fit_of(tmp_path, module, computation=replace(ON_CPU, precision="bfloat16"))
    assert seen == {(True, torch.float32, torch.bfloat16), (False, torch.float32, torch.float32)}
    np.testing.assert_allclose(found.losses, fit_of(tmp_path).losses, rtol=0.05)


def test_precision_is_float32_on_a_processor_and_mixed_on_a_gpu(monkeypatch):
    """The GPU is simulated."""

    def mixed(precision, device, has_bfloat16):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16
        )
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        return mixed_type(precision, device)

    monkeypatch.setattr("scalecut.features.backends.instructions", lambda: ("BF16",))
    assert mixed("auto", "cpu", False) is mixed("float32", "cuda", True) is None
    assert mixed("bfloat16", "cpu", False) == mixed("auto", "cuda", True) == torch.bfloat16
    assert mixed("auto", "cuda:0", False) == torch.float16


# --- interrupted and resumed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "n_done"), [(PARTS, 10), (PARTS, 66), (THREE, 33 + 16), (THREE, 99)]
)
def test_an_interrupted_fit_resumes_to_the_same_numbers(tmp_path, monkeypatch, parts, n_done):
    whole = fit_of(tmp_path / "whole", parts=parts)
    with pytest.raises(KeyboardInterrupt):
        fit_of(tmp_path / "killed", parts=parts, tell=killed_at(n_done))
    sizes = batches_of(monkeypatch)
    assert same(fit_of(tmp_path / "killed", parts=parts), whole)
    assert sum(sizes) == 99 - (n_done - 1) // 33 * 33  # whole epochs are not trained again


def killed_for_good(place):
    """Train until the process is killed without a chance to clean up."""
    assert "torch.utils.tensorboard" not in sys.modules  # it is imported when it is needed
    torch.set_num_threads(1)

    def tell(loss, done, total):
        if done > 40:
            os.kill(os.getpid(), signal.SIGKILL)

    fit_of(Path(place), parts=THREE, tell=tell)


def test_a_killed_process_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    code = "import sys; from tests.pathology.test_finetune import killed_for_good as kill; "
    code += "kill(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "killed"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    whole = fit_of(tmp_path / "whole", parts=THREE)
    sizes = batches_of(monkeypatch)
    assert same(fit_of(tmp_path / "killed", parts=THREE), whole)
    assert sum(sizes) == 66


def test_a_finished_fit_is_returned_without_training(tmp_path, monkeypatch):
    first = fit_of(tmp_path)
    sizes, told = batches_of(monkeypatch), []
    assert same(fit_of(tmp_path, tell=lambda *each: told.append(each)), first)
    assert sizes == []
    assert told == [(f"loss {first.losses[-1]:.3g}", 99, 99)]
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir() if "tfevents" not in path.name] == [RESULT]


def test_what_a_process_killed_after_its_last_epoch_left_is_removed(tmp_path):
    first = fit_of(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / LAST).write_bytes(b"an epoch")
    assert same(fit_of(tmp_path), first)
    assert not (folder / LAST).exists()


def test_a_fit_whose_images_change_meanwhile_is_refused_and_not_kept(tmp_path):
    pictures, _ = discs()
    files = [Image(each.name, tmp_path / f"{each.name}.png") for each in pictures]
    for file, picture in zip(files, pictures, strict=True):
        PIL.Image.fromarray(picture.source).save(file.source)

    def tell(loss, done, total):
        if done > 33:  # in the second epoch
            PIL.Image.fromarray(pictures[1].source).save(files[0].source)

    with pytest.raises(DataError, match="disc 0 changed while the command was running"):
        fit_of(tmp_path / "fits", images=files, tell=tell)
    (folder,) = (tmp_path / "fits").iterdir()
    assert not (folder / RESULT).exists()


@pytest.mark.parametrize("name", [LAST, RESULT])
def test_a_flipped_bit_in_what_is_kept_changes_no_number(tmp_path, monkeypatch, name):
    whole = fit_of(tmp_path / "whole")
    if name == LAST:
        with pytest.raises(KeyboardInterrupt):
            fit_of(tmp_path / "flipped", tell=killed_at(66))
    else:
        fit_of(tmp_path / "flipped")
    (folder,) = (tmp_path / "flipped").iterdir()
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    sizes = batches_of(monkeypatch)
    assert same(fit_of(tmp_path / "flipped"), whole)
    assert sum(sizes) == 99  # all epochs are trained again


OTHER = [
    {"seed": 1},
    {"module": seeded(Tiny, 1)},
    {"module": tiny(dropout=0.3)},
    {"training": replace(QUICK, learning_rate=2e-2)},
    {"training": replace(QUICK, epochs=2)},
    {"target": np.sqrt(discs()[1])},
    {"images": discs(seed=1)[0]},
    {"parts": Parts(TRAINED[::-1].copy(), TESTED)},
    {"parts": Parts(TRAINED, TESTED[:7])},
    {"preprocessing": replace(OWN, mean=(0.5, 0.5, 0.5))},
    {"computation": replace(ON_CPU, fit="pad")},
    {"computation": replace(ON_CPU, batch_size=16)},
]


@pytest.mark.parametrize("changes", OTHER[:1] + OTHER[5:6], ids=lambda changes: " ".join(changes))
def test_a_fit_with_other_settings_is_not_resumed(tmp_path, changes):
    with pytest.raises(KeyboardInterrupt):
        fit_of(tmp_path / "used", tell=killed_at(40))
    found = fit_of(tmp_path / "used", **changes)
    assert same(found, fit_of(tmp_path / "fresh", **changes))
    assert len(list((tmp_path / "used").iterdir())) == 2


def test_every_setting_and_the_code_of_the_network_have_a_fit_of_their_own(tmp_path, monkeypatch):
    class Doubled(Tiny):
        def forward(self, x):
            return 2 * super().forward(x)

    Doubled.__name__ = "Tiny"
    other = Doubled()
    other.load_state_dict(tiny().state_dict())
    monkeypatch.setattr(module_under_test, "_train", lambda *_: _History([1.0], []))
    for n, changes in enumerate([{}, *OTHER, {"module": other}, {}], start=1):
        fit_of(tmp_path, **changes)
        assert len(list(tmp_path.iterdir())) == min(n, len(OTHER) + 2)


# --- randomness, and surroundings ----------------------------------------------------------


def test_numbers_depend_on_the_seed_alone(tmp_path):
    torch.manual_seed(1)
    first = fit_of(tmp_path / "a", seed=3)
    torch.manual_seed(2)
    np.random.default_rng()
    assert same(fit_of(tmp_path / "b", seed=3), first)
    assert not same(fit_of(tmp_path / "b", seed=4), first)


def surroundings():
    cudnn = torch.backends.cudnn
    return {
        "chance": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002 - whether it is unchanged
        "gradients": torch.is_grad_enabled(),
        "cudnn": (cudnn.enabled, cudnn.deterministic, cudnn.benchmark),
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("n_done", [1000, 40], ids=["to its end", "interrupted"])
def test_the_process_is_left_as_it_was(tmp_path, n_done):
    fit_of(tmp_path / "first")  # imports TensorBoard
    before = surroundings()
    with torch.no_grad():
        if n_done < 99:
            with pytest.raises(KeyboardInterrupt):
                fit_of(tmp_path, tell=killed_at(n_done))
        else:
            fit_of(tmp_path)
        assert not torch.is_grad_enabled()
    assert surroundings() == before


def test_the_network_is_left_as_it_was(tmp_path):
    module = tiny().eval().requires_grad_(False)
    hash_before = tensors_sha256(module)
    assert same(fit_of(tmp_path / "a", module), fit_of(tmp_path / "b", tiny()))
    assert tensors_sha256(module) == hash_before
    assert not module.training
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())


def test_only_the_progress_is_told(tmp_path, capfd):
    told = []
    found = fit_of(tmp_path, parts=THREE, tell=lambda *each: told.append(each))
    assert capfd.readouterr() == ("", "")
    losses, done, totals = zip(*told, strict=True)
    assert set(totals) == {99}
    assert done == (8, 16, 24, 33, 41, 49, 57, 66, 74, 82, 90, 99, 99)
    said = [f"loss {loss:.3g}" for loss in found.losses]
    assert losses == ("",) * 4 + (said[0],) * 4 + (said[1],) * 4 + (said[2],)


def test_it_trains_in_another_thread(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit_of(tmp_path / "a")))
    thread.start()
    thread.join()
    assert same(found[0], fit_of(tmp_path / "b"))


# --- validation ----------------------------------------------------------------------------------


def restless(place, **settings):
    """A fit whose validation loss goes up and down: the rate is far too large."""
    training = Training(epochs=12, learning_rate=0.2, **settings)
    return fit_of(place, parts=THREE, training=training)


def test_the_best_epoch_gives_what_a_fit_of_so_many_epochs_gives(tmp_path):
    best = restless(tmp_path, keep_best=True)
    assert best.epoch == np.argmin(best.validation_losses) + 1 < 12 == len(best.losses)
    training = Training(epochs=best.epoch, learning_rate=0.2)
    until_then = fit_of(tmp_path, parts=THREE, training=training)
    np.testing.assert_array_equal(best.predictions, until_then.predictions)
    last = restless(tmp_path)
    assert last.epoch == 12
    assert not np.array_equal(last.predictions, best.predictions)


def spent(losses, patience):
    """After how many epochs so many in a row were no better than the best before."""
    for epoch in range(1, len(losses) + 1):
        if epoch - (np.argmin(losses[:epoch]) + 1) == patience:
            return epoch
    return len(losses)


@pytest.mark.parametrize(("patience", "keep_best"), [(1, False), (2, True)])
def test_training_stops_when_patience_is_spent(tmp_path, patience, keep_best):
    whole = restless(tmp_path)
    found = restless(tmp_path, patience=patience, keep_best=keep_best)
    n = spent(whole.validation_losses, patience)
    assert n < 12
    np.testing.assert_array_equal(found.validation_losses, whole.validation_losses[:n])
    assert found.epoch == (np.argmin(found.validation_losses) + 1 if keep_best else n)


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_fit_killed_after_it_stopped_is_not_trained_further(tmp_path, monkeypatch, keep_best):
    finished = restless(tmp_path / "finished", patience=1, keep_best=keep_best)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(np, "savez", lambda *_, **__: 1 / 0)
        restless(tmp_path / "killed", patience=1, keep_best=keep_best)
    sizes = batches_of(monkeypatch)
    assert same(restless(tmp_path / "killed", patience=1, keep_best=keep_best), finished)
    assert sizes == []


def test_the_best_weights_are_kept_when_the_folder_moves(tmp_path):
    whole = restless(tmp_path / "whole", patience=4, keep_best=True)
    training = Training(epochs=12, learning_rate=0.2, patience=4, keep_best=True)
    with pytest.raises(KeyboardInterrupt):
        fit_of(
            tmp_path / "killed", parts=THREE, training=training,
            tell=killed_at(33 * whole.epoch + 1),
        )  # fmt: skip
    (tmp_path / "killed").rename(tmp_path / "moved")
    assert same(restless(tmp_path / "moved", patience=4, keep_best=True), whole)


def test_validation_changes_no_weights(tmp_path):
    with_it, without = fit_of(tmp_path, parts=THREE), fit_of(tmp_path)
    np.testing.assert_array_equal(with_it.predictions, without.predictions)
    assert without.validation_losses.shape == (0,)


def test_tensorboard_has_the_losses_of_each_epoch_once_also_after_a_kill(tmp_path, monkeypatch):
    """Killed after the second epoch was logged, and before its checkpoint was written."""
    save, saved = torch.save, []

    def killed(state, file):
        if saved:
            raise KeyboardInterrupt
        saved.append(save(state, file))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", killed)
        fit_of(tmp_path, parts=THREE)
    found = fit_of(tmp_path, parts=THREE)
    (folder,) = tmp_path.iterdir()
    log = EventAccumulator(str(folder)).Reload()
    for name in ("losses", "validation_losses"):
        events = log.Scalars(name)
        np.testing.assert_allclose([e.value for e in events], getattr(found, name), rtol=1e-6)
        assert all(a.step < b.step for a, b in pairwise(events))


# --- what cannot be trained -----------------------------------------------------------------------


class Failing(Tiny):
    """Fails in training alone."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def forward(self, x):
        if self.training and self.error:
            raise self.error
        return super().forward(x) * (torch.nan if self.training else 1)


def wrong_target():
    target = discs()[1]
    target[3] = np.nan
    return target


# fmt: off
REFUSED = [
    (DataError, {"module": Failing()},
     "The loss is nan in epoch 1, with a learning rate of 0.01. Give a smaller one, such as "
     "0.001."),
    (ModelError, {"module": Failing(torch.OutOfMemoryError("CUDA out of memory."))},
     "Training on a batch of 8 does not fit into the memory of cpu. Give a smaller one, such as "
     "--batch-size 4."),
    (ModelError, {"module": nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 5))},
     "The network gives (2, 5) for 2 images, but one number per image is trained. Give it a head "
     "with one output."),
    (DataError, {"parts": Parts(TRAINED[:1], TESTED)},
     "There are 1 training images and 20 test images. Give at least 2 for training and 1 for "
     "testing."),
    (DataError, {"target": wrong_target()},
     "The target of the 33 training images is nan to nan. Give finite targets that differ."),
    (DataError, {"target": np.full(73, 4.0)},
     "The target of the 33 training images is 4 to 4. Give finite targets that differ."),
    (DataError, {"training": replace(QUICK, epochs=0)},
     "0 epochs in batches of 8 at a learning rate of 0.01 train nothing. Give --epochs 1 or more, "
     "--batch-size 2 or more and a finite --learning-rate above 0."),
    (DataError, {"training": replace(QUICK, learning_rate=np.nan)},
     "3 epochs in batches of 8 at a learning rate of nan train nothing. Give --epochs 1 or more, "
     "--batch-size 2 or more and a finite --learning-rate above 0."),
    (DataError, {"training": replace(QUICK, patience=-1), "parts": THREE},
     "--patience must be at least 0, got -1."),
    (DataError, {"training": replace(QUICK, patience=2)},
     "--patience and --keep-best need validation images, and there are none. Cut patches with a "
     "validation part, or train a fixed number of epochs."),
    (DataError, {"images": [Image("gone.png", Path("gone.png"))] * 73},
     "gone.png: there is no such file; check its name and folder"),
]
# fmt: on


def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, monkeypatch):
    for kind, changes, text in REFUSED:
        with pytest.raises(kind) as error:
            fit_of(tmp_path / "fits", **changes)
        assert str(error.value) == text
    images, _ = discs()
    path = tmp_path / "damaged.png"
    PIL.Image.fromarray(images[0].source).save(path)
    path.write_bytes(path.read_bytes()[:300])
    images[0] = Image("damaged.png", path)
    with pytest.raises(DataError, match=r"^damaged.png: it is truncated or broken .* Remove it"):
        fit_of(tmp_path / "fits", images=images)
    with pytest.raises(OutputError) as error:
        fit_of(path)
    assert str(error.value) == (
        f"{path} cannot be written (Not a directory). Give a folder that can; completed epochs are "
        "kept."
    )
    monkeypatch.setattr(module_under_test, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as error:
        fit_of(tmp_path)
    assert str(error.value) == "Mode finetune needs tensorboard. Install scalecut[finetune]."


# --- real networks, and a GPU --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["cut", "whole"])
def test_efficientnet_lite0_learns_discs_and_resumes_after_a_kill(tmp_path, whole):
    torch.set_num_threads(2)
    network = load_network("tf_efficientnet_lite0")
    images, target = discs(200, side=224)
    points = [p for p in chosen_points(network)[0] if p.layer not in ("logits", "softmax")]
    layer = points[-1] if whole else "blocks.5.1"
    module = seeded(lambda: cut_after(network, layer, head=1), 0)
    before = copy.deepcopy(module).state_dict()
    parts = Parts(np.arange(160), np.arange(180, 200), np.arange(160, 180))
    given = {"preprocessing": network.preprocessing, "training": Training(epochs=2)}
    given["computation"] = Computation(device="cpu")
    straight = finetuned(module, images, target, parts, tmp_path / "straight", **given)
    assert straight.losses[1] < straight.losses[0]
    with pytest.raises(KeyboardInterrupt):
        finetuned(module, images, target, parts, tmp_path / "killed", tell=killed_at(200), **given)
    assert same(finetuned(module, images, target, parts, tmp_path / "killed", **given), straight)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_in_mixed_precision_and_resumes_after_a_kill(tmp_path):
    seen = set()
    module = tiny()
    module.conv.register_forward_hook(
        lambda conv, args, output: seen.add((conv.training, output.device.type, output.dtype))
    )
    training = replace(QUICK, epochs=12, learning_rate=3e-2)
    chance = torch.cuda.get_rng_state()
    on_gpu = {"computation": Computation(batch_size=8, device="cuda")}
    whole = fit_of(tmp_path / "whole", module, THREE, training, **on_gpu)
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    assert seen == {(True, "cuda", half), (False, "cuda", half), (False, "cuda", torch.float32)}
    assert torch.equal(torch.cuda.get_rng_state(), chance)
    assert whole.losses[-1] < 0.7 * whole.losses[0]
    with pytest.raises(KeyboardInterrupt):
        fit_of(tmp_path / "killed", module, THREE, training, tell=killed_at(100), **on_gpu)
    assert same(fit_of(tmp_path / "killed", module, THREE, training, **on_gpu), whole)
