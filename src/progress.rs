//! How long work says how far it is, without knowing who looks.

use crate::error::{Error, Result};

/// Unit of progress in messages, such as blocks or windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name, in the plural.
    pub name: &'static str,
    /// Steps of work that one of it takes.
    pub steps: u64,
}

impl Unit {
    /// One step is one of it.
    pub const fn one(name: &'static str) -> Self {
        Self { name, steps: 1 }
    }

    /// One of it takes several steps.
    pub const fn of(name: &'static str, steps: u64) -> Self {
        Self { name, steps }
    }
}

/// Hears of work that may take long.
pub trait Progress: Sync {
    /// Something with a known number of steps begins; what ran before has ended.
    fn begin(&self, what: &str, steps: u64, unit: Unit);
    /// Some of its steps are done.
    fn advance(&self, steps: u64);
    /// It has ended.
    fn end(&self);
    /// How it goes, such as a loss.
    fn tell(&self, _how: &str) {}
    /// Whether whoever looks wants it to stop, once nothing is lost by that.
    fn is_interrupted(&self) -> bool {
        false
    }
    /// Fails where it is; for places where nothing is lost.
    fn may_go_on(&self) -> Result<()> {
        if self.is_interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Hears nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _steps: u64, _unit: Unit) {}
    fn advance(&self, _steps: u64) {}
    fn end(&self) {}
}
