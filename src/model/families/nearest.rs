//! What to say of a `model_type` that no family has: which family's keys its
//! configuration has most of, and what that family would not read.

use super::{Config, FAMILIES, foreign_keys};
use crate::error::Error;
use std::cmp::Reverse;
use std::path::Path;

/// What models of other kinds have in their configuration, and what to say of it.
const OTHER_KINDS: [(&str, &str); 3] = [
    ("is_encoder_decoder", "it has an encoder, and only decoders are known"),
    ("type_vocab_size", "it is an encoder, and only decoders are known"),
    ("vision_config", "it sees images, and only language models are known"),
];

/// The error for an unknown `model_type`.
pub fn unknown(config: &Config, path: &Path, model_type: &str) -> Error {
    let nearest = match text_model(config) {
        Some(inner) => format!("; its text model is {inner}, which is known: save that by itself"),
        None => nearest(config, model_type),
    };
    let known = FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ");
    Error::UnknownModelType { path: path.to_owned(), found: model_type.to_owned(), nearest, known }
}

/// The `model_type` of a text model inside, where it is known.
fn text_model(config: &Config) -> Option<String> {
    let inner = config.object("text_config").ok().flatten()?;
    let found = inner.string("model_type").ok()?;
    FAMILIES.iter().any(|f| f.model_type == found).then(|| found.to_owned())
}

fn nearest(config: &Config, model_type: &str) -> String {
    let tried = FAMILIES.iter().map(|family| {
        let fresh = config.afresh();
        let failed = (family.spec)(&fresh).err().map(|e| e.to_string());
        (family.model_type, failed, fresh)
    });
    // A name that begins alike, most keys read, one that reads to the end, and among
    // equals the plainest, from which most others come.
    let alike = |name: &str| name.bytes().zip(model_type.bytes()).take_while(|(a, b)| a == b).count() >= 4;
    let (name, failed, read) = tried
        .max_by_key(|(name, failed, read)| (alike(name), read.read_keys().len(), failed.is_none(), Reverse(read.asked()), *name == "llama"))
        .expect("there are families");
    let read = read.read_keys();
    let mut differences: Vec<String> =
        OTHER_KINDS.iter().filter(|(key, _)| config.is_on(key)).map(|(_, what)| (*what).to_owned()).collect();
    differences.extend(failed.map(|reason| reason.rsplit(": ").next().unwrap_or_default().to_owned()));
    let told = |key: &str| OTHER_KINDS.iter().any(|(told, _)| *told == key);
    let unread: Vec<&str> = config.keys().filter(|key| !read.contains(*key) && !foreign_keys::is_inert(key) && !told(key)).collect();
    if !unread.is_empty() {
        differences.push(format!("it does not read {}", unread.join(", ")));
    }
    let what = if differences.is_empty() { "nothing in the configuration".to_owned() } else { differences.join("; ") };
    format!("; the nearest is {name}, and what differs: {what}")
}
