//! Writes what `torch.save` writes, and what it never would.
#![allow(dead_code)] // each test file uses some of it

/// A file in an archive, and what the archive says of it.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// What the central directory says instead of the truth.
    pub len: Option<u64>,
    pub header: Option<u64>,
}

pub fn entry(name: &str, data: &[u8]) -> Entry {
    Entry { name: name.to_owned(), data: data.to_vec(), method: 0, flags: 0, len: None, header: None }
}

/// The files of an archive over a pickle and storages.
pub fn entries(pickle: &[u8], storages: &[&[u8]]) -> Vec<Entry> {
    let mut all = vec![entry("a/data.pkl", pickle), entry("a/byteorder", b"little")];
    all.extend(storages.iter().enumerate().map(|(key, data)| entry(&format!("a/data/{key}"), data)));
    all
}

/// An archive; with `wide`, all numbers of its directory are in zip64 fields.
pub fn zip(entries: &[Entry], wide: bool) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for Entry { name, data, method, flags, len, header } in entries {
        let (header, len) = (header.unwrap_or(archive.len() as u64), len.unwrap_or(data.len() as u64));
        let padding = [0xfb, 0x46, 3, 0, b'Z', b'Z', b'Z'];
        archive.extend(b"PK\x03\x04\0\0");
        archive.extend([flags.to_le_bytes(), method.to_le_bytes()].concat());
        archive.extend([0; 16]);
        archive.extend([(name.len() as u16).to_le_bytes(), (padding.len() as u16).to_le_bytes()].concat());
        archive.extend([name.as_bytes(), &padding, data].concat());

        let extra =
            if wide { [&[1, 0, 24, 0][..], &len.to_le_bytes(), &len.to_le_bytes(), &header.to_le_bytes()].concat() } else { vec![] };
        let narrow = |n: u64| if wide { [0xff; 4] } else { (n as u32).to_le_bytes() };
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend([flags.to_le_bytes(), method.to_le_bytes()].concat());
        directory.extend([0; 8]);
        directory.extend([narrow(len), narrow(len)].concat());
        directory.extend([(name.len() as u16).to_le_bytes(), (extra.len() as u16).to_le_bytes()].concat());
        directory.extend([0; 10]);
        directory.extend([&narrow(header)[..], name.as_bytes(), &extra].concat());
    }
    let (start, len, count) = (archive.len() as u64, directory.len() as u64, entries.len() as u64);
    archive.extend(directory);
    if wide {
        let end = archive.len() as u64;
        archive.extend(b"PK\x06\x06");
        archive.extend(44u64.to_le_bytes());
        archive.extend([0; 12]);
        archive.extend([count, count, len, start].into_iter().flat_map(u64::to_le_bytes));
        archive.extend([&b"PK\x06\x07\0\0\0\0"[..], &end.to_le_bytes(), &1u32.to_le_bytes()].concat());
    }
    let narrow = |n: u64| if wide { [0xff; 4] } else { (n as u32).to_le_bytes() };
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([(count as u16).to_le_bytes(), (count as u16).to_le_bytes()].concat());
    archive.extend([narrow(len), narrow(start)].concat());
    archive.extend([0, 0]);
    archive
}

/// A pickle of protocol 2 around opcodes.
pub fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(n: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &n.to_le_bytes()].concat()
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub fn sizes(sizes: &[i64]) -> Vec<u8> {
    tuple(&sizes.iter().map(|&n| int(n)).collect::<Vec<_>>())
}

pub fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> = pairs.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    [b"}(", &pairs[..], b"u"].concat()
}

/// A storage, `len` being how many numbers it says to have.
pub fn storage(class: &str, key: &str, len: i64) -> Vec<u8> {
    [tuple(&[text("storage"), global("torch", class), text(key), text("cpu"), int(len)]), b"Q".to_vec()].concat()
}

/// A tensor over a storage.
pub fn tensor(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
    let arguments = tuple(&[storage, int(offset), sizes(shape), sizes(strides), b"\x89".to_vec(), hooks]);
    [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat()
}

/// Six numbers of f32, and the tensor over all of them as storage 0.
pub const SIX: [u8; 24] = [0; 24];
pub fn six(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    tensor(storage("FloatStorage", "0", 6), offset, shape, strides)
}
