//! sentencepiece's tokenizer.model: a ModelProto.
//!
//! Source: google/sentencepiece, `src/sentencepiece_model.proto`; for what makes
//! a file sound also `src/model_interface.cc` (`InitializePieces`).

use super::error::VocabularyError;
use super::protobuf::{self, Value};
use super::sentencepiece::{Algorithm, Kind, Normalizer, Piece, Vocabulary};

/// Whether bytes begin as such a file does: with a piece.
pub fn recognises(bytes: &[u8]) -> bool {
    const PIECES: u8 = 1 << 3 | 2;
    // Behind its length comes any field of a piece: text, score or kind.
    let field = bytes.iter().skip(1).skip_while(|&&b| b >= 0x80).nth(1);
    bytes.first() == Some(&PIECES) && field.is_some_and(|tag| [0x0a, 0x15, 0x18].contains(tag))
}

/// The whole file. The specs are looked for, though every field of theirs has a
/// default: where they are not there the file was cut.
pub fn read(bytes: &[u8]) -> Result<Vocabulary, VocabularyError> {
    let mut vocabulary = Vocabulary {
        pieces: Vec::new(),
        algorithm: Algorithm::Unigram,
        normalizer: Normalizer { charsmap: Vec::new(), add_dummy_prefix: true, remove_extra_whitespaces: true, escape_whitespaces: true },
        bos: Some(1),
        eos: Some(2),
    };
    let (mut trained, mut normalized) = (false, false);
    for field in protobuf::fields(bytes) {
        let (number, value) = field.map_err(|_| VocabularyError::Cut { pieces: vocabulary.pieces.len() })?;
        match number {
            1 => vocabulary.pieces.push(piece(value).ok_or(VocabularyError::BrokenPiece(vocabulary.pieces.len()))?),
            2 => {
                trained = true;
                trainer_spec(value, &mut vocabulary)?;
            }
            3 => {
                normalized = true;
                normalizer_spec(value, &mut vocabulary.normalizer).ok_or(VocabularyError::BrokenSpec("normalizer_spec"))?;
            }
            _ => {} // self-test data, a denormalizer
        }
    }
    if !(trained && normalized) {
        return Err(VocabularyError::NoSpecs { pieces: vocabulary.pieces.len() });
    }
    // An id that no piece has stands for "none", as -1 does.
    let exists = |id: &u32| (*id as usize) < vocabulary.pieces.len();
    vocabulary.bos = vocabulary.bos.filter(exists);
    vocabulary.eos = vocabulary.eos.filter(exists);
    Ok(vocabulary)
}

fn piece(value: Value) -> Option<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for field in protobuf::fields(value.bytes()?) {
        match field.ok()? {
            (1, text) => piece.text = std::str::from_utf8(text.bytes()?).ok()?.to_owned(),
            (2, score) => piece.score = score.float()?,
            (3, kind) => {
                piece.kind = match kind.integer()? {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    _ => return None,
                }
            }
            _ => {}
        }
    }
    Some(piece)
}

fn trainer_spec(value: Value, vocabulary: &mut Vocabulary) -> Result<(), VocabularyError> {
    let broken = || VocabularyError::BrokenSpec("trainer_spec");
    let id = |value: Value| value.integer().map(|id| u32::try_from(id).ok()).ok_or_else(broken);
    for field in protobuf::fields(value.bytes().ok_or_else(broken)?) {
        match field.map_err(|_| broken())? {
            (3, kind) => {
                vocabulary.algorithm = match kind.integer().ok_or_else(broken)? {
                    1 => Algorithm::Unigram,
                    2 => Algorithm::Bpe,
                    3 => return Err(VocabularyError::Algorithm("type word".into())),
                    4 => return Err(VocabularyError::Algorithm("type char".into())),
                    other => return Err(VocabularyError::Algorithm(format!("unknown type {other}"))),
                }
            }
            (24, suffix) if suffix.flag().ok_or_else(broken)? => {
                return Err(VocabularyError::WhitespaceAsSuffix);
            }
            (41, bos) => vocabulary.bos = id(bos)?,
            (42, eos) => vocabulary.eos = id(eos)?,
            _ => {}
        }
    }
    Ok(())
}

fn normalizer_spec(value: Value, normalizer: &mut Normalizer) -> Option<()> {
    for field in protobuf::fields(value.bytes()?) {
        match field.ok()? {
            (2, charsmap) => normalizer.charsmap = charsmap.bytes()?.to_vec(),
            (3, flag) => normalizer.add_dummy_prefix = flag.flag()?,
            (4, flag) => normalizer.remove_extra_whitespaces = flag.flag()?,
            (5, flag) => normalizer.escape_whitespaces = flag.flag()?,
            _ => {}
        }
    }
    Some(())
}
