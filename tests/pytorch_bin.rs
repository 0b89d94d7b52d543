//! `pytorch_model.bin`: the values that `torch.save` wrote (see
//! `python-compat/write_pickles.py`), and everything that must not be believed.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;
#[path = "common/torch_files.rs"]
mod torch_files;

use damage::{copy_of, edit_json, file};
use safetensors::SafeTensors;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thimble::checkpoint::{Checkpoint, FloatType, open_directory};
use thimble::model::DenseModel;
use torch_files::*;

const BIN: &str = "pytorch_model.bin";
const INDEX: &str = "pytorch_model.bin.index.json";
const BAD_INPUT: u8 = 3;

fn saved(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pytorch").join(name)
}

/// All folders that `torch.save` wrote a single readable file in.
fn singles() -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(saved("")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join(BIN).exists()).collect();
    all.retain(|path| !path.ends_with("legacy"));
    all.sort();
    assert!(all.len() >= 11, "fixtures are missing");
    all
}

/// What a folder with this one file opens as.
fn open_bytes(bytes: impl AsRef<[u8]>) -> thimble::Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path().join(BIN), bytes);
    let opened = open_directory(dir.path());
    if let Ok(checkpoint) = &opened {
        touch(checkpoint);
    }
    opened
}

/// Every number is read.
fn touch(checkpoint: &Checkpoint) -> usize {
    checkpoint.names().map(|name| checkpoint.tensor(name).unwrap().to_f32().len()).sum()
}

/// A pickle over [`SIX`] numbers.
fn open_pickle(body: &[u8]) -> thimble::Result<Checkpoint> {
    open_bytes(zip(&entries(&pickle(body), &[&SIX]), false))
}

#[track_caller]
fn refused(what: &str, opened: thimble::Result<Checkpoint>, says: &[&str]) {
    let Err(error) = opened else { panic!("{what}: opened") };
    assert_eq!(error.exit_code(), BAD_INPUT, "{what}: {error}");
    let message = error.to_string();
    for part in says {
        assert!(message.contains(part), "{what}: {part:?} is not in\n{message}");
    }
    assert!(message.lines().count() == 1 && message.len() < 700, "{what}: {message}");
}

fn same_as_twin(dir: &Path) {
    let checkpoint = open_directory(dir).unwrap();
    let twin = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let twin = SafeTensors::deserialize(&twin).unwrap();
    let mut names = twin.names();
    names.sort();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), names, "{}", dir.display());
    for (name, expected) in twin.tensors() {
        let tensor = checkpoint.tensor(&name).unwrap();
        let what = format!("{}: {name}", dir.display());
        assert_eq!(Some(tensor.float_type), FloatType::from_safetensors(expected.dtype()), "{what}");
        assert_eq!(tensor.shape, expected.shape(), "{what}");
        assert_eq!(tensor.len(), expected.shape().iter().product::<usize>(), "{what}");
        assert_eq!(&tensor.bytes[..], expected.data(), "{what}");
    }
}

#[test]
fn values_are_those_that_torch_saved() {
    for dir in singles() {
        same_as_twin(&dir);
    }
    same_as_twin(&saved("sharded"));
}

#[test]
fn what_is_no_weight_is_named_by_its_format() {
    for name in ["mixed", "protocol-5"] {
        let checkpoint = open_directory(&saved(name)).unwrap();
        let formats = [
            ("positions", "I64"),
            ("small", "I32"),
            ("mask", "BOOL"),
            ("bytes", "U8"),
            ("eighth", "F8_E4M3"),
            ("wide", "U16"),
            ("negated", "F32 in a lazy view"),
        ];
        for (tensor, format) in formats {
            let error = checkpoint.tensor(tensor).err().unwrap().to_string();
            assert!(error.contains(&format!("expected F64, F32, F16 or BF16, found {format}")), "{error}");
        }
    }
}

/// Tensors over one storage are views of the same bytes of the file.
#[test]
fn shared_storages_are_mapped_once() {
    let checkpoint = open_directory(&saved("shared")).unwrap();
    let place = |name: &str| checkpoint.tensor(name).unwrap().bytes.as_ptr() as usize;
    assert_eq!(place("embedding"), place("head"));
    assert_eq!(place("lower") - place("upper"), 4 * 3 * 4);
}

