"""Columns of the public measurement tables: names, units, limits and codes for missing values."""

from __future__ import annotations

from instances.csv_table import Column

_EMPTY = ("",)


def _text(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "text") for name in names)


def _counts(*names: str, unit: str = "") -> tuple[Column, ...]:
    return tuple(Column(name, "int", unit, minimum=1) for name in names)


def _measured(*names: str, unit: str, missing: tuple[str, ...] = ()) -> tuple[Column, ...]:
    return tuple(Column(name, "float", unit, positive=True, missing=missing) for name in names)


AZURE = (
    *_text("TIMESTAMP"),
    *_counts("ContextTokens", unit="tokens"),
    Column("GeneratedTokens", "int", "tokens"),
)
MUXSERVE = (
    *_text("model"),
    *_counts("n_gpus", unit="GPUs"),
    *_counts("sm_pct", unit="%"),
    *_counts("batch", unit="rows"),
    *_counts("seqlen", unit="tokens"),
    *_measured("prefill_ms", "decode_ms", unit="ms", missing=_EMPTY),
)
SPLITWISE = (
    *_text("model", "hardware"),
    *_counts("prompt_size", "token_size", unit="tokens"),
    *_counts("batch_size", unit="rows"),
    Column("peak_power", "float", "share of TDP"),
    Column("average_power", "float", "share of TDP"),
    *_measured("prompt_time", "token_time", "e2e_time", unit="ms"),
    *_counts("tensor_parallel", unit="GPUs"),
)
VTRAIN = (
    *_counts("# GPUs", unit="GPUs"),
    *_counts("global batch", "micro batch", unit="rows"),
    *_counts("hidden size", "attention heads", "# layers"),
    *_counts("sequence length", unit="tokens"),
    *_counts("tensor parallelism", "data parallelism", "pipeline parallelism", unit="ways"),
    *_measured("iteration time (ms)", unit="ms"),
)
FMS = (
    *_text("file", "bf16", "fp16", "framework_config", "model_name_or_path"),
    *_text("peft_method", "target_modules", "torch_dtype"),
    *_counts("num_gpus", unit="GPUs"),
    *_counts("per_device_train_batch_size", unit="rows"),
    *_measured("epoch", unit="epochs", missing=_EMPTY),
    *_measured("learning_rate", "lora_alpha", "lora_dropout", "r", unit="", missing=_EMPTY),
    *_measured("mem_nvidia_mem_reserved", unit="MiB"),
    *_measured(
        "mem_peak_torch_mem_alloc_in_bytes",
        "mem_torch_mem_alloc_in_bytes",
        unit="bytes",
        missing=_EMPTY,
    ),
    *_measured("train_loss", "gradient_accumulation_steps", unit="", missing=_EMPTY),
    *_measured("train_runtime", "step_s", "fsdp_step_s_from_samples", unit="s", missing=_EMPTY),
    *_measured("train_samples_per_second", unit="samples/s", missing=_EMPTY),
    *_measured("train_steps_per_second", unit="steps/s", missing=_EMPTY),
    *_measured("train_tokens_per_second", unit="tokens/s", missing=_EMPTY),
    *_measured("tokens_per_sample", unit="tokens", missing=_EMPTY),
)
MPT = (
    *_text("Model", "GPU", "Precision", "MP Mode", "Sharding Strategy"),
    *_text("Activation Checkpointing", "Activation CPUOffload"),
    *_counts("SeqLen (T)", "GlobalBatchSize (T)", unit="tokens"),
    *_counts("# GPUs", unit="GPUs"),
    *_counts("MicroBatchSize", "GlobalBatchSize", unit="rows"),
    *_counts("GradAccum", unit="micro-batches"),
    *_counts("NumParams", unit="parameters"),
    *_measured("MFU", "HFU", unit="%"),
    *_measured("Model TFLOP", unit="TFLOP/s per GPU"),
    # Rounded to whole samples per second by the source, so that 0 is a small rate.
    Column("Throughput (S/s)", "float", "samples/s"),
    *_measured("Throughput (T/s)", "Throughput (T/s/GPU)", unit="tokens/s"),
    *_measured("step_s", "microstep_s", unit="s"),
)
SAILOR = (
    *_text("model", "gpu"),
    *_counts("micro_batch", unit="rows"),
    *_counts("tp", unit="GPUs"),
    Column("layer", "int"),
    *_measured("fwd_s", unit="s"),
    *_measured("bwd_s", unit="s", missing=("0", "0.0")),
    Column("update_s", "float", "s"),
)
_ACESO_OUT_OF_MEMORY = ("10000000.0", "10000000", "1e7", "1e+07")
ACESO = (
    *_text("gpu", "precision", "model"),
    *_counts("micro_batch", unit="rows"),
    *_counts("tp", unit="GPUs"),
    Column("algo", "int"),
    *_text("op_name"),
    *_measured("forward-compute", "backward-compute", unit="us", missing=_ACESO_OUT_OF_MEMORY),
    *(
        Column(name, "float", "MiB", missing=_ACESO_OUT_OF_MEMORY)
        for name in (
            "input_size",
            "output_size",
            "weights",
            "activations",
            "fwd_reserved",
            "bwd_reserved",
        )
    ),
)
VIDUR_SEND_RECV = (
    *_text("", "collective"),
    *_measured(
        *(f"time_stats.send_recv.{name}" for name in ("min", "max", "mean", "median")), unit="ms"
    ),
    Column("time_stats.send_recv.std", "float", "ms"),
    Column("rank", "int"),
    *_counts("num_workers", "devices_per_node", "max_devices_per_node", unit="GPUs"),
    *_counts("size", unit="bytes"),
)
HH_RLHF = (
    *_counts("query_chars", unit="characters"),
    *_counts("query_words", unit="words"),
    Column("reference_chars", "int", "characters"),
    Column("reference_words", "int", "words"),
)
_DOES_NOT_FIT = ("0", "0.0")
GAVEL_ISOLATED = (
    *_text("gpu", "job"),
    *_counts("n_gpus", unit="GPUs"),
    *_measured("steps_per_s", unit="steps/s", missing=_DOES_NOT_FIT),
)
GAVEL_PAIRS = (
    *_text("gpu", "job1"),
    *_counts("n_gpus1", unit="GPUs"),
    *_text("job2"),
    *_counts("n_gpus2", unit="GPUs"),
    *_measured("steps_per_s1", "steps_per_s2", unit="steps/s", missing=_DOES_NOT_FIT),
    *_measured("rel1", "rel2", unit="", missing=(*_DOES_NOT_FIT, *_EMPTY)),
)

