//! Protocol buffers on the wire: numbered fields one after the other, each a
//! number, four or eight bytes, or a run of bytes with its length before it.
//!
//! Source: protobuf.dev, "Encoding".

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Integers, flags and enumerations.
    Number(u64),
    /// A 32-bit float or integer.
    Four([u8; 4]),
    /// A 64-bit float or integer.
    Eight([u8; 8]),
    /// A text, bytes or a message of its own.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Of a 32-bit integer, which is stored in 64 bits.
    pub fn integer(self) -> Option<i32> {
        match self {
            Value::Number(n) => i32::try_from(n as i64).ok(),
            _ => None,
        }
    }

    pub fn flag(self) -> Option<bool> {
        match self {
            Value::Number(n) => Some(n != 0),
            _ => None,
        }
    }

    pub fn float(self) -> Option<f32> {
        match self {
            Value::Four(bytes) => Some(f32::from_le_bytes(bytes)),
            _ => None,
        }
    }

    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The fields of a message in their order, up to the first that is broken.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

/// See [`fields`].
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// Why a message cannot be read.
#[derive(Debug, PartialEq)]
pub struct Broken;

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(Broken))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Eight(self.take(8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Four(self.take(4)?.try_into().ok()?),
            _ => return None, // groups are long gone, and nothing else was ever there
        };
        Some((tag >> 3, value)).filter(|(number, _)| *number > 0)
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0..10 {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_field() {
        let message =
            [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 0, 0, 0x80, 0xbf, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x28, 0xff, 0xff, 0xff]
                .into_iter()
                .chain([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])
                .collect::<Vec<u8>>();
        let read: Vec<_> = fields(&message).map(Result::unwrap).collect();
        assert_eq!(read[0], (1, Value::Number(150)));
        assert_eq!(read[1].1.bytes(), Some(&b"hi"[..]));
        assert_eq!(read[2].1.float(), Some(-1.0));
        assert_eq!(read[3], (4, Value::Eight([1, 2, 3, 4, 5, 6, 7, 8])));
        assert_eq!(read[4].1.integer(), Some(-1));
    }

    #[test]
    fn broken_messages_end() {
        let lengths = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for message in [&lengths[..], &[0x12, 5, 1], &[0x80; 20], &[0x0b], &[0x0f, 1], &[0x1d, 1, 2], &[0x02, 0]] {
            let read: Vec<_> = fields(message).collect();
            assert_eq!(read, [Err(Broken)], "{message:?}");
        }
    }
}
