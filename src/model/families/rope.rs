//! The kinds of rotary scaling that a configuration may name.
//!
//! Source: transformers, `modeling_rope_utils.py`.

use super::Config;
use crate::error::Result;
use crate::model::spec::RotaryScaling;
use std::f64::consts::TAU;

const ORIGINAL: &str = "original_max_position_embeddings";

/// The object of rotary parameters. Where both spellings are there, transformers
/// lets the older one win.
pub fn parameters(config: &Config) -> Result<Option<Config>> {
    let parameters = match config.object("rope_scaling")? {
        Some(parameters) => Some(parameters),
        None => config.object("rope_parameters")?,
    };
    for kind in ["full_attention", "sliding_attention"] {
        parameters.as_ref().map_or(Ok(()), |p| p.forbid(kind, "rotary parameters by kind of block are not known"))?;
    }
    Ok(parameters)
}

/// `parameters` is the object of rotary parameters, `whole` the configuration
/// around it; `theta` and `dims` are what has been read already.
pub fn scaling(parameters: &Config, whole: &Config, theta: f64, dims: usize) -> Result<RotaryScaling> {
    match parameters.string_or("rope_type", parameters.string_or("type", "default")?)? {
        "default" => Ok(RotaryScaling::None),
        "linear" => Ok(RotaryScaling::Linear { factor: parameters.positive("factor")? }),
        "llama3" => Ok(RotaryScaling::Llama3 {
            factor: parameters.positive("factor")?,
            low_freq_factor: parameters.positive("low_freq_factor")?,
            high_freq_factor: parameters.positive("high_freq_factor")?,
            original_context: original_context(parameters, whole)?,
        }),
        // `su` and `yarn` are what Phi-3's first releases called it.
        "yarn" if parameters.mentions("long_factor") => longrope(parameters, whole),
        "yarn" => yarn(parameters, whole, theta, dims),
        "longrope" | "su" => longrope(parameters, whole),
        other => Err(whole.error(format!("\"rope_type\": \"{other}\" is not known; known are default, linear, llama3, yarn, longrope"))),
    }
}

/// Context before stretching.
pub fn original_context(parameters: &Config, whole: &Config) -> Result<f64> {
    for config in [whole, parameters] {
        if let Some(context) = config.positive_opt(ORIGINAL)? {
            return Ok(context);
        }
    }
    whole.positive("max_position_embeddings")
}

/// How much longer the context has become.
fn factor(parameters: &Config, whole: &Config, original: f64) -> Result<f64> {
    match parameters.positive_opt("factor")? {
        Some(factor) => Ok(factor),
        None => Ok(whole.positive("max_position_embeddings")? / original),
    }
}

fn longrope(parameters: &Config, whole: &Config) -> Result<RotaryScaling> {
    for amplitude in ["short_mscale", "long_mscale"] {
        parameters.forbid(amplitude, "an amplitude of its own for short or long sequences is not known")?;
    }
    let original = original_context(parameters, whole)?;
    let factor = factor(parameters, whole, original)?;
    let amplitude = match parameters.positive_opt("attention_factor")? {
        Some(amplitude) => amplitude,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    let (short, long) = (parameters.positives("short_factor")?, parameters.positives("long_factor")?);
    Ok(RotaryScaling::LongRope { short, long, original_context: original as usize, amplitude })
}

/// Source: YaRN (Peng et al. 2023), section 3.2 and appendix A.2.
fn yarn(parameters: &Config, whole: &Config, theta: f64, dims: usize) -> Result<RotaryScaling> {
    let original = original_context(parameters, whole)?;
    let factor = factor(parameters, whole, original)?;
    let grown = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scales = (parameters.positive_opt("mscale")?, parameters.positive_opt("mscale_all_dim")?);
    let amplitude = match (parameters.positive_opt("attention_factor")?, scales) {
        (Some(amplitude), _) => amplitude,
        (None, (Some(scale), Some(all))) => grown(scale) / grown(all),
        (None, _) => grown(1.0),
    };
    // The pair that turns so many times over the original context.
    let pair = |turns: f64| dims as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
    let (mut start, mut end) = (pair(parameters.positive_or("beta_fast", 32.0)?), pair(parameters.positive_or("beta_slow", 1.0)?));
    if parameters.flag_or("truncate", true)? {
        (start, end) = (start.floor(), end.ceil());
    }
    (start, end) = (start.max(0.0), end.min(dims as f64 - 1.0));
    if start == end {
        end += 0.001;
    }
    Ok(RotaryScaling::Yarn { factor, ramp_start: start, ramp_end: end, amplitude })
}
