//! What the code behind a family's configurations takes for granted, though they could
//! say otherwise. The reader of the family cannot tell this.

use super::config::first;
use crate::model::ModelSpec;
use crate::model::families::Family;
use crate::spec::RotaryScaling;

struct Rule {
    model_types: &'static [&'static str],
    is_kept: fn(&ModelSpec) -> bool,
    /// What cannot be said.
    otherwise: &'static str,
}

const UNEVEN_HEADS: &str = "heads that together are not as wide as the hidden size, which its code takes for granted";

/// Source: transformers 5.23, `validate_architecture` of `configuration_llama.py`,
/// `configuration_gemma2.py` and `configuration_gemma3.py`, `modeling_*.py` and `modeling_rope_utils.py`; the published
/// code of families that it does not have.
const RULES: [Rule; 5] = [
    Rule {
        model_types: &["llama", "gemma2", "gemma3_text"],
        is_kept: |spec| first(spec).is_none_or(|attention| spec.hidden_size.is_multiple_of(attention.n_heads)),
        otherwise: "a number of heads that does not divide the hidden size: transformers refuses to load it",
    },
    Rule { model_types: &["bitnet", "mobilellm", "mobillama", "phonelm", "stablelm"], is_kept: has_even_heads, otherwise: UNEVEN_HEADS },
    Rule {
        model_types: &["phi"],
        is_kept: |spec| has_even_heads(spec) || first(spec).is_none_or(|attention| attention.qk_norm.is_none()),
        otherwise: UNEVEN_HEADS,
    },
    Rule { model_types: &["phi3"], is_kept: |spec| has_even_heads(spec) || !is_longrope(spec), otherwise: UNEVEN_HEADS },
    Rule {
        model_types: &["rwkv"],
        is_kept: |spec| spec.blocks.iter().all(|block| block.wkv().is_some_and(|wkv| wkv.width == spec.hidden_size)),
        otherwise: "a state that is not as wide as the hidden size, which transformers' cache takes for granted",
    },
];

fn has_even_heads(spec: &ModelSpec) -> bool {
    first(spec).is_none_or(|attention| attention.q_width() == spec.hidden_size)
}

fn is_longrope(spec: &ModelSpec) -> bool {
    let rotary = first(spec).and_then(|attention| attention.rotary.as_ref());
    rotary.is_some_and(|rotary| matches!(rotary.scaling, RotaryScaling::LongRope { .. }))
}

/// What `spec` has and the family's code does not bear. A source that has it too came
/// with code that does.
pub fn broken(family: &Family, source: &ModelSpec, spec: &ModelSpec) -> Option<&'static str> {
    let mut of_family = RULES.iter().filter(|rule| rule.model_types.contains(&family.model_type));
    of_family.find(|rule| (rule.is_kept)(source) && !(rule.is_kept)(spec)).map(|rule| rule.otherwise)
}
