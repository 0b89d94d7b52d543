//! The file that a corpus is mapped from: a safetensors file with the tensor `ids`, u16
//! where the vocabulary fits into that and else u32, and where some are not scored
//! `scored`, u8, 1 for those that are. Its metadata has a key, which says what it was
//! made from, and a hash of the tensors, which tells damage.

use super::Corpus;
use super::read::{IDS, Reader, Stream};
use super::sources::Source;
use crate::checkpoint::Bytes;
use crate::checkpoint::safetensors::read_header;
use crate::checkpoint::{Entry, write_tensors};
use crate::error::{Error, Result};
use crate::progress::{Progress, Unit};
use safetensors::Dtype;
use serde_json::Map;
use std::path::Path;

const SCORED: &str = "scored";
const KEY: &str = "thimble.corpus.key";
const HASH: &str = "thimble.corpus.hash";

/// What is where a cache is to be.
pub enum Found {
    /// The corpus that is asked for.
    Fitting(Corpus),
    /// Another corpus, or one that another version of this library made.
    Outdated,
    /// A sound file of something else.
    Foreign,
}

/// A hash of all that a corpus depends on: the contents of its files and how they are
/// read. Their names do not matter.
pub fn key(sources: &[Source], reader: &Reader, progress: &dyn Progress) -> Result<String> {
    progress.begin("looking through the corpus", sources.len() as u64, Unit::one("files"));
    let mut hasher = blake3::Hasher::new();
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    hasher.update(format!("{} {:?}", reader.vocab_size, reader.eos()).as_bytes());
    hasher.update(hash(&[reader.tokenizer.map_or(b"", |t| t.file())]).as_bytes());
    hasher.update(contents(sources)?.as_bytes());
    progress.end();
    Ok(hasher.finalize().to_hex().to_string())
}

