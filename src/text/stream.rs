//! A text of any length to token ids, in the memory of a piece of it.
//!
//! Encoding a text takes about a hundred times its size in memory, so a long one is encoded
//! in pieces that overlap. The ids must be those of the whole text. What a tokenizer makes of
//! a place depends on what is near: the word that a pre-tokenizer cuts out there, the merges
//! or the best path through a few characters. A piece is therefore wrong only near where it
//! was cut, and in the middle of an overlap both pieces are right. Two neighbours are joined
//! inside the longest run of tokens of the overlap on which they agree, ids and positions
//! alike. Where they agree on too few, as inside a word that is longer than the overlap, both
//! are encoded again as one piece.

use super::Tokenizer;
use super::read::TextReader;
use super::rows::Location;
use crate::error::Result;
use crate::progress::{Progress, Silent, Unit};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;

/// A token and the bytes of the text that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
}

/// Sizes of pieces and overlaps.
#[derive(Clone, Copy)]
pub(super) struct Cuts {
    /// Bytes of a piece that no other piece has.
    piece: usize,
    /// Bytes that it shares with the next one.
    overlap: usize,
    /// Tokens in a row on which neighbours must agree.
    agree: usize,
}

/// Pieces that are encoded in parallel at most, however many cores there are.
const MOST_IN_PARALLEL: usize = 16;

impl Cuts {
    /// Encoding a piece takes some 20 MB.
    pub const DEFAULT: Self = Self { piece: 1 << 16, overlap: 1 << 12, agree: 32 };
}

/// Ids of a text, piece by piece.
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    text: TextReader<'a>,
    cuts: Cuts,
    /// The text from byte `start` on, as far as it is read and still needed.
    buffer: String,
    start: usize,
    /// Where the next piece begins.
    next: usize,
    ended: bool,
    /// The piece whose end is not joined to the next one yet.
    left: Option<Piece>,
    /// Pieces behind that one.
    encoded: VecDeque<Piece>,
    /// Pieces that are encoded in parallel. The first ones alone: often no more is wanted.
    in_parallel: usize,
    /// Bytes of the next pieces that no other piece has.
    piece: usize,
    /// Bytes that progress knows of.
    told: usize,
    /// Where the buffer begins in the text.
    location: Location,
    /// Tokens that are handed on.
    handed_on: usize,
    /// Tokens that are wanted: what lies behind them is not looked at.
    wanted: usize,
}

/// Tokens of a part of the text; those before `from` are handed on.
struct Piece {
    bytes: Range<usize>,
    tokens: Vec<Token>,
    from: usize,
}

impl<'a> TokenStream<'a> {
    /// Of a text that is read as it is needed.
    pub fn new(tokenizer: &'a Tokenizer, text: TextReader<'a>) -> Self {
        Self::with_cuts(tokenizer, text, Cuts::DEFAULT)
    }

    pub(super) fn with_cuts(tokenizer: &'a Tokenizer, text: TextReader<'a>, cuts: Cuts) -> Self {
        let (buffer, encoded, location) = (String::new(), VecDeque::new(), Location::default());
        Self {
            tokenizer,
            text,
            cuts,
            buffer,
            start: 0,
            next: 0,
            ended: false,
            left: None,
            encoded,
            in_parallel: 1,
            piece: cuts.piece,
            told: 0,
            location,
            handed_on: 0,
            wanted: usize::MAX,
        }
    }

    /// The next ids, some at least; `None` behind the last.
    pub fn next_ids(&mut self) -> Result<Option<Vec<u32>>> {
        loop {
            if self.encoded.is_empty() {
                self.encode_more()?;
            }
            let ids = match (self.left.take(), self.encoded.pop_front()) {
                (None, None) => return Ok(None),
                (Some(left), None) => self.hand_on(&left, left.tokens.len())?,
                (None, Some(first)) => {
                    self.left = Some(first);
                    continue;
                }
                (Some(left), Some(right)) => self.join(left, right)?,
            };
            if !ids.is_empty() {
                return Ok(Some(ids));
            }
        }
    }

