//! Which tokens a tokenizer puts before a text, as transformers does with
//! `add_special_tokens=True`. The number in a model's config.json is no part of it.
//!
//! | file | what decides |
//! |---|---|
//! | tokenizer.json | its post-processor, where that is a template (`TemplateProcessing`, `BertProcessing`, `RobertaProcessing`, or a `Sequence` with one of them) |
//! | | otherwise the class in tokenizer_config.json and its `add_bos_token` ([`CLASSES`]) |
//! | sentencepiece model, vocab.json with merges.txt | the same class and switch; a sentencepiece model without a class is read as Llama's |
//! | llama2.c's tokenizer.bin | BOS |
//! | RWKV's world vocabulary | nothing |
//!
//! transformers 4 and 5 differ where a tokenizer.json has no template and the class is one
//! that has a switch (5 then puts nothing), and where the switch contradicts the template
//! (4 obeys the switch). Here the switch is obeyed in the first case and the template in the
//! second; a warning names the case unless the switch is there and is on.
//!
//! Source: transformers 4.57 and 5.23, `tokenization_utils_tokenizers.py` and the `tokenization_*.py` of
//! the classes; `tests/data/beginnings.json` has the ids that both give.

use super::added::{Beside, Spelled};
use crate::notice::warn_once;
use serde_json::{Value, json};
use std::path::Path;

/// A class of tokenizers in transformers that reads `add_bos_token`.
struct Class {
    name: &'static str,
    /// `add_bos_token` where tokenizer_config.json does not have it.
    default: bool,
    /// True if `add_bos_token` overrides a template in tokenizer.json.
    overrides: bool,
    /// `bos_token` where tokenizer_config.json does not have it.
    bos: &'static str,
}

const CLASSES: [Class; 5] = [
    Class { name: "LlamaTokenizer", default: true, overrides: false, bos: "<s>" },
    Class { name: "CodeLlamaTokenizer", default: true, overrides: true, bos: "<s>" },
    Class { name: "GemmaTokenizer", default: true, overrides: false, bos: "<bos>" },
    Class { name: "CohereTokenizer", default: true, overrides: false, bos: "<BOS_TOKEN>" },
    Class { name: "GPTNeoXTokenizer", default: false, overrides: true, bos: "<|endoftext|>" },
];

/// Classes that always put one token first when they read a vocabulary without a
/// tokenizer.json: the key that names it in tokenizer_config.json, and its default.
const ALWAYS: [(&str, &str, &str); 3] =
    [("XGLMTokenizer", "eos_token", "</s>"), ("RobertaTokenizer", "cls_token", "<s>"), ("BartTokenizer", "cls_token", "<s>")];

/// Reads the files beside a vocabulary; `id` knows the vocabulary.
pub struct Prefix<'a> {
    /// The files beside.
    pub beside: &'a Beside,
    /// Id of a token.
    pub id: &'a dyn Fn(&str) -> Option<u32>,
    /// For messages.
    pub path: &'a Path,
}

