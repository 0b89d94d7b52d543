//! What a teacher said of every token of a corpus, on disk: its most likely tokens with
//! their probabilities, and what is left for all others. Written once; a student can
//! then be trained many times, and where the teacher does not fit.
//!
//! A safetensors file of one tensor `records` u8 `[pieces, tokens, bytes]`. A record is
//! k ids (u16 where the vocabulary allows, else u32), k logarithms of probabilities (f16),
//! and that of the rest (f16). Pieces are those of training in their order, then those
//! that are held out. An unfinished file is gone on with.

use super::divergence::{first, log_of_rest};
use crate::checkpoint::safetensors::read_header;
use crate::checkpoint::{Bytes, header_bytes, open_exclusive, part_of};
use crate::compress::to_vec;
use crate::compress::train::{Batch, Network, Recording, run};
use crate::error::{Error, Result};
use crate::model::rows_at_a_time;
use crate::progress::{Progress, Unit};
use crate::text::corpus::{Piece, Pieces};
use half::f16;
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// What a cache holds; a file that holds another is made again.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// All that decides what the teacher says: its weights, the corpus and how it is cut.
    pub key: String,
    /// Pieces of training.
    pub training: u64,
    /// Pieces behind them.
    pub held_out: usize,
    /// Tokens of a piece.
    pub length: usize,
    /// Tokens of a record.
    pub top_k: usize,
    /// Tokens that probabilities are over: those that the student has too.
    pub vocab_size: usize,
    /// What logits were divided by.
    pub temperature: f64,
}

/// An opened file.
pub struct TopCache {
    contents: Contents,
    records: Bytes,
    device: Device,
}

const KEY: &str = "thimble.teacher";
const RECORDS: &str = "records";

impl Contents {
    fn id_bytes(&self) -> usize {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    fn record_bytes(&self) -> usize {
        self.top_k * (self.id_bytes() + 2) + 2
    }

    fn shape(&self) -> Vec<usize> {
        vec![self.training as usize + self.held_out, self.length, self.record_bytes()]
    }

    fn name(&self) -> String {
        let Contents { key, training, held_out, length, top_k, vocab_size, temperature } = self;
        format!("{key} {training}+{held_out}x{length} top {top_k} of {vocab_size} at {temperature}")
    }

    fn header(&self) -> Vec<u8> {
        let metadata = Map::from_iter([(KEY.to_owned(), Value::String(self.name()))]);
        let header = header_bytes(&[(RECORDS, Dtype::U8, self.shape())], metadata);
        (header.len() as u64).to_le_bytes().into_iter().chain(header).collect()
    }
}

impl TopCache {
    /// Opens a file, or makes it with the teacher that `teacher` loads.
    pub fn open_or_make(
        path: &Path,
        contents: Contents,
        teacher: impl FnOnce() -> Result<Network>,
        pieces: &mut Pieces,
        device: Device,
        progress: &dyn Progress,
    ) -> Result<Self> {
        if path.exists() {
            match Self::open(path, contents.clone(), device) {
                Ok(cache) => return Ok(cache),
                Err(_) if !is_cache(path) => {
                    let reason = "it is there already and no teacher's cache, so that it is not written over: name another file";
                    return Err(Error::format(path, reason));
                }
                Err(reason) => tracing::warn!("{}: it is made again: {reason}", path.display()),
            }
        }
        make(path, &contents, &teacher()?, pieces, progress)?;
        Self::open(path, contents, device)
    }

    fn open(path: &Path, contents: Contents, device: Device) -> Result<Self> {
        let bytes = Bytes::map(path)?;
        let (start, header) = read_header(&bytes, path)?;
        let found = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        if found != Some(&contents.name()) {
            return Err(Error::format(path, "it is of another teacher, text or recipe"));
        }
        Ok(Self { records: bytes.slice(start..bytes.len()), contents, device })
    }

