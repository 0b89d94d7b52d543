//! How long work says how far it is, without knowing who looks.

/// Hears of work that may take long.
pub trait Progress: Sync {
    /// Something with a known number of steps begins; what ran before has ended.
    fn begin(&self, what: &str, steps: u64);
    /// Some of its steps are done.
    fn advance(&self, steps: u64);
    /// It has ended.
    fn end(&self);
}

/// Hears nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _steps: u64) {}
    fn advance(&self, _steps: u64) {}
    fn end(&self) {}
}