    /// The first ids of the text, `limit` at most. No more of the text is read than they need.
    pub fn first(mut self, limit: Option<usize>, progress: &dyn Progress) -> Result<Vec<u32>> {
        self.wanted = limit.unwrap_or(usize::MAX);
        let mut all = Vec::new();
        // How much of the text a part of its ids needs is not known before.
        let progress = if limit.is_none() { progress } else { &Silent };
        self.begin(progress);
        while limit.is_none_or(|limit| all.len() < limit)
            && let Some(ids) = self.next_ids()?
        {
            all.extend(ids);
            self.tell(progress);
            progress.may_go_on()?;
        }
        progress.end();
        all.truncate(limit.unwrap_or(usize::MAX));
        Ok(all)
    }

    /// Hands over all ids in their order, some at a time.
    pub fn each(mut self, progress: &dyn Progress, mut each: impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
        self.begin(progress);
        while let Some(ids) = self.next_ids()? {
            progress.may_go_on()?;
            each(&ids)?;
            self.tell(progress);
        }
        progress.end();
        Ok(())
    }

    fn begin(&self, progress: &dyn Progress) {
        progress.begin("tokenising the text", self.text.size().unwrap_or(0), Unit::of("MiB", 1 << 20));
    }

    /// Reports progress.
    fn tell(&mut self, progress: &dyn Progress) {
        let position = self.left.as_ref().map_or(self.start, |left| left.bytes.start);
        progress.advance((position - self.told) as u64);
        self.told = position;
    }

    /// Joins two neighbours. The ids of the first one up to their seam.
    fn join(&mut self, left: Piece, mut right: Piece) -> Result<Vec<u32>> {
        let seam = seam(&left.tokens, &right.tokens, right.bytes.start..left.bytes.end, self.cuts.agree);
        if let Some((of_left, of_right)) = seam.filter(|(of_left, _)| *of_left >= left.from) {
            right.from = of_right;
            self.left = Some(right);
            self.piece = self.cuts.piece;
            self.in_parallel = rayon::current_num_threads().min(MOST_IN_PARALLEL);
            return self.hand_on(&left, of_left);
        }
        let mut both = encode(self.tokenizer, &self.buffer, self.start, left.bytes.start..right.bytes.end)?;
        // Both begin where the left one does, and the end that was cut off is far behind what is
        // handed on: those tokens are the first of both. (Several may have one place in the text, so
        // that places do not tell.)
        both.from = left.from.min(both.tokens.len());
        // Until a join succeeds, pieces are as long as what they are joined to: such a text is not
        // encoded over and over.
        self.piece = both.bytes.len();
        self.in_parallel = 1;
        self.left = Some(both);
        Ok(Vec::new())
    }

    /// Reads and encodes some pieces.
    fn encode_more(&mut self) -> Result<()> {
        let mut pieces = Vec::new();
        let (piece, overlap) = (self.piece, self.cuts.overlap);
        self.forget();
        while pieces.len() < self.in_parallel && !self.is_at_end() {
            let wanted = self.next + piece + overlap - self.start;
            // One byte more, so that the last piece is known for it.
            if !self.ended && self.buffer.len() <= wanted {
                self.ended = self.text.read_to(&mut self.buffer, wanted + 1)?;
            }
            let end = self.start + self.buffer.len();
            if self.ended && end - self.next <= piece + overlap {
                pieces.push(self.next..end);
                self.next = end;
            } else {
                pieces.push(self.next..self.boundary(self.next + piece + overlap));
                self.next = self.boundary(self.next + piece);
            }
        }
        // Not all of `self`: what is read from need not be shared between threads.
        let (tokenizer, buffer, start) = (self.tokenizer, &*self.buffer, self.start);
        let encoded: Vec<Result<Piece>> = pieces.into_par_iter().map(|bytes| encode(tokenizer, buffer, start, bytes)).collect();
        self.encoded = encoded.into_iter().collect::<Result<_>>()?;
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.ended && self.next == self.start + self.buffer.len()
    }

    /// Drops the text that no piece needs any more.
    fn forget(&mut self) {
        let needed = self.left.as_ref().map_or(self.next, |left| left.bytes.start);
        self.location = self.location.behind(self.buffer.drain(..needed - self.start));
        self.start = needed;
    }

