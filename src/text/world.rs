//! RWKV's world vocabulary: a line for each token, with its id, a Python literal
//! (`'text'` or `b'bytes'`) and its length in bytes. A text is split from its
//! beginning on, each time by the longest token that fits. Id 0 ends a text and
//! is in no line.
//!
//! Source: BlinkDL/ChatRWKV, `tokenizer/rwkv_tokenizer.py`.

use super::error::{WorldError, WorldLineError};
use super::stream::Token;
use std::collections::HashMap;
use std::str::Chars;

/// Ends a text.
pub const END_OF_TEXT: u32 = 0;

/// The vocabulary, as a tree over the bytes of its tokens.
pub struct World {
    /// The children of a node lie beside each other, in order of their bytes.
    nodes: Vec<Node>,
    tokens: HashMap<u32, Vec<u8>>,
}

struct Node {
    /// The last byte on the way here.
    byte: u8,
    /// The token that ends here, or [`END_OF_TEXT`].
    id: u32,
    first_child: usize,
    children: u16,
}

/// Whether bytes begin with an id and a literal.
pub fn recognises(bytes: &[u8]) -> bool {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = bytes[digits..].strip_prefix(b" ").filter(|_| digits > 0).unwrap_or_default();
    matches!(rest.strip_prefix(b"b").unwrap_or(rest), [b'\'' | b'"', ..])
}

impl World {
    /// From the whole file.
    pub fn read(bytes: &[u8]) -> Result<Self, WorldError> {
        let text = std::str::from_utf8(bytes)?;
        let mut tokens = HashMap::new();
        let mut ids = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let wrong = |error| WorldError::Line { line: number, error };
            let (id, token) = entry(line).map_err(wrong)?;
            if let Some(other) = ids.insert(token.clone(), id) {
                return Err(wrong(WorldLineError::SameToken { id, other }));
            }
            if tokens.insert(id, token).is_some() {
                return Err(wrong(WorldLineError::SameId(id)));
            }
        }
        if let Some(byte) = (0..=u8::MAX).find(|byte| !ids.contains_key(&[*byte][..])) {
            return Err(WorldError::NoByte { tokens: tokens.len(), byte });
        }
        let mut sorted: Vec<(Vec<u8>, u32)> = ids.into_iter().collect();
        sorted.sort_unstable();
        Ok(Self { nodes: tree(&sorted), tokens })
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.tokens(text).map(|token| token.id).collect()
    }

    /// Ids with the byte range of each token.
    pub fn tokens(&self, text: &str) -> impl Iterator<Item = Token> {
        let bytes = text.as_bytes();
        let mut start = 0;
        std::iter::from_fn(move || {
            let rest = bytes.get(start..).filter(|rest| !rest.is_empty())?;
            let (id, length) = self.longest(rest);
            let token = Token { id, start, end: start + length };
            start = token.end;
            Some(token)
        })
    }

    /// The longest token that bytes begin with, and its length.
    fn longest(&self, bytes: &[u8]) -> (u32, usize) {
        let mut node = &self.nodes[0];
        let mut found = (END_OF_TEXT, 1);
        for (length, &byte) in (1..).zip(bytes) {
            let children = &self.nodes[node.first_child..][..node.children.into()];
            let Ok(at) = children.binary_search_by_key(&byte, |child| child.byte) else { break };
            node = &children[at];
            if node.id != END_OF_TEXT {
                found = (node.id, length);
            }
        }
        found
    }

    /// The text of ids; what is not UTF-8 becomes U+FFFD, and what is no token is
    /// left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|id| self.tokens.get(id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of a token; none where it is no token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The greatest id of a token.
    pub fn greatest_id(&self) -> Option<u32> {
        self.tokens.keys().max().copied()
    }

    /// Ids and tokens; bytes that are no UTF-8 are escaped.
    pub fn words(&self) -> impl Iterator<Item = (u32, String)> {
        self.tokens.iter().map(|(id, bytes)| (*id, String::from_utf8(bytes.clone()).unwrap_or_else(|_| bytes.escape_ascii().to_string())))
    }
}

