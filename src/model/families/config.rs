//! Reading a `config.json` with messages that name the key and the file.

use crate::error::{Error, Result};
use crate::model::MAX_BLOCKS;
use crate::model::spec::{Rotary, RotaryScaling, SpecialTokens};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A parsed configuration, or an object inside one.
pub struct Config {
    path: PathBuf,
    value: Value,
}

impl Config {
    /// Reads and parses the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(Error::io("read", path))?;
        let value: Value = serde_json::from_slice(&text).map_err(|e| Error::format(path, format!("not JSON: {e}")))?;
        if !value.is_object() {
            return Err(Error::format(path, "not a JSON object"));
        }
        Ok(Self { path: path.to_owned(), value })
    }

    /// A format error in this file.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::format(&self.path, reason)
    }

    /// A key's value; `null` counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    fn required<'a, T>(&'a self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        let value = self.get(key).ok_or_else(|| self.error(format!("\"{key}\" is missing")))?;
        read(value).ok_or_else(|| self.error(format!("\"{key}\": expected {wanted}, found {value}")))
    }

    fn optional<'a, T>(&'a self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|_| self.required(key, wanted, read)).transpose()
    }

    /// A text that must be there.
    pub fn string(&self, key: &str) -> Result<&str> {
        self.required(key, "a text", Value::as_str)
    }

    /// A text, or what stands for it.
    pub fn string_or<'a>(&'a self, key: &str, otherwise: &'a str) -> Result<&'a str> {
        Ok(self.optional(key, "a text", Value::as_str)?.unwrap_or(otherwise))
    }

    /// A positive whole number of reasonable size, where the key is there.
    pub fn size_opt(&self, key: &str) -> Result<Option<usize>> {
        let wanted = format!("a whole number from 1 to {}", u32::MAX);
        self.optional(key, &wanted, |v| v.as_u64().filter(|n| (1..=u32::MAX.into()).contains(n)).map(|n| n as usize))
    }

    /// A positive whole number that must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.size_opt(key)?.ok_or_else(|| self.error(format!("\"{key}\" is missing")))
    }

    /// A number of blocks, small enough to make them all.
    pub fn blocks(&self, key: &str) -> Result<usize> {
        match self.size(key)? {
            n if n > MAX_BLOCKS => Err(self.error(format!("\"{key}\": expected at most {MAX_BLOCKS}, found {n}"))),
            n => Ok(n),
        }
    }

    /// A positive finite number, where the key is there.
    pub fn positive_opt(&self, key: &str) -> Result<Option<f64>> {
        self.optional(key, "a positive number", |v| v.as_f64().filter(|&x| x > 0.0 && x.is_finite()))
    }

    /// A positive finite number that must be there.
    pub fn positive(&self, key: &str) -> Result<f64> {
        self.positive_opt(key)?.ok_or_else(|| self.error(format!("\"{key}\" is missing")))
    }

    /// A switch.
    pub fn flag_or(&self, key: &str, otherwise: bool) -> Result<bool> {
        Ok(self.optional(key, "true or false", Value::as_bool)?.unwrap_or(otherwise))
    }

    /// An object inside, where the key is there.
    pub fn object(&self, key: &str) -> Result<Option<Config>> {
        let value = self.optional(key, "an object", |v| v.as_object().map(|_| v.clone()))?;
        Ok(value.map(|value| Config { path: self.path.clone(), value }))
    }

    /// Whether a key is written, be it as `null`.
    pub fn mentions(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// Fails with `why` where the key is there.
    pub fn forbid(&self, key: &str, why: &str) -> Result<()> {
        match self.get(key) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("\"{key}\": {why}"))),
        }
    }

    /// `bos_token_id` and `eos_token_id`, the latter one id or many.
    pub fn special_tokens(&self) -> Result<SpecialTokens> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = |v: &Value| match v {
            Value::Array(all) => all.iter().map(id).collect(),
            one => id(one).map(|one| vec![one]),
        };
        Ok(SpecialTokens {
            bos: self.optional("bos_token_id", "a token id", id)?,
            eos: self.optional("eos_token_id", "a token id or a list of them", ids)?.unwrap_or_default(),
        })
    }

    /// Rotary parameters, in the spelling of transformers 5 (`rope_parameters`)
    /// or 4 (`rope_theta` and `rope_scaling`).
    pub fn rotary(&self) -> Result<Rotary> {
        // Where both are there, transformers lets the older spelling win.
        let parameters = match self.object("rope_scaling")? {
            Some(parameters) => Some(parameters),
            None => self.object("rope_parameters")?,
        };
        let inner_theta = parameters.as_ref().map(|p| p.positive_opt("rope_theta")).transpose()?.flatten();
        let theta = match inner_theta {
            Some(theta) => theta,
            None => self.positive_opt("rope_theta")?.unwrap_or(10_000.0),
        };
        let scaling = match parameters {
            None => RotaryScaling::None,
            Some(parameters) => parameters.rotary_scaling(self)?,
        };
        Ok(Rotary { theta, scaling })
    }

    /// `self` is the object of rotary parameters, `whole` the configuration around it.
    fn rotary_scaling(&self, whole: &Config) -> Result<RotaryScaling> {
        match self.string_or("rope_type", self.string_or("type", "default")?)? {
            "default" => Ok(RotaryScaling::None),
            "linear" => Ok(RotaryScaling::Linear { factor: self.positive("factor")? }),
            "llama3" => {
                let (low_freq_factor, high_freq_factor) = (self.positive("low_freq_factor")?, self.positive("high_freq_factor")?);
                const ORIGINAL: &str = "original_max_position_embeddings";
                let original_context = match whole.positive_opt(ORIGINAL)? {
                    Some(context) => context,
                    None => match self.positive_opt(ORIGINAL)? {
                        Some(context) => context,
                        None => whole.positive("max_position_embeddings")?,
                    },
                };
                Ok(RotaryScaling::Llama3 { factor: self.positive("factor")?, low_freq_factor, high_freq_factor, original_context })
            }
            other => Err(self.error(format!("rope type \"{other}\" is not known; known are default, linear, llama3"))),
        }
    }
}
