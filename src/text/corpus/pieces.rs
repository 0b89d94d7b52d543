//! Sequences to train on: pieces of the stream, in an order and cut at places that
//! follow from the seed alone.
//!
//! Pieces for validation are set aside first, evenly spread. What lies between them are
//! stretches, and an epoch is all pieces that fit into those: each stretch is cut from
//! an offset on that is drawn anew for each epoch, as far as it has room for one, so
//! that no token is always the first of its piece.

use super::Corpus;
use crate::error::{Error, Result};
use crate::random::Random;
use std::ops::Range;

/// Streams of random numbers, so that no draw depends on another.
const OFFSETS: u64 = 1;
const ORDER: u64 = 2;
/// How much of a stretch at most is given to room for offsets: one part of so many.
const ROOM: usize = 8;

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What goes in, and is predicted: one token more than there are predictions.
    pub ids: Vec<u32>,
    /// Which predictions are scored: the first is that of `ids[1]`.
    pub scored: Vec<bool>,
}

/// The pieces of a corpus. Those without a single scored token are left out.
pub struct Pieces {
    corpus: Corpus,
    length: usize,
    /// Tokens before each piece.
    prefix: Vec<u32>,
    seed: u64,
    /// Where pieces for validation begin.
    held_out: Vec<usize>,
    /// What is between them.
    stretches: Vec<Range<usize>>,
    /// How many pieces there are up to the end of each epoch, as far as was asked.
    ends: Vec<u64>,
    /// An epoch, and where its pieces begin, in their order.
    current: (u64, Vec<usize>),
}

impl Pieces {
    pub(super) fn new(corpus: Corpus, length: usize, prefix: &[u32], seed: u64, held_out: usize) -> Result<Self> {
        let least = prefix.len().max(1);
        if length < least {
            return Err(Error::Usage(format!("pieces to train on need a length of {least} at least")));
        }
        let span = span(length, prefix);
        let (tokens, needed) = (corpus.len(), span.saturating_mul(held_out.saturating_add(1)));
        if tokens < needed {
            let reason = format!(
                "the corpus has {tokens} tokens, but {held_out} held-out pieces and one to train on, of {span} tokens each, need {needed}: \
                 use more text or shorter pieces, or hold fewer out"
            );
            return Err(Error::Usage(reason));
        }
        let (places, stretches) = set_aside(tokens, span, held_out);
        let prefix = prefix.to_vec();
        let mut pieces = Self { corpus, length, prefix, seed, held_out: places, stretches, ends: Vec::new(), current: (0, Vec::new()) };
        pieces.held_out = pieces.held_out.iter().copied().filter(|&start| pieces.has_scored(start)).collect();
        pieces.current.1 = pieces.places(0);
        pieces.ends.push(pieces.current.1.len() as u64);
        let none = match () {
            () if pieces.current.1.is_empty() => "piece to train on",
            () if pieces.held_out.is_empty() && held_out > 0 => "held-out piece",
            () => return Ok(pieces),
        };
        Err(Error::Usage(format!("no {none} has a token that is scored: use longer pieces, or more documents with responses")))
    }

    /// The `n`th piece of all epochs, one after another: the same whenever it is asked
    /// for, of the same corpus and seed. Cheap where `n` grows.
    pub fn training(&mut self, n: u64) -> Piece {
        while self.ends[self.ends.len() - 1] <= n {
            let before = self.ends[self.ends.len() - 1];
            // Where all is scored, offsets do not change how many there are.
            let more = if self.corpus.scored.is_none() { self.ends[0] } else { self.places(self.ends.len() as u64).len() as u64 };
            self.ends.push(before + more);
        }
        let epoch = self.ends.partition_point(|&end| end <= n);
        if self.current.0 != epoch as u64 {
            self.current = (epoch as u64, self.places(epoch as u64));
        }
        let first = if epoch == 0 { 0 } else { self.ends[epoch - 1] };
        self.piece(self.current.1[(n - first) as usize])
    }

    /// The pieces that are never trained on, in the order of the stream.
    pub fn validation(&self) -> Vec<Piece> {
        self.held_out.iter().map(|&start| self.piece(start)).collect()
    }

    /// How many pieces the first epoch has, and each where all tokens are scored. Others
    /// may have some more or fewer: cut elsewhere, another piece is without one.
    pub fn per_epoch(&self) -> usize {
        self.ends[0] as usize
    }

    /// Where the pieces of an epoch begin, in their order.
    fn places(&self, epoch: u64) -> Vec<usize> {
        let of_epoch = |stream| Random::new(Random::new(self.seed, stream).bits(epoch), stream);
        let (offsets, order) = (of_epoch(OFFSETS), of_epoch(ORDER));
        let span = span(self.length, &self.prefix);
        let mut places = Vec::new();
        for (i, stretch) in (0..).zip(&self.stretches) {
            let room = stretch.len() % span;
            let start = stretch.start + offsets.below(room as u64 + 1, i) as usize;
            places.extend((0..stretch.len() / span).map(|piece| start + piece * span));
        }
        let count = places.len();
        order.shuffle(&mut places, count);
        places.retain(|&start| self.has_scored(start));
        places
    }

