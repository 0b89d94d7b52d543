//! What a file says besides its tensors. Files of other formats have the same notes.

use crate::checkpoint::Bytes;
use crate::checkpoint::safetensors::read_header;
use crate::error::Result;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// What the file says besides its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// The resolved recipe.
    pub recipe: Value,
    /// What was measured.
    pub quality: Value,
    /// The chat template, where the model has one.
    pub chat_template: Value,
    /// What it was made from, and by what.
    pub provenance: Value,
}

const PROVENANCE: &str = "thimble.provenance";
const RECIPE: &str = "thimble.recipe";
const QUALITY: &str = "thimble.quality";
const CHAT_TEMPLATE: &str = "thimble.chat_template";

impl Notes {
    /// Those that there are, as a file's metadata has them.
    pub fn metadata(&self) -> impl Iterator<Item = (String, Value)> {
        let fields =
            [(RECIPE, &self.recipe), (QUALITY, &self.quality), (CHAT_TEMPLATE, &self.chat_template), (PROVENANCE, &self.provenance)];
        fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.to_owned(), value.to_string().into()))
    }
    /// Those of a file's metadata; null where there are none, or others than these.
    pub fn of(metadata: &HashMap<String, String>) -> Self {
        let note = |key| metadata.get(key).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self { recipe: note(RECIPE), quality: note(QUALITY), chat_template: note(CHAT_TEMPLATE), provenance: note(PROVENANCE) }
    }

    /// Those of a safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let (_, header) = read_header(&Bytes::map(path)?, path)?;
        Ok(header.metadata().as_ref().map(Self::of).unwrap_or_default())
    }
}
