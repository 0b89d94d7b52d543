//! What neighbouring windows have in common, to be read once.

use crate::model::Window;
use std::ops::Range;

/// Windows that begin alike.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trunk {
    /// Which.
    pub windows: Range<usize>,
    /// Tokens they share, none of them scored; 0 where a window stands alone.
    pub tokens: usize,
}

/// Tokens that reading together must save for each window that joins: the copy of a
/// state is not free.
const WORTH: usize = 4;

/// Neighbours share a trunk where that leaves fewer tokens to read.
pub(super) fn trunks(windows: &[Window]) -> Vec<Trunk> {
    let mut trunks: Vec<Trunk> = Vec::new();
    for (i, window) in windows.iter().enumerate() {
        let joined = trunks.last_mut().is_some_and(|trunk| {
            let others = trunk.windows.len();
            let first = &windows[trunk.windows.start];
            let before = if others == 1 { first.scored.start } else { trunk.tokens };
            let alike = first.ids[..before].iter().zip(&window.ids[..window.scored.start]).take_while(|(a, b)| a == b).count();
            // So much is read once now, and was read `others` + 1 times, or once and again.
            let (saved_before, saved) = ((others - 1) * trunk.tokens, others * alike);
            let joins = saved >= saved_before + WORTH;
            if joins {
                (trunk.windows.end, trunk.tokens) = (i + 1, alike);
            }
            joins
        });
        if !joined {
            trunks.push(Trunk { windows: i..i + 1, tokens: 0 });
        }
    }
    trunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(ids: &str, scored: usize) -> Window {
        Window { ids: ids.bytes().map(u32::from).collect(), scored: scored..ids.len() - 1 }
    }

    #[test]
    fn neighbours_share_what_is_not_scored() {
        let windows = [window("the same context: yes", 16), window("the same context: no", 16), window("the saddest thing", 14)];
        let [first, second] = &trunks(&windows)[..] else { panic!() };
        assert_eq!((&first.windows, first.tokens), (&(0..2), 16));
        assert_eq!((&second.windows, second.tokens), (&(2..3), 0));
    }

    #[test]
    fn a_trunk_is_no_longer_than_its_shortest_context() {
        let windows = [window("abcdefgh", 6), window("abcdefgh", 5), window("abcdefgh", 7)];
        assert_eq!(trunks(&windows), [Trunk { windows: 0..3, tokens: 5 }]);
    }
}
