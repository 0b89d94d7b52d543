//! What a model argument holds, told apart by content: a Hugging Face directory,
//! a native file or its directory, a llama2.c `.bin`.

use super::special;
use crate::checkpoint::safetensors::SINGLE;
use crate::checkpoint::{Bytes, adapter, hub, llama2c, pytorch};
use crate::error::{Error, Result};
use crate::input::is_there;
use crate::model::families::CONFIG;
use crate::model::{DenseModel, FileLayout, ModelSpec};
use crate::quant::native::{self, NativeFile, Notes};
use crate::quant::{BitNetModel, Weight, WeightStore};
use crate::text::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened model.
pub struct Model {
    /// As the user named it.
    pub path: PathBuf,
    /// Its weights.
    pub store: Arc<dyn WeightStore>,
    /// The native file, where it is one.
    pub native: Option<Arc<NativeFile>>,
    /// How its files hold parameters, where it is a Hugging Face directory.
    pub layout: Option<FileLayout>,
    /// Its tokenizer, where one was found.
    pub tokenizer: Option<Tokenizer>,
    /// What it says of how it was made; its chat template, where one was found.
    pub notes: Notes,
}

/// Opens whatever `path` holds, but for its tokenizer.
pub fn open_weights(path: &Path) -> Result<Model> {
    recognise(path, Wanted::None, NativeFile::expect_undamaged_once)
}

/// Opens weights without comparing hashes, for callers that compare them themselves.
pub fn open_unverified(path: &Path) -> Result<Model> {
    recognise(path, Wanted::None, |_| Ok(()))
}

/// Opens whatever `path` holds; `tokenizer` overrides or supplies one.
pub fn open(path: &Path, tokenizer: Option<&Path>) -> Result<Model> {
    let mut model = recognise(path, tokenizer.map_or(Wanted::Own, Wanted::At), NativeFile::expect_undamaged_once)?;
    let rows = model.spec().vocab_size;
    if let Some(tokenizer) = &mut model.tokenizer {
        tokenizer.limit_to(rows);
    }
    Ok(model)
}

impl Model {
    /// What it is.
    pub fn spec(&self) -> &ModelSpec {
        self.store.spec()
    }

