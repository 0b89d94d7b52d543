//! Selecting a student's weights from its teacher's.

use super::StudentShape;
use crate::error::Result;
use crate::forward::Inner;
use crate::model::{Axis, Kept, ModelSpec, Parameter, Part, gather};

/// Query heads and key-value heads.
pub(super) type Heads = (usize, usize);

impl StudentShape {
    /// The teacher's numbers at the selected indices of each axis.
    pub(super) fn selected(
        &self,
        parameter: &Parameter,
        teacher: &ModelSpec,
        student: &ModelSpec,
        read: impl FnOnce(&str) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let name = match parameter.part {
            Part::Block(block) => teacher.block_name(self.layer_of(block), parameter.role()),
            Part::Start | Part::End => parameter.name.clone(),
        };
        let axes = student.axes(parameter).concat();
        let kept: Vec<Kept> = axes.into_iter().map(|axis| self.kept(axis, teacher, student)).collect();
        Ok(gather(&read(&name)?, &kept))
    }

    fn kept(&self, axis: Axis, teacher: &ModelSpec, student: &ModelSpec) -> Kept {
        let sizes = |axis: Axis| {
            let there = match axis {
                Axis::Block(block, inner) => Axis::Block(self.layer_of(block), inner),
                outside => outside,
            };
            (axis.size(student), there.size(teacher))
        };
        let (count, of) = sizes(axis);
        let indices = match axis {
            Axis::Block(block, Inner::QueryHeads) => {
                let (kv_count, kv_of) = sizes(Axis::Block(block, Inner::KvHeads));
                query_heads((count, kv_count), (of, kv_of))
            }
            _ => evenly(count, of),
        };
        Kept { of, indices }
    }
}

/// So many indices at even distances.
fn evenly(count: usize, of: usize) -> Vec<usize> {
    (0..count).map(|i| i * of / count).collect()
}

/// The teacher's query heads that the student's are: as many of each key-value head
/// that is selected, so that each query head keeps the one it reads.
pub(super) fn query_heads((heads, kv_heads): Heads, (of, kv_of): Heads) -> Vec<usize> {
    let on_each = evenly(heads / kv_heads, of / kv_of);
    evenly(kv_heads, kv_of).into_iter().flat_map(|kv| on_each.iter().map(move |head| kv * (of / kv_of) + head)).collect()
}