/// A hash of files' contents and kinds.
pub fn contents(sources: &[Source]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for source in sources {
        hasher.update(format!("{:?}", source.kind).as_bytes());
        hasher.update(hash(&[&source.content()?]).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Of bytes that follow each other.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| _ = hasher.update_rayon(part));
    hasher.finalize().to_hex().to_string()
}

/// Writes a cache.
pub fn write(path: &Path, stream: &Stream, vocab_size: usize, key: &str) -> Result<()> {
    let length = stream.ids.len();
    let narrow: Option<Vec<u16>> = (vocab_size <= 1 << 16).then(|| stream.ids.iter().map(|&id| id as u16).collect());
    let (dtype, ids) = match &narrow {
        Some(ids) => (Dtype::U16, bytemuck::cast_slice(ids)),
        None => (Dtype::U32, bytemuck::cast_slice(&stream.ids)),
    };
    let scored = (!stream.unscored.is_empty()).then(|| {
        let mut scored = vec![1; length];
        stream.unscored.iter().for_each(|range| scored[range.clone()].fill(0));
        scored
    });
    let mut entries = vec![Entry { name: IDS.into(), dtype, shape: vec![length], bytes: ids }];
    entries.extend(scored.as_deref().map(|bytes| Entry { name: SCORED.into(), dtype: Dtype::U8, shape: vec![length], bytes }));
    let metadata = [(KEY, key.to_owned()), (HASH, hash(&[ids, scored.as_deref().unwrap_or_default()]))];
    write_tensors(path, entries, Map::from_iter(metadata.map(|(name, value)| (name.to_owned(), value.into()))))
}

/// Opens a cache. An error says that it is damaged.
pub fn open(path: &Path, key: &str) -> Result<Found> {
    let bytes = Bytes::map(path)?;
    let (start, header) = read_header(&bytes, path)?;
    let note = |name| header.metadata().as_ref().and_then(|metadata| metadata.get(name)).map(String::as_str);
    match note(KEY) {
        None => return Ok(Found::Foreign),
        Some(other) if other != key => return Ok(Found::Outdated),
        Some(_) => {}
    }
    let tensor = |name| {
        let info = header.info(name)?;
        Some((info, bytes.slice(start + info.data_offsets.0..start + info.data_offsets.1)))
    };
    let (info, ids) = tensor(IDS).ok_or_else(|| Error::MissingTensor { name: IDS.into(), path: path.to_owned() })?;
    let dtype = info.dtype;
    let scored = tensor(SCORED);
    let fits = scored.as_ref().is_none_or(|(scored, _)| scored.dtype == Dtype::U8 && scored.shape == info.shape);
    let scored = scored.map(|(_, bytes)| bytes);
    if !fits || !matches!(dtype, Dtype::U16 | Dtype::U32) || note(HASH) != Some(&hash(&[&ids, scored.as_deref().unwrap_or_default()])) {
        return Err(Error::format(path, "damaged: its tensors are not those that were written"));
    }
    Ok(Found::Fitting(Corpus { ids, dtype, scored }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, VOCABULARY, other_tokenizer, tokenizer};
    use super::super::{Corpus, Path, Tokenizer};
    use crate::progress::Silent;

    const STORY: &str = "{\"prompt\": \"Once upon a time\", \"response\": \"there was a girl.\"}";

    fn all(corpus: &Corpus) -> (Vec<u32>, Vec<bool>) {
        (corpus.ids(0..corpus.len()).collect(), corpus.scored(0..corpus.len()))
    }

    #[test]
    fn files_are_tokenised_once() {
        let tokenizer = tokenizer();
        let folder = Folder::with("a.jsonl", STORY);
        let (built, read) = folder.open(Some(&tokenizer), VOCABULARY).unwrap();
        assert!(read);
        let written = std::fs::read(folder.cache()).unwrap();
        let when = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
        let before = when(&folder.cache());

        let (opened, read) = folder.open(Some(&tokenizer), VOCABULARY).unwrap();
        assert!(!read);
        assert_eq!((when(&folder.cache()), std::fs::read(folder.cache()).unwrap()), (before, written));
        assert_eq!(all(&opened), all(&built));
        assert!(all(&built).1.contains(&false) && built.len() > 5 && !built.is_empty());
    }

    #[test]
    fn what_it_depends_on() {
        let tokenizer = tokenizer();
        let folder = Folder::with("a.jsonl", STORY);
        let read = |tokenizer: &Tokenizer, vocabulary| folder.open(Some(tokenizer), vocabulary).unwrap().1;
        assert!(read(&tokenizer, VOCABULARY));
        assert!(read(&tokenizer, 1000), "another vocabulary");
        assert!(read(&other_tokenizer("unigram.model"), 1000), "another tokenizer");
        assert!(!read(&other_tokenizer("unigram.model"), 1000));
        folder.put("a.jsonl", STORY.replace("girl", "bird"));
        assert!(read(&tokenizer, 1000), "another content");
        folder.put("b.txt", "The end.");
        assert!(read(&tokenizer, 1000), "one file more");
        let sources = folder.0.path().join("sources");
        std::fs::rename(sources.join("b.txt"), sources.join("c.txt")).unwrap();
        assert!(!read(&tokenizer, 1000), "another name");
        std::fs::rename(sources.join("c.txt"), sources.join("c.bin")).unwrap();
        assert!(folder.refusal(Some(&tokenizer)).contains("c.bin"), "another kind");
        let mut silent = Tokenizer::from_file(tokenizer.file().to_vec(), Path::new("t.json")).unwrap();
        std::fs::remove_file(sources.join("c.bin")).unwrap();
        assert!(read(&silent, 1000), "no end of text");
        silent.default_eos(tokenizer.eos());
        assert!(read(&silent, 1000), "an end of text");
    }

    #[test]
    fn ids_take_two_bytes_where_they_can() {
        let folder = Folder::with("a.bin", [1, 0, 255, 255]);
        let (narrow, _) = folder.open(None, 1 << 16).unwrap();
        let (wide, _) = folder.open(None, (1 << 16) + 1).unwrap();
        assert_eq!((narrow.ids.len(), wide.ids.len()), (4, 8));
        assert_eq!((narrow.len(), all(&narrow).0), (2, vec![1, 65535]));
        assert_eq!((wide.len(), all(&wide).0), (2, vec![1, 65535]));
    }

    #[test]
    fn damage_is_mended() {
        let tokenizer = tokenizer();
        let folder = Folder::with("a.jsonl", STORY);
        let built = all(&folder.open(Some(&tokenizer), VOCABULARY).unwrap().0);
        let written = std::fs::read(folder.cache()).unwrap();
        let flipped = |place: usize| {
            let mut bytes = written.clone();
            bytes[place] ^= 1;
            bytes
        };
        let ids = written.len() - 5 * built.0.len();
        for damaged in [flipped(ids), flipped(written.len() - 1), written[..written.len() - 1].to_vec(), Vec::new(), b"none".to_vec()] {
            std::fs::write(folder.cache(), damaged).unwrap();
            let (mended, read) = folder.open(Some(&tokenizer), VOCABULARY).unwrap();
            assert!(read);
            assert_eq!((all(&mended), std::fs::read(folder.cache()).unwrap()), (built.clone(), written.clone()));
        }
    }

    #[test]
    fn other_files_are_not_written_over() {
        let folder = Folder::with("a.bin", [1, 0]);
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-gqa-tied/model.safetensors");
        std::fs::copy(&weights, folder.cache()).unwrap();
        let error = folder.refusal(None);
        assert!(error.contains("corpus.safetensors") && error.contains("another file"), "{error}");
        assert_eq!(std::fs::read(folder.cache()).unwrap(), std::fs::read(&weights).unwrap());
    }

    /// A cache among the sources of a folder is none of them.
    #[test]
    fn the_cache_is_no_source() {
        let folder = Folder::with("a.bin", [1, 0]);
        let sources = folder.0.path().join("sources");
        let open =
            || Corpus::open_or_build(std::slice::from_ref(&sources), None, 1000, &sources.join("cache.safetensors"), &Silent).unwrap();
        assert_eq!((open().len(), open().len()), (1, 1));
    }
}
