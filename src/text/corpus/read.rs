//! From files to one stream of tokens.

use super::integers;
use super::sources::{Kind, Source};
use crate::checkpoint::Bytes;
use crate::checkpoint::safetensors::read_header;
use crate::error::{Error, Result};
use crate::progress::{Progress, Unit};
use crate::text::Tokenizer;
use crate::text::read::decode;
use rayon::prelude::*;
use safetensors::Dtype;
use std::ops::Range;
use std::path::Path;

/// Name of the tensor that holds token ids.
pub const IDS: &str = "ids";
/// What the progress of tokenising is called.
pub const READING: &str = "tokenising the corpus";
/// Files, and lines of one file, whose tokens are kept until they are joined.
const TOGETHER: usize = 4096;

/// Documents, one after another.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Their tokens.
    pub ids: Vec<u32>,
    /// Which of them are not scored, in order.
    pub unscored: Vec<Range<usize>>,
}

/// The tokens of a document, which are scored behind the first `unscored`.
struct Document {
    ids: Vec<u32>,
    unscored: usize,
}

impl Stream {
    /// Adds a document and what ends it. One without tokens is as if it were not there.
    fn add(&mut self, document: Document, eos: Option<u32>) {
        let Document { ids, unscored } = document;
        if ids.is_empty() {
            return;
        }
        let start = self.ids.len();
        let end = eos.filter(|eos| ids.last() != Some(eos));
        self.ids.extend(ids);
        self.ids.extend(end);
        if unscored > 0 {
            self.unscored.push(start..start + unscored);
        }
    }

    /// Adds the documents of another stream.
    fn append(&mut self, other: Self) {
        let start = self.ids.len();
        self.ids.extend(other.ids);
        self.unscored.extend(other.unscored.into_iter().map(|range| range.start + start..range.end + start));
    }
}

/// A line of a JSONL file; what else it says of its text (a source, a date) is passed over.
#[derive(serde::Deserialize)]
struct Line {
    text: Option<String>,
    prompt: Option<String>,
    response: Option<String>,
}

/// Reads files with a tokenizer.
pub struct Reader<'a> {
    /// What texts are read with.
    pub tokenizer: Option<&'a Tokenizer>,
    /// What ids must be below.
    pub vocab_size: usize,
}

impl<'a> Reader<'a> {
    /// Fails where the token that ends a text is outside the vocabulary.
    pub fn new(tokenizer: Option<&'a Tokenizer>, vocab_size: usize) -> Result<Self> {
        let reader = Self { tokenizer, vocab_size };
        if let (Some(tokenizer), Some(id)) = (tokenizer, reader.eos().filter(|&id| id as usize >= vocab_size)) {
            return Err(Error::format(&tokenizer.path, format!("texts end with token {id}, but the vocabulary has {vocab_size} tokens")));
        }
        Ok(reader)
    }

    /// What ends a document.
    pub fn eos(&self) -> Option<u32> {
        self.tokenizer.and_then(Tokenizer::eos)
    }

    /// The documents of all files, in order.
    pub fn read(&self, sources: &[Source], progress: &dyn Progress) -> Result<Stream> {
        progress.begin(READING, sources.len() as u64, Unit::one("files"));
        let mut stream = Stream::default();
        for sources in sources.chunks(TOGETHER) {
            let read = |source| self.source(source).inspect(|_| progress.advance(1));
            // Collected before they are looked at: the first error is to be told, and
            // not the earliest.
            let streams: Vec<Result<Stream>> = sources.par_iter().map(read).collect();
            for source in streams {
                stream.append(source?);
            }
        }
        progress.end();
        Ok(stream)
    }

