"""What the processor computes with, which decides the precision of features."""

import os

import torch

# What the oneDNN library of PyTorch and OpenVINO uses at most under ONEDNN_MAX_CPU_ISA; more
# otherwise. Its documentation: "CPU dispatcher control".
_AT_MOST = {
    "SSE41": (),
    "AVX": (),
    "AVX2": ("AVX2",),
    "AVX2_VNNI": ("AVX2", "VNNI"),
    "AVX2_VNNI_2": ("AVX2", "VNNI"),
    "AVX512_CORE": ("AVX2", "AVX512"),
    "AVX512_CORE_VNNI": ("AVX2", "AVX512", "VNNI"),
    "AVX512_CORE_BF16": ("AVX2", "AVX512", "VNNI", "BF16"),
    "AVX512_CORE_FP16": ("AVX2", "AVX512", "VNNI", "BF16"),
}


def instructions() -> tuple[str, ...]:
    """Those of AVX2, AVX512, VNNI (int8), BF16 and AMX that features are computed with here.

    The ones that the processor has, without those that ONEDNN_MAX_CPU_ISA rules out.
    """
    has = torch.cpu.get_capabilities()
    found = {
        "AVX2": has.get("avx2"),
        "AVX512": has.get("avx512_bw"),
        "VNNI": has.get("avx512_vnni") or has.get("avx_vnni"),
        "BF16": has.get("avx512_bf16"),
        "AMX": has.get("amx_int8") and has.get("amx_bf16"),
    }
    asked = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    allowed = _AT_MOST.get(asked.upper(), tuple(found))
    return tuple(name for name, is_there in found.items() if is_there and name in allowed)


def weight_bits() -> int:
    """Bits of the weights in int8: 8 with VNNI, otherwise 7.

    Without VNNI two products of unsigned activations and signed weights are summed in 16 bits
    (VPMADDUBSW), and 2 · 255 · 127 = 64,770 is beyond their 32,767; 2 · 255 · 64 = 32,640 is not.
    """
    return 8 if "VNNI" in instructions() else 7
