//! The cases of `python-compat/write_wild.py`: configurations as transformers saves them,
//! weights drawn by name, and the logits that transformers computes from both.
#![allow(dead_code)] // each test file uses some of it

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One family in one version of transformers.
pub struct Group {
    /// File name without extension, such as `llama-v5`.
    pub name: String,
    /// The prompt.
    pub ids: Vec<u32>,
    /// The default configuration first, then each change of it.
    pub cases: Vec<Case>,
    layouts: Vec<BTreeMap<String, Draw>>,
    logits: BTreeMap<String, Vec<f32>>,
}

/// One configuration and what it gives.
pub struct Case {
    /// The change, such as `hidden_act="relu"`, or `default`.
    pub name: String,
    /// Whole `config.json`.
    pub config: Value,
    /// Greatest difference of transformers' logits from those of the default; none where the
    /// vocabulary has another size.
    pub effect: Option<f64>,
    layout: usize,
    logits: String,
}

/// Shape of a tensor, and the interval `centre ± spread` that its numbers are uniform in.
struct Draw {
    shape: Vec<usize>,
    centre: f64,
    spread: f64,
}

/// All groups, by name.
pub fn groups() -> Vec<Group> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wild");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("tests/data/wild")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    files.iter().map(|file| Group::read(file)).collect()
}

impl Group {
    fn read(file: &Path) -> Self {
        let value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let bytes = std::fs::read(file.with_extension("safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let default = value["default"].as_object().unwrap();
        let mut cases =
            vec![Case { name: "default".into(), config: default.clone().into(), effect: None, layout: 0, logits: "default".into() }];
        cases.extend(list(&value["cases"]).iter().map(|case| Case::read(case, default)));
        Self {
            name: file.file_stem().unwrap().to_str().unwrap().to_owned(),
            ids: list(&value["ids"]).iter().map(|id| id.as_u64().unwrap() as u32).collect(),
            layouts: list(&value["layouts"]).iter().map(layout).collect(),
            logits: tensors.iter().map(|(name, tensor)| (name.to_owned(), numbers(tensor.data()))).collect(),
            cases,
        }
    }

    /// Logits of transformers, `[ids, vocab]`.
    pub fn expected(&self, case: &Case) -> &[f32] {
        &self.logits[&case.logits]
    }

    /// Writes `config.json` and `model.safetensors` of a case.
    pub fn write(&self, case: &Case, dir: &Path) {
        std::fs::write(dir.join("config.json"), case.config.to_string()).unwrap();
        let tensors: Vec<_> = self.layouts[case.layout].iter().map(|(name, draw)| (name, &draw.shape, draw.bytes(name))).collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        let file = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        std::fs::write(dir.join("model.safetensors"), file).unwrap();
    }
}

impl Case {
    fn read(case: &Value, default: &Map<String, Value>) -> Self {
        let mut config = default.clone();
        list(&case["unset"]).iter().for_each(|key| {
            config.remove(key.as_str().unwrap());
        });
        config.extend(case["set"].as_object().unwrap().clone());
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        Self {
            name: text("name"),
            config: config.into(),
            effect: case["effect"].as_f64(),
            layout: case["layout"].as_u64().unwrap() as usize,
            logits: text("logits"),
        }
    }
}

impl Draw {
    /// `values` of `python-compat/wild/weights.py`: SplitMix64 of name and index.
    fn bytes(&self, name: &str) -> Vec<u8> {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let value = |index: u64| {
            let mut x = (index + 1).wrapping_add(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^= x >> 31;
            let unit = (x >> 40) as f64 * 2f64.powi(-23) - 1.0;
            (self.centre + self.spread * unit) as f32
        };
        (0..self.shape.iter().product::<usize>() as u64).flat_map(|index| value(index).to_le_bytes()).collect()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn layout(value: &Value) -> BTreeMap<String, Draw> {
    let draw = |row: &Value| Draw {
        shape: list(&row[0]).iter().map(|n| n.as_u64().unwrap() as usize).collect(),
        centre: row[1].as_f64().unwrap(),
        spread: row[2].as_f64().unwrap(),
    };
    value.as_object().unwrap().iter().map(|(name, row)| (name.clone(), draw(row))).collect()
}
