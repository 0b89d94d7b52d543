//! What a pickle holds once it is read. Values refer to each other by number, so
//! that one that holds itself, or is nested deeply, harms nobody.

use super::Parsed;
use super::globals::{Dtype, Global};

/// The number of a value.
pub type Id = u32;

/// One value. Texts are views of the pickle.
#[derive(Debug)]
pub enum Value<'a> {
    /// `None`, numbers that are no sizes, bytes: nothing tensors are made of.
    Other(&'static str),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(&'a str),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list, whose items nobody asks for.
    List,
    /// A dict, in order; a key may come twice.
    Dict(Vec<(Id, Id)>),
    /// An allowed name.
    Global(Global),
    /// A storage.
    Storage(Storage<'a>),
    /// A tensor.
    Tensor(Box<Tensor<'a>>),
}

/// A storage: a file in the archive.
#[derive(Clone, Copy, Debug)]
pub struct Storage<'a> {
    /// The file's name below `data/`.
    pub key: &'a str,
    /// Its number format; bytes where there is none.
    pub dtype: Option<&'static Dtype>,
    /// How many numbers it has.
    pub len: usize,
}

/// A tensor: a part of a storage.
#[derive(Debug)]
pub struct Tensor<'a> {
    /// Where its numbers are.
    pub storage: Storage<'a>,
    /// Its number format.
    pub dtype: &'static Dtype,
    /// The first number.
    pub offset: usize,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Numbers from one to the next, for every size.
    pub strides: Vec<usize>,
    /// Whether the numbers are not those that are stored, but negated or conjugated.
    pub is_altered: bool,
}

impl Value<'_> {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Other(kind) => kind,
            Value::Int(_) => "a number",
            Value::Text(_) => "a text",
            Value::Tuple(_) => "a tuple",
            Value::List => "a list",
            Value::Dict(_) => "a dict",
            Value::Global(_) => "a name",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// Values by number.
#[derive(Debug, Default)]
pub struct Values<'a>(Vec<Value<'a>>);

impl<'a> Values<'a> {
    /// Adds one.
    pub fn add(&mut self, value: Value<'a>) -> Id {
        self.0.push(value);
        // One a step of the machine, whose steps are bounded.
        (self.0.len() - 1) as Id
    }

    /// The value of a number that [`Values::add`] gave.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.0[id as usize]
    }

    /// The pairs of a dict, to add to.
    pub fn dict(&mut self, id: Id) -> Parsed<&mut Vec<(Id, Id)>> {
        match &mut self.0[id as usize] {
            Value::Dict(pairs) => Ok(pairs),
            other => Err(format!("sets an item of {}", other.kind())),
        }
    }

    /// A tuple's items.
    pub fn tuple(&self, id: Id) -> Parsed<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Ok(items),
            other => Err(format!("has {} where a tuple is expected", other.kind())),
        }
    }

    /// A text.
    pub fn text(&self, id: Id) -> Parsed<&'a str> {
        match self.get(id) {
            Value::Text(text) => Ok(text),
            other => Err(format!("has {} where a text is expected", other.kind())),
        }
    }

    /// A number that counts something.
    pub fn size(&self, id: Id) -> Parsed<usize> {
        match self.get(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| format!("has {n} where a size, a stride or an offset is expected")),
            other => Err(format!("has {} where a size, a stride or an offset is expected", other.kind())),
        }
    }
}
