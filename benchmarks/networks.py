"""Networks of every family, at their own size and at one that is not square: is what is read right?

For each network the pooled features of its layers are compared with means taken image by image over
axes that are found in another way (`cut.verify`), and a cut in the middle is verified, saved in
memory, built again and compared. A network or layer may be refused with a reason, but not be wrong.

    python benchmarks/networks.py [--onnx] [--out docs/networks.md] [NAME ...]

Results are kept in networks.json; networks that it holds are not run again.
"""

import argparse
import json
import logging
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import timm
import torch

from scalecut.cut.export import EXPORTS, export_onnx, onnx_features
from scalecut.cut.folder import TOLERANCE
from scalecut.cut.network import cut_after, rebuilt
from scalecut.cut.verify import verify_cut
from scalecut.errors import ScalecutError
from scalecut.networks.hooks import pooled_outputs
from scalecut.networks.load import load_network
from scalecut.networks.network import with_preprocessing
from scalecut.networks.points import LOGITS, POOLED, SOFTMAX
from scalecut.networks.selection import every_point

TIMM = """
resnet18 resnet50 resnet50_v1 googlenet_bvlc resnetv2_50 resnext50_32x4d wide_resnet50_2
seresnet50 ecaresnet26t gcresnet33ts skresnet18 lambda_resnet26t halonet26t botnet26t_256
sehalonet33ts resnest14d res2net50_26w_4s res2next50 sebotnet33ts_256 eca_nfnet_l0 nf_regnet_b0
densenet121 inception_v3 inception_v4 inception_resnet_v2 xception41 legacy_xception nasnetalarge
vgg11 vgg16_bn repvgg_a0 cspresnet50 cspdarknet53 darknet53 dla34 hrnet_w18_small dpn68
selecsls42b gernet_s mobilenetv2_100 mobilenetv3_large_100 mobilenetv4_conv_small
mobilenetv4_hybrid_medium mnasnet_100 efficientnet_b0 tf_efficientnet_lite0 tf_efficientnetv2_b0
ghostnet_100 ghostnetv2_100 lcnet_050 tinynet_a fbnetc_100 rexnet_100 regnety_002 regnetx_002
hardcorenas_a mixnet_s spnasnet_100 starnet_s1 repghostnet_050 fasternet_t0 shvit_s1 rdnet_tiny
hgnetv2_b0 repvit_m0_9 edgenext_xx_small mobileone_s0 fastvit_t8 convnext_atto convnextv2_atto
convmixer_768_32 poolformer_s12 caformer_s18 convformer_s18 mambaout_femto focalnet_tiny_srf
inception_next_atto tresnet_m vit_tiny_patch16_224 vit_small_patch32_224
vit_medium_patch16_reg1_gap_256 vit_small_patch14_reg4_dinov2 vit_small_patch16_dinov3
vit_base_patch32_clip_224 vit_tiny_r_s16_p8_224 vit_base_patch16_rope_ape_224
vit_pe_core_tiny_patch16_384 eva02_tiny_patch14_224 beit_base_patch16_224 beitv2_base_patch16_224
deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 flexivit_small
cait_xxs24_224 xcit_nano_12_p8_224 convit_tiny crossvit_9_240 coat_lite_tiny coat_tiny
coatnet_0_rw_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 nest_tiny
pit_ti_224 tnt_s_patch16_224 twins_svt_small twins_pcpvt_small volo_d1_224 visformer_tiny
levit_128s efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 mvitv2_tiny
hiera_tiny_224 maxvit_tiny_tf_224 maxxvit_rmlp_nano_rw_256 mobilevit_xxs mobilevitv2_050
tiny_vit_5m_224 pvt_v2_b0 davit_tiny gcvit_xxtiny samvit_base_patch16_224 mixer_s16_224
resmlp_12_224 gmlp_s16_224 sequencer2d_s nextvit_small swiftformer_xs vitamin_small_224
naflexvit_base_patch16_gap
"""
TORCHVISION = """
alexnet googlenet inception_v3 shufflenet_v2_x0_5 squeezenet1_1 mnasnet0_5 regnet_y_400mf resnet18
swin_t swin_v2_t maxvit_t vit_b_32 convnext_tiny efficientnet_v2_s densenet121 mobilenet_v3_small
"""
OPEN_CLIP = ["ViT-B-32", "RN50", "convnext_base", "ViT-B-16-SigLIP", "coca_ViT-B-32", "EVA02-B-16"]
TRANSFORMERS = {  # small networks of every kind, with the processor of ImageNet
    "vit": {},
    "deit": {},
    "beit": {},
    "dinov2": {},
    "dinov2_with_registers": {"num_register_tokens": 4},
    "dinov3_vit": {"num_register_tokens": 4},
    "clip_vision_model": {},
    "siglip_vision_model": {},
    "vit_mae": {"mask_ratio": 0.0},
    "vit_msn": {},
    "data2vec-vision": {},
    "ijepa": {},
    "swin": {},
    "swinv2": {},
    "hiera": {},
    "segformer": {},
    "convnext": {},
    "convnextv2": {},
    "resnet": {},
    "regnet": {},
    "pvt_v2": {},
    "poolformer": {},
    "mobilevit": {},
    "sam_vision_model": {"image_size": 256, "global_attn_indexes": [2]},
}
SMALL = {  # for those with one width throughout; the others are as they are by default
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 224,
}
STAGED = (
    *("swin", "swinv2", "hiera", "segformer", "convnext", "convnextv2", "resnet", "regnet"),
    *("pvt_v2", "poolformer", "mobilevit"),
)
PIXELS = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
TAIL = (POOLED, LOGITS, SOFTMAX)


