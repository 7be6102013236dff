"""Sentences of the report templates: key -> (English, Chinese)."""

TEMPLATE_TEXTS: dict[str, tuple[str, str]] = {
    # several scenes
    "scenes.title": ("Results over scenes", "多场景结果"),
    "scenes.intro": (
        "Runs that differ in scheme and scene alone, with one scene each or several. In brackets the FP32 model on "
        "the same scenes, then the change with its 95 % bootstrap interval over scenes; an interval that contains 0 "
        "is no difference that these scenes can show. The relative error is against FP32; a run over several scenes "
        "does not have one for each.",
        "这里汇总只在方案和场景上不同的运行，每次运行可包含一个或多个场景。括号内为 FP32 模型在相同场景上的结果，"
        "其后是变化量及其 95% 置信区间（按场景自助抽样）；区间包含 0，说明这些场景显示不出差异。相对误差以 FP32 "
        "为基准；一次运行包含多个场景时，没有单个场景的相对误差。",
    ),
    "scenes.none": (
        "No runs over two scenes or more. Make some: python -m vggtq.run +experiment=multi_scene scheme=int4_group",
        "没有覆盖两个以上场景的运行。可运行：python -m vggtq.run +experiment=multi_scene scheme=int4_group",
    ),
    "scenes.means": (
        "Means over the {n:scene|scenes} that every scheme was scored on",
        "所有方案都有结果的 {n} 个场景上的平均值",
    ),
    "scenes.uncommon": (
        "Left out of the means, since not every scheme has a score there: {names}.",
        "以下场景并非所有方案都有结果，未计入平均值：{names}。",
    ),
    "scenes.each": ("Each scene", "各场景结果"),
    "scenes.failed": ("Scenes that failed", "失败的场景"),
    "scene": ("Scene", "场景"),
    "full_stop": (".", "。"),
    "point_error_name": ("the point error", "点误差"),
    "model_line": (
        "{model} ({weights}) · {dataset} · {device}",
        "{model}（{weights}）· {dataset} · {device}",
    ),
    # the paper: its parts
    "paper.title": ("Which quantization of {model} to ship", "{model} 应采用哪种量化方案"),
    "paper.goal": ("1. Goal", "1. 目标"),
    "paper.goal.text": (
        "We compare {n:quantization|quantizations} of {model} with the FP32 model and ask four things: how much "
        "smaller each makes it, how far its outputs move, whether the reconstruction suffers, and whether it runs "
        "any faster on this hardware.",
        "本文将 {model} 的 {n} 种量化方案与 FP32 模型比较，回答四个问题：模型能缩小多少，输出偏离多远，"
        "重建质量是否下降，在本机上能否更快。",
    ),
    "paper.setup": ("2. Setup", "2. 实验设置"),
    "paper.model": (
        "**Model.** {model}, {parameters} million parameters, {size} MiB in FP32; {weights}, fingerprint "
        "{fingerprint}.",
        "**模型。** {model}，{wan}参数，FP32 大小 {size} MiB；{weights}，指纹 {fingerprint}。",
    ),
    "paper.data": (
        "**Data.** {dataset}: {scenes:scene|scenes}, {frames:frame|frames} in all{truth}.",
        "**数据。** {dataset}：{scenes} 个场景，共 {frames} 帧{truth}。",
    ),
    "paper.data.truth": (", with ground truth", "，带真值"),
    "paper.data.no_truth": (", without ground truth", "，没有真值"),
    "paper.hardware": (
        "**Hardware.** {hardware} ({device}), {threads:thread|threads}; PyTorch {torch}, vggtq {vggtq}.",
        "**硬件。** {hardware}（{device}），{threads} 个线程；PyTorch {torch}，vggtq {vggtq}。",
    ),
    "paper.measures": (
        "**Measures.** The error is the arithmetic mean of the relative errors of the outputs pose_enc, depth, "
        "depth_conf, world_points and world_points_conf against the FP32 model on the same images; the grade is that "
        "of the worst of them. AUC@30, AbsRel and the point error are against ground truth, and their change against "
        "FP32 comes with a 95 % bootstrap interval over scenes. For speed, FP32 and the quantized model predict in "
        "turn within one process; the speed-up is the median of the ratios within these pairs, with the quartiles in "
        "brackets.",
        "**指标。** 误差是 pose_enc、depth、depth_conf、world_points、world_points_conf 五个输出相对 FP32 "
        "模型（相同图像）的相对误差的算术平均，评级取其中最差的一个。AUC@30、AbsRel 与点误差以真值为基准，相对 FP32 "
        "的变化附有按场景自助抽样的 95% 置信区间。测速时 FP32 与量化模型在同一进程中交替推理，"
        "加速比为成对用时之比的中位数，括号内为四分位区间。",
    ),
    "paper.schemes": ("3. Schemes", "3. 量化方案"),
    "paper.weights": ("Weights", "权重"),
    "paper.scale": ("One scale per", "缩放因子粒度"),
    "paper.scale.per_tensor": ("tensor", "每张量"),
    "paper.scale.per_channel": ("output channel", "每输出通道"),
    "paper.scale.channel": ("output channel", "每输出通道"),
    "paper.scale.group": ("group of {size} weights", "每组 {size} 个权重"),
    "paper.activations": ("Activations", "激活"),
    "paper.layers": ("Layers quantized", "量化层数"),
    "paper.bits": ("Bits per weight", "每权重位数"),
    "paper.float": ("float", "浮点"),
    "paper.bit": ("{bits} bit", "{bits} 位"),
    "paper.results": ("4. Results", "4. 结果"),
    "paper.results.note": (
        "In brackets: quartiles for the speed-up, the FP32 model for what is measured against ground truth, followed "
        "by the change and its 95 % interval.",
        "括号内：加速比一列为四分位区间；以真值为基准的各列为 FP32 模型的结果，其后是变化量及其 95% 置信区间。",
    ),
    "paper.failed": (
        "{n:run|runs} failed and took no part in the comparison: {names}.",
        "另有 {n} 次运行失败，未参与比较：{names}。",
    ),
    "paper.charts": ("5. Charts", "5. 图表"),
    "paper.analysis": ("6. Analysis", "6. 分析"),
    "paper.conclusion": ("7. Conclusion", "7. 结论"),
    "paper.appendix": ("Appendix: commands", "附录：命令"),
    "paper.others": (
        "{n:more comparable group|more comparable groups} of runs (other weights, images or devices) can be found in "
        "comparison.md.",
        "另有 {n} 个可比组（权重、图像或设备不同），见 comparison.md。",
    ),
    "paper.nothing": ("No run succeeded, so there is nothing to analyse.", "没有成功的运行，无法分析。"),
    # the paper: what the numbers say
    "paper.smallest": ("Size.", "大小。"),
    "paper.smallest.text": (
        "{name} compresses most: {size} MiB, {share} % of FP32 and {half} % of FP16, at an error of {error} (grade: "
        "{grade}).",
        "{name} 压缩得最多：{size} MiB，为 FP32 的 {share}%、FP16 的 {half}%，误差为 {error}（评级：{grade}）。",
    ),
    "paper.smallest.second": (
        "{name} comes next with {size} MiB, {more} % larger.",
        "其次是 {name}，{size} MiB，大 {more}%。",
    ),
    "paper.accurate": ("Accuracy.", "精度。"),
    "paper.accurate.text": (
        "Of the compressed schemes, {name} stays closest to FP32, with an error of {error}.",
        "在压缩方案中，{name} 最接近 FP32，误差为 {error}。",
    ),
    "paper.accurate.second": (
        "{name} comes next with {error}, {times} times that.",
        "其次是 {name}，误差为 {error}，是前者的 {times} 倍。",
    ),
    "paper.accurate.identical": ("Its outputs are identical to those of FP32.", "其输出与 FP32 完全一致。"),
    "paper.truth.none": (
        "There is no ground truth, so nothing can be said about the reconstruction itself.",
        "由于没有真值，无法对重建质量本身下结论。",
    ),
    "paper.truth.single": (
        "Changes against ground truth come from a single scene and have no interval: whether they are more than "
        "chance is open.",
        "相对真值的变化只来自一个场景，没有置信区间，无法判断是否只是偶然。",
    ),
    "paper.truth.noise": (
        "Against ground truth, the differences of {names} from FP32 in AUC@30, AbsRel and point error lie within the "
        "noise of these {scenes} scenes.",
        "以真值为基准，{names} 与 FP32 在 AUC@30、AbsRel 和点误差上的差异都在这 {scenes} 个场景的噪声之内。",
    ),
    "paper.truth.worse": (
        "{name} is measurably worse than FP32 in {metrics}.",
        "{name} 的 {metrics}显著差于 FP32。",
    ),
    "paper.truth.better": (
        "{name} is measurably better than FP32 in {metrics}.",
        "{name} 的 {metrics}显著好于 FP32。",
    ),
    "paper.truth.metric": (
        "{name} ({mean}, 95 % interval {low} to {high})",
        "{name}（{mean}，95% 置信区间 {low} 至 {high}）",
    ),
    "paper.speed": ("Speed.", "速度。"),
    "paper.speed.faster": ("Measurably faster than FP32: {items}.", "实测快于 FP32 的有：{items}。"),
    "paper.speed.no_faster": (
        "No scheme is measurably faster than FP32 on this hardware.",
        "在本机上，没有方案实测快于 FP32。",
    ),
    "paper.speed.slower": ("Measurably slower: {items}.", "实测慢于 FP32 的有：{items}。"),
    "paper.speed.same": (
        "No difference from FP32 can be told for {items}, whose quartiles include 1.0.",
        "{items} 的四分位区间包含 1.0，与 FP32 看不出差别。",
    ),
    "paper.speed.overlap": (
        "The quartiles of {first} and {second} overlap: which of the two is faster is open.",
        "{first} 与 {second} 的四分位区间重叠，无法判断两者谁更快。",
    ),
    "paper.speed.simulated": (
        "The times of {names} are simulated (weights are dequantized, then multiplied in float); they say nothing "
        "about the scheme and are left out.",
        "{names} 的用时是模拟的（先反量化，再做浮点乘法），不能说明方案的速度，因此不作比较。",
    ),
    "paper.speed.untimed": ("Not timed: {names}.", "未计时的有：{names}。"),
    "paper.ship": ("Choice.", "选择。"),
    "paper.ship.first": (
        "We would ship {name}: of the {n:scheme|schemes} graded good or better on all five outputs, it is the one "
        "that compresses most, to {size} MiB ({share} % of FP32), at an error of {error}.",
        "我们建议采用 {name}：在五个输出的评级都不低于“良好”的 {n} 种方案中，它压缩得最多，大小为 {size} MiB（FP32 "
        "的 {share}%），误差为 {error}。",
    ),
    "paper.ship.first.one": (
        "We would ship {name}, the only scheme graded good or better on all five outputs: {size} MiB ({share} % of "
        "FP32) at an error of {error}.",
        "我们建议采用 {name}，它是唯一在五个输出上评级都不低于“良好”的方案：大小为 {size} MiB（FP32 的 {share}%），"
        "误差为 {error}。",
    ),
    "paper.ship.second": (
        "No scheme is graded good on all five outputs. Of the {n:scheme|schemes} graded at least acceptable, {name} "
        "compresses most, to {size} MiB ({share} % of FP32), at an error of {error}; we would ship it only where "
        "size matters more than accuracy.",
        "没有方案在五个输出上都达到“良好”。在全部达到“可接受”的 {n} 种方案中，{name} 压缩得最多，大小为 {size} "
        "MiB（FP32 的 {share}%），误差为 {error}；只有在体积比精度更重要时才建议采用。",
    ),
    "paper.ship.second.one": (
        "No scheme is graded good on all five outputs. {name} alone is graded at least acceptable on all of them: "
        "{size} MiB ({share} % of FP32) at an error of {error}; we would ship it only where size matters more than "
        "accuracy.",
        "没有方案在五个输出上都达到“良好”，只有 {name} 全部达到“可接受”：大小为 {size} MiB（FP32 的 {share}%），"
        "误差为 {error}；只有在体积比精度更重要时才建议采用。",
    ),
    "paper.ship.reference": (
        "No compressed scheme is acceptable on all five outputs; we would stay with FP32.",
        "没有压缩方案在五个输出上都达到“可接受”，建议继续使用 FP32。",
    ),
    "paper.ship.none": ("No scheme qualifies.", "没有方案符合条件。"),
    "paper.ship.smaller": (
        "{name} would save another {size} MiB, at {times} times the error.",
        "若改用 {name}，可再省 {size} MiB，但误差是它的 {times} 倍。",
    ),
    "paper.ship.accurate": (
        "{name} would lower the error to {error}, for {size} MiB more.",
        "若改用 {name}，误差可降到 {error}，但要多占 {size} MiB。",
    ),
    "paper.random": (
        "The weights are random, so the errors show how far the arithmetic drifts and nothing about reconstruction: "
        "no advice for a trained model follows from them.",
        "模型使用随机权重，误差只反映数值计算的偏离程度，与重建质量无关，不能据此为训练好的模型选择方案。",
    ),
    "paper.end": (
        "{name} takes {model} from {before} to {after} MiB with an error of {error} (grade: {grade}).",
        "{name} 将 {model} 从 {before} MiB 缩小到 {after} MiB，误差为 {error}（评级：{grade}）。",
    ),
    "paper.end.speed.faster": ("It runs at {speedup} the speed of FP32.", "其速度为 FP32 的 {speedup}。"),
    "paper.end.speed.slower": ("It is slower than FP32: {speedup}.", "其速度慢于 FP32：{speedup}。"),
    "paper.end.speed.same": (
        "It is neither measurably faster nor slower than FP32: {speedup}.",
        "其速度与 FP32 相比看不出快慢差别：{speedup}。",
    ),
    "paper.end.speed.simulated": (
        "Its speed remains to be measured: there is no kernel for it on this hardware.",
        "其速度仍有待测量：本机没有相应的内核。",
    ),
    "paper.end.speed.untimed": ("Its speed was not measured.", "其速度未测量。"),
    "paper.end.reference": ("FP32 remains the choice for {model}.", "{model} 仍应使用 FP32。"),
    "paper.limits": (
        "All this holds for {scenes:scene|scenes} of {dataset} and this hardware; other images and other machines "
        "need runs of their own.",
        "以上结论仅适用于 {dataset} 的 {scenes} 个场景和本机硬件；换用其他图像或机器时需要重新测量。",
    ),
    "paper.cite": ("The table as LaTeX: results.tex.", "表格的 LaTeX 版本见 results.tex。"),
    "paper.caption": (
        "{model} on {dataset}, {scenes:scene|scenes}, {device}. Error: mean of five relative errors against FP32. "
        "Speed-up: median of pairs, quartiles in brackets. AUC@30 and AbsRel against ground truth, FP32 in brackets.",
        "{model}，{dataset}（{scenes} 个场景），{device}。误差：五个输出相对 FP32 的相对误差的平均。加速比："
        "成对用时之比的中位数，括号内为四分位区间。AUC@30 与 AbsRel 以真值为基准，括号内为 FP32。",
    ),
    "paper.wan": ("{n} × 10⁴", "{n} 万"),
    "paper.yi": ("{n} × 10⁸", "{n} 亿"),
    "paper.truth.chance": (
        "Of {n} such intervals at 95 %, about one in twenty excludes 0 by chance alone.",
        "这样的 95% 置信区间共有 {n} 个，其中约二十分之一会仅因偶然而不包含 0。",
    ),
    "and": (" and ", " 和 "),
}