    /// The ids of a piece up to a token. Fails where one has no row in the model's embedding.
    fn hand_on(&mut self, piece: &Piece, to: usize) -> Result<Vec<u32>> {
        let (tokens, rows) = (&piece.tokens[piece.from..to], self.tokenizer.rows());
        let wanted = &tokens[..tokens.len().min(self.wanted.saturating_sub(self.handed_on))];
        if let Some(place) = wanted.iter().position(|token| token.id as usize >= rows) {
            let Token { id, start, .. } = tokens[place];
            let before = &self.buffer[..self.buffer.floor_char_boundary(start - self.start)];
            let location = self.location.behind(before.chars());
            return Err(self.tokenizer.no_row((id, self.handed_on + place), rows, Some(location), self.text.path()));
        }
        self.handed_on += tokens.len();
        Ok(tokens.iter().map(|token| token.id).collect())
    }

    /// The last boundary of characters up to a byte.
    fn boundary(&self, byte: usize) -> usize {
        self.start + self.buffer.floor_char_boundary(byte - self.start)
    }
}

/// Bytes of a text, of which `buffer` has what lies from `start` on.
fn encode(tokenizer: &Tokenizer, buffer: &str, start: usize, bytes: Range<usize>) -> Result<Piece> {
    let mut tokens = tokenizer.tokens(&buffer[bytes.start - start..bytes.end - start])?;
    for token in &mut tokens {
        token.start += bytes.start;
        token.end += bytes.start;
    }
    Ok(Piece { bytes, tokens, from: 0 })
}

/// The middle of the longest run of tokens inside `overlap` that both have: how many tokens
/// of each lie before it. `None` where the run has fewer than `agree`.
fn seam(left: &[Token], right: &[Token], overlap: Range<usize>, agree: usize) -> Option<(usize, usize)> {
    let mut i = left.partition_point(|token| token.start < overlap.start);
    let (mut j, mut run) = (0, 0);
    let mut best = (0, 0, 0);
    while i < left.len() && j < right.len() && right[j].start < overlap.end {
        let (a, b) = (left[i], right[j]);
        if a == b {
            run += 1;
            best = best.max((run, i + 1, j + 1));
        } else {
            run = 0;
        }
        // Several tokens can stand for one character: then they are of one place.
        i += usize::from((a.start, a.end) <= (b.start, b.end));
        j += usize::from((b.start, b.end) <= (a.start, a.end));
    }
    let (run, i, j) = best;
    (run >= agree).then(|| (i - run / 2, j - run / 2))
}

#[cfg(test)]
mod tests {
    use super::super::corpus::testing::other_tokenizer;
    use super::*;
    use std::path::Path;

    /// As small as a test text asks for.
    const SMALL: Cuts = Cuts { piece: 300, overlap: 200, agree: 8 };

    fn pieces(tokenizer: &Tokenizer, text: &str, cuts: Cuts) -> Vec<u32> {
        let reader = TextReader::new(Box::new(text.as_bytes()), Path::new("a.txt")).unwrap();
        TokenStream::with_cuts(tokenizer, reader, cuts).first(None, &Silent).unwrap()
    }

    fn whole(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.tokens(text).unwrap().into_iter().map(|token| token.id).collect()
    }

    /// Texts that are hard to cut.
    fn texts() -> Vec<String> {
        let held_out = include_str!("../../assets/demo/held-out.txt");
        let held_out = &held_out[..held_out.floor_char_boundary(20_000)];
        let mixed: String = (0..400)
            .map(|i| match i % 9 {
                0 => "größer  als\t\t".to_owned(),
                1 => "世界、こんにちは".to_owned(),
                2 => format!("{}", 7 * i * i),
                3 => "\r\n\r\n   indented".to_owned(),
                4 => " 🎈🎈 e\u{301}a\u{308}".to_owned(),
                5 => " </s> <s>x<0x0A>".to_owned(),
                6 => "\u{2581}under\u{2581}".to_owned(),
                7 => "don't WE'LL".to_owned(),
                _ => "     ".to_owned(),
            })
            .collect();
        vec![
            held_out.to_owned(),
            held_out.replace(' ', "\r\n"),
            mixed,
            "a".repeat(5000),
            "ab ".repeat(2000),
            format!("{}{}", "x y z ".repeat(60), "supercalifragilistic".repeat(150)),
            "1234567890".repeat(500),
            // Several tokens of one place where neighbours do not agree.
            format!("{}{}", "世".repeat(400), "o".repeat(900)),
            format!("{}{} and more words", "🎈".repeat(333), "abcdefghij".repeat(120)),
            " ".repeat(3000),
            "\n".repeat(2500) + "end",
            String::new(),
            "short".to_owned(),
        ]
    }