impl Prefix<'_> {
    /// Of a tokenizer.json.
    pub fn of_tokenizer_json(&self, post_processor: &Value) -> Vec<u32> {
        let class = self.class();
        let told = self.beside.add_bos_token();
        match template(post_processor) {
            Some(ids) if class.is_none_or(|class| !class.overrides) => {
                if let (Some(told), Some(class)) = (told, class)
                    && told == ids.is_empty()
                {
                    self.warn(&format!(
                        "add_bos_token is {told} for a {} and tokenizer.json's post-processor says otherwise: {} (as in transformers 5)",
                        class.name,
                        if told { "no BOS is put before texts" } else { "BOS is put before texts" }
                    ));
                }
                ids
            }
            _ => {
                let puts = told.unwrap_or_else(|| class.is_some_and(|class| class.default));
                // Other classes do not read the switch; without a class there is only the switch.
                let reads = class.is_some() || self.beside.class().is_none();
                let ids = if puts && reads { self.bos(class).into_iter().collect() } else { Vec::new() };
                if let (None, false, Some(class)) = (told, ids.is_empty(), class) {
                    self.warn(&format!(
                        "BOS is put before texts, as the default of {} in transformers 4 is; transformers 5 puts none, since \
                         tokenizer.json has no template: set add_bos_token in tokenizer_config.json to settle it",
                        class.name
                    ));
                }
                ids
            }
        }
    }

    /// Of a vocabulary that is no tokenizer.json; `bos` is the BOS of the file itself, and
    /// `class` the one that is meant where tokenizer_config.json names none.
    pub fn of_vocabulary(&self, bos: Option<u32>, default_class: &str) -> Vec<u32> {
        let name = self.beside.class().unwrap_or(default_class);
        if let Some((_, key, default)) = ALWAYS.iter().find(|(class, ..)| *class == name) {
            let token = self.beside.named(key).map_or(*default, |token| token.unwrap_or(""));
            return (self.id)(token).into_iter().collect();
        }
        let class = CLASSES.iter().find(|class| class.name == name);
        let puts = self.beside.add_bos_token().unwrap_or_else(|| class.is_some_and(|class| class.default));
        match puts {
            true => self.bos(class).or(bos.filter(|_| self.beside.named("bos_token").is_none())).into_iter().collect(),
            false => Vec::new(),
        }
    }

    fn class(&self) -> Option<&'static Class> {
        let name = self.beside.class()?;
        CLASSES.iter().find(|class| class.name == name)
    }

    /// The token that tokenizer_config.json calls `bos_token`, or the class does.
    fn bos(&self, class: Option<&Class>) -> Option<u32> {
        let token = match self.beside.named("bos_token") {
            Some(token) => token,
            None => class.map(|class| class.bos),
        };
        (self.id)(token?)
    }

    fn warn(&self, what: &str) {
        warn_once(self.path, what.to_owned());
    }
}

/// Ids that a post-processor puts before a text; `None` where it is no template.
pub fn template(post_processor: &Value) -> Option<Vec<u32>> {
    let ids = |value: &Value| value.as_array().into_iter().flatten().filter_map(id).collect::<Vec<_>>();
    match post_processor["type"].as_str()? {
        "TemplateProcessing" => {
            let before = post_processor["single"].as_array()?.iter().map_while(|piece| piece["SpecialToken"]["id"].as_str());
            Some(before.flat_map(|token| ids(&post_processor["special_tokens"][token]["ids"])).collect())
        }
        "BertProcessing" | "RobertaProcessing" => Some(id(&post_processor["cls"][1]).into_iter().collect()),
        // Each works on what the one before has made, so that the last one's tokens come first.
        "Sequence" => {
            let templates = post_processor["processors"].as_array()?.iter().rev().filter_map(template);
            templates.reduce(|before, after| [before, after].concat())
        }
        _ => None,
    }
}

/// The post-processor that puts these tokens before a text; `token` is the text of each.
pub fn post_processor(ids: &[u32], token: impl Fn(u32) -> Option<String>) -> Value {
    let tokens: Vec<(String, u32)> = ids.iter().filter_map(|&id| Some((token(id)?, id))).collect();
    let part = |text: &str, part: u32| {
        let special = tokens.iter().map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": part } }));
        special.chain([json!({ "Sequence": { "id": text, "type_id": part } })]).collect::<Vec<_>>()
    };
    let special = tokens.iter().map(|(token, id)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] })));
    let pair = [part("A", 0), part("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": pair,
        "special_tokens": special.collect::<serde_json::Map<_, _>>(),
    })
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

impl Beside {
    /// `add_bos_token` of tokenizer_config.json.
    fn add_bos_token(&self) -> Option<bool> {
        self.config["add_bos_token"].as_bool()
    }

    /// A special token by its key in tokenizer_config.json, or else in
    /// special_tokens_map.json: `Some(None)` where it is `null`.
    fn named(&self, key: &str) -> Option<Option<&str>> {
        let value = [&self.config, &self.special].into_iter().find_map(|file| file.get(key))?;
        Some(Spelled::content(value))
    }
}
