//! Which tokens begin and end texts of a Hugging Face directory: what the files beside
//! config.json say of it.

use crate::error::{Error, Result};
use crate::notice::warn_once;
use crate::spec::SpecialTokens;
use crate::text::Tokenizer;
use serde_json::Value;
use std::path::Path;

/// Says how a model generates. Its `eos_token_id` ends texts beside config.json's.
pub const GENERATION: &str = "generation_config.json";

/// Completes what config.json says: `config` is tokenizer_config.json, `rows` the vocabulary's size.
pub fn complete(special: &mut SpecialTokens, dir: &Path, config: &Value, tokenizer: Option<&Tokenizer>, rows: usize) -> Result<()> {
    let generation = generation_eos(&dir.join(GENERATION), rows)?;
    let others: Vec<String> = special.eos.iter().filter(|id| !generation.contains(id)).map(u32::to_string).collect();
    if !generation.is_empty() && !others.is_empty() {
        let others = others.join(", ");
        warn_once(
            &dir.join(GENERATION),
            format!(
                "eos_token_id does not have {others}, which config.json has: texts end at the tokens of both (transformers' generate takes this file's alone)"
            ),
        );
    }
    special.add_eos(generation);
    let Some(tokenizer) = tokenizer else { return Ok(()) };
    let known = |id: Option<u32>| id.filter(|&id| (id as usize) < rows);
    // The tokenizer's word for the BOS token wins over the model's number.
    let bos = config["bos_token"].as_str().or(config["bos_token"]["content"].as_str());
    let bos = bos.and_then(|token| tokenizer.id(token));
    special.bos = known(bos).or(special.bos).or(known(tokenizer.bos()));
    if special.eos.is_empty() {
        special.add_eos(known(tokenizer.eos()));
    }
    put_prefix(special, tokenizer, rows)
}

/// Takes over what a tokenizer puts before a text.
pub fn put_prefix(special: &mut SpecialTokens, tokenizer: &Tokenizer, rows: usize) -> Result<()> {
    let prefix = tokenizer.prefix();
    if let Some(id) = prefix.iter().find(|&&id| id as usize >= rows) {
        let reason = format!("puts token {id} before every text, but the model's embedding has {rows} rows");
        return Err(Error::format(tokenizer.path(), reason));
    }
    special.bos = special.bos.or(prefix.first().copied());
    special.set_prefix(prefix);
    Ok(())
}

/// `eos_token_id` of generation_config.json: one id, a list, or none.
fn generation_eos(path: &Path, rows: usize) -> Result<Vec<u32>> {
    let value = &crate::json::read_optional(path)?["eos_token_id"];
    let ids = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(all) => all.iter().map(Value::as_i64).collect(),
        one => one.as_i64().map(|one| vec![one]),
    };
    let ids = ids.ok_or_else(|| Error::format(path, format!("\"eos_token_id\": expected a token id or a list of them, found {value}")))?;
    let (known, others): (Vec<i64>, Vec<i64>) = ids.into_iter().partition(|&id| usize::try_from(id).is_ok_and(|id| id < rows));
    if !others.is_empty() {
        let others = others.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        warn_once(path, format!("eos_token_id {others}: the vocabulary has {rows} tokens and no such token, which is ignored"));
    }
    Ok(known.into_iter().map(|id| id as u32).collect())
}
