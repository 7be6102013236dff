"""Where the figures on README.md, choosing, accuracy and benchmarks are from; tests/test_figures.py looks there.

A source is a place (a page, and words that one of its units has; behind a # how its heading begins), a quotient of
two numbers of the places (a, b), one minus it (1, a, b), or a text "FIGURES: why no page has them".
"""

Place = tuple[str, str]
Source = Place | tuple[float, ...] | str

README, CHOOSING = "README.md", "docs/guide/choosing.md"
ACCURACY, BENCHMARKS, MINI, MEASURING = (
    f"docs/{name}.md" for name in ("accuracy", "benchmarks", "vggt_mini", "measuring")
)
CASCADE, EPYC, H200 = (
    f"docs/measurements/2026-11-27-{name}.md" for name in ("cascade-lake", "epyc-avx2", "h200")
)
MANY_IMAGES = "docs/measurements/2026-11-28-epyc-avx2.md"
ZEN4_BF16 = "docs/measurements/2026-11-28-zen4.md"
XEON, ZEN4, ROOMS = (
    f"docs/measurements/2026-11-21-{name}.md" for name in ("xeon-amx", "zen4", "accuracy-rooms")
)

VNNI, AVX2, FEW_TOKENS = (CASCADE, "| **3.37** |"), (CASCADE, "| **1.64** |"), (CASCADE, "| 4.66 |")
FRAMES, FILES = (ZEN4, "| 2 | 4859 |"), (ZEN4, "VGGT-1B: W8A8 predicts")
T_INTERVAL = (MEASURING, "**Intervals.**")
BF16, FP8, W8A8, INT4 = (
    (H200, f"| {row}")
    for row in ("BF16, compiled blocks (ref", "FP8, compiled", "W8A8, compiled", "INT4 group 64, compiled")
)
TEN_FRAMES: list[Source] = [
    *[(H200, "| BF16 (reference)"), (H200, "| FP8 | 83"), (H200, "| INT4 group 64 | 91")],
    *[(1979, 2979), (1441, 2979)],
]


def mean(row: str, xeon: str) -> Place:
    """A row of many tables there; the mean over VGGT-1B's linear layers begins thus."""
    return XEON, f"| {row} | {xeon} |"


def block(row: str) -> Place:
    return CASCADE, f"| {row} | # Blocks"


def dense(row: str) -> Place:
    return CASCADE, f"| {row} | # Convolutions"


def whole(row: str) -> Place:
    return CASCADE, f"| {row} | # Whole VGGT-1B"


def engine(row: str) -> Place:
    return EPYC, f"| {row} # VGGT-1B"


def zen4(row: str, heading: str = "VGGT-1B with random") -> Place:
    return ZEN4_BF16, f"| {row} | # {heading}"


def zen4_block(row: str) -> Place:
    return zen4(row, "Blocks of the width")


def zen4_linear(row: str) -> Place:
    return zen4(row, "Linear layers")


def zen4_small(row: str) -> Place:
    return zen4(row, "The embedded model")


def small(row: str) -> Place:
    return EPYC, f"| {row} # The embedded model"


def memory(row: str) -> Place:
    return MANY_IMAGES, f"| {row} | # Two images"


def compared(row: str) -> Place:
    return MANY_IMAGES, f"| {row} | # Nine schemes"


def int8_attention(row: str) -> Place:
    return MANY_IMAGES, f"| {row} | # Accuracy with INT8"


def seven_bits(scheme: str) -> Place:
    return EPYC, f"(`{scheme}`) | # Accuracy with 7-bit weights"


def kept(row: str) -> Place:
    return ACCURACY, f"{row} | # Accuracy"


NEAREST_W8A8, NEAREST_W4, NEAREST_W4A4, NEAREST_W3 = map(
    kept,
    (
        "W8A8, dynamic per token",
        "W4 group 64, nearest",
        "W4A4 per channel, nearest",
        "W3 group 64, nearest",
    ),
)
GPTQ = kept("(`gptq_w4a16`)")
ALL_LAYERS = zen4("W8A8, convolutions too, attention INT8")
PROGRESSIVE_FILE, EXPORTED_FILES = (
    (ZEN4_BF16, "W4A8 in progressive groups of 64 (by"),
    (ZEN4_BF16, "- VGGT-1B was measured"),
)