    /// The tokenizer, or an error that says how to supply one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            let readable = Tokenizer::READABLE;
            Error::format(&self.path, format!("no tokenizer was found with this model; name one with --tokenizer FILE ({readable})"))
        })
    }

    /// Whether some of its weights are codes.
    pub fn is_packed(&self) -> Result<bool> {
        for parameter in self.spec().parameters() {
            if let Weight::Packed(_) = self.store.stored(&parameter.name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes of the files its weights lie in.
    pub fn size_bytes(&self) -> u64 {
        self.store.files().iter().filter_map(|f| std::fs::metadata(f.as_path()).ok()).map(|m| m.len()).sum()
    }

    /// The files it was read from: its weights, its tokenizer, and what lies beside them in its
    /// folder and says how they are to be read.
    pub fn input_files(&self) -> Vec<PathBuf> {
        const BESIDE: [&str; 6] = ["json", "model", "txt", "jinja", "py", "bin"];
        let says_how = |path: &PathBuf| path.extension().is_some_and(|ending| BESIDE.iter().any(|known| ending == *known));
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut files: Vec<_> = self.store.files().iter().map(|file| file.to_path_buf()).collect();
        files.extend(entries.map(|entry| entry.path()).filter(says_how));
        files.extend(self.tokenizer.iter().map(|tokenizer| tokenizer.path().to_owned()));
        if !self.path.is_dir() {
            files.push(self.path.clone());
        }
        files
    }

    /// Bytes a token reads from memory: every weight, but one row of what is looked up
    /// (positions, and the embedding where it is not the head too).
    pub fn bytes_per_token(&self) -> Result<u64> {
        let spec = self.spec();
        let mut bytes = 0;
        for parameter in spec.parameters() {
            let size = self.store.stored(&parameter.name)?.len_bytes();
            bytes += if spec.is_looked_up(&parameter) { size / parameter.shape[0] } else { size } as u64;
        }
        Ok(bytes)
    }
}

/// The tokenizer that is wanted.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    None,
    /// The model's, where it has one.
    Own,
    /// One that was named.
    At(&'a Path),
}

impl Wanted<'_> {
    fn open(self, own: impl FnOnce() -> Result<Option<Tokenizer>>) -> Result<Option<Tokenizer>> {
        match self {
            Self::None => Ok(None),
            Self::Own => own(),
            Self::At(file) => Tokenizer::open(file).map(Some),
        }
    }
}

/// Check of a native file before it is used.
type Verify = fn(&NativeFile) -> Result<()>;

fn recognise(path: &Path, wanted: Wanted, verify: Verify) -> Result<Model> {
    if path.is_dir() {
        let path = &hub::snapshot(path)?;
        let native = path.join(native::FILE_NAME);
        return match () {
            () if is_there(&native) => open_native(path, &native, wanted, verify),
            () if is_there(&path.join(CONFIG)) => open_hugging_face(path, wanted),
            () => Err(adapter::alone(path).unwrap_or_else(|| no_model(path))),
        };
    }
    let bytes = Bytes::map(path)?;
    match () {
        () if NativeFile::recognises(&bytes) => open_native(path, path, wanted, verify),
        () if bytes.starts_with(b"GGUF") => {
            Err(Error::format(path, "GGUF files cannot be read yet; start from the Hugging Face directory"))
        }
        () if bytes.get(8) == Some(&b'{') => {
            Err(Error::format(path, format!("a safetensors file without a configuration: name the folder that holds it and {CONFIG}")))
        }
        () if pytorch::recognises(&bytes) => {
            Err(Error::format(path, format!("a PyTorch checkpoint without a configuration: name the folder that holds it and {CONFIG}")))
        }
        () if bytes.trim_ascii_start().starts_with(b"{") => {
            Err(Error::format(path, "a JSON file: name the folder of the model that it belongs to"))
        }
        () if llama2c::is_versioned(&bytes) => {
            Err(Error::format(path, "a llama2.c checkpoint of a later version than 0: export it with `export.py --version 0`"))
        }
        () if llama2c::Header::read(&bytes).is_some() => open_llama2c(path, wanted),
        () => {
            Err(Error::truncated(path, "not a model that is known: neither a thimble file nor a llama2.c checkpoint (truncated or empty?)"))
        }
    }
}

/// The error for a folder without a model, which names those of its folders that hold one.
fn no_model(path: &Path) -> Error {
    const SHOWN: usize = 5;
    let inner = hub::folders_with(path, &[CONFIG, native::FILE_NAME]);
    let names: Vec<_> = inner.iter().take(SHOWN).filter_map(|folder| folder.file_name()).map(|name| name.display().to_string()).collect();
    let inner = match &names[..] {
        [] => String::new(),
        names => format!(" (there are some in {}{})", names.join(", "), if inner.len() > SHOWN { ", …" } else { "" }),
    };
    Error::format(path, format!("holds neither {} nor {CONFIG}: name the folder or the file of a model{inner}", native::FILE_NAME))
}

fn open_native(path: &Path, file: &Path, wanted: Wanted, verify: Verify) -> Result<Model> {
    let mut native = NativeFile::open(file)?;
    verify(&native)?;
    let tokenizer = wanted.open(|| native.tokenizer().map(|bytes| Tokenizer::from_file(bytes.to_vec(), file)).transpose())?;
    // Of its own tokenizer the file says what goes before a text.
    if let (Wanted::At(_), Some(tokenizer)) = (wanted, &tokenizer) {
        let rows = native.spec().vocab_size;
        special::put_prefix(native.special_mut(), tokenizer, rows)?;
    }
    let native = Arc::new(native);
    let notes = native.notes().clone();
    Ok(Model { path: path.to_owned(), store: native.clone(), native: Some(native), layout: None, tokenizer, notes })
}

fn open_hugging_face(dir: &Path, wanted: Wanted) -> Result<Model> {
    let mut model = DenseModel::open_hugging_face(dir)?;
    let tokenizer = wanted.open(|| Tokenizer::find(dir))?;
    let config = crate::json::read_optional(&dir.join("tokenizer_config.json"))?;
    let rows = model.spec().vocab_size;
    special::complete(model.special_mut(), dir, &config, tokenizer.as_ref(), rows)?;
    let weights = dir.join(SINGLE);
    let notes = if weights.exists() { Notes::read(&weights)? } else { Notes::default() };
    let notes = Notes { chat_template: chat_template(dir, &config)?, ..notes };
    let layout = Some(model.layout().clone());
    let store: Arc<dyn WeightStore> = if model.is_quantized() { Arc::new(BitNetModel::new(model)) } else { Arc::new(model) };
    Ok(Model { path: dir.to_owned(), store, native: None, layout, tokenizer, notes })
}

/// A template in a file of its own wins over one in the tokenizer's configuration, as in
/// transformers (`tokenization_utils_base.py`).
fn chat_template(dir: &Path, config: &Value) -> Result<Value> {
    let file = dir.join("chat_template.jinja");
    match is_there(&file) {
        true => Ok(crate::text::read::whole(&file)?.into()),
        false => Ok(config["chat_template"].clone()),
    }
}

fn open_llama2c(path: &Path, wanted: Wanted) -> Result<Model> {
    let mut model = DenseModel::open_llama2c(path)?;
    let tokenizer = wanted.open(|| tokenizer_beside(path).map(|file| Tokenizer::open(&file)).transpose())?;
    if let Some(tokenizer) = &tokenizer {
        let rows = model.spec().vocab_size;
        special::put_prefix(model.special_mut(), tokenizer, rows)?;
    }
    Ok(Model { path: path.to_owned(), store: Arc::new(model), native: None, layout: None, tokenizer, notes: Notes::default() })
}

/// `tokenizer.bin`, or the only `tok*.bin`, in the folder of a llama2.c file.
fn tokenizer_beside(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let usual = folder.join("tokenizer.bin");
    if usual.exists() {
        return Some(usual);
    }
    let is_tokenizer = |name: &str| name.starts_with("tok") && name.ends_with(".bin");
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    let mut found = files.filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(is_tokenizer));
    found.next().filter(|_| found.next().is_none())
}
