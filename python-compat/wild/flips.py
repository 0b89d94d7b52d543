"""Tiny sizes of each family, and the values that each configuration key is changed to."""

from typing import Any

Change = dict[str, Any]

SIZES: Change = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)
TOKENS: Change = dict(bos_token_id=1, eos_token_id=2)

# What replaces the sizes (and the token ids beyond the small vocabulary) of each family's defaults. Keys that are not
# sizes keep the class's default: an absent num_key_value_heads is as many as heads in most families.
FAMILIES: dict[str, Change] = {
    "bitnet": dict(num_key_value_heads=2, **TOKENS),
    "bloom": {},
    "gemma": dict(num_key_value_heads=4, head_dim=16),
    "gemma2": dict(num_key_value_heads=2, head_dim=16, sliding_window=6),
    # Without the pattern, two blocks would both be local.
    "gemma3_text": dict(num_key_value_heads=2, head_dim=16, sliding_window=6, sliding_window_pattern=2),
    "gpt2": TOKENS,
    "gpt_neo": dict(num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=6, **TOKENS),
    "gpt_neox": {},
    "llama": {},
    "ministral": dict(num_key_value_heads=2, sliding_window=6, head_dim=8),  # without head_dim it cannot be built
    "ministral3": dict(num_key_value_heads=2, head_dim=16, pad_token_id=11),
    "mistral": dict(num_key_value_heads=2, sliding_window=6),
    "olmo": dict(eos_token_id=2),
    "olmo2": dict(eos_token_id=2),
    "opt": dict(ffn_dim=40, word_embed_proj_dim=32),
    "phi": {},
    "phi3": dict(pad_token_id=0, eos_token_id=2, original_max_position_embeddings=64),
    "qwen2": dict(num_key_value_heads=4),
    "qwen3": dict(num_key_value_heads=4, head_dim=16),
    "rwkv": {},
    "smollm3": dict(num_key_value_heads=2, no_rope_layer_interval=2, pad_token_id=None, **TOKENS),
    "stablelm": dict(num_key_value_heads=4, hidden_size=64),
    "xglm": dict(ffn_dim=40),
}
# Sizes that a family does not have under these names.
ABSENT = {
    "rwkv": ("num_attention_heads",),
    "gpt_neo": ("num_hidden_layers", "num_attention_heads"),
    "opt": ("intermediate_size",),
    "xglm": ("intermediate_size",),
    "gpt2": ("intermediate_size",),
    "bloom": ("intermediate_size", "max_position_embeddings"),
}

SOME_ACTIVATIONS = ["gelu", "relu", "silu", "gelu_new", "relu2", "gelu_pytorch_tanh", "quick_gelu", "tanh"]
# transformers' other names, tried in a few families: the table of names is one for all.
MORE_ACTIVATIONS = [
    "gelu_10", "gelu_fast", "gelu_python", "gelu_python_tanh", "gelu_accurate", "laplace", "leaky_relu", "linear",
    "mish", "prelu", "relu6", "sigmoid", "swish", "xielu",
]  # fmt: skip
ALL_ACTIVATIONS = ("llama", "gpt2", "gemma")
ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function")