    fn source(&self, source: &Source) -> Result<Stream> {
        let (path, bytes) = (&*source.path, source.content()?);
        let mut stream = Stream::default();
        match source.kind {
            Kind::Text => stream.add(self.whole(decode(&bytes, path)?, path)?, self.eos()),
            Kind::Lines => {
                let lines: Vec<_> = (1..).zip(decode(&bytes, path)?.lines()).filter(|(_, line)| !line.trim().is_empty()).collect();
                for lines in lines.chunks(TOGETHER) {
                    let documents: Vec<_> = lines.par_iter().map(|(number, line)| self.line(*number, line, path)).collect();
                    for document in documents {
                        stream.add(document?, self.eos());
                    }
                }
            }
            Kind::Tensor => self.rows(&bytes, path, &mut stream)?,
            Kind::Raw => {
                if !bytes.len().is_multiple_of(2) {
                    let reason = format!("truncated, or no token ids of two bytes each: it has {} bytes", bytes.len());
                    return Err(Error::truncated(path, reason));
                }
                let ids = self.ids(Dtype::U16, &bytes, path)?.expect("ids come in u16");
                stream.add(Document { ids, unscored: 0 }, self.eos());
            }
        }
        if stream.ids.is_empty() {
            return Err(Error::format(path, "has no tokens: leave it out of the corpus"));
        }
        Ok(stream)
    }

    /// A text that is one document. However long, its tokens are those of the whole: cut
    /// anywhere, it could give other tokens there.
    fn whole(&self, text: &str, path: &Path) -> Result<Document> {
        Ok(Document { ids: self.encode(text, path)?, unscored: 0 })
    }

    fn line(&self, number: usize, line: &str, path: &Path) -> Result<Document> {
        let wrong = |reason: String| Error::format(path, format!("line {number}: {reason}"));
        let line = serde_json::from_str(line).map_err(|e| wrong(format!("{EXPECTED}: {e}")))?;
        match line {
            Line { text: Some(text), prompt: None, response: None } => self.whole(&text, path),
            Line { text: None, prompt: Some(prompt), response: Some(response) } => {
                if response.is_empty() {
                    return Err(wrong("its response is empty: there is nothing to learn from it".into()));
                }
                // Apart from each other, so that no token lies across the border: a model
                // that is asked has a prompt that ends there too.
                let mut ids = self.encode(&prompt, path)?;
                let unscored = ids.len();
                ids.extend(self.encode(&response, path)?);
                Ok(Document { ids, unscored })
            }
            _ => Err(wrong(EXPECTED.into())),
        }
    }

    fn encode(&self, text: &str, path: &Path) -> Result<Vec<u32>> {
        match self.tokenizer {
            Some(tokenizer) => {
                let ids = tokenizer.encode_from(text, path)?;
                tokenizer.check_rows(&ids, self.vocab_size, text, path)?;
                Ok(ids)
            }
            None => Err(Error::format(path, "is a text, and there is no tokenizer to read it with: name one, or give token ids")),
        }
    }

    fn rows(&self, bytes: &Bytes, path: &Path, stream: &mut Stream) -> Result<()> {
        let (start, header) = read_header(bytes, path)?;
        let mut tensors = header.tensors();
        let info = tensors.remove(IDS).ok_or_else(|| Error::MissingTensor { name: IDS.into(), path: path.to_owned() })?;
        // One may say what is scored, or whose rows are padded: not to be passed over.
        if let Some(other) = tensors.keys().min() {
            return Err(Error::format(path, format!("holds tensor {other} beside {IDS}: nothing but {IDS} can be trained on")));
        }
        let mismatch = |expected: String, found| Error::TensorMismatch { name: IDS.into(), path: path.to_owned(), expected, found };
        let &([width] | [_, width]) = &info.shape[..] else {
            return Err(mismatch("[tokens] or [sequences, tokens]".into(), format!("{:?}", info.shape)));
        };
        let (from, to) = info.data_offsets;
        let ids = self.ids(info.dtype, &bytes[start + from..start + to], path)?;
        let ids = ids.ok_or_else(|| mismatch(integers::READABLE.into(), info.dtype.to_string()))?;
        for row in ids.chunks(width.max(1)) {
            stream.add(Document { ids: row.to_vec(), unscored: 0 }, self.eos());
        }
        Ok(())
    }

    /// Ids that are checked; `None` where they do not come in that number format.
    fn ids(&self, dtype: Dtype, bytes: &[u8], path: &Path) -> Result<Option<Vec<u32>>> {
        let Some(ids) = integers::decode(dtype, bytes) else { return Ok(None) };
        if let Some((place, id)) = ids.iter().enumerate().find(|(_, id)| !(0..self.vocab_size as i64).contains(id)) {
            let size = self.vocab_size;
            let reason =
                format!("token {place} is {id}, but the vocabulary has {size} tokens: they are of another tokenizer, or no token ids");
            return Err(Error::format(path, reason));
        }
        Ok(Some(ids.into_iter().map(|id| id as u32).collect()))
    }
}