    /// Tokens that probabilities are over.
    pub fn vocabulary(&self) -> i64 {
        self.contents.vocab_size as i64
    }

    /// Ids (i64), logarithms of probabilities, both `[tokens, k]`, and those of the rest
    /// `[tokens]`, of a batch.
    pub fn read(&self, batch: &Batch) -> Result<[Tensor; 3]> {
        let Contents { top_k, length, training, .. } = self.contents;
        let (record, id) = (self.contents.record_bytes(), self.contents.id_bytes());
        let first = match batch.numbers.start.checked_sub(Batch::HELD_OUT) {
            Some(held_out) => training + held_out,
            None => batch.numbers.start,
        } as usize;
        let piece = length * record;
        let bytes = &self.records[first * piece..(first + batch.pieces.len()) * piece];
        let float = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let (mut ids, mut tops, mut rests) = (Vec::new(), Vec::new(), Vec::new());
        for record in bytes.chunks_exact(record) {
            let (some, floats) = record.split_at(top_k * id);
            ids.extend(some.chunks_exact(id).map(|b| b.iter().rev().fold(0i64, |sum, &byte| sum << 8 | i64::from(byte))));
            tops.extend(floats[..2 * top_k].chunks_exact(2).map(float));
            rests.push(float(&floats[2 * top_k..]));
        }
        let wide = [-1, top_k as i64];
        let all = [Tensor::from_slice(&ids).view(wide), Tensor::from_slice(&tops).view(wide), Tensor::from_slice(&rests)];
        Ok(all.map(|tensor| tensor.to_device(self.device)))
    }
}

/// Whether a file is one of these, sound or not.
fn is_cache(path: &Path) -> bool {
    let header =
        |bytes: &Bytes| read_header(bytes, path).is_ok_and(|(_, header)| header.metadata().as_ref().is_some_and(|m| m.contains_key(KEY)));
    Bytes::map(path).is_ok_and(|bytes| header(&bytes))
}

/// Pieces that the teacher reads together.
const AT_A_TIME: usize = 8;

fn make(path: &Path, contents: &Contents, teacher: &Network, pieces: &mut Pieces, progress: &dyn Progress) -> Result<()> {
    let part = part_of(path);
    let header = contents.header();
    let piece_bytes = (contents.length * contents.record_bytes()) as u64;
    let Some(mut file) = open_exclusive(&part).map_err(Error::io("write", &part))? else {
        return Err(Error::Busy { path: path.to_owned(), holder: "another run".into() });
    };
    go_on(&mut file, &header).map_err(Error::io("write", &part))?;
    let all = contents.training + contents.held_out as u64;
    let length = file.metadata().map_err(Error::io("read", &part))?.len();
    let done = (length - header.len() as u64) / piece_bytes;
    // What was half written is written again.
    let end = header.len() as u64 + done * piece_bytes;
    file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(Error::io("write", &part))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    progress.begin("asking the teacher", all, Unit::one("sequences"));
    progress.advance(done);
    let held_out = pieces.validation();
    for from in (done..all).step_by(AT_A_TIME) {
        let to = (from + AT_A_TIME as u64).min(all);
        let some: Vec<Piece> = (from..to)
            .map(|n| n.checked_sub(contents.training).map_or_else(|| pieces.training(n), |n| held_out[n as usize].clone()))
            .collect();
        out.write_all(&records(contents, teacher, &some)).map_err(Error::io("write", &part))?;
        progress.advance(to - from);
        if progress.is_interrupted() {
            out.flush().map_err(Error::io("write", &part))?;
            return Err(Error::Interrupted);
        }
    }
    progress.end();
    let file = out.into_inner().map_err(|e| e.into_error()).map_err(Error::io("write", &part))?;
    file.sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(Error::io("write", path))
}

/// Keeps an unfinished file of the same contents, and begins any other anew.
fn go_on(file: &mut File, header: &[u8]) -> std::io::Result<()> {
    let mut found = vec![0; header.len()];
    if std::io::Read::read_exact(file, &mut found).is_ok() && found == header {
        return Ok(());
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(header)
}

fn records(contents: &Contents, teacher: &Network, pieces: &[Piece]) -> Vec<u8> {
    let _no_grad = tch::no_grad_guard();
    let sequences: Vec<&[u32]> = pieces.iter().map(|piece| &piece.ids[..contents.length]).collect();
    let hidden = run(teacher, &sequences, Recording::whole(teacher), &mut |_, _| ());
    let head = teacher.lm_head();
    let mut bytes = Vec::with_capacity(pieces.len() * contents.length * contents.record_bytes());
    let flat = hidden.flatten(0, 1);
    let (tokens, at_a_time) = (flat.size()[0], rows_at_a_time(teacher.spec()) as i64);
    for start in (0..tokens).step_by(at_a_time as usize) {
        let some = flat.narrow(0, start, at_a_time.min(tokens - start));
        let logits = first(&head.forward(&some), contents.vocab_size as i64).to_kind(Kind::Float);
        let log_p = (logits / contents.temperature).log_softmax(-1, None);
        let (top, ids) = log_p.topk(contents.top_k as i64, -1, true, true);
        let rests = to_vec(&log_of_rest(&top));
        let ids: Vec<i64> = Vec::try_from(ids.to_device(Device::Cpu).contiguous().view(-1)).expect("i64 on the CPU");
        for ((ids, top), rest) in ids.chunks_exact(contents.top_k).zip(to_vec(&top).chunks_exact(contents.top_k)).zip(rests) {
            ids.iter().for_each(|id| bytes.extend(&id.to_le_bytes()[..contents.id_bytes()]));
            top.iter().chain([&rest]).for_each(|x| bytes.extend(f16::from_f32(*x).to_le_bytes()));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compute;
    use crate::compress::train::Trained;
    use crate::model::DenseModel;

    /// Records that are made in chunks of rows are those of all rows at once.
    #[test]
    fn records_are_those_of_all_logits() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-gqa-tied");
        let store = DenseModel::open_hugging_face(&dir).unwrap();
        let teacher = Network::trained(&store, Compute::CPU, &Trained::Parameters(Vec::new())).unwrap();
        let (vocab_size, length) = (teacher.spec().vocab_size, 20);
        let ids = |first: usize| (0..=length).map(|i| ((first + 7 * i) % vocab_size) as u32).collect();
        let pieces: Vec<Piece> = (0..4).map(|i| Piece { ids: ids(i), scored: vec![true; length] }).collect();
        assert!(pieces.len() * length > 2 * rows_at_a_time(teacher.spec()), "several chunks");
        let contents = Contents { key: String::new(), training: 4, held_out: 0, length, top_k: 3, vocab_size, temperature: 2.0 };
        let found = records(&contents, &teacher, &pieces);

        let _no_grad = tch::no_grad_guard();
        let sequences: Vec<&[u32]> = pieces.iter().map(|piece| &piece.ids[..length]).collect();
        let hidden = run(&teacher, &sequences, Recording::whole(&teacher), &mut |_, _| ());
        let (top, ids) = (teacher.lm_head().forward(&hidden).flatten(0, 1) / 2.0).log_softmax(-1, None::<Kind>).topk(3, -1, true, true);
        for (i, record) in found.chunks_exact(contents.record_bytes()).enumerate() {
            for k in 0..3 {
                let id = u16::from_le_bytes([record[2 * k], record[2 * k + 1]]);
                let value = f16::from_le_bytes([record[6 + 2 * k], record[7 + 2 * k]]).to_f64();
                let place = [i as i64, k as i64];
                assert_eq!(i64::from(id), ids.int64_value(&place), "token {i}, place {k}");
                assert!((value - top.double_value(&place)).abs() < 4e-3, "token {i}, place {k}");
            }
        }
        assert_eq!(found.len(), pieces.len() * length * contents.record_bytes());
    }
}
