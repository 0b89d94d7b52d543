//! The spec of a student, made from its teacher's.

use super::select::{Heads, query_heads};
use super::{Initialise, StudentShape};
use crate::model::{MAX_BLOCKS, MAX_WIDTH, ModelSpec, SpecError};
use crate::spec::{Attention, Block, FeedForward, Op, alibi_slopes};
use std::iter;

type Checked<T> = Result<T, SpecError>;

impl StudentShape {
    /// The student of a teacher; fails with the reason where there cannot be one.
    pub fn apply(&self, teacher: &ModelSpec) -> Checked<ModelSpec> {
        self.check(teacher)?;
        let block = |&layer: &usize| self.block(&teacher.blocks[layer]).map_err(SpecError::at(format!("from the teacher's layer {layer}")));
        let mut own = self.layers.iter().map(block).collect::<Checked<Vec<_>>>()?;
        if self.shared_ffn {
            let first = own[0].feed_forward().map(|ffn| FeedForward { weights_of: Some(0), ..ffn.clone() });
            let others = own.iter_mut().skip(1).filter_map(Block::feed_forward_mut);
            others.zip(first.iter().cycle()).for_each(|(ffn, first)| *ffn = first.clone());
        }
        let repeated = |(i, block): (usize, Block)| {
            let again = Block { weights_of: Some(i * self.repeat), ..block.clone() };
            iter::once(block).chain(iter::repeat_n(again, self.repeat - 1))
        };
        let student = ModelSpec {
            hidden_size: self.width("hidden_size", self.hidden_size, teacher.hidden_size)?,
            blocks: own.into_iter().enumerate().flat_map(repeated).collect(),
            ..teacher.clone()
        };
        student.check()?;
        Ok(student)
    }

    /// What can be told before any block is made.
    fn check(&self, teacher: &ModelSpec) -> Checked<()> {
        // All of them are named, so that one that is added cannot be forgotten here.
        let Self { layers, hidden_size, intermediate_size, n_heads, n_kv_heads, repeat, shared_ffn, initialise: _, seed: _ } = self;
        let of = teacher.blocks.len();
        if layers.is_empty() {
            return Err(SpecError::Rule("it has no layers: name one of the teacher's at least"));
        }
        teacher.check_one_of_a_kind()?;
        if let Some(layer) = layers.iter().find(|&&layer| layer >= of) {
            return Err(SpecError::NoLayer { layer: *layer, of });
        }
        if *repeat == 0 {
            return Err(SpecError::Rule("repeat = 0 runs no layer; 1 runs each once"));
        }
        if layers.len().checked_mul(*repeat).is_none_or(|blocks| blocks > MAX_BLOCKS) {
            return Err(SpecError::TooManyBlocks { layers: layers.len(), repeat: *repeat, max: MAX_BLOCKS });
        }
        if *repeat > 1 && *shared_ffn {
            return Err(SpecError::RepeatAndSharedFfn { repeat: *repeat });
        }
        let widths =
            [("hidden_size", hidden_size), ("intermediate_size", intermediate_size), ("n_heads", n_heads), ("n_kv_heads", n_kv_heads)];
        for (key, width) in widths {
            if let Some(width) = width.filter(|width| !(1..=MAX_WIDTH).contains(width)) {
                return Err(SpecError::StudentWidth { key, width, max: MAX_WIDTH });
            }
        }
        layers.iter().try_for_each(|&layer| self.check_sharing(layer, &teacher.blocks[layer]))
    }

    /// A student shares what it is told to, and not by the way what its teacher does.
    fn check_sharing(&self, layer: usize, teacher: &Block) -> Checked<()> {
        match (teacher.weights_of, teacher.feed_forward().and_then(|ffn| ffn.weights_of)) {
            (Some(owner), _) => Err(SpecError::TeacherShares { layer, owner }),
            (None, Some(owner)) if !self.shared_ffn => Err(SpecError::TeacherSharesFfn { layer, owner }),
            (None, _) => Ok(()),
        }
    }

    fn block(&self, teacher: &Block) -> Checked<Block> {
        let mut block = teacher.clone();
        for sub_layer in &mut block.sub_layers {
            match &mut sub_layer.op {
                Op::Attention(attention) => *attention = self.attention(attention)?,
                Op::Wkv(_) if self.n_heads.or(self.n_kv_heads).is_some() => {
                    return Err(SpecError::Rule("its mixer has no heads: leave n_heads and n_kv_heads out"));
                }
                Op::Wkv(_) => (),
                Op::FeedForward(ffn) => {
                    ffn.width = self.width("intermediate_size", self.intermediate_size, ffn.width)?;
                    ffn.weights_of = None;
                }
            }
        }
        Ok(block)
    }

    fn attention(&self, teacher: &Attention) -> Checked<Attention> {
        // All of them are named, so that a number a head that is added cannot be forgotten here.
        let Attention {
            n_heads,
            n_kv_heads,
            head_dim: _,
            scale: _,
            rotary: _,
            alibi,
            mask: _,
            qkv_bias: _,
            output_bias: _,
            qkv_clip: _,
            qk_norm: _,
            query_growth: _,
            softcap: _,
            context_norm: _,
        } = teacher;
        let (heads, of) = (self.heads(teacher)?, (*n_heads, *n_kv_heads));
        // A slope belongs to its head.
        let alibi = match self.initialise {
            _ if alibi.is_empty() || heads == of => alibi.clone(),
            Initialise::Teacher => query_heads(heads, of).into_iter().map(|head| alibi[head]).collect(),
            Initialise::Random => alibi_slopes(heads.0),
        };
        let (n_heads, n_kv_heads) = heads;
        Ok(Attention { n_heads, n_kv_heads, alibi, ..teacher.clone() })
    }

    fn heads(&self, teacher: &Attention) -> Checked<Heads> {
        let on_each = teacher.n_heads / teacher.n_kv_heads;
        let n_heads = self.width("n_heads", self.n_heads, teacher.n_heads)?;
        let fewest = || (n_heads.div_ceil(on_each)..n_heads).find(|kv_heads| n_heads.is_multiple_of(*kv_heads)).unwrap_or(n_heads);
        let n_kv_heads = self.n_kv_heads.unwrap_or_else(fewest);
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(SpecError::StudentHeads { n_heads, n_kv_heads });
        }
        if self.initialise == Initialise::Teacher && (n_kv_heads > teacher.n_kv_heads || n_heads / n_kv_heads > on_each) {
            return Err(SpecError::SelectedHeads { n_heads, n_kv_heads, of: teacher.n_heads, kv_of: teacher.n_kv_heads });
        }
        Ok((n_heads, n_kv_heads))
    }

    /// A width as it is asked for, or else the teacher's.
    fn width(&self, key: &'static str, asked: Option<usize>, teacher: usize) -> Checked<usize> {
        match asked {
            Some(width) if width > teacher && self.initialise == Initialise::Teacher => {
                Err(SpecError::SelectedWidth { key, width, of: teacher })
            }
            _ => Ok(asked.unwrap_or(teacher)),
        }
    }
}
