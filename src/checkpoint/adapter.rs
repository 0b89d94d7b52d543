//! Adapters of peft, which are no models: a folder of one alone, one that lies beside a
//! model's weights, and weights that were saved with one inside.
//!
//! Source: peft, `utils/constants.py` and `tuners/tuners_utils.py`.

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::notice::warn_once;
use crate::{input, json};
use serde_json::Value;
use std::path::Path;

/// Name of the configuration of an adapter.
const CONFIG: &str = "adapter_config.json";
/// Parts of the names of tensors that peft adds to a model, or that it puts aside.
const PARTS: [&str; 9] = [
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "base_layer",
    "ia3_l",
    "original_module",
    "modules_to_save",
];

/// True if the name is that of an adapter's weights.
pub(super) fn is_file_of_one(name: &str) -> bool {
    name.starts_with("adapter_")
}

/// The error for a folder that holds an adapter and no model; `None` where it holds none.
pub fn alone(dir: &Path) -> Option<Error> {
    Some(Error::Adapter { path: dir.to_owned(), found: described(dir)? })
}

/// Kind and base model of the adapter in a folder; `None` where there is none.
fn described(dir: &Path) -> Option<String> {
    let path = dir.join(CONFIG);
    if !input::is_there(&path) {
        return None;
    }
    // An adapter whose configuration cannot be read is one all the same.
    let says: Value = json::read(&path).unwrap_or_default();
    let kind =
        says["peft_type"].as_str().map_or("peft".to_owned(), |kind| if kind == "LORA" { "LoRA".to_owned() } else { kind.to_owned() });
    let base = says["base_model_name_or_path"].as_str().map_or(String::new(), |base| format!(" (of {base})"));
    Some(format!("a {kind} adapter{base}"))
}

/// Warns of an adapter beside a model's weights, which is not applied.
pub(super) fn warn_of_one_beside(dir: &Path) {
    if let Some(adapter) = described(dir) {
        warn_once(dir, format!("{adapter} lies beside the model and is not applied: merge it into the model where it is wanted"));
    }
}

/// Fails where the weights hold an adapter that is not merged into them.
pub(super) fn refuse_inside(checkpoint: &Checkpoint) -> Result<()> {
    let is_part = |part: &str| PARTS.contains(&part);
    let mut inside = checkpoint.all_names().filter(|name| name.split('.').any(is_part));
    let Some(first) = inside.next() else { return Ok(()) };
    let adapter = described(checkpoint.origin()).unwrap_or_else(|| "a LoRA adapter".into());
    let found = format!("the weights hold {adapter} beside the model's own ({first} and {} more)", inside.count());
    Err(Error::Adapter { path: checkpoint.origin().to_owned(), found })
}
