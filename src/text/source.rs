//! Texts that a run names and reads more than once: first their contents, to know whether a
//! run can be resumed, then their tokens.

use super::Tokenizer;
use super::read::{STANDARD_INPUT, TextReader};
use super::stream::TokenStream;
use crate::error::{Error, Result};
use crate::progress::Progress;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A text: a file, or what came from standard input or a pipe.
pub struct Text {
    /// For messages.
    path: PathBuf,
    /// A temporary file with what can be read only once.
    kept: Option<File>,
    /// The folder of other temporary files.
    scratch: PathBuf,
}

impl Text {
    /// Fails where it is not there, or shows at its beginning that it is no text. What is no
    /// regular file is read to its end.
    pub fn open(path: &Path) -> Result<Self> {
        let is_input = path == Path::new(STANDARD_INPUT);
        if !is_input && std::fs::metadata(path).map_err(Error::io("read", path))?.is_file() {
            TextReader::open(path)?;
            return Ok(Self { path: path.to_owned(), kept: None, scratch: std::env::temp_dir() });
        }
        let name = if is_input { Path::new("standard input") } else { path };
        let mut from: Box<dyn Read> = match is_input {
            true => Box::new(std::io::stdin().lock()),
            false => Box::new(File::open(path).map_err(Error::io("read", path))?),
        };
        let scratch = std::env::temp_dir();
        let mut kept = temporary(&scratch)?;
        std::io::copy(&mut from, &mut kept).map_err(Error::io("read", name))?;
        let text = Self { path: name.to_owned(), kept: Some(kept), scratch };
        text.reader()?;
        Ok(text)
    }

    /// With the folder where token ids are kept on disk; the system's folder of temporary
    /// files may be in memory.
    pub fn with_scratch(self, folder: &Path) -> Self {
        Self { scratch: folder.to_owned(), ..self }
    }

    /// From its beginning.
    fn reader(&self) -> Result<TextReader<'_>> {
        match &self.kept {
            None => TextReader::open(&self.path),
            Some(kept) => TextReader::new(Box::new(rewound(kept, &self.path)?), &self.path),
        }
    }

    /// A hash of its bytes.
    pub fn hash(&self) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut file = match &self.kept {
            None => File::open(&self.path).map_err(Error::io("read", &self.path))?,
            Some(kept) => rewound(kept, &self.path)?,
        };
        hasher.update_reader(&mut file).map_err(Error::io("read", &self.path))?;
        Ok(hasher.finalize())
    }

    /// Its first ids; see [`TokenStream::first`].
    pub fn first_ids(&self, tokenizer: &Tokenizer, limit: Option<usize>, progress: &dyn Progress) -> Result<Vec<u32>> {
        TokenStream::new(tokenizer, self.reader()?).first(limit, progress)
    }

    /// All its ids, in a temporary file.
    pub fn ids(&self, tokenizer: &Tokenizer, progress: &dyn Progress) -> Result<Ids> {
        let mut file = BufWriter::with_capacity(1 << 20, temporary(&self.scratch)?);
        let failed = || Error::io("write a temporary file in", &self.scratch);
        let mut count = 0;
        TokenStream::new(tokenizer, self.reader()?).each(progress, |ids| {
            count += ids.len();
            file.write_all(bytemuck::cast_slice(ids)).map_err(failed())
        })?;
        let file = file.into_inner().map_err(|e| e.into_error()).map_err(failed())?;
        Ok(Ids { file, count, folder: self.scratch.clone() })
    }
}

/// Token ids on disk, four bytes each.
pub struct Ids {
    file: File,
    count: usize,
    /// For messages.
    folder: PathBuf,
}

impl Ids {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Some of them.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u32>> {
        let mut ids = vec![0u32; range.len()];
        let mut read = || {
            let mut file = &self.file;
            file.seek(SeekFrom::Start(4 * range.start as u64))?;
            file.read_exact(bytemuck::cast_slice_mut(&mut ids))
        };
        read().map_err(Error::io("read a temporary file in", &self.folder))?;
        Ok(ids)
    }
}

/// A file without a name, which goes when it is closed.
fn temporary(folder: &Path) -> Result<File> {
    tempfile::tempfile_in(folder).map_err(Error::io("create a temporary file in", folder))
}

fn rewound(file: &File, path: &Path) -> Result<File> {
    let read = Error::io("read", path);
    let rewind = || {
        let mut file = file.try_clone()?;
        file.rewind()?;
        Ok(file)
    };
    rewind().map_err(read)
}

#[cfg(test)]
mod tests {
    use super::super::corpus::testing::tokenizer;
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn ids_on_disk_are_those_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let text = "Once upon a time there was a girl. ".repeat(20_000);
        std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
        let (tokenizer, opened) = (tokenizer(), Text::open(&path).unwrap());
        let expected = tokenizer.encode(&text).unwrap();
        let ids = opened.ids(&tokenizer, &Silent).unwrap();
        assert_eq!((ids.len(), ids.is_empty()), (expected.len(), false));
        for range in [0..5, 70_000..70_100, ids.len() - 3..ids.len(), 7..7] {
            assert_eq!(ids.read(range.clone()).unwrap(), expected[range]);
        }
        let first = opened.first_ids(&tokenizer, Some(100), &Silent).unwrap();
        assert_eq!(first, expected[..100]);
        assert_eq!(opened.first_ids(&tokenizer, None, &Silent).unwrap(), expected);
    }

    #[test]
    fn a_pipe_is_read_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "\u{feff}Once upon a time").unwrap()
        });
        let text = Text::open(&path).unwrap();
        writer.join().unwrap();
        let tokenizer = tokenizer();
        for _ in 0..2 {
            assert_eq!(text.first_ids(&tokenizer, None, &Silent).unwrap(), tokenizer.encode("Once upon a time").unwrap());
            assert_eq!(text.hash().unwrap(), blake3::hash("\u{feff}Once upon a time".as_bytes()));
        }
    }
}
