//! Where the files in a zip archive lie. Stored files only: they are viewed in
//! place, never unpacked.
//!
//! Source: PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central
//! directory), 4.3.14 to 4.3.16 (its end, in zip64 too) and 4.5.3 (zip64 field).
//! The directory at the end says what there is. The local headers are asked for
//! their length only: PyTorch pads it, so that data begins at a multiple of 64.

use super::{Parsed, number, shown};
use std::collections::BTreeMap;
use std::ops::Range;

const LOCAL: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const END_BYTES: usize = 22;
const END_64_BYTES: usize = 56;
const LOCATOR_64_BYTES: usize = 20;
const STORED: u64 = 0;
const ENCRYPTED: u64 = 1;

/// Whether this begins as an archive does.
pub fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL)
}

/// File name -> where its bytes lie.
pub fn read(bytes: &[u8]) -> Parsed<BTreeMap<&str, Range<usize>>> {
    let directory = directory(bytes)?;
    let mut files = BTreeMap::new();
    // From local header to last byte: two files must not share any.
    let mut taken: Vec<(Range<usize>, &str)> = Vec::new();
    let mut at = directory.start;
    while at < directory.end {
        let entry = Entry::read(&bytes[..directory.end], at)?;
        let data = entry.data(bytes, directory.start)?;
        taken.push((entry.header..data.end, entry.name));
        if files.insert(entry.name, data).is_some() {
            return Err(format!("holds two files named {}", shown(entry.name)));
        }
        at = entry.end;
    }
    taken.sort_by_key(|(place, _)| (place.start, place.end));
    match taken.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
        Some(pair) => Err(format!("its files {} and {} overlap", shown(pair[0].1), shown(pair[1].1))),
        None => Ok(files),
    }
}

/// Where the central directory lies.
fn directory(bytes: &[u8]) -> Parsed<Range<usize>> {
    let truncated = || "truncated or not a zip archive: it does not end as one".to_owned();
    // A comment of up to 65535 bytes may follow.
    let last = bytes.len().checked_sub(END_BYTES).ok_or_else(truncated)?;
    let ends_here = |&at: &usize| bytes[at..].starts_with(END) && number(bytes, at + 20, 2) == Some((bytes.len() - at - END_BYTES) as u64);
    let end = (last.saturating_sub(0xffff)..=last).rev().find(ends_here).ok_or_else(truncated)?;
    let locator = end.checked_sub(LOCATOR_64_BYTES).filter(|&at| bytes[at..].starts_with(LOCATOR_64));
    // Where the end begins, the width of its numbers, and the place of the first.
    let (end, width, first) = match locator {
        Some(locator) => {
            let at = number(bytes, locator + 8, 8).and_then(|at| usize::try_from(at).ok()).filter(|&at| {
                bytes.get(at..).is_some_and(|b| b.starts_with(END_64)) && at.checked_add(END_64_BYTES).is_some_and(|end| end <= locator)
            });
            (at.ok_or("its zip64 end is not where its locator says")?, 8, 40)
        }
        None => (end, 4, 12),
    };
    let field = |i: usize| number(bytes, end + first + i * width, width).and_then(|n| usize::try_from(n).ok());
    field(0)
        .zip(field(1))
        .and_then(|(size, start)| Some(start..start.checked_add(size)?))
        .filter(|directory| directory.end <= end)
        .ok_or_else(|| format!("its central directory is not before byte {end}, where its end is"))
}

/// A line of the central directory.
struct Entry<'a> {
    name: &'a str,
    /// Where its local header begins.
    header: usize,
    len: usize,
    /// Where the next line begins.
    end: usize,
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Parsed<Self> {
        let broken = || format!("its central directory is broken at byte {at}");
        if !bytes[at..].starts_with(ENTRY) {
            return Err(broken());
        }
        let field = |offset: usize, width: usize| number(bytes, at + offset, width).ok_or_else(broken);
        let (name_len, extra_len, comment_len) = (field(28, 2)? as usize, field(30, 2)? as usize, field(32, 2)? as usize);
        let name_end = at + 46 + name_len;
        let extra_end = name_end + extra_len;
        let end = extra_end + comment_len;
        let name = bytes.get(at + 46..name_end).and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(broken)?;
        let extra = bytes.get(name_end..extra_end).filter(|_| end <= bytes.len()).ok_or_else(broken)?;
        if field(8, 2)? & ENCRYPTED != 0 {
            return Err(format!("its file {} is encrypted", shown(name)));
        }
        if field(10, 2)? != STORED {
            return Err(format!("its file {} is compressed (method {}): only stored ones can be viewed", shown(name), field(10, 2)?));
        }
        let mut wide = zip64_field(extra);
        let mut size = |offset: usize| match field(offset, 4)? {
            // The number did not fit; the next of the zip64 field is meant.
            0xffff_ffff => {
                let n = number(wide, 0, 8).ok_or_else(broken)?;
                wide = &wide[8..];
                usize::try_from(n).map_err(|_| broken())
            }
            n => Ok(n as usize),
        };
        let (len, packed_len, header) = (size(24)?, size(20)?, size(42)?);
        if len != packed_len {
            return Err(format!("its file {} is stored, and yet of {len} bytes that take {packed_len}", shown(name)));
        }
        Ok(Self { name, header, len, end })
    }

    /// Where the bytes of the file are, `limit` being where the directory begins.
    fn data(&self, bytes: &[u8], limit: usize) -> Parsed<Range<usize>> {
        let name = shown(self.name);
        let outside = || format!("truncated or damaged: its file {name} of {} bytes at byte {} is not in it", self.len, self.header);
        let local = bytes[..limit].get(self.header..).filter(|b| b.starts_with(LOCAL)).ok_or_else(outside)?;
        let lens = number(local, 26, 2).zip(number(local, 28, 2)).ok_or_else(outside)?;
        let start = 30 + (lens.0 + lens.1) as usize;
        if local.get(30..30 + lens.0 as usize) != Some(self.name.as_bytes()) {
            return Err(format!("its file {name} has another name at byte {}", self.header));
        }
        match start.checked_add(self.len).filter(|&end| end <= local.len()) {
            Some(end) => Ok(self.header + start..self.header + end),
            None => Err(outside()),
        }
    }
}

/// The content of the zip64 field among extra fields; empty where there is none.
fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let (Some(kind), Some(len)) = (number(extra, 0, 2), number(extra, 2, 2)) {
        let Some(content) = extra.get(4..4 + len as usize) else { break };
        if kind == 1 {
            return content;
        }
        extra = &extra[4 + len as usize..];
    }
    &[]
}
