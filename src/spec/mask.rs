//! Which keys a query sees.

use serde::{Deserialize, Serialize};

/// Keys that the query of a position sees. In a file it is the width of the window, or `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<usize>", into = "Option<usize>")]
pub enum Mask {
    /// Its own position and all before it.
    #[default]
    Causal,
    /// Its own position and so many less one before it (sliding window).
    Window(usize),
}

impl Mask {
    /// First position that the query of a position sees; the last one is its own.
    pub fn first_seen(self, position: usize) -> usize {
        match self {
            Mask::Causal => 0,
            Mask::Window(width) => (position + 1).saturating_sub(width),
        }
    }
}

impl From<Option<usize>> for Mask {
    fn from(window: Option<usize>) -> Self {
        window.map_or(Mask::Causal, Mask::Window)
    }
}

impl From<Mask> for Option<usize> {
    fn from(mask: Mask) -> Self {
        match mask {
            Mask::Causal => None,
            Mask::Window(width) => Some(width),
        }
    }
}