def names() -> list[str]:
    built_in = ("resnet50_v1", "googlenet_bvlc")
    known = [name for name in TIMM.split() if timm.is_model(name) or name in built_in]
    return [
        *(f"transformers:{name}" for name in TRANSFORMERS),
        *(f"torchvision:{name}" for name in TORCHVISION.split()),
        *(f"open_clip:{name}" for name in OPEN_CLIP),
        *known,
    ]


def loaded(name: str):
    """The network with random weights; those of transformers from a folder with their settings."""
    kind = name.removeprefix("transformers:")
    if kind not in TRANSFORMERS or kind == name:
        return load_network(name, weights="random")
    with tempfile.TemporaryDirectory() as folder:
        own = {} if kind in STAGED else SMALL
        config = {"model_type": kind, **own, **TRANSFORMERS[kind]}
        side = config.get("image_size", 224)
        shown = {**PIXELS, "size": {"height": side, "width": side}}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(shown))
        return load_network(f"transformers:{folder}", weights="random")


def checked(name: str, size: tuple[int, int] | None) -> dict[str, object]:
    """What is found at one size: right, refused with a reason, or wrong."""
    try:
        network = loaded(name)
    except ScalecutError as error:
        return {"state": "refused", "reason": str(error)}
    if size is None:
        own = network.preprocessing
        size = own.height, own.width
    network = with_preprocessing(network, input_size=size)
    facts: dict[str, object] = {"size": f"{size[0]} x {size[1]}"}
    try:
        points, refused = every_point(network)
        body = [point for point in points if point.layer not in TAIL]
        facts |= {"points": len(points), "refused": len(refused)}
        facts["reasons"] = [f"{layer}: {reason}" for layer, reason in refused.items()][:1]
        images = torch.cat([network.example(), network.example().flip(-1)])
        chosen = body[len(body) // 2] if body else None
        if chosen is None:
            return facts | {"state": "refused", "reason": "no layer can be read"}
        cut = cut_after(network, chosen)
        verify_cut(network, cut, pairs=1, batch_size=1)
        short = cut.eval()
        with pooled_outputs(network.module, [chosen]) as outputs, torch.no_grad():
            network.module(images)
            found, expected = short(images), outputs[chosen.layer]
        same = torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        again = rebuilt(
            load_network(network.module, preprocessing=network.preprocessing),
            chosen,
            way=cut.way,
            entry=cut.entry,
            pooling="mean",
            head=0,
            tensors=set(cut.state_dict()),
        )
        again.load_state_dict(cut.state_dict())
        with torch.no_grad():
            same &= torch.equal(again(images), found)
        facts |= {"cut": chosen.layer, "way": cut.way, "state": "right" if same else "WRONG"}
    except ScalecutError as error:
        facts |= {"state": "refused", "reason": str(error).replace(network.name, name)}
    return facts


def in_onnx(name: str) -> str:
    """Whether ONNX Runtime gives the features of the cut in the middle, for three images."""
    network = loaded(name)
    body = [point for point in every_point(network)[0] if point.layer not in TAIL]
    cut = cut_after(network, body[len(body) // 2]).eval()
    size = (cut.preprocessing.height, cut.preprocessing.width)
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / EXPORTS["onnx"].file
        try:
            export_onnx(cut, path)
            found, expected = onnx_features(path, images.numpy()), cut(images).numpy()
        except ScalecutError as error:
            return f"refused ({str(error).partition(' (')[2].rpartition(')')[0][:140]})"
        except Exception as error:  # noqa: BLE001 - what should have been refused
            return f"WRONG ({type(error).__name__}: {error})"[:200]
    difference = abs(found - expected).max() / abs(expected).max()
    # `scalecut cut` removes a file that differs by more, and says so.
    return "right" if difference <= TOLERANCE else f"refused (differs by {difference:.1g})"


def other_size(name: str) -> tuple[int, int]:
    """A size that is not square, and that strides of 32 and windows of 7 or 8 divide."""
    return (448, 224) if "window8" not in name else (512, 256)


def page(results: dict[str, dict]) -> str:
    """The table as Markdown."""
    states = [entry[size].get("state") for entry in results.values() for size in ("own", "other")]
    exports = [entry["onnx"].split()[0] for entry in results.values() if "onnx" in entry]
    lines = [
        "# Networks that were tried",
        "",
        f"{len(results)} architectures with random weights, tried by `make sweep`: at their own",
        "size, and at one that is not square. Pooled features are compared with means taken image",
        "by image over axes found in another way; a cut in the middle is verified, built again",
        "from its tensors, and compared to the last bit. *Refused*: nothing is computed, with",
        "the reason that the command prints.",
        "",
        f"Right: {states.count('right')} of {len(states)}; refused: {states.count('refused')}; "
        f"wrong: {states.count('WRONG')}.",
        "",
        f"Of {len(exports)} cuts exported to ONNX, ONNX Runtime gives the features of PyTorch for "
        f"{exports.count('right')}; refused: {exports.count('refused')}; "
        f"wrong: {exports.count('WRONG')}.",
        "",
        "| network | layers | cut after | way | own size | other size | ONNX |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in results.items():
        own, other = entry["own"], entry["other"]
        cells = [
            f"`{name}`",
            str(own.get("points", "–"))
            + (f" ({own['refused']} refused)" if own.get("refused") else ""),
            str(own.get("cut", "–")),
            str(own.get("way", "–")),
            *(shown(each) for each in (own, other)),
            entry.get("onnx", "–"),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def shown(facts: dict) -> str:
    """One cell: the size, and right, or the reason."""
    if facts.get("state") == "refused":
        reason = str(facts["reason"]).split(". ")[0]
        reason = re.sub(r"^\S+ does not run on .* px \((.*)\)$", r"\1", reason)
        return f"{facts.get('size', '')}: refused ({reason[:140]})".removeprefix(": ")
    return f"{facts.get('size')}: {facts.get('state')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("docs/networks.md"))
    parser.add_argument("--onnx", action="store_true", help="also export each cut (hours)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    store = Path(__file__).with_suffix(".json")
    results = json.loads(store.read_text()) if store.is_file() else {}
    wanted = options.names or names()
    for number, name in enumerate(wanted, start=1):
        start = time.perf_counter()
        entry = results.setdefault(name, {})
        for key, size in (("own", None), ("other", other_size(name))):
            if key not in entry:
                try:
                    entry[key] = checked(name, size)
                    if size and timm.is_model(name) and entry[key]["state"] == "refused":
                        built_for_it = checked(f"{name}?img_size={size}", size)
                        if built_for_it["state"] != "refused":
                            entry[key] = built_for_it
                except Exception as error:  # noqa: BLE001 - what should have been refused
                    entry[key] = {
                        "state": "WRONG",
                        "reason": f"{type(error).__name__}: {error}"[:300],
                    }
        if options.onnx and "onnx" not in entry and entry["own"].get("state") == "right":
            entry["onnx"] = in_onnx(name)
        store.write_text(json.dumps(results, indent=1))
        seconds = time.perf_counter() - start
        text = f"{entry['own'].get('state')} / {entry['other'].get('state')}"
        print(f"{number}/{len(wanted)} {name}: {text}, {seconds:.0f} s", flush=True)  # noqa: T201
    ordered = {name: results[name] for name in names() if name in results}
    options.out.write_text(page(ordered | results), encoding="utf-8")
    sys.exit("WRONG" in options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
