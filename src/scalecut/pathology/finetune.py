"""Train all weights of a network on patches, as `graziani2021` did (section 4.4).

Global average pooling and one linear unit come from the caller (`cut_after(network, layer,
head=1)`); this module adds Adam, the mean squared error and the epochs. An epoch is determined by
the seed and the number of the epoch alone, so an interrupted fit resumes after its last completed
epoch with the same numbers: to the last bit on a CPU with the same number of threads.

Shapes: n images, m for training, v for validation, k for testing, e epochs.
"""

import copy
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .. import cache
from ..cache import setting_hash
from ..data.decoding import fitted
from ..data.images import Image
from ..errors import DataError, ModelError, check_least
from ..features.backends import resolved_device, resolved_precision
from ..features.extract import Computation, DecodedImages, decoded
from ..networks.network import Preprocessing, ordered, tensors_sha256

MOST_BYTES = 2 * 10**9  # of decoded images kept in memory; more are decoded in every epoch
NONE = np.array([], dtype=np.int64)
LAST, RESULT = "last", "fit"  # the last completed epoch; the finished fit
RECIPE = 2  # part of every fingerprint: raise it when the same settings would give other numbers

# Called with the loss so far as text (empty in the first epoch), images done, images in total.
Tell: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained with mode finetune; `graziani2021`, except for the scaled target.

    Args:
        epochs: Passes over the training images, with finetune; at least 1.
        learning_rate: Learning rate of Adam, with finetune.
        patience: Stop after this many epochs without a lower validation loss; 0 for never.
        keep_best: Predict with the weights of the epoch with the lowest validation loss, not with
            those of the last.
        raw_target: Train on the unscaled target, as in the paper. By default the target is
            standardised by the training part, because with few patches Adam does not reach an area
            of 300 px from 0.
    """

    epochs: int = 5
    learning_rate: float = 1e-4
    patience: int = 0
    keep_best: bool = False
    raw_target: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The images for training, testing and validation, by number."""

    train: Int64[np.ndarray, " m"]
    test: Int64[np.ndarray, " k"]
    validation: Int64[np.ndarray, " v"] = field(default_factory=lambda: NONE)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The predictions of a trained network for the test images, with its losses.

    Losses are mean squared errors of the target as it is trained on: where it is standardised, a
    loss of 1 is no better than predicting the mean.
    """

    predictions: Float64[np.ndarray, " k"]
    losses: Float64[np.ndarray, " e"]  # mean over each epoch, while the weights change
    validation_losses: Float64[np.ndarray, " f"]  # after each epoch; empty without validation
    epoch: int  # whose weights predict, counted from 1


def finetuned(
    module: nn.Module,
    images: Sequence[Image],
    target: Float64[np.ndarray, " n"],
    parts: Parts,
    place: Path,
    *,
    preprocessing: Preprocessing,
    training: Training | None = None,
    computation: Computation | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Fit:
    """The fit of a copy of the network, all its weights trained.

    Args:
        module: from images (n, 3, h, w) to (n, 1). Create its new layers under a seed: a fit is
            identified by the weights it starts from.
        place: a folder of fits. Each fit has a folder in it, named by a hash of everything that
            determines its numbers, with a TensorBoard log, the last completed epoch until the fit
            is finished, and then the result, which later calls return.
        computation: how images are fitted to the input size, batch size, precision and device.
            Precision `auto` is mixed on a GPU and float32 elsewhere.
        seed: of the order of the images, and of random layers such as dropout.
        tell: progress, in training images over all epochs.

    Raises:
        DataError: if an image cannot be read, there are too few for training or validation, or the
            loss is not finite.
        ModelError: if TensorBoard is not installed, the network does not give one number per image,
            or a batch does not fit into memory.
        OutputError: if the place cannot be written.
    """
    training, computation = training or Training(), computation or Computation()
    if not find_spec("tensorboard"):
        raise ModelError("Mode finetune needs tensorboard. Install scalecut[finetune].")
    _check(target, parts, training, computation.batch_size)
    device = resolved_device(computation.device)
    plan = _Plan(parts, training, seed, device, mixed_type(computation.precision, device))
    own = target[parts.train]
    mean, scale = (0.0, 1.0) if training.raw_target else (own.mean(), own.std())
    scaled, size = (target - mean) / scale, computation.batch_size
    batches = _Batches(images, scaled, preprocessing, computation.fit, size, parts.train)
    with _in_one_line(plan, size, place):
        copied = copy.deepcopy(module).to(plan.device).eval()
        example = torch.zeros(1, 3, preprocessing.height, preprocessing.width, device=device)
        batches = replace(batches, order=ordered(copied, example))
        keys, unchanged = _keys(images, parts), DecodedImages(keeps=False)
        unchanged.check(images, keys)
        folder = place / _fingerprint(copied, batches, plan, keys)[:16]
        kept = cache.stored(folder / RESULT)
        if kept is None:
            folder.mkdir(parents=True, exist_ok=True)
            used = np.concatenate([parts.train, parts.validation, parts.test])
            held = batches.in_memory(used)

            def check() -> None:
                unchanged.check(images, _keys(images, parts))

            history = _train(copied, held, plan, folder, (tell, check))
            if history.best is not None:
                copied.load_state_dict(history.best)
            result = {
                "outputs": _predicted(copied, held.of(parts.test), plan.device),
                "epoch": np.array(history.n if history.best is None else history.best_epoch),
                "losses": np.array(history.losses),
                "validation_losses": np.array(history.validation_losses),
            }
            check()
            content = io.BytesIO()
            np.savez(content, allow_pickle=False, **result)
            kept = content.getvalue()
            cache.store(folder / RESULT, kept)
        (folder / LAST).unlink(missing_ok=True)  # also that of a process killed just before this
        with np.load(io.BytesIO(kept)) as stored:
            outputs, losses, epoch = stored["outputs"], stored["losses"], int(stored["epoch"])
            validation_losses = stored["validation_losses"]
    if tell:
        n_images = training.epochs * len(parts.train)
        tell(f"loss {losses[-1]:.3g}", n_images, n_images)
    return Fit(mean + scale * outputs, losses, validation_losses, epoch)


def mixed_type(precision: str, device: str) -> torch.dtype | None:
    """The type that matrix products are computed in; None for float32 throughout.

    `auto` is bfloat16 or float16 on a GPU, whichever it computes in, and float32 elsewhere.
    """
    chosen = resolved_precision(precision, device)
    if precision == "auto":
        if torch.device(device).type != "cuda":
            return None
        return torch.bfloat16 if chosen == "bfloat16" else torch.float16
    return torch.bfloat16 if chosen == "bfloat16" else None


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What is trained on, how, and where."""

    parts: Parts
    training: Training
    seed: int
    device: str
    mixed: torch.dtype | None


