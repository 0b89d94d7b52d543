//! From canonical names to a family's own, as tables.

use crate::model::{ModelSpec, Parameter, ParameterKind, Part, Rows, Source};

/// How a family names its parameters. A name stands for a module, whose tensors
/// end in `.weight` and `.bias`.
pub struct Names {
    /// What comes before the number of a block, such as `model.layers`.
    pub blocks: &'static str,
    /// Canonical role in a block -> module behind the block's number.
    pub block: &'static [(&'static str, At)],
    /// Canonical name outside the blocks -> module.
    pub outside: &'static [(&'static str, At)],
    /// Whether matrices of blocks are stored `[in, out]` (GPT-2's Conv1D).
    pub transposed: bool,
}

/// Where a module lies.
#[derive(Clone, Copy)]
pub enum At {
    /// Under a name of its own.
    Module(&'static str),
    /// The same for a tensor whose name has no `.weight` behind it.
    Tensor(&'static str),
    /// In a fused module: the rows of these roles follow each other.
    Fused(&'static str, &'static [&'static str]),
    /// In a fused module: for each kv head, the rows of these roles that belong to it
    /// follow each other.
    ByHead(&'static str, &'static [&'static str]),
    /// A module a head: this name and the head's number.
    EachHead(&'static str),
    /// Behind the first so many rows.
    Behind(&'static str, usize),
    /// Tensor without `.weight`; rows of rotary pairs side by side.
    RotaryPairs(&'static str),
    /// The first of these places that the file has.
    Either(&'static [At]),
}

impl Names {
    /// Where a parameter may lie, most likely first.
    pub fn sources(&self, spec: &ModelSpec, parameter: &Parameter) -> Vec<Source> {
        let (name, shape) = (&parameter.name, &parameter.shape);
        match parameter.part {
            Part::Block(block) => self.in_block(spec, block, parameter.role(), shape, parameter.kind),
            Part::Start | Part::End => {
                let (name, end) = split(name);
                let fused = |_: &[&str]| unreachable!("nothing outside the blocks is fused");
                SourceQuery { prefix: String::new(), end, rows: shape[0], heads: (1, 1) }.sources(find(self.outside, name), &fused)
            }
        }
    }

    fn in_block(&self, spec: &ModelSpec, block: usize, role: &str, shape: &[usize], kind: ParameterKind) -> Vec<Source> {
        let (role, end) = split(role);
        let heads = spec.blocks[block].attention().map_or((1, 1), |attention| (attention.n_kv_heads, attention.head_dim));
        let roles = spec.roles(block);
        let rows = |role: &str| roles.iter().find(|(r, ..)| r == role).map_or(0, |(_, shape, _)| shape[0]);
        // Rows of a fused module before this role's, and of all its roles; one that the
        // block lacks has none.
        let fused = |parts: &[&str]| {
            let before = parts.iter().take_while(|part| **part != role).map(|part| rows(part)).sum();
            (before, parts.iter().map(|part| rows(part)).sum())
        };
        // Blocks without parameters of their own are not in the file.
        let number = spec.blocks[..block].iter().filter(|b| b.weights_of.is_none()).count();
        let place = SourceQuery { prefix: format!("{}.{number}.", self.blocks), end, rows: shape[0], heads };
        let mut sources = place.sources(find(self.block, role), &fused);
        sources.iter_mut().for_each(|source| source.transposed = self.transposed && kind == ParameterKind::Linear);
        sources
    }

    /// Names under which a file may hold shared parameters again, once for each
    /// block that uses them.
    pub fn copies(&self, spec: &ModelSpec) -> Vec<String> {
        let mut all = Vec::new();
        for block in (0..spec.blocks.len()).filter(|&block| spec.blocks[block].weights_of.is_none()) {
            for (role, shape, kind) in spec.roles(block).into_iter().filter(|(role, ..)| spec.owner(block, role) != block) {
                all.extend(self.in_block(spec, block, &role, &shape, kind).into_iter().flat_map(|source| source.tensors));
            }
        }
        all
    }
}

/// Query for the sources of a parameter: its name and what its slice depends on.
struct SourceQuery {
    prefix: String,
    end: &'static str,
    /// Rows of the parameter.
    rows: usize,
    /// How many kv heads, and how wide.
    heads: (usize, usize),
}

impl SourceQuery {
    /// `fused` tells the rows before this role's in a fused module, and of all in it.
    fn sources(&self, at: At, fused: &dyn Fn(&[&str]) -> (usize, usize)) -> Vec<Source> {
        let Self { prefix, end, rows, heads: (n_kv_heads, head_dim) } = self;
        let one = |tensor: String, rows| vec![Source { tensors: vec![tensor], transposed: false, rows }];
        match at {
            At::Either(places) => places.iter().flat_map(|at| self.sources(*at, fused)).collect(),
            At::Module(name) => one(format!("{prefix}{name}{end}"), Rows::All),
            At::Tensor(name) => one(format!("{prefix}{name}"), Rows::All),
            At::RotaryPairs(name) => one(format!("{prefix}{name}"), Rows::RotaryPairs { head_dim: *head_dim }),
            At::Fused(name, parts) => {
                let (start, of) = fused(parts);
                one(format!("{prefix}{name}{end}"), Rows::Runs { start, len: *rows, stride: *rows, of })
            }
            At::ByHead(name, parts) => {
                let (start, of) = fused(parts);
                let runs = Rows::Runs { start: start / n_kv_heads, len: rows / n_kv_heads, stride: of / n_kv_heads, of };
                one(format!("{prefix}{name}{end}"), runs)
            }
            At::Behind(name, start) => {
                one(format!("{prefix}{name}{end}"), Rows::Runs { start, len: *rows, stride: *rows, of: start + rows })
            }
            At::EachHead(name) => {
                let tensors = (0..*rows).map(|head| format!("{prefix}{name}.{head}{end}")).collect();
                vec![Source { tensors, transposed: false, rows: Rows::All }]
            }
        }
    }
}

/// `attn.q.bias` -> `attn.q`, `.bias`.
fn split(role: &str) -> (&str, &'static str) {
    role.strip_suffix(".bias").map_or((role, ".weight"), |role| (role, ".bias"))
}

fn find(table: &[(&'static str, At)], role: &str) -> At {
    table.iter().find(|(canonical, _)| *canonical == role).unwrap_or_else(|| panic!("no module for {role}")).1
}