/// A model's own weights, in a file made here: the family reads the same numbers.
#[test]
fn a_model_opens_from_either_container() {
    let (_dir, model) = copy_of("llama-gqa-tied");
    let weights = std::fs::read(model.join("model.safetensors")).unwrap();
    let sound = SafeTensors::deserialize(&weights).unwrap().tensors();
    let strides = |shape: &[i64]| (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect::<Vec<i64>>();
    let one = |(key, (name, view)): (usize, &(String, safetensors::tensor::TensorView))| {
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let storage = storage("FloatStorage", &key.to_string(), shape.iter().product());
        [text(name), tensor(storage, 0, &shape, &strides(&shape))].concat()
    };
    let pairs: Vec<u8> = sound.iter().enumerate().flat_map(one).collect();
    let storages: Vec<&[u8]> = sound.iter().map(|(_, view)| view.data()).collect();
    let bin = zip(&entries(&pickle(&[b"}(", &pairs[..], b"u"].concat()), &storages), true);

    let parameters = |dir: &Path| -> Vec<Vec<u8>> {
        let model = DenseModel::open_hugging_face(dir).unwrap();
        model.spec().parameters().iter().map(|p| model.tensor(&p.name).unwrap().bytes.to_vec()).collect()
    };
    let expected = parameters(&model);
    // Where both are there, safetensors are read.
    file(model.join(BIN), "nothing");
    assert!(parameters(&model) == expected);
    std::fs::remove_file(model.join("model.safetensors")).unwrap();
    file(model.join(BIN), bin);
    assert!(parameters(&model) == expected);
}

#[test]
fn other_names_are_refused_by_name() {
    let call = |global: Vec<u8>| [global, tuple(&[text("rm -rf /")]), b"R".to_vec()].concat();
    let stacked = |module: &str, name: &str| [text(module), text(name), vec![0x93]].concat();
    let hidden = tuple(&[text("storage"), call(global("os", "system")), text("0"), text("cpu"), int(6)]);
    let cases = [
        ("called", call(global("os", "system")), "os.system"),
        ("called, protocol 4", call(stacked("os", "system")), "os.system"),
        ("evaluated", call(global("builtins", "eval")), "builtins.eval"),
        ("in Python 2's words", call(global("__builtin__", "eval")), "__builtin__.eval"),
        ("said and not called", global("posix", "system"), "posix.system"),
        ("as an object", [global("subprocess", "Popen"), tuple(&[]), vec![0x81]].concat(), "subprocess.Popen"),
        ("in a persistent id", [hidden, b"Q".to_vec()].concat(), "os.system"),
        ("beside a tensor", dict(&[("w", six(0, &[6], &[1])), ("x", call(global("os", "system")))]), "os.system"),
        ("below an allowed module", global("torch", "load"), "torch.load"),
        ("below another", global("torch._utils", "_import_dotted_name"), "torch._utils._import_dotted_name"),
        ("by a dotted name", stacked("torch", "serialization.os.system"), "torch.serialization.os.system"),
        ("an allowed name elsewhere", global("torch._utils", "FloatStorage"), "torch._utils.FloatStorage"),
        ("no name", global("torch", ""), "torch."),
        ("with a line feed", stacked("os\nerror: ", "\x1b[2J"), "os\\nerror: .\\u{1b}[2J"),
        ("without an end", stacked("os", &"x".repeat(100_000)), "os.xxxx"),
    ];
    for (what, body, name) in cases {
        let says = [BIN, &format!("its pickle calls {name}"), "refused, a checkpoint may hold tensors only"];
        refused(what, open_pickle(&body), &says);
        let nested = dict(&[("state_dict", dict(&[("w", body)]))]);
        refused(what, open_pickle(&nested), &says);
    }
}

#[test]
fn broken_pickles_are_refused() {
    let many = |op: &[u8], n: usize| op.repeat(n);
    let global_of = |name: &str| global("torch._utils", name);
    let cases: [(&str, Vec<u8>, &[&str]); 33] = [
        ("empty stack", b"".to_vec(), &["empty stack", "byte 2"]),
        ("no dict", int(5), &["its pickle is a number, not a dict of tensors"]),
        ("a list", b"]".to_vec(), &["a list, not a dict"]),
        ("protocol 1", b"\x80\x01}".to_vec(), &["protocol 1"]),
        ("protocol 6", b"\x80\x06}".to_vec(), &["protocol 6"]),
        ("opcode of protocol 0", b"I5\n".to_vec(), &["opcode 0x49"]),
        ("instance opcode", b"(ios\nsystem\n".to_vec(), &["opcode 0x69"]),
        ("extension registry", b"\x82\x01".to_vec(), &["opcode 0x82"]),
        ("persistent id in text", b"P0\n".to_vec(), &["opcode 0x50"]),
        ("frame beyond the end", [&[0x95][..], &[0xff; 8]].concat(), &["truncated"]),
        ("text beyond the end", [b"X", &100u32.to_le_bytes()[..], b"abc"].concat(), &["truncated"]),
        ("greatest text", [&[0x8d][..], &[0xff; 8]].concat(), &["18446744073709551615 bytes"]),
        ("greatest bytes", [&[0x8e][..], &[0xff; 8]].concat(), &["18446744073709551615 bytes"]),
        ("no UTF-8", [b"X", &2u32.to_le_bytes()[..], b"\xff\xfe"].concat(), &["UTF-8"]),
        ("name without an end", [b"c".to_vec(), many(b"x", 10_000)].concat(), &["name without an end"]),
        ("memo without a value", b"}h\x05".to_vec(), &["place 5 of its memo"]),
        ("greatest memo", [b"}j", &u32::MAX.to_le_bytes()[..]].concat(), &["place 4294967295"]),
        ("mark that is not open", b"}u".to_vec(), &["mark"]),
        ("below a mark", b"}(s".to_vec(), &["empty stack"]),
        ("deep marks", many(b"(", 100_000), &["nested deeper than 256"]),
        ("too many steps", [b"}".to_vec(), many(b"q\x00", 5_000_000)].concat(), &["steps"]),
        ("key without a value", [b"}(".to_vec(), text("w"), b"u".to_vec()].concat(), &["key without a value"]),
        ("item of a text", [text("a"), text("b"), text("c"), b"s".to_vec()].concat(), &["sets an item of a text"]),
        ("text is called", [text("os.system"), b")R".to_vec()].concat(), &["calls a text"]),
        ("dict is built from a name", [global("torch", "Size"), b"}b".to_vec()].concat(), &["sets an item of a name"]),
        ("append to a dict", b"}Na".to_vec(), &["appends to a dict"]),
        ("bytes behind the end", b"}.}".to_vec(), &["before its file does"]),
        ("no arguments", [global_of("_rebuild_tensor_v2"), b")R".to_vec()].concat(), &["Tensor", "0 arguments"]),
        (
            "parameter of a text",
            [global_of("_rebuild_parameter"), tuple(&[text("a"), int(0), int(0)]), b"R".to_vec()].concat(),
            &["Parameter"],
        ),
        ("arguments are no tuple", [global_of("_rebuild_tensor_v2"), b"}R".to_vec()].concat(), &["a dict where a tuple"]),
        ("persistent text", [text("0"), b"Q".to_vec()].concat(), &["a text where a tuple"]),
        (
            "persistent id of another kind",
            [tuple(&[text("module"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(6)]), b"Q".to_vec()].concat(),
            &["no storage's", "module"],
        ),
        ("storage of a size", storage("Size", "0", 6), &["no storage's", "a name"]),
    ];
    for (what, body, says) in cases {
        refused(what, open_pickle(&body), &[&[BIN, "its pickle"], says].concat());
    }
}

#[test]
fn tensors_outside_their_storage_are_refused() {
    const MAX: i64 = i64::MAX;
    let over = |class: &str, len: i64| tensor(storage(class, "0", len), 0, &[1], &[1]);
    let two = [&six(0, &[6], &[1])[..], &text("w"), &six(0, &[6], &[1])].concat();
    let cases: [(&str, Vec<u8>, &[&str]); 22] = [
        ("offset", six(1, &[6], &[1]), &["tensor w", "[6]", "from number 1", "data/0 of 6 numbers"]),
        ("greatest offset", six(MAX, &[1], &[1]), &["tensor w", "9223372036854775807"]),
        ("greatest offset of a scalar", six(MAX, &[], &[]), &["tensor w"]),
        ("negative offset", six(-1, &[1], &[1]), &["-1 where a size, a stride or an offset"]),
        ("shape", six(0, &[2, 4], &[4, 1]), &["[2, 4]"]),
        ("greatest shape", six(0, &[MAX, MAX], &[MAX, 1]), &["tensor w"]),
        ("product beyond counting", six(0, &[MAX, 4], &[0, 0]), &["tensor w"]),
        ("negative size", six(0, &[-6], &[1]), &["-6 where a size"]),
        ("negative stride", six(5, &[6], &[-1]), &["-1 where a size, a stride"]),
        ("stride", six(0, &[2, 2], &[5, 1]), &["strides [5, 1]"]),
        ("greatest stride", six(0, &[2, 2], &[MAX, 1]), &["tensor w"]),
        ("numbers repeated without end", six(0, &[MAX / 8], &[0]), &["more bytes than the file"]),
        ("numbers repeated", six(0, &[1 << 20, 6], &[0, 1]), &["more bytes than the file"]),
        ("dimensions", six(0, &[1; 9], &[1; 9]), &["9 dimensions"]),
        ("strides of another rank", six(0, &[2, 3], &[1]), &["2 dimensions with 1 strides"]),
        ("storage that is not there", tensor(storage("FloatStorage", "1", 6), 0, &[6], &[1]), &["data/1 is not in the archive"]),
        ("storage above", tensor(storage("FloatStorage", "../data.pkl", 6), 0, &[6], &[1]), &["data/../data.pkl is not in"]),
        ("longer storage", over("FloatStorage", 7), &["data/0 takes 28 bytes, its file has 24"]),
        ("greatest storage", over("FloatStorage", MAX), &["more than there can be", "24"]),
        ("storage of another type", over("HalfStorage", 6), &["takes 12 bytes", "24"]),
        ("negative storage", over("FloatStorage", -1), &["-1 where a size"]),
        ("two of a name", two, &["two tensors named w"]),
    ];
    for (what, tensor, says) in cases {
        refused(what, open_pickle(&dict(&[("w", tensor)])), &[&[BIN], says].concat());
    }
    for (shape, strides) in [(&[0, MAX, MAX][..], &[MAX, MAX, MAX][..]), (&[1, 6], &[MAX, 1]), (&[6, 1], &[1, MAX]), (&[1, 3], &[MAX, 2])] {
        let checkpoint = open_pickle(&dict(&[("w", six(0, shape, strides))])).unwrap();
        assert_eq!(touch(&checkpoint) as i64, shape.iter().fold(1i64, |p, &n| p.saturating_mul(n)), "{shape:?}");
    }
}

/// What a few bytes say over and over takes no more than those bytes.
#[test]
fn repetition_costs_nothing() {
    let start = std::time::Instant::now();
    // A dict in itself, and in the place of the model.
    let open = open_pickle(&[b"}q\x00(".to_vec(), text("model"), b"h\x00u".to_vec()].concat()).unwrap();
    assert_eq!(open.names().count(), 0);
    // Each tuple holds the one before twice: as a tree, 2^100000 values.
    let doubled: Vec<u8> = std::iter::repeat_n(&b"q\x01h\x01\x86"[..], 100_000).flatten().copied().collect();
    open_pickle(&[&b"}"[..], &text("x"), b")", &doubled, b"s"].concat()).unwrap();
    // One long name for all.
    let name = text(&"n".repeat(1_000_000));
    let pairs = b"h\x00h\x01".repeat(200_000);
    let body = [&b"}"[..], &name, b"q\x00", &six(0, &[6], &[1]), b"q\x01s(", &pairs, b"u"].concat();
    refused("a long name", open_pickle(&body), &["two tensors named nnnn"]);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn broken_archives_are_refused() {
    let sound = entries(&pickle(&dict(&[("w", six(0, &[6], &[1]))])), &[&SIX]);
    let with = |edit: &dyn Fn(&mut Vec<Entry>)| {
        let mut edited = sound.clone();
        edit(&mut edited);
        edited
    };
    for wide in [false, true] {
        assert_eq!(touch(&open_bytes(zip(&sound, wide)).unwrap()), 6);
        assert_eq!(touch(&open_bytes(zip(&with(&|e| drop(e.remove(1))), wide)).unwrap()), 6, "no byteorder");
        let cases: [(&str, Vec<Entry>, &[&str]); 17] = [
            ("compressed", with(&|e| e[2].method = 8), &["a/data/0 is compressed (method 8)"]),
            ("encrypted", with(&|e| e[0].flags = 1), &["a/data.pkl is encrypted"]),
            ("two of a name", with(&|e| e.push(e[2].clone())), &["two files named a/data/0"]),
            ("two in one place", with(&|e| e[2] = Entry { header: Some(0), ..e[2].clone() }), &["a/data/0 has another name at byte 0"]),
            ("one over the next", with(&|e| e[0].len = Some(e[0].data.len() as u64 + 20)), &["a/data.pkl and a/byteorder overlap"]),
            ("longer than the file", with(&|e| e[2].len = Some(100_000)), &["truncated", "a/data/0 of 100000 bytes"]),
            ("longest", with(&|e| e[2].len = Some(0xffff_fffe)), &["truncated", "a/data/0"]),
            ("into the directory", with(&|e| e[2].len = Some(60)), &["truncated", "a/data/0"]),
            ("shorter storage", with(&|e| e[2].len = Some(20)), &["takes 24 bytes, its file has 20"]),
            ("behind the end", with(&|e| e[2].header = Some(1 << 30)), &["truncated", "a/data/0"]),
            ("no pickle", with(&|e| drop(e.remove(0))), &["no data.pkl"]),
            ("a pickle below", with(&|e| e[0].name = "a/b/data.pkl".into()), &["no data.pkl"]),
            ("two pickles", with(&|e| e.push(Entry { name: "b/data.pkl".into(), ..e[0].clone() })), &["two files data.pkl"]),
            ("big-endian", with(&|e| e[1].data = b"big".into()), &["byteorder is big"]),
            ("no endian", with(&|e| e[1].data = b"\xff\n".into()), &["byteorder is", "only little"]),
            ("TorchScript", with(&|e| e.push(entry("a/constants.pkl", b"x"))), &["TorchScript"]),
            ("no storage", with(&|e| drop(e.remove(2))), &["tensor w", "data/0 is not in the archive"]),
        ];
        for (what, entries, says) in cases {
            refused(what, open_bytes(zip(&entries, wide)), &[&[BIN], says].concat());
        }
    }
    let huge = with(&|e| e[2].len = Some(u64::MAX));
    refused("beyond counting", open_bytes(zip(&huge, true)), &["truncated", "a/data/0"]);
    let far = with(&|e| e[2].header = Some(u64::MAX));
    refused("header beyond counting", open_bytes(zip(&far, true)), &["truncated", "a/data/0"]);
}

#[test]
fn what_is_no_archive_is_refused() {
    refused("empty", open_bytes(b""), &[BIN, "truncated", "0 bytes"]);
    refused("text", open_bytes(b"<!DOCTYPE html>"), &[BIN, "not a checkpoint of torch.save"]);
    refused("bare pickle", open_bytes(pickle(b"}")), &[BIN, "not a checkpoint of torch.save"]);
    refused("an end alone", open_bytes([b"PK\x05\x06", &[0; 18][..]].concat()), &[BIN, "not a checkpoint"]);
    refused("a beginning alone", open_bytes(b"PK\x03\x04"), &[BIN, "truncated or not a zip archive"]);
    let legacy = ["before 1.6", "save it again with a newer torch", "safetensors"];
    refused("legacy", open_directory(&saved("legacy")), &[&[BIN], &legacy[..]].concat());
    let magic = [&[0x8a, 10][..], &0x1950_a86a_20f9_469c_fc6c_u128.to_le_bytes()[..10]].concat();
    refused("legacy of protocol 4", open_bytes([&[0x80, 4, 0x95, 13, 0, 0, 0, 0, 0, 0, 0], &magic[..], b"."].concat()), &legacy);

    let dir = tempfile::tempdir().unwrap();
    refused("nothing", open_directory(dir.path()), &["neither model.safetensors nor pytorch_model.bin"]);
    std::fs::create_dir(dir.path().join(BIN)).unwrap();
    refused("a folder", open_directory(dir.path()), &[BIN, "not a regular file"]);
}

#[test]
fn broken_indices_are_refused() {
    let sound: [&str; 2] = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit, &[&str]); 5] = [
        ("above the folder", |i| i["weight_map"]["0.weight"] = "../evil".into(), &[INDEX, "\"../evil\"", "no file in this folder"]),
        ("from the root", |i| i["weight_map"]["0.weight"] = "/etc/passwd".into(), &[INDEX, "/etc/passwd"]),
        ("hidden", |i| i["weight_map"]["0.weight"] = ".evil".into(), &[INDEX, ".evil"]),
        ("no map", |i| *i = serde_json::json!({}), &[INDEX, "weight_map"]),
        (
            "a tensor that is nowhere",
            |i| i["weight_map"]["9"] = "pytorch_model-00001-of-00002.bin".into(),
            &["00001", "tensor 9 is missing"],
        ),
    ];
    for (what, edit, says) in cases {
        let dir = tempfile::tempdir().unwrap();
        for name in sound.iter().chain([&INDEX]) {
            std::fs::copy(saved("sharded").join(name), dir.path().join(name)).unwrap();
        }
        edit_json(&dir.path().join(INDEX), edit);
        refused(what, open_directory(dir.path()), says);
    }
}

/// Cut anywhere, a file is refused.
#[test]
fn truncated_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(BIN);
    for single in singles() {
        let sound = std::fs::read(single.join(BIN)).unwrap();
        let file = std::fs::File::options().write(true).open(file(path.clone(), &sound)).unwrap();
        for len in (0..sound.len()).rev() {
            // Writing it anew each time would wait for the disk each time.
            file.set_len(len as u64).unwrap();
            let error = open_directory(dir.path()).err().unwrap_or_else(|| panic!("{}: {len} bytes are enough", single.display()));
            assert_eq!(error.exit_code(), BAD_INPUT, "{error}");
        }
    }
    // The pickle alone, the archive around it being sound.
    let whole = pickle(&dict(&[("w", six(0, &[2, 3], &[1, 2]))]));
    for len in 0..whole.len() {
        refused("cut pickle", open_bytes(zip(&entries(&whole[..len], &[&SIX]), false)), &["its pickle is truncated"]);
    }
}

