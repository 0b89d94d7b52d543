//! Names of a model's layers: `attn.q`, `ffn2.down`, `final_norm`.

use std::fmt;

/// The canonical name of a layer, or of what flows into one, inside its block (or outside the
/// blocks): a module, its number where a block has several of a kind, and a part.
///
/// The first module of a kind has no number, so that names in files keep their meaning:
/// `ffn.up`, `ffn2.up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerName {
    module: &'static str,
    /// 0 for the first of its kind.
    number: u16,
    /// With what sets it apart from the module: `.q`, `_norm`; empty for the module itself.
    part: &'static str,
}

impl LayerName {
    /// The part of the first module of a kind.
    pub const fn new(module: &'static str, part: &'static str) -> Self {
        Self { module, number: 0, part }
    }

    /// A layer outside the blocks.
    pub const fn outside(name: &'static str) -> Self {
        Self::new(name, "")
    }

    /// The same part of another module of its kind, counted from 0.
    pub const fn numbered(self, number: usize) -> Self {
        Self { number: number as u16, ..self }
    }

    /// True for a layer of this name, whatever the number of its module.
    pub fn is_a(self, other: Self) -> bool {
        self.numbered(0) == other.numbered(0)
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => write!(f, "{}{}", self.module, self.part),
            n => write!(f, "{}{}{}", self.module, n + 1, self.part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LayerName;

    #[test]
    fn the_first_module_of_a_kind_has_no_number() {
        let up = LayerName::new("ffn", ".up");
        assert_eq!([0, 1].map(|n| up.numbered(n).to_string()), ["ffn.up", "ffn2.up"]);
        assert_eq!(LayerName::new("ffn", "_norm").numbered(2).to_string(), "ffn3_norm");
        assert_eq!(LayerName::outside("final_norm").to_string(), "final_norm");
    }
}
