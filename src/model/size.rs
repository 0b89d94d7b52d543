//! How large a model is, from its spec alone.

use super::{ModelSpec, Parameter, ParameterKind, Part};

impl Parameter {
    /// Its numbers.
    pub fn count(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

impl ModelSpec {
    /// Numbers of all parameters; what is tied or shared counts once.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().iter().map(Parameter::count).sum()
    }

    /// The same of the blocks alone: without embeddings, positions and head.
    pub fn block_parameter_count(&self) -> u64 {
        self.parameters().iter().filter(|p| matches!(p.part, Part::Block(_))).map(Parameter::count).sum()
    }

    /// Multiply-adds of a token: those of every matrix that multiplies it, the head's
    /// among them. What attention does besides, which grows with the text, is not counted.
    pub fn multiply_adds(&self) -> u64 {
        let linear = |block: usize| self.roles(block).into_iter().filter(|(.., kind)| *kind == ParameterKind::Linear);
        let blocks = (0..self.blocks.len()).flat_map(linear).map(|(_, shape, _)| shape.iter().map(|&n| n as u64).product::<u64>());
        let (width, hidden) = (self.embedding_width() as u64, self.hidden_size as u64);
        let led = if self.embedding.width.is_some() { 2 * width * hidden } else { 0 };
        blocks.sum::<u64>() + self.vocab_size as u64 * width + led
    }
}