/// The tree over tokens in order of their bytes; breadth first, so that the
/// children of a node are one run.
fn tree(sorted: &[(Vec<u8>, u32)]) -> Vec<Node> {
    let mut nodes = vec![Node { byte: 0, id: END_OF_TEXT, first_child: 0, children: 0 }];
    // Which tokens go through a node, all of which begin with the same `depth` bytes.
    let mut below = vec![(0..sorted.len(), 0)];
    let mut at = 0;
    while at < nodes.len() {
        let (mut tokens, depth) = below[at].clone();
        if let Some((_, id)) = sorted.get(tokens.start).filter(|(token, _)| !tokens.is_empty() && token.len() == depth) {
            nodes[at].id = *id;
            tokens.start += 1;
        }
        nodes[at].first_child = nodes.len();
        while !tokens.is_empty() {
            let byte = sorted[tokens.start].0[depth];
            let length = sorted[tokens.clone()].partition_point(|(token, _)| token[depth] == byte);
            nodes[at].children += 1;
            nodes.push(Node { byte, id: END_OF_TEXT, first_child: 0, children: 0 });
            below.push((tokens.start..tokens.start + length, depth + 1));
            tokens.start += length;
        }
        at += 1;
    }
    nodes
}

fn entry(line: &str) -> Result<(u32, Vec<u8>), WorldLineError> {
    let (id, rest) = line.split_once(' ').ok_or(WorldLineError::Fields)?;
    let (literal, length) = rest.rsplit_once(' ').ok_or(WorldLineError::Fields)?;
    let id = id.parse().ok().filter(|id| *id != END_OF_TEXT);
    let id = id.ok_or_else(|| WorldLineError::Id(line.to_owned()))?;
    let token = parse(literal).filter(|token| !token.is_empty()).ok_or_else(|| WorldLineError::Literal(literal.to_owned()))?;
    if length.parse() != Ok(token.len()) {
        return Err(WorldLineError::Length { found: token.len(), says: length.to_owned() });
    }
    Ok((id, token))
}

/// A Python literal, as `repr` writes it.
fn parse(literal: &str) -> Option<Vec<u8>> {
    let (quoted, is_bytes) = literal.strip_prefix('b').map_or((literal, false), |quoted| (quoted, true));
    let quote = quoted.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    let mut inside = quoted[1..].strip_suffix(quote)?.chars();
    let mut token = Vec::new();
    while let Some(c) = inside.next() {
        let c = match c {
            '\\' => escaped(&mut inside)?,
            c if c == quote || is_bytes && !c.is_ascii() => return None,
            c => c,
        };
        match is_bytes {
            true => token.push(u8::try_from(c).ok()?),
            false => token.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(token)
}

/// What a backslash stands for with what comes after it.
fn escaped(rest: &mut Chars) -> Option<char> {
    let digits = match rest.next()? {
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        c @ ('\\' | '\'' | '"') => return Some(c),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let (code, after) = rest.as_str().split_at_checked(digits)?;
    *rest = after.chars();
    let code = code.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(code, 16))?.ok()?;
    char::from_u32(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        let sound: [(&str, &[u8]); 9] = [
            ("'a b'", b"a b"),
            (r"'\\\''", br"\'"),
            ("\"'\"", b"'"),
            (r"'\t\r\n'", b"\t\r\n"),
            (r"'\x85'", "\u{85}".as_bytes()),
            (r"'\u3000\U0001f600'", "\u{3000}\u{1f600}".as_bytes()),
            ("'é'", "é".as_bytes()),
            (r"b'\xe4\xbd'", b"\xe4\xbd"),
            ("b\"'\\\"\"", b"'\""),
        ];
        for (literal, token) in sound {
            assert_eq!(parse(literal).as_deref(), Some(token), "{literal}");
        }
        for broken in [
            "",
            "a",
            "'",
            "b",
            "b'",
            "'a",
            "'a\"",
            "'a'b'",
            r"'\'",
            r"'\q'",
            r"'\x4'",
            r"'\x+4'",
            r"'\ud800'",
            r"'\Uffffffff'",
            "b'é'",
            r"'\xé'",
        ] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
