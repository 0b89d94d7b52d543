//! Rotary settings: the base, the part of each head that is turned, and the kinds of scaling.
//!
//! transformers 5 keeps all of them in `rope_parameters`; version 4 has `rope_theta` and others
//! beside `rope_scaling`. Where a file has both, version 5 reads `rope_scaling` alone, and what
//! it does not read is noted for a warning. Where the two versions read one file differently,
//! it is refused.
//!
//! Source: transformers, `modeling_rope_utils.py`, of 4.57 and 5.23.

use super::Config;
use crate::error::Result;
use crate::spec::{Rotary, RotaryScaling};
use serde_json::Value;
use std::f64::consts::TAU;

const ORIGINAL: &str = "original_max_position_embeddings";
/// Keys of the objects of rotary parameters, the older first.
pub const SPELLINGS: [&str; 2] = ["rope_scaling", "rope_parameters"];
const SHARE: &str = "partial_rotary_factor";
/// Kinds of blocks, as `layer_types` has them and as `rope_parameters` may have objects for.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// Names of a family's rotary settings outside `rope_parameters`.
#[derive(Clone, Copy)]
pub struct RotaryKeys {
    /// Key of the base.
    pub theta: &'static str,
    /// The base where it is absent.
    pub default_theta: f64,
    /// Key of the share of each head that is turned, and the share where it is absent; in
    /// families without one whole heads are turned.
    pub share: Option<(&'static str, f64)>,
}

impl RotaryKeys {
    /// Llama's names: rotary positions cover the whole head.
    pub const WHOLE: Self = Self { theta: "rope_theta", default_theta: 10_000.0, share: None };