@dataclass(frozen=True, slots=True, eq=False)
class _Batches:
    """Preprocessed images with their targets, decoded in the background."""

    images: Sequence[Image]
    target: Float64[np.ndarray, " n"]  # as it is trained on
    preprocessing: Preprocessing
    fit: str
    size: int
    rows: Int64[np.ndarray, " r"]  # in this order
    order: torch.memory_format = torch.channels_last

    def of(self, rows: Int64[np.ndarray, " r"]) -> "_Batches":
        return replace(self, rows=rows)

    def __iter__(self) -> Iterator[tuple[Float32[Tensor, "b 3 h w"], Float32[Tensor, " b"]]]:
        """A single image at the end joins the batch before it: batch norm needs two."""
        last = self.size + 1 if len(self.rows) % self.size == 1 else 0
        n = max(0, len(self.rows) - last)
        for rows, size in ((self.rows[:n], self.size), (self.rows[n:], last)):
            for numbers, inputs, bad in decoded(
                self.images, rows.tolist(), self.preprocessing, self.fit, batch_size=size
            ):
                for number, reason in bad.items():
                    raise DataError(
                        f"{self.images[number].name}: {reason}. Remove it, or fix the file."
                    )
                inputs = inputs.contiguous(memory_format=self.order)
                yield inputs, torch.from_numpy(self.target[numbers]).float()

    def in_memory(self, rows: Int64[np.ndarray, " r"]) -> "_Batches":
        """The same with the images of these rows decoded once for all, if memory permits."""
        own, frame = self.preprocessing, self.preprocessing.frame(self.fit)
        if 3 * frame.height * frame.width * len(rows) > MOST_BYTES:
            return self

        def shown(row: int) -> Image:
            image = self.images[row]
            return Image(image.name, fitted(image.decode(), frame, own.interpolation, own.fill()))

        images = list(self.images)
        with ThreadPoolExecutor(max_workers=max(2, torch.get_num_threads())) as workers:
            for row, image in zip(rows, workers.map(shown, rows.tolist()), strict=True):
                images[row] = image
        return replace(self, images=images, fit="squash")  # which leaves them as they are