VLLM_REQUESTS = (
    *_text("request_id"),
    *_counts("input_toks", unit="tokens"),
    Column("output_toks", "int", "tokens"),
    Column("arrival_time", "float", "s", optional=True),
    Column("queued_ts", "stamp", "s"),
    *(
        Column(name, "stamp", "s", missing=_EMPTY)
        for name in ("scheduled_ts", "first_token_ts", "last_token_ts")
    ),
    *(
        Column(name, "float", "s", missing=_EMPTY, optional=True)
        for name in ("ttft_s", "queue_s", "decode_s")
    ),
)
VLLM_TIMESERIES = (
    Column("t", "float", "s"),
    Column("prompt_throughput", "float", "tokens/s"),
    Column("gen_throughput", "float", "tokens/s"),
    Column("running", "int", "requests"),
    Column("waiting", "int", "requests"),
    Column("kv_cache_pct", "float", "%"),
)
VLLM_ATTENTION = (
    *(
        Column(name, "int", "tokens" if name != "n_decode" else "requests")
        for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    ),
    *_measured("time_us", unit="us"),
)
VLLM_DENSE = (*_text("layer"), *_counts("tokens", unit="tokens"), *_measured("time_us", unit="us"))
VLLM_PER_SEQUENCE = (
    *_text("layer"),
    *_counts("sequences", unit="requests"),
    *_measured("time_us", unit="us"),
)