    /// Names of a family whose rotary positions cover a share of each head.
    pub const fn partial(share: f64) -> Self {
        Self { share: Some((SHARE, share)), ..Self::WHOLE }
    }
}

/// The object of rotary parameters, which is not empty.
pub struct RotaryParameters {
    /// Its keys.
    pub object: Config,
    /// True if the object is `rope_scaling`.
    is_old: bool,
}

/// Rotary positions of heads of a width.
pub fn rotary(config: &Config, head_dim: usize, keys: &RotaryKeys) -> Result<Rotary> {
    let parameters = parameters(config)?;
    let theta = theta(config, parameters.as_ref(), keys)?;
    let dims = (head_dim as f64 * share(config, parameters.as_ref(), keys)?) as usize;
    let scaling = match &parameters {
        None => RotaryScaling::None,
        Some(parameters) => scaling(parameters, config, theta, dims)?,
    };
    Ok(Rotary { theta, dims: (dims != head_dim).then_some(dims), neighbours: false, steps: None, scaling })
}

/// The object of rotary parameters. An empty one is none.
pub fn parameters(config: &Config) -> Result<Option<RotaryParameters>> {
    let found = match objects(config)? {
        [Some(scaling), parameters] => {
            parameters.iter().for_each(|unread| note_overridden(config, unread, &scaling));
            Some(RotaryParameters { object: scaling, is_old: true })
        }
        [None, parameters] => parameters.map(|object| RotaryParameters { object, is_old: false }),
    };
    for kind in KINDS {
        found.as_ref().map_or(Ok(()), |p| p.object.forbid(kind, "rotary parameters by kind of block are not known"))?;
    }
    Ok(found)
}

/// The object of each of [`SPELLINGS`], where it is not empty.
fn objects(config: &Config) -> Result<[Option<Config>; 2]> {
    let [old, new] = SPELLINGS.map(|key| config.object(key).map(|object| object.filter(|object| object.keys().next().is_some())));
    Ok([old?, new?])
}

/// Configurations of the blocks with full attention and of those with a window, in a family whose
/// `rope_parameters` has an object for each kind; `rope_scaling` changes full attention alone.
///
/// Source: transformers 5.23, `convert_rope_params_to_dict` of `configuration_gemma3.py`; of
/// what is refused, `_compute_yarn_parameters` and `standardize_rope_params`.
pub fn by_kind(config: &Config) -> Result<[Config; 2]> {
    config.forbid(ORIGINAL, "transformers does not read it here in this family; write it into the rotary parameters")?;
    let [scaling, parameters] = SPELLINGS;
    let replacing = |key, object: Option<&Config>| -> Result<Config> {
        if object.map_or(Ok(true), |object| object.flag_or("truncate", true))? {
            return Ok(config.replacing(key, object.map_or(Value::Null, |object| object.value().clone())));
        }
        Err(config.error(format!("\"{key}\": \"truncate\": false, which transformers 5 does not read in this family")))
    };
    match objects(config)? {
        [Some(_), Some(_)] => {
            Err(config.error("\"rope_scaling\" is beside \"rope_parameters\"; write its keys into the latter's full_attention"))
        }
        [Some(old), None] if old.mentions("type") && !old.mentions("rope_type") => {
            Err(config
                .error("\"rope_scaling\": transformers 4 reads \"type\" and 5 does not in this family; write \"rope_type\" or remove it"))
        }
        [Some(old), None] => Ok([replacing(scaling, Some(&old))?, replacing(scaling, None)?]),
        [None, new] => {
            if let Some(key) = new.iter().flat_map(Config::keys).find(|key| !KINDS.contains(key)) {
                return Err(config.error(format!("\"rope_parameters\": \"{key}\" is in neither of {}", KINDS.join(" and "))));
            }
            let of_kind = |kind| -> Result<Config> {
                let object = new.as_ref().map_or(Ok(None), |new| new.object(kind))?;
                replacing(parameters, object.as_ref())
            };
            Ok([of_kind(KINDS[0])?, of_kind(KINDS[1])?])
        }
    }
}

/// Notes what `rope_parameters` says and `rope_scaling` does not.
fn note_overridden(config: &Config, unread: &Config, scaling: &Config) {
    let says_nothing = |key: &str, value: &Value| ["rope_type", "type"].contains(&key) && value == "default";
    for (key, value) in unread.value().as_object().into_iter().flatten() {
        if scaling.value().get(key) != Some(value) && !says_nothing(key, value) {
            config.note_unused(format!("rope_parameters.{key} = {value}"));
        }
    }
}

fn theta(config: &Config, parameters: Option<&RotaryParameters>, keys: &RotaryKeys) -> Result<f64> {
    let outside = config.positive_opt(keys.theta)?;
    let Some(parameters) = parameters else { return Ok(outside.unwrap_or(keys.default_theta)) };
    let Some(inside) = parameters.object.positive_opt("rope_theta")? else { return Ok(outside.unwrap_or(keys.default_theta)) };
    if let Some(outside) = outside.filter(|&outside| outside != inside) {
        if parameters.is_old {
            return Err(config.error(format!(
                "\"rope_scaling\" has a rope_theta of {inside}, and beside it \"{}\" is {outside}: transformers 5 reads the first, 4 the \
                 second; remove the one that the model was not trained with",
                keys.theta
            )));
        }
        config.note_unused(format!("{} = {}", keys.theta, config.value()[keys.theta]));
    }
    Ok(inside)
}

/// The share of each head that is turned. Versions and tools differ over one in families that
/// turn whole heads, so there it must be 1.
fn share(config: &Config, parameters: Option<&RotaryParameters>, keys: &RotaryKeys) -> Result<f64> {
    let inside = parameters.map(|p| p.object.positive_opt(SHARE)).transpose()?.flatten();
    if let Some((key, share)) = keys.share {
        return match inside {
            Some(inside) => Ok(inside),
            None => config.positive_or(key, share),
        };
    }
    match inside.or(config.positive_opt(SHARE)?).filter(|&share| share != 1.0) {
        None => Ok(1.0),
        Some(share) => Err(config.error(format!("\"{SHARE}\" is {share}, but this family turns whole heads"))),
    }
}

/// `whole` is the configuration around the parameters; `theta` and `dims` are the base and the
/// dimensions of a head that are turned.
fn scaling(parameters: &RotaryParameters, whole: &Config, theta: f64, dims: usize) -> Result<RotaryScaling> {
    let RotaryParameters { object, is_old } = parameters;
    match kind(object, whole)? {
        "default" => Ok(RotaryScaling::None),
        "linear" => Ok(RotaryScaling::Linear { factor: object.positive("factor")? }),
        "llama3" => Ok(RotaryScaling::Llama3 {
            factor: object.positive("factor")?,
            low_freq_factor: object.positive("low_freq_factor")?,
            high_freq_factor: object.positive("high_freq_factor")?,
            original_context: original_context(object, whole)?,
        }),
        // `su` and `yarn` are what Phi-3's first releases called it.
        "yarn" if object.mentions("long_factor") => longrope(object, *is_old, whole),
        "yarn" => yarn(object, whole, theta, dims),
        "longrope" | "su" => longrope(object, *is_old, whole),
        other => Err(whole.error(format!("\"rope_type\": \"{other}\" is not known; known are default, linear, llama3, yarn, longrope"))),
    }
}

/// Transformers 4 prefers `type`, and 5 `rope_type`.
fn kind<'a>(object: &'a Config, whole: &Config) -> Result<&'a str> {
    let old = object.string_or("type", "default")?;
    let new = object.string_or("rope_type", old)?;
    if new != old && object.mentions("type") {
        return Err(whole.error(format!("rotary parameters: \"rope_type\" is \"{new}\", but \"type\" is \"{old}\"; remove one")));
    }
    Ok(new)
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

fn longrope(parameters: &Config, is_old: bool, whole: &Config) -> Result<RotaryScaling> {
    if is_old {
        check_old_longrope(parameters, whole)?;
    }
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

/// In `rope_scaling`, transformers 4 does not read the original context, and prefers the ratio
/// of contexts to `factor`; 5 does both the other way round.
fn check_old_longrope(parameters: &Config, whole: &Config) -> Result<()> {
    let context = whole.positive("max_position_embeddings")?;
    let says = |key: &str| parameters.positive_opt(key);
    let (factor, inside) = (says("factor")?, says(ORIGINAL)?);
    let given = factor.is_some() || says("attention_factor")?.is_some();
    let (key, found, expected) = match whole.positive_opt(ORIGINAL)? {
        Some(original) => ("factor", factor, context / original),
        None if given => (ORIGINAL, inside, context),
        None => return Ok(()),
    };
    match found {
        Some(found) if found != expected => Err(whole.error(format!(
            "\"rope_scaling\": \"{key}\" is {found}; transformers 5 reads it, and 4 takes {expected} in its place; write {ORIGINAL} \
             beside \"rope_scaling\" and no factor"
        ))),
        _ => Ok(()),
    }
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
