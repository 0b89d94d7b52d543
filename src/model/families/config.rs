//! Reading a `config.json` with messages that name the key and the file.

use crate::error::{Error, Result};
use crate::json;
use crate::model::MAX_BLOCKS;
use crate::notice::warn_once;
use crate::spec::{Activation, SpecialTokens};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

type Keys = Rc<RefCell<BTreeSet<String>>>;

/// Names of elementwise nonlinearities.
///
/// Source: transformers, `activations.py` (`ACT2CLS`).
const ACTIVATIONS: [(&str, Activation); 11] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
];

/// An elementwise nonlinearity by its name in transformers.
pub fn activation_named(name: &str) -> Option<Activation> {
    ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
}

/// A parsed configuration, or an object inside one.
pub struct Config {
    path: PathBuf,
    value: Value,
    /// Keys that were asked for.
    read: Keys,
    /// Keys that were read inside nested objects.
    read_inside: Rc<RefCell<BTreeMap<String, Keys>>>,
    /// Values that another one overrides, such as `rope_parameters.rope_theta = 1000000`.
    overridden: Keys,
}

impl Config {
    /// Reads and parses the file.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(path, json::read(path)?)
    }

    /// Takes over what has been parsed; `path` is for messages.
    pub fn of(path: &Path, value: Value) -> Result<Self> {
        if !value.is_object() {
            return Err(Error::format(path, "not a JSON object"));
        }
        Ok(Self::with(path, value))
    }

    fn with(path: &Path, value: Value) -> Self {
        Self { path: path.to_owned(), value, read: Rc::default(), read_inside: Rc::default(), overridden: Rc::default() }
    }

    /// The file it is from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Whether a key has been asked for, be it there or not.
    pub fn was_asked(&self, key: &str) -> bool {
        self.read.borrow().contains(key)
    }

    /// The same, as if nothing had been asked for.
    pub fn afresh(&self) -> Self {
        Self::with(&self.path, self.value.clone())
    }

    /// The same with values for keys that are absent, such as the defaults of a
    /// configuration class. A key that is there as `null` is not absent.
    pub fn or(&self, defaults: Value) -> Self {
        let mut value = self.value.clone();
        if let (Value::Object(all), Value::Object(defaults)) = (&mut value, defaults) {
            defaults.into_iter().for_each(|(key, default)| {
                all.entry(key).or_insert(default);
            });
        }
        self.of_value(value)
    }

    /// A copy with another value for one key; keys that are read of the copy count as read here.
    pub fn replacing(&self, key: &str, value: Value) -> Self {
        let mut all = self.value.clone();
        all[key] = value;
        self.of_value(all)
    }

    fn of_value(&self, value: Value) -> Self {
        Self {
            path: self.path.clone(),
            value,
            read: self.read.clone(),
            read_inside: self.read_inside.clone(),
            overridden: self.overridden.clone(),
        }
    }

    /// The same with the keys of another below its own.
    pub fn over(&self, below: &Self) -> Self {
        self.or(below.value.clone())
    }

    /// Keys that are there and have been asked for.
    pub fn read_keys(&self) -> BTreeSet<String> {
        self.read.borrow().iter().filter(|key| self.value.get(key).is_some()).cloned().collect()
    }

    /// Notes a value that is not used, for a warning.
    pub fn note_unused(&self, what: String) {
        self.overridden.borrow_mut().insert(what);
    }

    /// Values that are not used because others override them.
    pub fn overridden(&self) -> Vec<String> {
        self.overridden.borrow().iter().cloned().collect()
    }

    /// Keys of an object inside that were not asked for, where others of it were; objects in it that
    /// were asked for are taken apart.
    pub fn unread_inside<'a>(&'a self, key: &str) -> Vec<(&'a str, &'a Value)> {
        let read = self.read_inside.borrow();
        let Some(read) = read.get(key).map(|read| read.borrow()).filter(|read| !read.is_empty()) else { return Vec::new() };
        let taken_apart = |(key, value): (_, &'a Value)| match value {
            Value::Object(inner) if read.contains::<String>(key) => inner.iter().collect::<Vec<_>>(),
            _ => vec![(key, value)],
        };
        let all = self.value.get(key).and_then(Value::as_object).into_iter().flatten().flat_map(taken_apart);
        all.filter(|(key, _)| !read.contains(*key)).map(|(key, value)| (key.as_str(), value)).collect()
    }

    /// How many keys have been asked for, be they there or not.
    pub fn asked(&self) -> usize {
        self.read.borrow().len()
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.value.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str))
    }

    /// A format error in this file.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::format(&self.path, reason)
    }

    /// A key's value; `null` counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(key.to_owned());
        Some(self.value.get(key)?).filter(|v| !v.is_null())
    }

    fn required<'a, T>(&'a self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        let value = self.get(key).ok_or_else(|| self.error(format!("\"{key}\" is missing")))?;
        read(value).ok_or_else(|| self.error(format!("\"{key}\": expected {wanted}, found {value}")))
    }

    /// What `read` makes of a key's value, where the key is there.
    pub fn optional<'a, T>(&'a self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
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

    /// A whole number that may be 0, or what stands for it.
    pub fn count_or(&self, key: &str, otherwise: usize) -> Result<usize> {
        let wanted = format!("a whole number from 0 to {}", u32::MAX);
        let count = self.optional(key, &wanted, |v| v.as_u64().filter(|&n| n <= u32::MAX.into()).map(|n| n as usize))?;
        Ok(count.unwrap_or(otherwise))
    }

    /// A positive whole number that must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.size_opt(key)?.ok_or_else(|| self.error(format!("\"{key}\" is missing")))
    }

    /// The same, or what stands for it.
    pub fn size_or(&self, key: &str, otherwise: usize) -> Result<usize> {
        Ok(self.size_opt(key)?.unwrap_or(otherwise))
    }

    /// Heads, and the width of one: `head_dim`, or their share of the hidden size.
    pub fn heads(&self, key: &str, hidden_size: usize) -> Result<(usize, usize)> {
        let n_heads = self.size(key)?;
        match self.size_opt("head_dim")? {
            Some(head_dim) => Ok((n_heads, head_dim)),
            None => Ok((n_heads, self.share(key, n_heads, hidden_size)?)),
        }
    }

    /// Heads that share the hidden size evenly: how many, or what stands for it, and
    /// the width of one.
    pub fn even_heads(&self, key: &str, otherwise: usize, hidden_size: usize) -> Result<(usize, usize)> {
        let n_heads = self.size_or(key, otherwise)?;
        Ok((n_heads, self.share(key, n_heads, hidden_size)?))
    }

    fn share(&self, key: &str, n_heads: usize, hidden_size: usize) -> Result<usize> {
        match hidden_size.is_multiple_of(n_heads) {
            true => Ok(hidden_size / n_heads),
            false => Err(self.error(format!("hidden_size {hidden_size} is not a multiple of {key} {n_heads}"))),
        }
    }

    /// A number of blocks, small enough to make them all.
    pub fn blocks(&self, key: &str) -> Result<usize> {
        self.few_blocks(key, self.size(key)?)
    }

    /// The same, or what stands for it.
    pub fn blocks_or(&self, key: &str, otherwise: usize) -> Result<usize> {
        self.few_blocks(key, self.size_or(key, otherwise)?)
    }

    fn few_blocks(&self, key: &str, n: usize) -> Result<usize> {
        if n <= MAX_BLOCKS { Ok(n) } else { Err(self.error(format!("\"{key}\": expected at most {MAX_BLOCKS}, found {n}"))) }
    }

    /// A positive finite number, where the key is there.
    pub fn positive_opt(&self, key: &str) -> Result<Option<f64>> {
        self.optional(key, "a positive number", |v| v.as_f64().filter(|&x| x > 0.0 && x.is_finite()))
    }

    /// A positive finite number that must be there.
    pub fn positive(&self, key: &str) -> Result<f64> {
        self.positive_opt(key)?.ok_or_else(|| self.error(format!("\"{key}\" is missing")))
    }

    /// The same, or what stands for it.
    pub fn positive_or(&self, key: &str, otherwise: f64) -> Result<f64> {
        Ok(self.positive_opt(key)?.unwrap_or(otherwise))
    }

    /// Positive finite numbers that must be there.
    pub fn positives(&self, key: &str) -> Result<Vec<f64>> {
        let number = |v: &Value| v.as_f64().filter(|&x| x > 0.0 && x.is_finite());
        self.required(key, "a list of positive numbers", |v| v.as_array()?.iter().map(number).collect())
    }

    /// Texts, where the key is there.
    pub fn strings_opt(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.optional(key, "a list of texts", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// A switch. `null` is false in Python, so where an absent key stands for true it is an error.
    pub fn flag_or(&self, key: &str, otherwise: bool) -> Result<bool> {
        if otherwise && self.value.get(key).is_some_and(Value::is_null) {
            return Err(self.error(format!("\"{key}\": expected true or false, found null")));
        }
        Ok(self.optional(key, "true or false", Value::as_bool)?.unwrap_or(otherwise))
    }

    /// An object inside, where the key is there.
    pub fn object(&self, key: &str) -> Result<Option<Config>> {
        let value = self.optional(key, "an object", |v| v.as_object().map(|_| v.clone()))?;
        let read = self.read_inside.borrow_mut().entry(key.to_owned()).or_default().clone();
        Ok(value.map(|value| Config { read, ..Config::with(&self.path, value) }))
    }

    /// An elementwise nonlinearity by transformers' name.
    pub fn activation(&self, key: &str, otherwise: &str) -> Result<Activation> {
        let name = self.string_or(key, otherwise)?;
        let names = || ACTIVATIONS.map(|(name, _)| name).join(", ");
        activation_named(name).ok_or_else(|| self.error(format!("{key} \"{name}\" is not known; known are {}", names())))
    }

    /// Whether a key is there and says more than no or nothing.
    pub fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v.as_bool() != Some(false) && v.as_u64() != Some(0))
    }

    /// Whether a key is written, be it as `null`.
    pub fn mentions(&self, key: &str) -> bool {
        self.read.borrow_mut().insert(key.to_owned());
        self.value.get(key).is_some()
    }

    /// Fails with `why` where the key is there.
    pub fn forbid(&self, key: &str, why: &str) -> Result<()> {
        match self.get(key) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("\"{key}\": {why}"))),
        }
    }

    /// Fails with `why` where a switch is on.
    pub fn refuse(&self, key: &str, why: &str) -> Result<()> {
        if self.flag_or(key, false)? { Err(self.error(format!("\"{key}\": true, but {why}"))) } else { Ok(()) }
    }

    /// The first of some names of one thing that is there, or the last.
    pub fn either<'a>(&self, names: &[&'a str]) -> &'a str {
        let there = names.iter().find(|name| self.value.get(**name).is_some_and(|v| !v.is_null()));
        there.or(names.last()).expect("a name")
    }

    /// `bos_token_id` and `eos_token_id`, the latter one id or many. Numbers that are no ids
    /// are left out; [`Config::check_special_tokens`] warns of them.
    pub fn special_tokens(&self) -> Result<SpecialTokens> {
        let ids = |key: &str| Ok::<_, Error>(self.numbers(key)?.into_iter().filter_map(|n| u32::try_from(n).ok()).collect::<Vec<_>>());
        Ok(SpecialTokens { bos: ids("bos_token_id")?.first().copied(), eos: ids("eos_token_id")?, prefix: None })
    }

    /// Leaves out special tokens that a vocabulary does not have, with one warning for all of them.
    pub fn check_special_tokens(&self, special: &mut SpecialTokens, vocab_size: usize) -> Result<()> {
        let has = |id: i64| usize::try_from(id).is_ok_and(|id| id < vocab_size);
        let mut others = Vec::new();
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            let outside = self.numbers(key)?.into_iter().filter(|&id| !has(id));
            others.extend(outside.map(|id| format!("{key} {id}")));
        }
        special.bos = special.bos.filter(|&id| has(id.into()));
        special.eos.retain(|&id| has(id.into()));
        if !others.is_empty() {
            let others = others.join(", ");
            warn_once(&self.path, format!("the vocabulary has {vocab_size} tokens and no token of these ids, which are ignored: {others}"));
        }
        Ok(())
    }

    /// Whole numbers under a key: one, a list, or none.
    fn numbers(&self, key: &str) -> Result<Vec<i64>> {
        let read = |v: &Value| match v {
            Value::Array(all) => all.iter().map(Value::as_i64).collect(),
            one => one.as_i64().map(|one| vec![one]),
        };
        Ok(self.optional(key, "a token id or a list of them", read)?.unwrap_or_default())
    }

    /// The same where absent keys stand for these tokens, as far as the vocabulary
    /// has them, and `null` for none.
    pub fn special_tokens_or(&self, bos: u32, eos: u32, vocab_size: usize) -> Result<SpecialTokens> {
        let absent = |key: &str, id: u32| (!self.mentions(key) && (id as usize) < vocab_size).then_some(id);
        let mut special = self.special_tokens()?;
        special.bos = special.bos.or(absent("bos_token_id", bos));
        special.eos.extend(absent("eos_token_id", eos));
        Ok(special)
    }
}