/// What a line must be, for messages.
const EXPECTED: &str = r#"it must be {"text": "…"} or {"prompt": "…", "response": "…"}"#;

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, tokenizer};
    use super::*;
    use crate::checkpoint::{Entry, write_tensors};
    use serde_json::Map;

    /// A file `ids.safetensors` of these tensors.
    fn tensors(entries: &[(&str, Dtype, &[usize], &[u8])]) -> Folder {
        let folder = Folder::with("ids.safetensors", "");
        let entry =
            |&(name, dtype, shape, bytes): &(&str, Dtype, &[usize], _)| Entry { name: name.into(), dtype, shape: shape.to_vec(), bytes };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        write_tensors(&folder.0.path().join("sources/ids.safetensors"), entries, Map::new()).unwrap();
        folder
    }

    #[test]
    fn texts_end_with_the_end_of_text() {
        let tokenizer = tokenizer();
        let eos = tokenizer.eos().expect("it has one");
        let folder = Folder::with("a.txt", "Once upon a time\nthere was a girl.\n");
        folder.put("b.md", "The end.");
        let encode = |text: &str| tokenizer.encode(text).unwrap();
        let expected = [encode("Once upon a time\nthere was a girl.\n"), vec![eos], encode("The end."), vec![eos]].concat();
        let scored = vec![true; expected.len()];
        assert_eq!(folder.tokens(Some(&tokenizer)), (expected, scored));
    }

    #[test]
    fn a_model_may_say_what_ends_a_text() {
        let file = tokenizer().file().to_vec();
        let mut silent = Tokenizer::from_file(file, Path::new("tokenizer.json")).unwrap();
        let folder = Folder::with("a.txt", "The end.");
        let ids = silent.encode("The end.").unwrap();
        assert_eq!(folder.tokens(Some(&silent)).0, ids);
        silent.default_eos(Some(7));
        assert_eq!(folder.tokens(Some(&silent)).0, [ids, vec![7]].concat());
        silent.default_eos(Some(1000));
        assert_eq!(silent.eos(), Some(7));
    }

    #[test]
    fn only_responses_are_scored() {
        let tokenizer = tokenizer();
        let eos = tokenizer.eos().unwrap();
        let lines = [
            r#"{"text": "A story."}"#,
            "  ",
            r#"{"prompt": "Who is it?", "response": "It is a girl."}"#,
            r#"{"text": ""}"#,
            r#"{"response": "Yes.", "prompt": ""}"#,
        ];
        let folder = Folder::with("a.jsonl", lines.join("\n"));
        folder.put("0.txt", "A tale.");
        let encode = |text: &str| tokenizer.encode(text).unwrap();
        let parts = [("A tale.", true), ("A story.", true), ("Who is it?", false), ("It is a girl.", true), ("Yes.", true)];
        let (mut ids, mut scored) = (Vec::new(), Vec::new());
        for (text, of_part) in parts {
            let mut tokens = encode(text);
            if of_part {
                tokens.push(eos);
            }
            scored.extend(vec![of_part; tokens.len()]);
            ids.extend(tokens);
        }
        assert_eq!(folder.tokens(Some(&tokenizer)), (ids, scored));
    }

    /// More lines than are kept together stay in order.
    #[test]
    fn many_lines() {
        let tokenizer = tokenizer();
        let texts: Vec<String> = (0..TOGETHER + 10).map(|i| format!("number {i}")).collect();
        let folder = Folder::with("a.jsonl", texts.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect::<String>());
        let eos = tokenizer.eos();
        let expected: Vec<u32> = texts.iter().flat_map(|text| tokenizer.encode(text).unwrap().into_iter().chain(eos)).collect();
        assert_eq!(folder.tokens(Some(&tokenizer)).0, expected);
    }

    #[test]
    fn token_files() {
        let tokenizer = tokenizer();
        let eos = tokenizer.eos().unwrap();
        let raw = Folder::with("a.bin", [1, 0, 3, 2]);
        assert_eq!(raw.tokens(None).0, [1, 515]);
        assert_eq!(raw.tokens(Some(&tokenizer)).0, [1, 515, eos]);

        let numbers: [i32; 6] = [5, 6, 7, 8, 9, eos as i32];
        let bytes = bytemuck::cast_slice(&numbers);
        let flat = tensors(&[("ids", Dtype::I32, &[6], bytes)]);
        assert_eq!(flat.tokens(None).0, [5, 6, 7, 8, 9, eos]);
        // A row that ends with the end of text has it once.
        let rows = tensors(&[("ids", Dtype::I32, &[2, 3], bytes)]);
        assert_eq!(rows.tokens(Some(&tokenizer)).0, [5, 6, 7, eos, 8, 9, eos]);
        assert_eq!(rows.tokens(Some(&tokenizer)).1, [true; 7]);
    }

    #[test]
    fn lines_that_are_refused_are_named() {
        for (line, reason) in [
            ("{", "EOF"),
            ("[1]", "it must be"),
            (r#"{"texts": "a"}"#, "it must be"),
            (r#"{"text": 1}"#, "it must be"),
            (r#"{"text": "a", "response": "b"}"#, "it must be"),
            (r#"{"prompt": "a"}"#, "it must be"),
            (r#"{"prompt": "a", "response": ""}"#, "response is empty"),
        ] {
            let folder = Folder::with("a.jsonl", format!("{{\"text\": \"sound\"}}\n\n{line}\n{{"));
            let error = folder.refusal(Some(&tokenizer()));
            assert!(error.contains("a.jsonl: line 3: ") && error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn files_that_are_refused_are_named() {
        for (name, content, reasons) in [
            ("a.txt", &b""[..], &["is empty"][..]),
            ("a.txt", b"sound \xff", &["UTF-8", "byte 6"]),
            ("a.jsonl", b"\n\n", &["no tokens"]),
            ("a.bin", b"\x01\0\0", &["3 bytes"]),
            ("a.bin", b"\x01\0\xe8\x03", &["token 1 is 1000", "1000 tokens"]),
            ("a.safetensors", b"none", &["safetensors"]),
        ] {
            let error = Folder::with(name, content).refusal(Some(&tokenizer()));
            assert!(error.contains(name) && reasons.iter().all(|reason| error.contains(reason)), "{name}: {error}");
        }
        let error = Folder::with("a.txt", "a text").refusal(None);
        assert!(error.contains("a.txt") && error.contains("no tokenizer"), "{error}");
    }

    #[test]
    fn tensors_that_are_refused_are_named() {
        let (two, minus) = ([1u8, 0, 2, 0], (-1i32).to_le_bytes());
        for (entries, reason) in [
            (&[("tokens", Dtype::U16, &[2][..], &two[..])][..], "ids is missing"),
            (&[("ids", Dtype::U16, &[2], &two), ("mask", Dtype::U16, &[2], &two)], "tensor mask"),
            (&[("ids", Dtype::F16, &[2], &two)], "expected I32"),
            (&[("ids", Dtype::U16, &[1, 1, 2], &two)], "[1, 1, 2]"),
            (&[("ids", Dtype::U16, &[3, 0], &[])], "no tokens"),
            (&[("ids", Dtype::I32, &[1], &minus)], "token 0 is -1"),
        ] {
            let error = tensors(entries).refusal(None);
            assert!(error.contains("ids.safetensors") && error.contains(reason), "{error}");
        }
    }

    /// The first file is told of, whichever is read first.
    #[test]
    fn the_first_of_many_errors() {
        let folder = Folder::with("b.bin", [1, 0]);
        for name in ["c.bin", "d.bin", "e.bin", "f.bin"] {
            folder.put(name, [1, 0, 1]);
        }
        assert!((0..8).all(|_| folder.refusal(None).contains("c.bin")));
    }

    #[test]
    fn a_tokenizer_of_another_model() {
        let mut tokenizer = tokenizer();
        let folder = Folder::with("a.txt", "a text");
        let error = folder.open(Some(&tokenizer), 10).err().unwrap().to_string();
        assert!(error.contains("a.txt") && error.contains("10 rows"), "{error}");
        let mut silent = Tokenizer::from_file(tokenizer.file().to_vec(), Path::new("t.json")).unwrap();
        silent.default_eos(Some(1000));
        assert!(folder.refusal(Some(&silent)).contains("token 1000"));
        tokenizer.default_eos(Some(1000));
        assert!(folder.open(Some(&tokenizer), 1000).is_ok(), "its own stays");
    }
}
