"""Finds the option that was meant: by the names of other programs, else by the most similar spelling."""

from collections.abc import Collection

from vggtq.errors import did_you_mean

# The option to use (the first that the command has), and its names in other programs.
NAMES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("bits",), "num_bits n_bits nbits weight_bits w_bits wbit wbits bit_width bitwidth precision_bits"),
    (("group_size",), "groupsize q_group_size block_size quant_group_size gs"),
    (("granularity",), "quant_granularity weight_granularity"),
    (("granularity=per_channel",), "per_channel perchannel channel_wise channelwise"),
    (("granularity=per_tensor",), "per_tensor tensor_wise layer_wise"),
    (("granularity=group",), "per_group group_wise"),
    (("scheme.weights.symmetric",), "symmetric sym is_symmetric symmetric_quantization"),
    (("scheme.weights.symmetric=false",), "asymmetric asym zero_point"),
    (("scheme",), "method quant_method quantization quantizer quant_scheme quant_config algorithm qtype recipe"),
    (("scheme.rounding.method",), "rounding rounding_mode round_mode"),
    (("scheme.activations.bits",), "activation_bits act_bits a_bits abits input_bits"),
    (("scheme.activations.mode",), "activation_quantization quantize_activations act_mode dynamic static"),
    (("scheme.layers.exclude",), "skip_layers ignore_layers exclude_layers modules_to_not_convert exclude skip ignore"),
    (("scheme.layers.include",), "include_layers target_modules include"),
    (("scheme.layers.types",), "layer_types quantize_types"),
    (("scheme.mixed.sensitive",), "sensitive_layers"),
    (("budget_mb",), "budget size_budget max_size_mb memory_budget"),
    (("model.source", "model"), "model_path checkpoint checkpoint_path ckpt ckpt_path weights weights_path pretrained"),
    (("model",), "model_name arch model_id"),
    (("model.image_size", "image_size"), "image_resolution img_size resolution input_size"),
    (("images", "dataset=images dataset.path=DIR"), "image_folder image_dir image_path images_dir images_path photos"),
    (("images", "dataset=images dataset.path=DIR"), "data_path data_dir data_root dataset_path input_dir input scene_dir"),
    (("dataset.max_images",), "max_images num_images n_images max_frames num_frames"),
    (("dataset",), "data dataset_name"),
    (("scenes",), "num_scenes n_scenes dataset.scenes"),
    (("calibration.samples",), "num_calibration_samples calibration_samples calib_samples num_samples nsamples n_samples"),
    (("calibration",), "calib_data calibration_data calib_dataset calib calibration_dataset"),
    (("device.threads", "threads"), "num_threads n_threads cpu_threads num_workers"),
    (("device=cuda",), "gpu use_gpu use_cuda cuda"),
    (("device=cpu",), "cpu use_cpu"),
    (("timing.rounds",), "num_runs n_runs repeats iterations num_iterations benchmark_runs"),
    (("timing.warmup",), "num_warmup warmup_runs warmup"),
    (("timing",), "benchmark"),
    (("seed",), "random_seed manual_seed rng_seed"),
    (("rest",), "dtype torch_dtype half fp16 compute_dtype"),
    (("save",), "save_model export_model"),
    (("out", "hydra.run.dir"), "output_dir out_dir output output_path output_folder save_dir save_path result_dir results_dir"),
    (("overwrite",), "force"),
    (("confidence",), "conf_threshold conf_thres confidence_threshold"),
    (("hydra.verbose=true",), "verbose debug"),
    (("lang",), "language locale"),
    (("parts",), "with extras"),
    (("root",), "data_folder target_dir"),
)  # fmt: skip


def plain(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "").replace("_", "")


SYNONYMS: dict[str, tuple[str, ...]] = {}
for _options, _names in NAMES:
    for _name in _names.split():
        SYNONYMS.setdefault(plain(_name), _options)


def meant(key: str, options: Collection[str]) -> str:
    """`'; did you mean bits?'` for num_bits, or an empty string."""
    for candidate in SYNONYMS.get(plain(key), ()):
        if candidate.partition("=")[0] in options:
            return f"; did you mean {candidate}?"
    return did_you_mean(key, options)
