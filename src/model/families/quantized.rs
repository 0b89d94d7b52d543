//! What a configuration says of weights that are quantised already.

use super::Config;
use crate::error::Result;

/// How a BitNet checkpoint holds its linear layers.
///
/// Source: transformers, `BitNetQuantConfig` and `integrations/bitnet.py`.
pub struct BitNet {
    /// Whether products are divided by the scale that is stored.
    pub divides: bool,
    /// Whether weights are stored as they are trained, and rounded in each product.
    pub online: bool,
    /// Modules that are not rounded, by their names or how these begin or end; without them,
    /// the head alone.
    kept: Option<Vec<String>>,
}

impl BitNet {
    /// Whether a weight is not rounded, by its name in the file.
    pub fn keeps(&self, weight: &str) -> bool {
        let module = weight.trim_end_matches(".weight");
        let begins =
            |key: &str| module.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || key.ends_with('.'));
        self.kept.iter().flatten().any(|key| begins(key) || module.ends_with(key.as_str()))
    }

    /// Whether the head is not rounded whatever its name.
    pub fn keeps_head(&self) -> bool {
        self.kept.is_none()
    }
}

/// Quantisation of the weights, as the configuration states it.
pub enum Quantization {
    /// In a way that is read.
    BitNet(BitNet),
    /// In another way, by its name. The key may be left over from weights that were
    /// dequantised since: the tensors tell.
    Other(String),
}

/// Keys that say so: transformers' own, MLX's, and that of older versions of llm-compressor.
pub const KEYS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];

/// `None` where the configuration says nothing of quantised weights.
pub fn quantized(config: &Config) -> Result<Option<Quantization>> {
    let mentioned: Vec<&str> = KEYS.into_iter().filter(|key| config.mentions(key)).collect();
    let Some(says) = config.object(KEYS[0])? else {
        let other = mentioned.iter().find(|key| config.value()[**key].is_object());
        return Ok(other.map(|key| Quantization::Other(if *key == KEYS[1] { "mlx" } else { "compressed-tensors" }.to_owned())));
    };
    let method = match says.string_or("quant_method", "")? {
        "" if says.value()["bits"].is_u64() && says.value()["group_size"].is_u64() => "mlx",
        "" => "an unnamed method",
        named => named,
    };
    if method != "bitnet" {
        return Ok(Some(Quantization::Other(method.to_owned())));
    }
    bitnet(config, &says).map(|bitnet| Some(Quantization::BitNet(bitnet)))
}

fn bitnet(config: &Config, says: &Config) -> Result<BitNet> {
    says.refuse("use_rms_norm", "norms inside linear layers are not known yet")?;
    let kept = says.strings_opt("modules_to_not_convert")?.map(|keys| keys.into_iter().map(str::to_owned).collect::<Vec<_>>());
    if let Some(pattern) = kept.iter().flatten().find(|key| key.contains(|c: char| !c.is_alphanumeric() && !"._-".contains(c))) {
        return Err(config.error(format!("\"modules_to_not_convert\": {pattern:?} is a pattern; only names are read")));
    }
    Ok(BitNet {
        divides: first_of(says, "linear_class", ["bitlinear", "autobitlinear"])?,
        online: !first_of(says, "quantization_mode", ["offline", "online"])?,
        kept,
    })
}

/// Whether a key is the first of two words, which it is where it is absent.
fn first_of(config: &Config, key: &str, words: [&str; 2]) -> Result<bool> {
    let word = config.string_or(key, words[0])?;
    if !words.contains(&word) {
        return Err(config.error(format!("\"{key}\": expected {} or {}, found {word}", words[0], words[1])));
    }
    Ok(word == words[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_kept_as_transformers_keeps_them() {
        let kept = ["lm_head", "model.layers.1", "fc1"].map(str::to_owned).to_vec();
        let bitnet = BitNet { divides: false, online: true, kept: Some(kept) };
        for name in ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.7.fc1.weight"] {
            assert!(bitnet.keeps(name), "{name}");
        }
        for name in ["model.layers.11.mlp.up_proj.weight", "model.layers.0.fc10.weight"] {
            assert!(!bitnet.keeps(name), "{name}");
        }
    }
}