/// Some bytes are changed, anywhere or in what is read as opcodes and directory:
/// the file is refused or read, and nothing panics.
#[test]
fn flipped_bytes_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(BIN);
    for (stream, single) in (1..).zip(singles()) {
        let random = thimble::random::Random::new(7, stream);
        let sound = std::fs::read(single.join(BIN)).unwrap();
        let file = std::fs::File::options().write(true).open(file(path.clone(), &sound)).unwrap();
        let mut refused = 0;
        for i in 0..1000 {
            let draw = |k: u64, below: usize| random.below(below as u64, 16 * i + k) as usize;
            let mut bytes = sound.clone();
            for k in 0..1 + draw(0, 3) as u64 {
                let at = draw(1 + 3 * k, bytes.len());
                bytes[at] = if draw(2 + 3 * k, 2) == 0 { bytes[at] ^ 1 << draw(3 + 3 * k, 8) } else { draw(3 + 3 * k, 256) as u8 };
            }
            file.write_all_at(&bytes, 0).unwrap();
            match open_directory(dir.path()) {
                Ok(checkpoint) => drop(touch(&checkpoint)),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.exit_code(), BAD_INPUT, "{error}");
                }
            }
        }
        println!("{}: {refused} of 1000 refused", single.display());
        assert!(refused > 100, "{}", single.display());
    }
}
