//! How large a model is, from its spec alone.

use super::{ModelSpec, Parameter, Part};

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
        self.parts().map(|part| self.recorded(part).multiply_adds).sum()
    }
}
