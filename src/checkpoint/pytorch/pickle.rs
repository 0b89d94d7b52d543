//! The machine that reads a pickle, without what makes pickles dangerous: it
//! imports nothing and calls nothing. The names it knows are those of
//! [`super::globals`]; any other is refused where it is said, called or not.
//!
//! Source: the opcodes as Python's `pickletools.py` describes them, protocols 2 to
//! 5; those that `torch.save` writes for dicts of tensors and plain values.

use super::value::{Id, Value, Values};
use super::{Parsed, globals, number, rebuild, shown};
use std::collections::HashMap;

/// Some 30 are needed for a tensor. A step adds one value at most, so this bounds
/// the memory too.
const MAX_STEPS: usize = 4 << 20;
/// Marks that are open at once; tensors need three.
const MAX_DEPTH: usize = 256;
/// Bytes of a text or of bytes.
const MAX_TEXT: usize = 1 << 20;
/// Bytes of a name.
const MAX_NAME: usize = 256;

/// Reads a pickle: its values, and which of them it is.
pub fn read(bytes: &[u8]) -> Parsed<(Values<'_>, Id)> {
    let mut machine = Machine { bytes, at: 0, values: Values::default(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    for _ in 0..MAX_STEPS {
        let at = machine.at;
        let root = machine.step().map_err(|reason| format!("its pickle {reason} (byte {at})"))?;
        if let Some(root) = root {
            return match bytes.len() - machine.at {
                0 => Ok((machine.values, root)),
                rest => Err(format!("its pickle ends {rest} bytes before its file does")),
            };
        }
    }
    Err(format!("its pickle takes more than {MAX_STEPS} steps"))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Values<'a>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One opcode; the value that the pickle is after the last.
    fn step(&mut self) -> Parsed<Option<Id>> {
        match self.byte()? {
            // STOP
            b'.' => return self.pop().map(Some),
            // PROTO
            0x80 => match self.byte()? {
                2..=5 => {}
                other => return Err(format!("is of protocol {other}: 2 to 5 are read")),
            },
            // FRAME
            0x95 => match self.number(8)? {
                len if len > (self.bytes.len() - self.at) as u64 => return Err("is truncated".into()),
                _ => {}
            },
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' => self.push(Value::Other("None")),
            0x88 | 0x89 => self.push(Value::Other("a truth value")),
            b'G' => {
                self.take(8)?;
                self.push(Value::Other("a number with a point"));
            }
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let n = self.number(4)? as u32 as i32;
                self.push(Value::Int(n.into()));
            }
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            0x8a => self.long()?,
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            // BINBYTES, SHORT_BINBYTES, BINBYTES8
            b'B' => self.blob(4)?,
            b'C' => self.blob(1)?,
            0x8e => self.blob(8)?,
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, MARK, TUPLE
            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b'(' => match self.marks.len() {
                MAX_DEPTH => return Err(format!("is nested deeper than {MAX_DEPTH}")),
                _ => self.marks.push(self.stack.len()),
            },
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Value::List),
            b'a' => {
                self.pop()?;
                self.append()?;
            }
            b'e' => {
                self.pop_mark()?;
                self.append()?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                let dict = self.top()?;
                self.values.dict(dict)?.push((key, value));
            }
            b'u' => {
                let items = self.pop_mark()?;
                let dict = self.top()?;
                match items.as_chunks() {
                    (pairs, []) => self.values.dict(dict)?.extend(pairs.iter().map(|&[key, value]| (key, value))),
                    _ => return Err("sets a key without a value".into()),
                }
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => {
                let (place, top) = (self.memo.len() as u32, self.top()?);
                self.memo.insert(place, top);
            }
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                self.global(self.values.text(module)?, self.values.text(name)?)?;
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                let storage = rebuild::persistent(&self.values, id)?;
                self.push(Value::Storage(storage));
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let made = rebuild::call(&mut self.values, callee, arguments)?;
                self.stack.push(made);
            }
            // BUILD: attributes of a dict (`_metadata`) say nothing of its tensors.
            b'b' => {
                self.pop()?;
                let built = self.top()?;
                self.values.dict(built)?;
            }
            other => return Err(format!("has the opcode {other:#04x}, which torch.save does not write for tensors")),
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len()).ok_or("is truncated")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Parsed<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self, width: usize) -> Parsed<u64> {
        let taken = self.take(width)?;
        Ok(number(taken, 0, width).expect("so many were taken"))
    }

    /// Bytes behind their length.
    fn counted(&mut self, width: usize) -> Parsed<&'a [u8]> {
        match self.number(width)? {
            len if len > MAX_TEXT as u64 => Err(format!("has a text of {len} bytes: {MAX_TEXT} at most are read")),
            len => self.take(len as usize),
        }
    }

    /// Text up to the end of its line.
    fn line(&mut self) -> Parsed<&'a str> {
        let rest = &self.bytes[self.at..];
        let none = if rest.len() < MAX_NAME { "is truncated" } else { "has a name without an end" };
        let len = rest.iter().take(MAX_NAME).position(|&b| b == b'\n').ok_or(none)?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "has a name that is no text".into())
    }

    fn push(&mut self, value: Value<'a>) {
        let id = self.values.add(value);
        self.stack.push(id);
    }

    fn top(&self) -> Parsed<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        Ok(*self.stack[floor..].last().ok_or("takes from an empty stack")?)
    }

    fn pop(&mut self) -> Parsed<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Parsed<Vec<Id>> {
        let mark = self.marks.pop().ok_or("closes a mark that is not open")?;
        Ok(self.stack.split_off(mark))
    }

    fn int(&mut self, width: usize) -> Parsed<()> {
        let n = self.number(width)?;
        self.push(Value::Int(n as i64));
        Ok(())
    }

    /// A signed number of any width.
    fn long(&mut self) -> Parsed<()> {
        let width = self.byte()?.into();
        let bytes = self.take(width)?;
        let sign = if bytes.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        let value = match wide.get_mut(..width) {
            None => Value::Other("a number beyond 64 bits"),
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
        };
        self.push(value);
        Ok(())
    }

    fn text(&mut self, width: usize) -> Parsed<()> {
        let text = std::str::from_utf8(self.counted(width)?).map_err(|_| "has a text that is not UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn blob(&mut self, width: usize) -> Parsed<()> {
        self.counted(width)?;
        self.push(Value::Other("bytes"));
        Ok(())
    }

    fn tuple(&mut self, len: usize) -> Parsed<()> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Parsed<Vec<_>>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&self) -> Parsed<()> {
        match self.values.get(self.top()?) {
            Value::List => Ok(()),
            other => Err(format!("appends to {}", other.kind())),
        }
    }

    fn put(&mut self, width: usize) -> Parsed<()> {
        let (place, top) = (self.number(width)? as u32, self.top()?);
        self.memo.insert(place, top);
        Ok(())
    }

    fn get(&mut self, width: usize) -> Parsed<()> {
        let place = self.number(width)? as u32;
        let id = self.memo.get(&place).ok_or_else(|| format!("reads place {place} of its memo, where nothing is"))?;
        self.stack.push(*id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Parsed<()> {
        let global = globals::find(module, name)
            .ok_or_else(|| format!("calls {}.{}: refused, a checkpoint may hold tensors only", shown(module), shown(name)))?;
        self.push(Value::Global(global));
        Ok(())
    }
}