    fn tokenizers() -> Vec<(String, Tokenizer)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let models = ["bpe.model", "bpe-symbols.model", "unigram.model", "unigram-bytes.model"];
        let mut all: Vec<_> = models.iter().map(|name| (name.to_string(), other_tokenizer(name))).collect();
        let folders = ["tests/data/tokenizers/opt", "tests/data/tokenizers/qwen2", "tests/data/tokenizers/xglm", "assets/demo/model"];
        all.extend(folders.iter().map(|folder| (folder.to_string(), Tokenizer::find(&root.join(folder)).unwrap().unwrap())));
        all
    }

    #[test]
    fn pieces_have_the_ids_of_the_whole() {
        for (name, tokenizer) in tokenizers() {
            for (number, text) in texts().iter().enumerate() {
                let expected = whole(&tokenizer, text);
                assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: text {number}, with and without positions");
                for piece in [300, 301, 317, 1000] {
                    assert!(pieces(&tokenizer, text, Cuts { piece, ..SMALL }) == expected, "{name}: text {number}, pieces of {piece}");
                }
            }
        }
    }

    /// Where a text is cut anywhere and encoded part by part, its ids are others: the joins are
    /// needed.
    #[test]
    fn parts_that_are_not_joined_have_other_ids() {
        for (name, tokenizer) in tokenizers() {
            let apart = |text: &String| {
                let mut ids = Vec::new();
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    let (part, behind) = rest.split_at(rest.floor_char_boundary(300));
                    ids.extend(whole(&tokenizer, part));
                    rest = behind;
                }
                ids != whole(&tokenizer, text)
            };
            assert!(texts().iter().filter(|text| apart(text)).count() >= 3, "{name}");
        }
    }

    /// Pieces of real texts, with real tokenizers.
    #[test]
    fn pieces_of_real_texts() {
        let Some(data) = std::env::var_os("THIMBLE_DATA") else { return };
        let data = Path::new(&data);
        let files = [
            "gpt2/vocab.json",
            "gpt-neox-20b/20B_tokenizer.json",
            "llama2/tokenizer.model",
            "llama2/tokenizer.bin",
            "rwkv-world/rwkv_vocab_v20230424.txt",
            "t5/tokenizer.json",
        ];
        let text = std::fs::read_to_string(data.join("text/wikitext-2-raw/wiki.test.raw")).unwrap();
        for file in files {
            let tokenizer = Tokenizer::open(&data.join("tokenizers").join(file)).unwrap();
            let expected = whole(&tokenizer, &text);
            for cuts in [Cuts { piece: 5000, overlap: 600, agree: 32 }, Cuts::DEFAULT] {
                assert!(pieces(&tokenizer, &text, cuts) == expected, "{file}: pieces of {}", cuts.piece);
            }
        }
    }

    #[test]
    fn a_seam_lies_where_both_agree() {
        let token = |id, start, end| Token { id, start, end };
        let left = [token(1, 0, 4), token(2, 4, 8), token(3, 8, 12), token(4, 12, 16), token(9, 16, 18)];
        let right = [token(7, 6, 8), token(3, 8, 12), token(4, 12, 16), token(5, 16, 22)];
        assert_eq!(seam(&left, &right, 6..18, 2), Some((3, 2)));
        assert_eq!(seam(&left, &right, 6..18, 3), None);
        // Bytes of one character.
        let bytes = [token(1, 0, 3), token(2, 0, 3), token(3, 0, 3)];
        assert_eq!(seam(&bytes, &bytes, 0..3, 3), Some((2, 2)));
    }
}