@dataclass(slots=True, eq=False)
class _History:
    """Losses of the completed epochs, and the best weights where they are kept."""

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    best: dict[str, Tensor] | None = None

    @property
    def n(self) -> int:
        return len(self.losses)

    @property
    def best_epoch(self) -> int:
        return int(np.argmin(self.validation_losses)) + 1

    def is_finished(self, training: Training) -> bool:
        """Whether all epochs are done, or `patience` of them without a lower validation loss."""
        if training.patience and self.n and self.n - self.best_epoch >= training.patience:
            return True
        return self.n == training.epochs


def _train(
    module: nn.Module,
    batches: _Batches,
    plan: _Plan,
    folder: Path,
    hear: tuple[Tell | None, Callable[[], None]],
) -> _History:
    """Train from the last completed epoch in the folder on.

    Args:
        hear: what progress is reported to, and what checks the images before an epoch is kept.
    """
    from torch.utils.tensorboard import SummaryWriter  # an extra

    tell, check = hear
    with _unchanged_surroundings(plan.device):
        module.requires_grad_(True)
        optimizer = torch.optim.Adam(module.parameters(), lr=plan.training.learning_rate)
        scaler = torch.GradScaler("cuda", enabled=plan.mixed == torch.float16)
        parts = {"module": module, "optimizer": optimizer, "scaler": scaler}
        history = _resumed(folder / LAST, parts, plan.device)
        with SummaryWriter(str(folder), purge_step=history.n + 1) as log:
            while not history.is_finished(plan.training):
                _train_epoch(module, batches, plan, history, (optimizer, scaler, tell))
                log.add_scalar("losses", history.losses[-1], history.n)
                if len(plan.parts.validation):
                    log.add_scalar("validation_losses", history.validation_losses[-1], history.n)
                log.flush()  # before the checkpoint: what a resumed fit repeats, it purges
                state = {name: part.state_dict() for name, part in parts.items()}
                check()
                content = io.BytesIO()
                torch.save({**state, "history": asdict(history)}, content)
                cache.store(folder / LAST, content.getvalue())
    return history


def _resumed(file: Path, parts: dict[str, Any], device: str) -> _History:
    """The history of the last completed epoch, its state loaded into the parts."""
    content = cache.stored(file)
    if content is None:
        return _History()
    state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return _History(**state["history"])


