"""Every sentence and label of the report: key -> (English, Chinese). Names of metrics and formats stay Latin."""

from collections.abc import Callable
from string import Formatter
from typing import Any

from vggtq.report.template_texts import TEMPLATE_TEXTS

LANGUAGES = ("en", "zh")

Translate = Callable[..., str]

TEXTS: dict[str, tuple[str, str]] = {
    # overview
    "title": ("Quantization of VGGT: comparison", "VGGT 量化方案对比报告"),
    "overview": ("Overview", "概览"),
    "counts": (
        "{runs:run|runs}: {ok} succeeded, {failed} failed. {superseded:older run|older runs} of the same experiment left "
        "out; {unreadable:file|files} unreadable.",
        "共 {runs} 次运行：成功 {ok} 次，失败 {failed} 次。同一实验的旧记录略去 {superseded} 条；"
        "无法读取的文件 {unreadable} 个。",
    ),
    "generated": ("Written {when} (UTC) from {folders}", "生成时间 {when}（UTC），数据来自 {folders}"),
    "groups_note": (
        "Rows are comparable only within the same model weights, the same images and the same device. "
        "These runs form {groups} such groups; each has its own table, charts and recommendations.",
        "只有模型权重、图像和设备都相同的运行才能互相比较。这些运行分属 {groups} 个可比组，"
        "每组单独给出表格、图表和推荐。",
    ),
    "error_note": (
        "Mean rel. error: arithmetic mean of the relative errors of the five outputs (pose_enc, depth, depth_conf, "
        "world_points, world_points_conf) against the FP32 model. Grade: the worst of the five.",
        "平均相对误差：五个输出（pose_enc、depth、depth_conf、world_points、world_points_conf）相对 FP32 模型的"
        "相对误差的算术平均。评级取五者中最差的一个。",
    ),
    "speed_note": (
        "Speed-up: median of paired FP32/quantized times, quartiles in brackets. "
        "† simulated kernels (dequantize, then a float product): no statement about the scheme, never ranked.",
        "加速比：FP32 与量化模型成对计时之比的中位数，括号内为四分位区间。"
        "† 模拟内核（先反量化再做浮点乘法）：不能说明该方案的速度，不参与排名。",
    ),
    "truth_note": (
        "AUC@30, AbsRel and point error (median, over the scene's scale) are against ground truth; in brackets the FP32 "
        "model on the same images, then the change with its 95 % bootstrap interval over scenes. An interval that "
        "contains 0 is no difference that these scenes can show.",
        "AUC@30、AbsRel 与点误差（中位数，相对场景尺度）以真值为基准；括号内为 FP32 模型在相同图像上的结果，"
        "其后是变化量及其 95% 置信区间（按场景自助抽样）。区间包含 0，说明这些场景显示不出差异。",
    ),
    "random_note": (
        "The model has random weights: errors show how far the arithmetic drifts from FP32 and say nothing about "
        "reconstruction quality.",
        "模型使用随机权重：误差只反映数值计算偏离 FP32 的程度，不能说明重建质量。",
    ),
    "threads_note": (
        "Runs of this group used different thread counts ({threads}): compare speed-ups, not milliseconds.",
        "本组各次运行的线程数不同（{threads}）：请比较加速比，不要直接比较毫秒数。",
    ),
    "font_note": (
        "No Chinese font is installed: the charts are in English.",
        "未找到中文字体，图表改用英文。",
    ),
    "no_parquet": (
        "No comparison.parquet: pyarrow is not installed; pip install 'vggtq[parquet]'",
        "未生成 comparison.parquet：没有安装 pyarrow，可运行 pip install 'vggtq[parquet]'",
    ),
    # groups
    "group": ("Group {number}", "第 {number} 组"),
    "group_short": ("Group", "组"),
    "group_line": (
        "{model} ({weights}, {fingerprint}) · {dataset}, {scenes:scene|scenes}, {frames:frame|frames} ({scenes_hash}) · "
        "{device}",
        "{model}（{weights}，指纹 {fingerprint}）· {dataset}，{scenes} 个场景，{frames} 帧（{scenes_hash}）· "
        "{device}",
    ),
    "weights.random": ("random weights", "随机权重"),
    "weights.named": ("{weights} weights", "{weights} 权重"),
    "homeless": ("Failed before their group was known", "过早失败、无法归组的运行"),
    "charts": ("Charts: {file}", "图表：{file}"),
    # columns of the tables
    "label": ("Scheme", "方案"),
    "status": ("Status", "状态"),
    "size": ("Size (MiB)", "大小 (MiB)"),
    "x_fp32": ("× FP32", "× FP32"),
    "x_fp16": ("× FP16", "× FP16"),
    "speedup": ("Speed-up vs FP32", "相对 FP32 加速比"),
    "mean_error": ("Mean rel. error", "平均相对误差"),
    "rotation": ("Pose rotation error (°)", "位姿旋转误差 (°)"),
    "rotation_short": ("Rotation error (°)", "旋转误差 (°)"),
    "auc": ("AUC@30 (FP32)", "AUC@30 (FP32)"),
    "abs_rel": ("AbsRel (FP32)", "AbsRel (FP32)"),
    "point_error": ("Point error (FP32)", "点误差 (FP32)"),
    "grade": ("Grade", "评级"),
    "output": ("Output", "输出"),
    "reason": ("Reason", "原因"),
    "file": ("File", "文件"),
    "need": ("Need", "需求"),
    "choice": ("Recommended", "推荐方案"),
    "why": ("Why", "理由"),
    "ok": ("ok", "成功"),
    "failed": ("failed", "失败"),
    "excellent": ("excellent", "优秀"),
    "good": ("good", "良好"),
    "acceptable": ("acceptable", "可接受"),
    "poor": ("poor", "较差"),
    "non_finite": ("not finite", "含 NaN/Inf"),
    "identical": ("identical", "完全一致"),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "simulated_caption": ("† simulated kernels, not ranked", "† 模拟内核，不参与排名"),
    "failures": ("Failures", "失败的运行"),
    "unreadable": ("Unreadable files", "无法读取的文件"),
    "not.json": ("not valid JSON (line {line})", "不是有效的 JSON（第 {line} 行）"),
    "not.text": ("not UTF-8 text", "不是 UTF-8 文本"),
    "not.record": ("not a vggtq record: it has no schema_version", "不是 vggtq 的记录：缺少 schema_version"),
    "not.version": (
        "schema_version {found} is unknown; this report reads 1 to {known}",
        "schema_version {found} 未知；本报告能读取的版本为 1 到 {known}",
    ),
    "not.newer": (
        "schema_version {found} is newer than {known}, the newest that this report reads; update vggtq",
        "schema_version {found} 比本报告能读取的最新版本 {known} 更新；请升级 vggtq",
    ),
    "not.status": ("status {status} is neither ok nor failed", "status {status} 既不是 ok 也不是 failed"),
    "cut": (
        "Shown are {n} of {all} runs: FP32, what is recommended, what is on the Pareto front, then the best of each scheme by "
        "balanced score. All are in comparison.csv.",
        "共 {all} 次运行，此处列出 {n} 次：FP32、推荐方案、帕累托前沿上的方案，其余按各方案的综合得分由高到低选取。"
        "完整数据见 comparison.csv。",
    ),
    "cut.failed": (
        "{n:more failed run|more failed runs} in comparison.csv.",
        "另有 {n} 次失败的运行，见 comparison.csv。",
    ),
    "cut.files": (
        "{n:more file|more files} in comprehensive_results.json.",
        "另有 {n} 个文件，见 comprehensive_results.json。",
    ),
    "details": ("Every metric", "全部指标"),
    "recommendations": ("Recommendations", "推荐"),
    # lines of the text report
    "line.size": (
        "size      {stored} MiB stored, {resident} MiB in memory, {x_fp32}× vs FP32, {x_fp16}× vs FP16, "
        "{bits} bits per weight",
        "大小      存储 {stored} MiB，内存 {resident} MiB，相对 FP32 压缩 {x_fp32}×，相对 FP16 压缩 {x_fp16}×，"
        "每个权重 {bits} 位",
    ),
    "line.speed": (
        "speed     {name} {reference} ms, quantized {quantized} ms, speed-up {speedup}",
        "速度      {name} {reference} ms，量化后 {quantized} ms，加速比 {speedup}",
    ),
    "line.untimed": ("speed     not timed", "速度      未计时"),
    "line.memory.rss": (
        "memory    peak RSS {quantized} MiB, FP32 {reference} MiB, of which {base} MiB before loading (one process each)",
        "内存      RSS 峰值 {quantized} MiB，FP32 {reference} MiB，其中加载前 {base} MiB（各用独立进程）",
    ),
    "line.memory.cuda": (
        "memory    CUDA peak {quantized} MiB, FP32 {reference} MiB (one process each)",
        "内存      CUDA 峰值 {quantized} MiB，FP32 {reference} MiB（各用独立进程）",
    ),
    "line.error": (
        "error     mean relative error {error}, worst grade {grade}",
        "误差      平均相对误差 {error}，最差评级为{grade}",
    ),
    "line.pose": ("pose      {values}", "位姿      {values}"),
    "line.geometry": (
        "geometry  against ground truth, FP32 in brackets",
        "几何      以真值为基准，括号内为 FP32",
    ),
    # recommendations
    "need.production": ("Production", "生产部署"),
    "need.smallest": ("Smallest", "体积最小"),
    "need.accuracy": ("Highest accuracy", "精度最高"),
    "need.fastest": ("Fastest", "速度最快"),
    "need.balanced": ("Balanced", "综合均衡"),
    "nobody": ("none", "无"),
    "why.production.first": (
        "Best compression with all five outputs graded good or better (candidates: {n}).",
        "五个输出的评级全部不低于“良好”的 {n} 个方案中，压缩比最高。",
    ),
    "why.production.second": (
        "No row is graded good on every output; best compression with all five at least acceptable (candidates: {n}).",
        "没有方案在所有输出上都达到“良好”；在全部达到“可接受”的 {n} 个方案中，它的压缩比最高。",
    ),
    "why.smallest.first": ("Fewest stored bytes (candidates: {n}).", "{n} 个方案中存储字节最少。"),
    "why.accuracy.first": (
        "Lowest mean relative error of the compressed rows (candidates: {n}); errors are measured against FP32, the reference.",
        "{n} 个压缩方案中平均相对误差最低；误差以 FP32 模型为基准。",
    ),
    "why.fastest.first": (
        "Highest speed-up measured on real kernels with its lower quartile above 1.0 (candidates: {n}).",
        "在真实内核上、下四分位数大于 1.0 的 {n} 个方案中，实测加速比最高。",
    ),
    "why.balanced.first": (
        "Highest balanced score without a poor output (candidates: {n}).",
        "在没有“较差”输出的 {n} 个方案中，综合得分最高。",
    ),
    "why.balanced.second": (
        "Highest balanced score (candidates: {n}), though every candidate has an output graded poor or not graded.",
        "{n} 个方案中综合得分最高；但它们都有输出被评为“较差”或缺少评级。",
    ),
    "why.reference": (
        "No compressed row qualifies, so the uncompressed FP32 model is what remains.",
        "没有压缩方案符合条件，只能保留未压缩的 FP32 模型。",
    ),
    "why.none": ("No row qualifies.", "没有方案符合条件。"),
    "score": (
        "Score {score:.3f} = 0.4 × compression {compression:.2f} + 0.4 × accuracy {accuracy:.2f} + 0.2 × speed "
        "{speed:.2f}.",
        "得分 {score:.3f} = 0.4 × 压缩 {compression:.2f} + 0.4 × 精度 {accuracy:.2f} + 0.2 × 速度 {speed:.2f}。",
    ),
    "evidence": (
        "{size} MiB, {compression}× vs FP32, mean relative error {error}, worst grade {grade}, {speed}.",
        "{size} MiB，相对 FP32 压缩 {compression}×，平均相对误差 {error}，最差评级为{grade}，{speed}。",
    ),
    "evidence.truth": ("{name} {quantized}, FP32 {reference}.", "{name} {quantized}，FP32 为 {reference}。"),
    "evidence.change": (
        "Its change in {name} is more than noise: [{low}, {high}] at 95 %.",
        "{name} 的变化超出噪声：95% 置信区间 [{low}, {high}]。",
    ),
    "evidence.noise": (
        "Its change in {name} is within the noise of these scenes: [{low}, {high}] at 95 %.",
        "{name} 的变化在这些场景的噪声之内：95% 置信区间 [{low}, {high}]。",
    ),
    "speed.faster": ("{speedup} the speed of FP32", "速度为 FP32 的 {speedup}"),
    "speed.slower": ("slower than FP32, {speedup}", "慢于 FP32：{speedup}"),
    "speed.same": (
        "neither measurably faster nor slower than FP32, {speedup}",
        "与 FP32 相比测不出快慢差别：{speedup}",
    ),
    "speed.simulated": ("speed simulated, not counted", "速度为模拟值，不计入"),
    "speed.untimed": ("not timed", "未计时"),
    "random_short": (
        "Random weights: errors say nothing about reconstruction quality.",
        "随机权重：误差不能说明重建质量。",
    ),
    "excluded.item": ("{rule} ({names})", "{rule}（{names}）"),
    "space": (" ", ""),
    "colon": (": ", "："),
    "semicolon": ("; ", "；"),
    "comma": (", ", "、"),
    "excluded": ("Left out: {reasons}.", "排除：{reasons}。"),
    "rule.ok": ("failed run", "运行失败"),
    "rule.finite": ("NaN or infinity in an output", "输出含 NaN 或 Inf"),
    "rule.compressed": ("not smaller than FP32", "不小于 FP32"),
    "rule.error": ("relative error undefined", "相对误差未定义"),
    "rule.grade": ("no grade for some output", "部分输出没有评级"),
    "rule.good": ("an output graded below good", "有输出的评级低于“良好”"),
    "rule.acceptable": ("an output graded poor", "有输出被评为“较差”"),
    "rule.not_poor": ("an output graded poor", "有输出被评为“较差”"),
    "rule.size": ("size unknown", "大小未知"),
    "rule.timed": ("not timed against FP32", "没有与 FP32 的计时对比"),
    "rule.real": ("simulated kernels", "模拟内核"),
    "rule.faster": ("quartile interval not above 1.0", "四分位区间未高于 1.0"),
    # charts
    "chart.size": ("Stored size", "存储大小"),
    "chart.latency": ("Latency (median, quartiles)", "延迟（中位数与四分位数）"),
    "chart.compression": ("Compression", "压缩比"),
    "chart.speedup": ("Speed-up vs FP32 (median, quartiles)", "相对 FP32 的加速比（中位数与四分位数）"),
    "chart.error": ("Relative error of each output", "各输出的相对误差"),
    "chart.pareto": ("Error against compression", "误差与压缩比"),
    "axis.mib": ("MiB", "MiB"),
    "axis.ms": ("milliseconds", "毫秒"),
    "axis.times": ("times smaller", "压缩倍数"),
    "axis.compression": ("compression vs FP32 (×)", "相对 FP32 的压缩比 (×)"),
    "axis.speedup": ("FP32 time / quantized time", "FP32 用时 / 量化后用时"),
    "axis.error": ("relative error (log scale)", "相对误差（对数坐标）"),
    "axis.mean_error": ("mean relative error (log scale)", "平均相对误差（对数坐标）"),
    "quantized": ("quantized", "量化后"),
    "vs_fp32": ("vs FP32", "相对 FP32"),
    "vs_fp16": ("vs FP16", "相对 FP16"),
    "mean": ("mean of five", "五者平均"),
    "measured": ("measured", "实测"),
    "simulated": ("simulated", "模拟"),
    "front": ("Pareto front", "帕累托前沿"),
    "dominated": ("beaten on both", "被支配"),
    "no_data": ("not measured", "无数据"),
    "missing": ("n/a", "无"),
    "others": ("{n:other run|other runs}, darker where more", "其余 {n} 次运行，颜色越深越密集"),
    "not_drawn": ("Failed, not drawn: {names}", "失败而未绘制：{names}"),
    "nothing": ("No successful run to draw", "没有可绘制的成功运行"),
}


class _Counting(Formatter):
    """`{n:run|runs}` is `1 run` or `2 runs`."""

    def format_field(self, value: Any, format_spec: str) -> str:
        one, plural, many = format_spec.partition("|")
        return (
            f"{value} {one if value == 1 else many}" if plural else super().format_field(value, format_spec)
        )


def translator(lang: str) -> Translate:
    """`t(key, **values)` in `lang`; KeyError on a key that has no text."""
    column, texts = LANGUAGES.index(lang), TEXTS | TEMPLATE_TEXTS

    def translate(key: str, /, **values: Any) -> str:
        return _Counting().vformat(texts[key][column], (), values)

    return translate