# Values by key, for all families that have the key.
VALUES: dict[str, list[Any]] = {
    # Sizes.
    "vocab_size": [72],
    "hidden_size": [64],
    "n_embd": [64],
    "d_model": [64],
    "intermediate_size": [24, None],
    "ffn_dim": [24],
    "n_inner": [24],
    "num_hidden_layers": [1, 3],
    "num_layers": [1],
    "n_layer": [1, 3],
    "num_attention_heads": [2, 8],
    "n_head": [2, 8],
    "num_heads": [2],
    "attention_heads": [2],
    "num_key_value_heads": [1, 2, 4, None],
    "head_dim": [6, 16, 24, None],
    "max_position_embeddings": [24, 128],
    "n_positions": [24, 128],
    "context_length": [24, 128],
    "attention_hidden_size": [24],
    "word_embed_proj_dim": [16, None],
    # Numbers that the mathematics has.
    "rms_norm_eps": [1e-2, 1],
    "layer_norm_eps": [1e-2],
    "layer_norm_epsilon": [1e-2],
    "sliding_window": [1, 5, 64, None],
    "window_size": [1, 5],
    "max_window_layers": [0, 1],
    "sliding_window_pattern": [1, 3],
    "no_rope_layers": [[1, 1], [0, 1], [0, 1, 0]],
    "no_rope_layer_interval": [1, 4],
    "query_pre_attn_scalar": [16, 2.5],
    "attn_logit_softcapping": [2.0, None],
    "final_logit_softcapping": [1.0, None],
    "clip_qkv": [0.5],
    "rescale_every": [0, 1],
    "original_max_position_embeddings": [8],
    "rope_theta": [500.0, 1000000],
    "rope_local_base_freq": [500.0],
    "rotary_emb_base": [500.0],
    "rotary_pct": [0.5, 1.0],
    "partial_rotary_factor": [0.25, 0.5, 1.0],
    "attention_types": [[[["local"], 2]], [[["global"], 2]], [[["local", "global"], 1]]],
    "layer_types": [
        ["full_attention", "full_attention"],
        ["full_attention", "sliding_attention"],
        ["sliding_attention", "sliding_attention"],
        ["full_attention", "chunked_attention"],
        ["full_attention"] * 3,
    ],
    "pretraining_tp": [2],
    "slow_but_exact": [True],
    "pad_token_id": [None, 0, 3],
    "bos_token_id": [None, 5],
    "eos_token_id": [None, 5, [2, 5]],
    "decoder_start_token_id": [5],
    # Base class, and what concerns training or other outputs: no logit may move.
    "chunk_size_feed_forward": [1],
    "problem_type": ["regression"],
    "id2label": [{0: "a", 1: "b", 2: "c"}],
    "summary_type": ["mean"],
    "summary_activation": ["tanh"],
    "pruned_heads": [{1: [0]}],
    "finetuning_task": ["mnli"],
    "task_specific_params": [{"a": {"max_length": 3}}],
    "tokenizer_class": ["LlamaTokenizer"],
    "prefix": ["text"],
    "cross_attention_hidden_size": [16],
    "per_layer_config": [{1: {"intermediate_size": 24}}, {1: {"num_key_value_heads": 1}}],
    "tie_last_hidden_states": [True],
    "temperature": [0.5],
    "top_k": [3],
    "max_length": [7],
    "num_beams": [2],
    "repetition_penalty": [1.3],
    "sep_token_id": [5],
    "min_length": [2],
    "top_p": [0.5],
    "typical_p": [0.5],
    "length_penalty": [2.0],
    "no_repeat_ngram_size": [3],
    "encoder_no_repeat_ngram_size": [3],
    "bad_words_ids": [[[5]]],
    "num_return_sequences": [2],
    "forced_bos_token_id": [5],
    "forced_eos_token_id": [5],
    "exponential_decay_length_penalty": [[5, 1.1]],
    "suppress_tokens": [[5]],
    "begin_suppress_tokens": [[5]],
    "num_beam_groups": [2],
    "diversity_penalty": [0.5],
}
# Keys that are changed together with the one that is named, so that it matters.
WITH: dict[tuple[str, str], Change] = {
    ("qwen2", "sliding_window"): dict(use_sliding_window=True, max_window_layers=1),
    ("qwen3", "sliding_window"): dict(use_sliding_window=True, max_window_layers=1),
    ("qwen2", "max_window_layers"): dict(use_sliding_window=True, sliding_window=5),
    ("qwen3", "max_window_layers"): dict(use_sliding_window=True, sliding_window=5),
    ("qwen2", "use_sliding_window"): dict(sliding_window=5, max_window_layers=1),
    ("qwen3", "use_sliding_window"): dict(sliding_window=5, max_window_layers=1),
    ("qwen2", "layer_types"): dict(use_sliding_window=True, sliding_window=5),
    ("qwen3", "layer_types"): dict(use_sliding_window=True, sliding_window=5),
    ("smollm3", "sliding_window"): dict(use_sliding_window=True),
    ("smollm3", "use_sliding_window"): dict(sliding_window=5),
    ("smollm3", "layer_types"): dict(use_sliding_window=True, sliding_window=5),
    ("smollm3", "no_rope_layers"): dict(use_sliding_window=True, sliding_window=5),
    ("smollm3", "no_rope_layer_interval"): dict(use_sliding_window=True, sliding_window=5, no_rope_layers=None),
}
# Sizes that are never taken out of a file: the class's defaults make a large model.
SIZE_KEYS = {
    "vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "ffn_dim", "num_hidden_layers", "num_layers",
    "n_layer", "num_attention_heads", "n_head", "num_heads", "attention_heads", "model_type", "attention_types",
}  # fmt: skip
# Rotary settings as people write them into a saved config.json, by the spelling that the file has already.
LINEAR = {"type": "linear", "factor": 2.0}
WRITTEN: dict[str, list[Change]] = {
    "rope_parameters": [
        {"rope_scaling": None},
        {"rope_scaling": {}},
        {"rope_scaling": LINEAR},
        {"rope_scaling": {**LINEAR, "rope_theta": 500.0}},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": LINEAR, "rope_theta": 700.0},
        {"rope_theta": 700.0},
        {"rope_theta": 700.0, "rope_parameters": None},
        {"rope_theta": 700.0, "rope_parameters": {}},
        {"rope_theta": 700.0, "rope_parameters": {"rope_type": "default"}},
        {"rope_parameters": LINEAR},
        {"rope_parameters": {"rope_type": "linear", **LINEAR, "type": "default"}},
        {"rotary_emb_base": 700.0, "rotary_pct": 0.5, "rope_parameters": None},
        {"rotary_emb_base": 700.0, "rotary_pct": 0.5},
        {"partial_rotary_factor": 0.5, "rope_parameters": None},
        {"partial_rotary_factor": 1.0, "rope_parameters": None},
    ],
    "attention_layers": [{"attention_layers": ["local", "local"]}],
    "rope_theta": [
        {"rope_scaling": {}},
        {"rope_scaling": {**LINEAR, "rope_theta": 500.0}},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"rope_type": "linear", **LINEAR, "type": "default"}},
    ],
}
# Keys of a saved configuration that say nothing of the model, or that the writer of the file sets.
SKIPPED = {
    "_name_or_path", "architectures", "attention_layers", "dtype", "label2id", "model_type", "torch_dtype",
    "transformers_version", "rope_parameters", "rope_scaling",
}  # fmt: skip
# Keys of the base class that to_dict() does not list in every version.
EVERYWHERE = ["per_layer_config", "tie_word_embeddings", "is_decoder", "add_cross_attention", "tie_last_hidden_states"]
# Keys of other families, which this one's class keeps and does not read.
FOREIGN: list[Change] = [
    {"embedding_multiplier": 12.0},
    {"logits_scaling": 16.0},
    {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0},
    {"attn_logit_softcapping": 5.0},
    {"num_local_experts": 4, "num_experts_per_tok": 2},
    {"use_qk_norm": True},
    {"partial_rotary_factor": 0.5},
    {"sliding_window": 5},
    {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 5},
]


def lists(dims: int, value: float) -> list[float]:
    """One divisor a rotary pair."""
    return [value + 0.25 * i for i in range(dims // 2)]


def rotary_kinds(dims: int) -> list[Change]:
    """Kinds of rotary scaling with their parameters, without the base."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    longrope = {"rope_type": "longrope", "short_factor": lists(dims, 1.0), "long_factor": lists(dims, 2.0)}
    llama3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        yarn,
        {**yarn, "attention_factor": 0.7},
        {**yarn, "beta_fast": 8.0, "beta_slow": 2.0},
        {**yarn, "mscale": 0.7, "mscale_all_dim": 1.1},
        {**yarn, "mscale": 0.7},
        {**yarn, "truncate": False},
        {**longrope, "original_max_position_embeddings": 8},
        {**longrope, "original_max_position_embeddings": 32},
        {**longrope, "original_max_position_embeddings": 8, "factor": 3.0},
        {**longrope, "original_max_position_embeddings": 8, "attention_factor": 0.7},
        {**longrope, "original_max_position_embeddings": 8, "short_mscale": 0.7, "long_mscale": 0.8},
        {**llama3, "factor": 4.0, "original_max_position_embeddings": 16},
        {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5},
    ]