    /// Where the tokens lie that the piece from `start` on predicts.
    fn targets(&self, start: usize) -> Range<usize> {
        let end = start + span(self.length, &self.prefix);
        start + usize::from(self.prefix.is_empty())..end
    }

    fn has_scored(&self, start: usize) -> bool {
        self.corpus.has_scored(self.targets(start))
    }

    fn piece(&self, start: usize) -> Piece {
        let targets = self.targets(start);
        let ids = self.prefix.iter().copied().chain(self.corpus.ids(start..targets.end)).collect();
        // Of several tokens before a piece all but the first are predicted, and none is scored.
        let unscored = vec![false; self.prefix.len().saturating_sub(1)];
        Piece { ids, scored: [unscored, self.corpus.scored(targets)].concat() }
    }
}

/// How many tokens of the stream a piece takes: without a beginning before it, the
/// first of them is predicted by none.
fn span(length: usize, prefix: &[u32]) -> usize {
    length.saturating_add(1) - prefix.len()
}

/// Where `count` pieces for validation begin, and the stretches between them, one of
/// which has a piece to train on at least. All but the last stretch are whole pieces
/// and room for an offset; the last has what is left over.
fn set_aside(tokens: usize, span: usize, count: usize) -> (Vec<usize>, Vec<Range<usize>>) {
    let (rest, parts) = (tokens - count * span, count + 1);
    let room = if rest / parts < span { 0 } else { (span - 1).min(rest / parts / ROOM) };
    let whole = (rest - parts * room) / span;
    let places: Vec<usize> = (0..count).map(|i| (i + whole * (i + 1) / parts) * span + (i + 1) * room).collect();
    let starts = std::iter::once(0).chain(places.iter().map(|place| place + span));
    let ends = places.iter().copied().chain([tokens]);
    let stretches = starts.zip(ends).map(|(start, end)| start..end).collect();
    (places, stretches)
}

#[cfg(test)]
mod tests {
    use super::super::testing::corpus;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// What an epoch trains on, by the ids of a corpus whose ids are their places.
    fn epoch(pieces: &mut Pieces, epoch: u64) -> Vec<Vec<u32>> {
        let count = pieces.per_epoch() as u64;
        (epoch * count..(epoch + 1) * count).map(|n| pieces.training(n).ids).collect()
    }

    #[test]
    fn a_beginning_takes_the_place_of_a_token() {
        let corpus = corpus(20, &[3..4, 4..5]);
        let mut with = corpus.pieces(4, &[99], 0, 0).unwrap();
        let mut without = corpus.pieces(4, &[], 0, 0).unwrap();
        assert_eq!((with.per_epoch(), without.per_epoch()), (5, 4));
        // Their lengths divide the corpus, so that there is no room for offsets.
        let first = |pieces: &mut Pieces, ids: &[u32]| (0..4).map(|n| pieces.training(n)).find(|piece| piece.ids == ids);
        let with = (0..5).map(|n| with.training(n)).find(|piece| piece.ids == [99, 0, 1, 2, 3]).unwrap();
        assert_eq!(with.scored, [true, true, true, false]);
        let without = first(&mut without, &[0, 1, 2, 3, 4]).unwrap();
        assert_eq!(without.scored, [true, true, false, false]);
    }

    #[test]
    fn the_same_pieces_whenever_they_are_asked_for() {
        for unscored in [&[][..], &[10..200, 250..290]] {
            let corpus = corpus(1003, unscored);
            let mut pieces = corpus.pieces(7, &[], 5, 3).unwrap();
            let all: Vec<Piece> = (0..600).map(|n| pieces.training(n)).collect();
            for n in [599, 0, 130, 131, 400, 7] {
                assert_eq!(corpus.pieces(7, &[], 5, 3).unwrap().training(n), all[n as usize], "{n}, resumed");
                assert_eq!(pieces.training(n), all[n as usize], "{n}, once more");
            }
            let mut other = corpus.pieces(7, &[], 6, 3).unwrap();
            assert_ne!((0..600).map(|n| other.training(n)).collect::<Vec<_>>(), all);
            assert_eq!(other.validation(), pieces.validation(), "seeds are compared on the same text");
        }
    }

    /// Orders and cuts differ from epoch to epoch.
    #[test]
    fn every_epoch_is_another() {
        let mut pieces = corpus(1000, &[]).pieces(9, &[], 1, 2).unwrap();
        let epochs: Vec<_> = (0..6).map(|n| epoch(&mut pieces, n)).collect();
        let orders: HashSet<_> = epochs.iter().collect();
        assert_eq!(orders.len(), 6);
        for stretch in 0..3 {
            let bounds = pieces.stretches[stretch].clone();
            let inside = |ids: &&Vec<u32>| bounds.contains(&(ids[0] as usize));
            let offsets: HashSet<_> = epochs.iter().map(|epoch| epoch.iter().filter(inside).map(|ids| ids[0]).min()).collect();
            assert!(offsets.len() > 2, "stretch {stretch} begins at {offsets:?}");
        }
        let mut sorted = epochs[0].clone();
        sorted.sort();
        assert_ne!(sorted, epochs[0]);
    }