def _train_epoch(
    module: nn.Module,
    batches: _Batches,
    plan: _Plan,
    history: _History,
    tools: tuple[torch.optim.Optimizer, torch.GradScaler, Tell | None],
) -> None:
    """Train one epoch, then validate; the history gets the losses."""
    optimizer, scaler, tell = tools
    epoch, n_train = history.n, len(plan.parts.train)
    order = np.random.default_rng([plan.seed, epoch, 0]).permutation(plan.parts.train)
    torch.manual_seed(int(np.random.default_rng([plan.seed, epoch, 1]).integers(2**63)))
    said = f"loss {history.losses[-1]:.3g}" if history.n else ""
    total, n = torch.zeros((), device=plan.device), 0
    module.train()
    for batch in batches.of(order):
        optimizer.zero_grad()
        loss = _loss(module, batch, plan, epoch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        total, n = total + loss.detach() * len(batch[1]), n + len(batch[1])
        if tell:
            tell(said, epoch * n_train + n, plan.training.epochs * n_train)
    history.losses.append((total / n).item())
    if not len(plan.parts.validation):
        return
    total, n = torch.zeros((), device=plan.device), 0
    module.eval()
    with torch.no_grad():
        for batch in batches.of(plan.parts.validation):
            total = total + _loss(module, batch, plan, epoch) * len(batch[1])
            n += len(batch[1])
    history.validation_losses.append((total / n).item())
    if plan.training.keep_best and history.best_epoch == history.n:
        history.best = copy.deepcopy(module.state_dict())


def _loss(module: nn.Module, batch: tuple[Tensor, Tensor], plan: _Plan, epoch: int) -> Tensor:
    inputs, target = (each.to(plan.device) for each in batch)
    kind = torch.device(plan.device).type
    with torch.autocast(kind, plan.mixed, enabled=plan.mixed is not None):
        loss = mse_loss(module(inputs).squeeze(1).float(), target)
    if not torch.isfinite(loss):
        rate = plan.training.learning_rate
        raise DataError(
            f"The loss is {loss.item()} in epoch {epoch + 1}, with a learning rate of {rate:g}. "
            f"Give a smaller one, such as {rate / 10:g}."
        )
    return loss


def _predicted(module: nn.Module, batches: _Batches, device: str) -> Float64[np.ndarray, " r"]:
    """The outputs of the network, in float32 however it was trained."""
    module.to(device).eval()
    with torch.inference_mode():
        outputs = torch.cat([module(inputs.to(device)).cpu() for inputs, _ in batches])
    if outputs.shape[1:] != (1,):
        raise ModelError(
            f"The network gives {tuple(outputs.shape)} for {len(outputs)} images, but one number "
            "per image is trained. Give it a head with one output."
        )
    return outputs[:, 0].double().numpy()


def _keys(images: Sequence[Image], parts: Parts) -> dict[int, str]:
    """Hashes of the images that are used, by number."""
    used = np.concatenate([getattr(parts, name) for name in Parts.__slots__])
    return {row: images[row].key() for row in used.tolist()}


def _fingerprint(module: nn.Module, batches: _Batches, plan: _Plan, keys: Mapping[int, str]) -> str:
    """A hash of everything that determines the numbers of a fit.

    Code is no part of a state dict: the outputs for two images stand for it.
    """
    parts = plan.parts
    images = {
        name: [keys[row] for row in getattr(parts, name).tolist()] for name in Parts.__slots__
    }
    outputs = _predicted(module, batches.of(parts.train[:2]), plan.device)
    return setting_hash(
        {
            "recipe": RECIPE,
            "tensors": tensors_sha256(module),
            "text": re.sub(r"0x[0-9a-f]+", "", str(module)),  # addresses differ from run to run
            "outputs": [f"{value:.2e}" for value in outputs],
            "images": images,
            "target": batches.target[np.concatenate([parts.train, parts.validation])].tolist(),
            "preprocessing": asdict(batches.preprocessing),
            "fit": batches.fit,
            "training": asdict(plan.training),
            "batch_size": batches.size,
            "device": plan.device,
            "mixed": str(plan.mixed),
            "seed": plan.seed,
            "torch": torch.__version__,
        }
    )


def _check(
    target: Float64[np.ndarray, " n"], parts: Parts, training: Training, batch_size: int
) -> None:
    n, own = len(parts.train), target[parts.train]
    if n < 2 or not len(parts.test):
        raise DataError(
            f"There are {n} training images and {len(parts.test)} test images. Give at least 2 for "
            "training and 1 for testing."
        )
    used = np.concatenate([own, target[parts.validation]])
    if not np.isfinite(used).all() or np.ptp(own) == 0:
        raise DataError(
            f"The target of the {n} training images is {own.min():g} to {own.max():g}. Give finite "
            "targets that differ."
        )
    check_training(training, batch_size)
    if (training.patience or training.keep_best) and not len(parts.validation):
        raise DataError(
            "--patience and --keep-best need validation images, and there are none. Cut patches "
            "with a validation part, or train a fixed number of epochs."
        )


def check_training(training: Training, batch_size: int) -> None:
    """Refuse settings that train nothing, and a patience that would end with the first epoch."""
    check_least(training, patience=0)
    if training.epochs < 1 or batch_size < 2 or not 0 < training.learning_rate < np.inf:
        raise DataError(
            f"{training.epochs} epochs in batches of {batch_size} at a learning rate of "
            f"{training.learning_rate:g} train nothing. Give --epochs 1 or more, --batch-size 2 or "
            "more and a finite --learning-rate above 0."
        )


@contextmanager
def _in_one_line(plan: _Plan, batch_size: int, place: Path) -> Iterator[None]:
    """Failures outside the network become errors that say what to do."""
    try:
        with cache.explained(place, _unwritable):
            yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"Training on a batch of {batch_size} does not fit into the memory of {plan.device}. "
            f"Give a smaller one, such as --batch-size {max(2, batch_size // 2)}."
        ) from error


def _unwritable(place: Path, error: OSError) -> str:
    return (
        f"{place} cannot be written ({error.strerror or error}). Give a folder that can; completed "
        "epochs are kept."
    )


@contextmanager
def _unchanged_surroundings(device: str) -> Iterator[None]:
    """Random state, gradient mode and cuDNN settings of the process are restored at the end."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    forked = [torch.device(device)] if torch.device(device).type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=forked), torch.enable_grad():
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