SOURCES: dict[str, dict[str, list[Source]]] = {
    README: {
        "| FP32 | 1.00 (7.2": [
            *[memory("FP32"), zen4("FP32"), engine("FP32 ("), zen4_small("FP32")],
            "7.2: the milliseconds of FP32 there",
        ],
        "| BF16 | 1.82": [memory("BF16"), zen4("BF16"), zen4_small("BF16")],
        "| W8A8 (`int8_dynamic`)": [
            *[memory("W8A8 (`int8_dynamic`)"), zen4("W8A8"), engine("W8A8 |"), zen4_small("W8A8")],
        ],
        "| W8A8 with convolutions": [zen4("W8A8, convolutions too, attention INT8")],
        "| W4A8, progressive": [zen4("W4A8 group 64 progressive"), PROGRESSIVE_FILE],
        "| INT4 weights (`int4": [
            *[memory("INT4 weights in groups of 64"), engine("INT4 weights in")],
            *[zen4("INT4 group 64"), zen4_small("INT4 group 64")],
        ],
        "| INT4 weights, `scheme.compute": [
            memory("INT4 weights in groups of 64"),
            *[zen4("INT4 group 64, computed in BF16"), zen4_small("INT4 group 64, computed in BF16")],
        ],
        "| OpenVINO, BF16": [zen4("OpenVINO BF16"), zen4_small("OpenVINO BF16"), engine("OpenVINO FP32")],
        "| OpenVINO, INT8": [zen4("OpenVINO INT8 (NNCF)"), zen4_small("OpenVINO INT8 (NNCF)")],
        "| OpenVINO, our INT4": [
            *[zen4("INT4 group 64 in OpenVINO"), zen4_small("INT4 group 64 in OpenVINO"), EXPORTED_FILES],
        ],
        "| ONNX Runtime, our": [
            *[zen4("INT4 group 64 in ONNX Runtime"), zen4_small("INT4 group 64 in ONNX Runtime")],
            *[engine("our INT4 weights in ONNX"), EXPORTED_FILES],
        ],
        "W8A8 needs smoothing": [NEAREST_W8A8, seven_bits("int8_dynamic")],
        "Both commands work in a fresh": ["3.11: the Python that pyproject.toml asks for"],
        "55 layers quantized": ["34.8 9.6 3.61: printed by the command above"],
        "speed  1.12": ["1.12 1.09 1.13: printed by the command above"],
        "The default model `vggt_mini`": [(MINI, "is a VGGT of 9.1 million")],
        "measures nine schemes": [T_INTERVAL],
        "| FP32 | 34.8": [compared("FP32")],
        "| INT8 per-channel": [compared("INT8 per-channel asymmetric")],
        "| `torch_dynamic` (": [
            compared("W8A8 dynamic per-tensor symmetric PyTorch, inputs per-tensor asymmetric")
        ],
        "| INT4 group 64 | 9.6": [compared("INT4 group 64")],
        "8-bit weights show no loss": [(README, "| INT4 group 64 | 9.6"), NEAREST_W4, GPTQ],
        "On an H200": TEN_FRAMES,
    },
    CHOOSING: {
        "| no visible loss, 8 bits": [
            compared("INT8 per-channel symmetric"),
            (XEON, "VGGT-1B with random weights and the track"),
        ],
        "| no visible loss, and speed": [
            *[NEAREST_W8A8, VNNI, AVX2, zen4_linear("W8A8 per-channel")],
            seven_bits("int8_dynamic"),
        ],
        "| the smallest file with": [GPTQ, NEAREST_W4],
        "| the smallest file, without": [
            (ROOMS, "| … SINQ | 9.8 | 0.913"),
            (ROOMS, "| … SINQ | 9.8 | 0.941"),
            kept("… MSE scales"),
        ],
        "On `vggt_mini` (34.8 MiB": [small("FP32 ("), T_INTERVAL, (ACCURACY, "Measured on")],
        "| `smoothquant_w8a8` |": [kept("(`smoothquant_w8a8`)")],
        "| `int8_dynamic` |": [NEAREST_W8A8],
        "| `gptq_w4a16` |": [GPTQ],
        "| `w4a8` |": [kept("(`w4a8`)")],
        "| `auto_mixed bits=4` |": [kept("(`auto_mixed`), same bytes")],
        "| `awq` |": [kept("… AWQ")],
        "| `hqq` |": [kept("… asymmetric, HQQ")],
        "| `int4_group group_size=64` |": [NEAREST_W4],
        "2. have an acceptable": ["0.01 1 5: limits of the rule"],
        "The report recommends nothing": ["0.05: a limit of the rule"],
        "Applied to the table": ["0.01: a limit of the rule"],
        "- **Bytes.**": [
            (XEON, "VGGT-1B with random weights and the track"),
            "92: from the network's shapes",
        ],
        "- **Time.**": [VNNI, AVX2, engine("INT4 weights in")],
        "- **Accuracy.**": [GPTQ, NEAREST_W4A4],
        "| W8A8, INT8 attention | 1.92": [
            *[memory("W8A8 with `scheme.attention=int8`"), engine("W8A8, attention")],
            *[(EPYC, "W8A8 has 1.51 × and W4A8"), int8_attention("W8A8, smoothed, INT8 attention, AVX2")],
        ],
        "| W4A8, INT8 attention | 1.82": [
            *[(MANY_IMAGES, "| W4A8 in groups of 64 (`w4a8`"), engine("W4A8 in groups of 64, attention")],
            (EPYC, "W8A8 has 1.51 × and W4A8"),
            int8_attention("W4A8, smoothed, GPTQ, INT8 attention, AVX2"),
        ],
        "| INT4 weights | 1.30": [memory("INT4 weights in groups of 64"), engine("INT4 weights in"), GPTQ],
        "| W8A8, INT8 attention | 2.27": [
            *[memory("W8A8 with `scheme.attention=int8`"), whole("W8A8, attention INT8")],
            int8_attention("W8A8, smoothed, INT8 attention, 8-bit products"),
        ],
        "| W4A8, INT8 attention | 2.26": [
            (MANY_IMAGES, "| W4A8 in groups of 64 (`w4a8`"),
            whole("W4A8 group 64 progressive, attention INT8"),
            int8_attention("W4A8, smoothed, GPTQ, INT8 attention, 8-bit products"),
        ],
        "| W8A8 | 3.42": [
            *[memory("W8A8 (`int8_dynamic`)"), zen4("W8A8"), zen4("OpenVINO BF16"), (3.42, 2.26)],
            zen4("W8A8, smoothed (`smoothquant_w8a8`)", "Accuracy in BF16"),
        ],
        "| W4A8, progressive": [
            *[PROGRESSIVE_FILE, zen4("W4A8 group 64 progressive"), zen4("OpenVINO BF16"), (3.43, 2.26)],
            zen4("W4A8, smoothed, GPTQ, progressive groups of 64 (`w4a8`)", "Accuracy in BF16"),
        ],
        "| INT4 weights, BF16": [
            memory("INT4 weights in groups of 64"),
            *[zen4("INT4 group 64, computed in BF16"), zen4("OpenVINO BF16"), (2.08, 2.26)],
            zen4("INT4 weights in groups of 64, GPTQ (`gptq_w4a16`)", "Accuracy in BF16"),
        ],
        "| BF16 | 1.82": [memory("BF16"), zen4("BF16"), zen4("OpenVINO BF16"), (1.82, 2.26)],
        "On Zen 4, W8A8 and W4A8 have": [
            zen4("OpenVINO INT8 (NNCF)"),
            zen4("W8A8"),
            (0.0022, 0.0012),
            ALL_LAYERS,
        ],
        "| BF16 | 2.16": [memory("BF16"), (XEON, "| BF16 | 2.16 # Whole models")],
        "| W8A8 | 2.02": [
            *[memory("W8A8 (`int8_dynamic`)"), (XEON, "| W8A8 | 2.02 # Whole models")],
            *[kept("(`smoothquant_w8a8`)"), (XEON, "Whole VGGT-1B at 224 pixels: W8A8")],
        ],
        "| FP8 | 1.03": TEN_FRAMES,
        "| INT4 weights | 0.95": TEN_FRAMES,
    },
    ACCURACY: {
        "Measured on": [
            (MINI, "is a VGGT of 9.1 million"),
            *[(MINI, f"| {name} ↑ | 0.") for name in ("pose AUC@3", "pose AUC@5", "pose AUC@30")],
            *[(MINI, "| depth inlier@1.03 ↑"), (MINI, "| depth AbsRel ↓")],
        ],
        "Each column from": [T_INTERVAL],
        "On that model, smoothing": [
            (ACCURACY, "| W8A8, dynamic per token | 3.37"),
            "0.059: the difference of two rows above it",
        ],
        "- **W8A8**": [NEAREST_W8A8, kept("(`smoothquant_w8a8`)")],
        "- **W4 weights:**": [NEAREST_W4, GPTQ, kept("… MSE scales"), kept("… AWQ")],
        "- **Bits per layer**": [kept("(`auto_mixed`), same bytes")],
        "- **W4A8:**": [kept("(`w4a8`)")],
        "- **INT8 attention**": [
            int8_attention("FP32, INT8 attention, 8-bit products"),
            int8_attention("W8A8, smoothed, INT8 attention, 8-bit products"),
            *[int8_attention("W4A8, smoothed, GPTQ, INT8 attention, 8-bit products"), kept("(`w4a8`)")],
        ],
        "- **W4A4**": [
            *[NEAREST_W4A4, kept("… smoothed, Hadamard"), kept("(`svdquant_w4a4`)")],
            *[(1, 0.034, 0.665), (1, 0.016, 0.665)],
        ],
        "- **W3:**": [(ACCURACY, "| … GPTQ | 8.7")],
    },
    BENCHMARKS: {
        "- **A CPU with AVX-512 VNNI and AVX-512 BF16": [
            *[zen4("W8A8"), zen4("W4A8 group 64 progressive"), zen4("BF16")],
            *[zen4("INT4 group 64, computed in BF16"), zen4("OpenVINO BF16"), zen4("OpenVINO INT8 (NNCF)")],
        ],
        "- **A CPU with AVX-512 VNNI and without": [VNNI, block("W8A8"), block("W8A8, attention INT8")],
        "- **A CPU with AVX2 alone": [
            *[AVX2, engine("W4A8 in groups of 64, attention"), engine("W8A8, attention")],
            *[engine("OpenVINO FP32"), seven_bits("int8_dynamic"), seven_bits("smoothquant_w8a8")],
            (EPYC, "(`w4a8`) | # Accuracy with 7-bit activations"),
        ],
        "- **A CPU with AMX": [mean("BF16", "5.38"), mean("W8A8 per-channel", "3.64")],
        "- **A large GPU": TEN_FRAMES,
        "- **Weight-only schemes": [
            *[
                VNNI,
                AVX2,
                FEW_TOKENS,
                engine("INT4 weights in"),
                (XEON, "| INT4 group 64 | 0.87 # Whole models"),
            ],
            *[zen4_linear("INT4 group 64, computed in BF16"), zen4_linear("BF16")],
            *[
                (CASCADE, f"| geometric mean of the four shapes, {row} |")
                for row in ("1 token | | 3.77", "1 token | | 3.04", "16 tokens | | 2.59")
            ],
        ],
        "- **Small models: OpenVINO": [
            *[small("OpenVINO FP32"), small("W4A8 in groups of 64 |"), small("our W8A8 in OpenVINO")],
            *[zen4_small("OpenVINO BF16"), zen4_small("OpenVINO INT8 (NNCF)")],
            *[zen4_small("W8A8"), zen4_small("W8A8 in OpenVINO")],
        ],
        "| linear layers, 930 tokens: W8A8": [VNNI, AVX2, zen4_linear("W8A8 per-channel")],
        "64, float16 scales |": [VNNI, AVX2, zen4_linear("W4A8 group 64")],
        "64, progressive scales | 4.31 | 3": [VNNI, AVX2, zen4_linear("W4A8 group 64 progressive")],
        "tokens: INT8 / INT4 weights": [
            *[VNNI, AVX2, zen4_linear("INT8 per-channel"), zen4_linear("INT4 group 64")],
        ],
        "| the same, computed in BF16": [
            *[
                zen4_linear("INT8 per-channel, computed in BF16"),
                zen4_linear("INT4 group 64, computed in BF16"),
            ],
        ],
        "| attention in BF16": [(ZEN4_BF16, "| 930 | 23.3"), (ZEN4_BF16, "| 4650 | 568")],
        "| attention in INT8": [
            *[(CASCADE, "| 930, 16 |"), (CASCADE, "| 4650, 16 |")],
            *[(ZEN4_BF16, "| 930 | 23.3"), (ZEN4_BF16, "| 4650 | 568")],
        ],
        "| block, W8A8, 930": [block("W8A8"), zen4_block("W8A8")],
        "| block, W8A8 with": [block("W8A8, attention INT8"), zen4_block("W8A8, attention INT8")],
        "| block, W4A8": [
            *[block("W4A8 group 128, attention INT8"), zen4_block("W4A8 group 64, attention INT8")],
        ],
        "| whole VGGT-1B": [
            *[whole("W8A8"), whole("W8A8, attention INT8"), engine("W8A8 |"), engine("W8A8, attention")],
            *[zen4("W8A8"), zen4("W8A8, attention INT8")],
        ],
        "| the embedded model, W8A8, linear": [
            (CASCADE, "| W8A8 | # The embedded model"),
            zen4_small("W8A8"),
        ],
        "| the embedded model, W8A8, conv": [
            dense("W8A8, linear layers"),
            dense("W8A8, convolutions as well"),
        ],
        "| the embedded model, W4A8": [dense("W4A8 group 64 progressive, convolutions as well")],
        "Zen 4 meets all goals": ["3.5 1.1 1.75 2.4 2.5 1.8 2.8 1.4 1.2: goals"],
        "OpenVINO 2026.4 beside": [
            (CASCADE, "OpenVINO 2026.4.1, one stream"),
            *[(CASCADE, f"| {row} | # OpenVINO") for row in ("OpenVINO FP32", "OpenVINO INT8")],
            *[(CASCADE, f"| {row} | # OpenVINO") for row in ("W8A8", "W8A8, attention INT8")],
        ],
        "| BF16 | 5": [mean("BF16", "5.38"), zen4_linear("BF16")],
        "| vggtq W8A8, one scale": [mean("W8A8 per-channel", "3.64"), zen4_linear("W8A8 per-channel")],
        "| torch `quantize_dynamic`": [
            *[mean("torch quantize_dynamic", "2.42"), zen4_linear("torch quantize_dynamic")],
        ],
        "| torchao int8 dynamic": [
            *[mean("torchao int8 dynamic", "1.56"), zen4_linear("torchao int8 dynamic")],
        ],
        "| ONNX Runtime int8": [
            *[mean("ONNX Runtime int8 dynamic", "4.68"), zen4_linear("ONNX Runtime int8 dynamic")],
        ],
        "| torchao int4": [mean("torchao int4 group 64", "0.89"), zen4_linear("torchao int4 group 64")],
        "| optimum-quanto": [mean("quanto int4 weights", "0.83"), zen4_linear("quanto int4 weights")],
        "| vggtq W4A8 in groups": [zen4_linear("W4A8 group 64 progressive")],
        "| vggtq INT4 weights": [zen4_linear("INT4 group 64, computed in BF16")],
        "Whole VGGT-1B with random": [
            (XEON, f"| {row} # Whole models")
            for row in ("BF16 | 2.16", "W8A8 | 2.02", "INT4 group 64 | 0.87")
        ],
        "| 2 | 4859": [FRAMES],
        "| 20 | 5661": [(ZEN4, "| 20 | 5661 |")],
        "VGGT-1B with W8A8 needs": [FILES],
        "VGGT-1B with random weights and the track": [
            (XEON, "VGGT-1B with random weights and the track"),
            *[(XEON, f"| {row}") for row in ("export, INT4", "export, INT8", '`vggtq.load("int4')],
        ],
        "| FP8 |": [FP8, BF16, *TEN_FRAMES, (1685, 2713)],
        "| W8A8 |": [W8A8, BF16, (1704, 2713)],
        "| INT4 group 64 |": [INT4, BF16, *TEN_FRAMES, (1158, 2713)],
    },
}