    #[test]
    fn pieces_without_a_scored_token_are_left_out() {
        let corpus = corpus(100, &[0..55, 60..100]);
        let mut pieces = corpus.pieces(10, &[1000], 3, 0).unwrap();
        assert_eq!(pieces.per_epoch(), 1);
        for n in 0..3 {
            let piece = pieces.training(n);
            assert_eq!((piece.ids[1], piece.scored.iter().filter(|s| **s).count()), (50, 5), "{n}");
        }
        // Only what lies behind the first token of a piece is predicted.
        assert!(corpus.pieces(3, &[], 0, 0).is_ok());
        let refused = super::super::testing::corpus(12, &[1..6, 6..12]).pieces(11, &[], 0, 0);
        assert!(refused.err().unwrap().to_string().contains("scored"));
        // The middle is held out, and is not scored.
        let refused = corpus.pieces(10, &[1000], 0, 1);
        assert!(refused.err().unwrap().to_string().contains("held-out piece"));
    }

    /// Pieces that are cut elsewhere may be scored: epochs are then of other lengths, and
    /// each still has all that are.
    #[test]
    fn epochs_of_scored_pieces_follow_each_other() {
        let corpus = corpus(1005, &[0..500, 505..700, 702..990]);
        let mut pieces = corpus.pieces(10, &[2000], 8, 0).unwrap();
        let expected: Vec<Piece> = (0..40).flat_map(|epoch| pieces.places(epoch)).map(|start| pieces.piece(start)).collect();
        let lengths: HashSet<usize> = (0..40).map(|epoch| pieces.places(epoch).len()).collect();
        assert!(lengths.len() > 1, "{lengths:?}");
        for (n, expected) in (0..).zip(expected) {
            assert!(expected.scored.contains(&true));
            assert_eq!(pieces.training(n), expected, "{n}");
        }
    }

    #[test]
    fn too_short_a_corpus_says_what_it_needs() {
        let corpus = corpus(49, &[]);
        let error = corpus.pieces(9, &[], 0, 4).err().unwrap().to_string();
        for word in ["49 tokens", "4 held-out", "10 tokens each", "need 50", "more text"] {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(corpus.pieces(9, &[], 0, 3).unwrap().per_epoch(), 1);
        // Where there is just enough, none of it is given to room for offsets.
        assert_eq!(super::super::testing::corpus(80, &[]).pieces(40, &[1], 0, 1).unwrap().per_epoch(), 1);
        assert!(corpus.pieces(0, &[], 0, 0).is_err());
        assert!(corpus.pieces(usize::MAX, &[1], 0, usize::MAX).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_are_apart_and_leave_little_out(
            length in 1usize..12, before in 0usize..4, held_out in 0usize..9, more in 0usize..900, seed in 0u64..1000
        ) {
            let prefix = vec![5000u32; before.min(length)];
            let span = length + 1 - prefix.len();
            let tokens = (held_out + 1) * span + more;
            let mut pieces = corpus(tokens, &[]).pieces(length, &prefix, seed, held_out).unwrap();
            let own = |ids: &[u32]| ids[prefix.len()..].to_vec();
            let validation: Vec<Vec<u32>> = pieces.validation().iter().map(|piece| own(&piece.ids)).collect();
            prop_assert_eq!(validation.len(), held_out);
            prop_assert!(pieces.per_epoch() > 0);
            for e in 0..3 {
                let trained = epoch(&mut pieces, e);
                let mut seen = HashSet::new();
                for ids in trained.iter().map(|ids| own(ids)).chain(validation.iter().cloned()) {
                    prop_assert_eq!(ids.len(), span);
                    prop_assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
                    prop_assert!(ids.iter().all(|id| (*id as usize) < tokens && seen.insert(*id)), "{:?} again", ids);
                }
                let starts = std::iter::once(0).chain(validation.iter().map(|ids| ids[span - 1] + 1));
                let ends = validation.iter().map(|ids| ids[0]).chain([tokens as u32]);
                for (start, end) in starts.zip(ends) {
                    let missed = (start..end).filter(|id| !seen.contains(id)).count();
                    prop_assert!(missed < span, "{missed} of {start}..{end}");
                }
            }
            // Evenly spread: no stretch but the last is far from the mean.
            let mean = (tokens - held_out * span) / (held_out + 1);
            for stretch in &pieces.stretches[..held_out] {
                prop_assert!(stretch.len().abs_diff(mean) <= 2 * span, "{:?}, mean {mean}", stretch);
            }
        }
    }
}
